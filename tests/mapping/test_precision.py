"""A budget of cores: which precision of the weights meets it, and that a network quantized so does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntDense
from neuroport.chip.target import Target
from neuroport.mapping.partition import partition
from neuroport.mapping.precision import coarser, within
from tests.chip.networks import dense, network_of, population, source, target
from tests.mapping.chips import chip


def network() -> IntNetwork:
    """Of 8 bits, 20 cores on loihi1."""
    rng = np.random.default_rng(0)
    m = 2 * rng.choice([-9, -8, -3, 1, 2, 7], (1200, 2000), p=[0.01, 0.09, 0.4, 0.3, 0.1, 0.1])
    return network_of(target("loihi1").arithmetic, [source((2000,)), population("out", (1200,))], [dense(m)])


def requantized(network: IntNetwork, sheet: Any) -> IntNetwork:
    """The same weights to the nearest that the target's arithmetic holds; none becomes 0 that was not."""
    (j,) = network.projections
    step = sheet.arithmetic.weights.mixed.step
    m = np.sign(j.synapse.mantissa) * np.maximum(1, np.abs(j.synapse.mantissa) // step) * step
    coarse = replace(j, synapse=replace(j.synapse, mantissa=m.astype(np.int32)))
    return replace(network, arithmetic=sheet.arithmetic, projections=(coarse,))


def test_a_budget_that_is_met_needs_no_option() -> None:
    found = within(network(), target("loihi1"), 20)
    assert found.fits
    assert found.options == ()
    assert found.summary == "20 of 20 cores of loihi1"


def test_the_highest_precision_that_is_enough() -> None:
    found = within(network(), target("loihi1"), 15)
    assert not found.fits
    # 8 words for each axon: (512 - 10) / 6 = 83 but 64 in a group: 64 * 6 + 10 -> 448 bits, one word left: 64 + 9
    # synapses of 6 bits, 1200 / 73 = 16.4; of 5: 384 bits, 2 words left: 64 + 23, 1200 / 87 = 13.8
    assert [(o.weight_bits, o.n_cores) for o in found.options] == [(6, 17), (5, 14)]
    assert found.option is found.options[-1]
    assert found.summary == (
        "20 cores of loihi1 are needed, 15 are allowed; on 20 synapse bits end first; quantized to 5 bits, 14 are "
        "enough"
    )
    coarse = requantized(network(), found.option.target)
    assert len(partition(coarse, target("loihi1"), max_cores=15).cores) == 14


def test_no_precision_is_enough() -> None:
    found = within(network(), target("loihi1"), 2)
    assert found.option is None
    assert [o.weight_bits for o in found.options] == [6, 5, 4, 3, 2]
    assert found.summary.endswith("with weights of 2 bits it is still 7")


def test_what_the_quantized_network_takes_is_counted() -> None:
    """Weights of +-128 need 1 bit as they are; of a scale of 0.9 they are +-115, which takes all the bits there are."""
    rng, sheet = np.random.default_rng(0), chip(synapse_bits_per_core=10_000)
    net = network_of(
        sheet.arithmetic,
        [source((90,)), population("h", (60,), role="hidden"), population("out", (60,))],
        [dense(2 * rng.integers(-99, 99, (60, 90)), post="h"), dense(rng.choice([-128, 128], (60, 60)), "h", "out")],
    )

    def quantized(coarse: Target) -> IntNetwork:
        step = coarse.arithmetic.weights.mixed.step
        scaled = tuple(
            replace(j, synapse=IntDense((np.rint(0.9 * j.synapse.mantissa / step) * step).astype(np.int32)))
            for j in net.projections
        )
        return replace(net, arithmetic=coarse.arithmetic, projections=scaled)

    guessed = within(net, sheet, 9)
    found = within(net, sheet, 9, quantized)
    assert guessed.option is not None and found.option is not None
    assert len(partition(quantized(guessed.option.target), sheet).cores) > 9, "narrower weights promise too much"
    assert found.option.weight_bits < guessed.option.weight_bits
    assert found.option.n_cores == len(partition(quantized(found.option.target), sheet).cores) <= 9


def test_a_chip_whose_weights_have_one_width() -> None:
    net = network_of(target("loihi2").arithmetic, [source((2,)), population("out", (9000,))], [])
    assert within(net, target("loihi2"), 1).summary == (
        "2 cores of loihi2 are needed, 1 are allowed; on 2 compartments end first; weights of fewer bits do not change "
        "that on loihi2"
    )


@pytest.mark.parametrize(("bits", "mixed"), [(8, (-256, 254, 2)), (6, (-256, 248, 8)), (2, (-256, 128, 128))])
def test_weights_of_fewer_bits(bits: int, mixed: tuple[int, int, int]) -> None:
    sheet = coarser(target("loihi1"), bits)
    assert sheet is not None
    w = sheet.arithmetic.weights.mixed
    assert (w.minimum, w.maximum, w.step) == mixed
    assert coarser(target("loihi1"), 1) is None  # -256 and 0: no positive weight
