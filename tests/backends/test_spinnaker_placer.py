"""Which chips a network takes: cases counted by hand in sPyNNaker's order of chips."""

from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.spinnaker.placer import Vertex, chips_used
from neuroport.backends.spinnaker.predict import predict
from neuroport.errors import DoesNotFitError
from neuroport.mapping.floor import spinn5_chips
from tests.backends.spinnaker_networks import TARGET, network

SDRAM = 123_469_792
FREE = SDRAM - 488_476  # beside sPyNNaker's own


def chips(*vertices, sdram=SDRAM):
    return chips_used([Vertex(*v) for v in vertices], cores_per_chip=17, sdram_bytes=sdram)


def test_the_boards_have_as_many_cores_as_spynnaker_says():
    """A virtual SpiNN-5 had 808 cores for users and 49 of sPyNNaker's own, three boards 2424 and 147."""
    for n_boards, n_cores in ((1, 808), (3, 2424)):
        assert sum(17 - chip.n_missing for chip in spinn5_chips(n_boards)) == n_cores
        assert sum(1 + chip.is_ethernet for chip in spinn5_chips(n_boards)) == 49 * n_boards


@pytest.mark.parametrize(
    ("vertices", "expected"),
    [
        (((15, 1),), 1),  # the chip with the Ethernet has 17 cores, less 2 of sPyNNaker's own
        (((16, 1),), 2),
        (((15 + 16, 1),), 2),  # (0, 0), and on its first link (1, 0) with 16
        (((15 + 16 + 1, 1),), 3),
        (((15 + 16 + 16 + 1, 1),), 4),
        # (1, 0) is left with 13 of its cores, but a new population begins at (0, 1), the next of its column
        (((18, 1), (16, 1), (1, 1)), 4),
        (((3, 1), (3, 1)), 1),  # where one ends that left its first chip with room, the next begins
        (((2, FREE // 2), (1, 1)), 2),  # the Ethernet's chip has less memory, and room for the last
        (((16, FREE // 2),), 9),  # one there, 2 on each of the others
        (((1, FREE),), 1),  # the first chip is too small, the next one does
    ],
)
def test_chips_by_hand(vertices, expected):
    assert chips(*vertices) == expected


def test_what_one_board_cannot_hold_goes_to_three():
    n_cores = 808 - 49
    assert chips((n_cores, 1)) == 48
    assert chips((n_cores + 1, 1)) == 49


def test_a_core_that_no_chip_holds():
    net, inputs = network()
    machine = TARGET.geometry.machine.model_copy(update={"sdram_bytes_per_chip": 600_000})
    small = TARGET.model_copy(update={"geometry": TARGET.geometry.model_copy(update={"machine": machine})})
    with pytest.raises(DoesNotFitError, match=r"input 'image': its core takes 122,634 bytes .* has 111,524 .*fewer"):
        predict(net, inputs, small)
    silent = replace(inputs, spikes=np.zeros_like(inputs.spikes))
    with pytest.raises(
        DoesNotFitError, match=r"layer 'conv': a core takes 1\d\d,\d{3} bytes .* 111,524 .*split the la"
    ):
        predict(net, silent, small)


def test_a_target_without_memory():
    net, inputs = network()
    bare = TARGET.model_copy(update={"geometry": TARGET.geometry.model_copy(update={"machine": None})})
    with pytest.raises(DoesNotFitError, match=r"no `geometry: machine:` with SDRAM and cores.*use --target spinnaker1"):
        predict(net, inputs, bare)
