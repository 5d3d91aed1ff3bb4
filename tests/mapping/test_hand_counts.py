"""Cores counted by hand, with the arithmetic in the comments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.mapping.network import Core
from neuroport.mapping.partition import binding_of, partition
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import dense, network_of, population, source, target
from tests.mapping.chips import chip
from tests.mapping.test_partition import check

LOIHI1 = target("loihi1").arithmetic


def weights(*shape: int) -> np.ndarray:
    """Mixed signs, none 0, of all 8 bits: multiples of 2."""
    found = np.full(shape, 2, np.int32)
    found.flat[0] = -2
    return found


def conv(c_in: int, c_out: int, n: int, groups: int = 1, pre: str = "input", post: str = "out") -> IntProjection:
    """A 3x3 kernel, padded by 1, on n x n."""
    shape = (c_out, c_in // groups, 3, 3)
    return IntProjection(
        pre, post, IntConv2d(weights(*shape), conv_geometry((c_in, n, n), shape, (1, 1), (1, 1), (1, 1), groups))
    )


def used(core: Core) -> dict[str, int]:
    return {name: use.used for name, use in core.uses.items()}


def layer(p: Any, j: IntProjection, n_in: tuple[int, ...]) -> IntNetwork:
    return network_of(LOIHI1, [source(n_in), p], [j])


def test_dense_2000_to_1200() -> None:
    # A core has 1,048,576 bits / 2000 axons = 524 bits for each: 8 words of 64, 512 bits. A whole tile needs no
    # index: 8 bits each and a header of 10: (512 - 10) / 8 = 62 synapses. 1200 / 62 = 19.4: 20 cores of 60 neurons.
    # Each axon: 60 * 8 + 10 = 490, rounded up to 512 bits; 2000 of them: 1,024,000.
    found = partition(layer(population("out", (1200,)), dense(weights(1200, 2000)), (2000,)), target("loihi1"))
    assert [core.tiles[0].box for core in found.cores] == [((60 * k, 60 * k + 60),) for k in range(20)]
    assert used(found.cores[7]) == {
        "compartments": 60,
        "input axons": 2000,
        "output axons": 0,
        "synapse bits": 1_024_000,
        "compartment configurations": 1,
        "threshold configurations": 1,
        "synapse configurations": 1,
        "delay": 0,
    }
    assert found.storages == ("discrete",)
    assert binding_of(found) == {"synapse bits": 20}


def test_a_dense_layer_behind_takes_output_axons() -> None:
    # Its 20 tiles are read by each of 2000 neurons: 20 output axons each, 4096 / 20 = 204 neurons on a core at most,
    # so 2000 / 204 = 9.8: 10 cores. Their own synapses, 10 axons of 200 synapses, are few.
    network = network_of(
        LOIHI1,
        [source((10,)), population("h", (2000,), role="hidden"), population("out", (1200,))],
        [dense(weights(2000, 10), post="h"), dense(weights(1200, 2000), "h", "out")],
    )
    found = partition(network, target("loihi1"))
    assert {name: len(cores) for name, cores in found.cores_of.items()} == {"input": 0, "h": 10, "out": 20}
    assert used(found.cores[0])["output axons"] == 200 * 20


def test_conv_64_to_128_on_16x16() -> None:
    # 128 * 16 * 16 = 32,768 neurons / 1024: 32 cores, each 8 channels of half the image (16 rows, 8 columns).
    # Axons in, one for each pixel: 16 rows x (8 + 1) columns = 144.
    # Weights are shared by pixels that are read by the same taps. Rows: the first by 2, those between by 3, the last
    # by 2: 7 taps in 3 kinds. Columns of the right half: the neighbour's by 1, then 2, 3, and 2 at the edge: 8 in 4.
    # 7 x 8 = 56 taps; each holds 64 channels before x 8 behind = 512 weights, 8 full groups of 64. Indices reach
    # 8 * 128 - 1 = 1023, 10 bits: a group takes 64 * 18 + 10 = 1162 bits, 19 words = 1216. 56 * 8 * 1216 = 544,768.
    found = partition(layer(population("out", (128, 16, 16)), conv(64, 128, 16), (64, 16, 16)), target("loihi1"))
    assert len(found.cores) == 32
    assert found.storages == ("population",)
    assert found.cores[-1].tiles[0].box == ((120, 128), (0, 16), (8, 16))
    assert used(found.cores[-1])["input axons"] == 144
    assert used(found.cores[-1])["synapse bits"] == 544_768


def test_depthwise_3x3_on_64x16x16() -> None:
    # 16,384 neurons / 1024: 16 cores, each 4 channels of the whole image, as channels do not mix: no neuron is read
    # by two cores. 256 pixels are 256 axons. Rows are read by 2, 3 or 2 taps, in 3 kinds, columns too: 4 kinds of
    # pixels with 4 taps, 4 with 6, one with 9. A pixel's axon has a row for each of 4 channels, of one weight per tap:
    # 16, 24 or 36 weights, each with an index up to 3 * 256 + 2 * 16 + 2 = 802, 10 bits: 16 * 18 + 10 = 298 -> 320,
    # 24 * 18 + 10 = 442 -> 448, 36 * 18 + 10 = 658 -> 704. 4 * 320 + 4 * 448 + 704 = 3776.
    found = partition(
        layer(population("out", (64, 16, 16)), conv(64, 64, 16, groups=64), (64, 16, 16)), target("loihi1")
    )
    assert len(found.cores) == 16
    assert found.cores[-1].tiles[0].box == ((60, 64), (0, 16), (0, 16))
    assert used(found.cores[-1])["input axons"] == 256
    assert used(found.cores[-1])["synapse bits"] == 3776


def test_a_conv_behind_takes_two_slots_for_each_pixel_and_tile() -> None:
    # The layer behind is the one above: 16 tiles of channels, of left and right halves. Each tile of the layer before
    # sends each of its pixels to 16 tiles, those of the 2 columns in the middle to 32; an axon takes 2 slots.
    # 8x8 pixels in a corner: 7 columns to 16 and 1 to 32: 8 * (7 * 16 + 32) * 2 = 2304.
    network = network_of(
        LOIHI1,
        [source((64, 16, 16)), population("h", (64, 16, 16), role="hidden"), population("out", (128, 16, 16))],
        [conv(64, 64, 16, post="h"), conv(64, 128, 16, pre="h")],
    )
    found = partition(network, target("loihi1"))
    corner = next(core for core in found.cores if core.tiles[0].box[1:] == ((8, 16), (8, 16)))
    assert corner.tiles[0].population == "h"
    assert used(corner)["output axons"] == 2304


def test_reset_by_subtraction_doubles_compartments() -> None:
    # 600 neurons of two compartments: 1200 / 1024, 2 cores of 300 neurons. Each feeds its threshold back: an axon in
    # and out, a synapse of 8 bits and 9 of index (300 neurons), with the header 27 bits: one word.
    # The 10 axons before: 300 synapses, 4 groups of 64 * 8 + 10 = 522 -> 576 bits and one of 44 * 8 + 10 -> 384.
    for reset, n_cores, n_compartments in (("zero", 1, 600), ("subtract", 2, 600)):
        network = layer(population("out", (600,), reset=reset), dense(weights(600, 10)), (10,))
        found = partition(network, target("loihi1"))
        assert len(found.cores) == n_cores
        assert used(found.cores[0])["compartments"] == n_compartments
    assert used(found.cores[0]) == {
        "compartments": 600,
        "input axons": 10 + 300,
        "output axons": 300,
        "synapse bits": 10 * (4 * 576 + 384) + 300 * 64,
        "compartment configurations": 2,
        "threshold configurations": 2,
        "synapse configurations": 2,
        "delay": 0,
    }
    check(found)


def test_coarse_weights_take_fewer_bits() -> None:
    # Multiples of 32 are mixed weights of 4 bits (2 << 4): 64 in a group take 64 * 4 + 10 = 266 -> 320 bits.
    found = partition(layer(population("out", (64,)), dense(16 * weights(64, 20)), (20,)), target("loihi1"))
    assert used(found.cores[0])["synapse bits"] == 20 * 320


def test_a_skip_needs_delay_bits() -> None:
    # 'input' reaches 'out' by one and by three projections: two steps more, 2 bits in each synapse.
    # 20 synapses of 8 bits and the header are 170 bits, of 10 bits 210: 3 words, 4 words.
    network = network_of(
        LOIHI1,
        [source((6,)), *(population(name, (5,), role="hidden") for name in "ab"), population("out", (20,))],
        [
            dense(weights(5, 6), post="a"),
            dense(weights(5, 5), "a", "b"),
            dense(weights(20, 5), "b"),
            dense(weights(20, 6)),
        ],
    )
    found = partition(network, target("loihi1"))
    assert len(found.cores) == 1
    assert used(found.cores[0])["delay"] == 2
    # 6 and 5 axons of 5 synapses: 50 bits, a word; 5 axons of 20: 3 words, 6 axons of 20 with delays: 4 words
    assert used(found.cores[0])["synapse bits"] == 64 * (6 + 5 + 5 * 3 + 6 * 4)


def test_small_populations_share_a_core_as_far_as_configurations_go() -> None:
    names = [f"p{k}" for k in range(10)]
    pops = [source((4,)), *(population(n, (3,), role="hidden", threshold_mantissa=k + 1) for k, n in enumerate(names))]
    before = ["input", *names[:-1]]
    network = network_of(
        LOIHI1,
        [*pops[:-1], population("p9", (3,), threshold_mantissa=10)],
        [dense(weights(3, 4 if pre == "input" else 3), pre, post) for pre, post in zip(before, names, strict=True)],
    )
    # 10 thresholds, 8 per core
    found = partition(network, target("loihi1"))
    assert sorted(len(core.tiles) for core in found.cores) == [2, 8]
    assert len(partition(network, chip(threshold_configs_per_core=1)).cores) == 10
    check(found)


@pytest.mark.parametrize("name", ["loihi2"])
def test_unknown_limits_are_none(name: str) -> None:
    network = network_of(target(name).arithmetic, [source((9000,)), population("out", (9000,))], [])
    found = partition(network, target(name))
    assert [core.tiles[0].n_neurons for core in found.cores] == [4500, 4500]
    assert "synapse bits" not in found.cores[0].uses
    assert found.cores[0].uses["input axons"].limit is None
    assert found.unknown == (
        "input axons",
        "output axons",
        "synapse bits",
        "compartment configurations",
        "threshold configurations",
        "synapse configurations",
    )
