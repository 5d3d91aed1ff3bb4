"""The cost of an inference: by hand, against SANA-FE, and that nothing is invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuroport.ann.graph import AnnGraph, Conv2d, ConvTranspose2d, Input, Linear, Node, Reshape
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.chip.target import Target
from neuroport.mapping.activity import Activity
from neuroport.mapping.cost import Cost, cost_of, n_macs
from neuroport.mapping.floor import floor_of
from neuroport.mapping.traffic import spike_traffic
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import dense, network_of, population, source, target, variant
from tests.mapping.layouts import by_hand, placed

REFERENCE = json.loads(Path(__file__).with_name("sanafe_reference.json").read_text())


def sheet(**energy: float | None) -> Target:
    """Loihi 1 with other energies and no sources."""
    values = target("loihi1").model_dump(exclude={"sources", "toolchain"})
    return Target.model_validate(values | {"energy": energy})


def two_layers(reset: str = "zero") -> IntNetwork:
    """1 source -> 3 neurons -> 2 neurons."""
    return network_of(
        variant("loihi1"),
        [source((1,)), population("a", (3,), role="hidden", reset=reset), population("b", (2,), reset=reset)],
        [dense([[2], [2], [2]], "input", "a"), dense([[2, 2, 2], [2, 0, 2]], "a", "b")],
    )


def cost_by_hand(network: IntNetwork, chip: Target, **spikes: list[int]) -> Cost:
    """`a` and `b` on cores of their own, two columns and three rows of routers apart; 2 samples of 10 steps."""
    cut = by_hand(network, [[("a", ((0, 3),))], [("b", ((0, 2),))]])
    totals = {name: np.array(n) for name, n in spikes.items()}
    activity = Activity(2, 10, totals, {"a": 0.25, "b": 0.5}, 2)
    placement = placed(floor_of(chip.geometry, 2), [0, 4 * (2 * 4 + 3)])
    return cost_of(network, chip, placement, spike_traffic(cut, activity), activity, n_macs=7)


def test_by_hand():
    chip = sheet(
        energy_per_synaptic_event_J=1e-3,
        energy_per_neuron_update_J=1e-4,
        energy_per_idle_neuron_update_J=1e-5,
        energy_per_spike_message_J=1e-6,
        energy_per_hop_east_west_J=1e-7,
        energy_per_hop_north_south_J=1e-8,
    )
    found = cost_by_hand(two_layers(), chip, input=[4], a=[2, 4, 6], b=[0, 8])
    counts = {line.what: line.count for line in found.lines}
    # per inference: input 2 spikes x 3 synapses; a 1, 2, 3 spikes x 2, 1, 2 synapses
    assert counts["synaptic events"] == 2 * 3 + 1 * 2 + 2 * 1 + 3 * 2
    assert counts["neuron updates"] == 10 * (3 * 0.75 + 2 * 0.5)
    assert counts["idle neuron updates"] == 10 * (3 * 0.25 + 2 * 0.5)
    assert counts["spike messages"] == 1 + 2 + 3
    assert counts["hops east and west"] == 6 * 2
    assert counts["hops north and south"] == 6 * 3
    assert counts["spikes from outside"] == 2
    expected = 16e-3 + 32.5e-4 + 17.5e-5 + 6e-6 + 12e-7 + 18e-8
    assert found.energy_J == pytest.approx(expected, rel=1e-12)
    assert found.missing == ("spikes from outside", "power of chips", "power of cores")
    report = found.as_json()
    assert report["energy_per_step_J"] == pytest.approx(expected / 10)
    assert report["energy_leaves_out"] == list(found.missing)
    assert (report["samples"], report["steps"], report["ann_macs"]) == (2, 10, 7)
    assert report["step_duration_s"] is None


def test_two_compartments_cost_twice_the_updates_and_a_synapse_per_spike():
    once, twice = (
        {line.what: line.count for line in cost_by_hand(net, target("loihi1"), input=[4], a=[2, 4, 6], b=[0, 8]).lines}
        for net in (two_layers(), two_layers("subtract"))
    )
    assert twice["neuron updates"] == 2 * once["neuron updates"]
    assert twice["synaptic events"] == once["synaptic events"] + (1 + 2 + 3) + 4
    assert twice["spike messages"] == once["spike messages"] + (1 + 2 + 3) + 4
    assert twice["hops east and west"] == once["hops east and west"], "a core's messages to itself make no hop"


def test_what_is_not_known_is_not_added():
    """Loihi 2's energies are not published."""
    found = cost_by_hand(two_layers(), target("loihi2"), input=[4], a=[2, 4, 6], b=[0, 8])
    assert found.energy_J is None
    assert found.as_json()["energy_per_inference_J"] is None
    assert "synaptic events" in found.missing
    assert found.marks == ()
    assert found.step_duration_s is None
    assert {line.mark for line in found.lines} == {"unknown"}


def test_marks_and_sources_come_along():
    found = cost_by_hand(two_layers(), target("loihi1"), input=[4], a=[2, 4, 6], b=[0, 8])
    rows = {row["what"]: row for row in found.as_json()["lines"]}
    assert rows["synaptic events"]["mark"] == "second-hand"
    assert rows["synaptic events"]["source"].startswith("DAVIES")
    assert rows["synaptic events"]["energy_per_event_J"] == 23.6e-12
    assert "tables were not seen" in found.as_json()["references"]["DAVIES"]
    assert found.marks == ("second-hand",)
    assert "no constant" in found.time_source
    assert cost_by_hand(
        two_layers(), sheet(energy_per_synaptic_event_J=1e-12), input=[4], a=[2, 4, 6], b=[0, 8]
    ).marks == ("no source",)


def test_power_needs_the_duration_of_a_step():
    """Two cores on one chip for 10 steps of 2 ms."""
    chip = sheet(power_per_chip_W=0.5, power_per_core_W=0.01, step_duration_s=2e-3)
    found = cost_by_hand(two_layers(), chip, input=[0], a=[0, 0, 0], b=[0, 0])
    rows = {line.what: line for line in found.lines}
    assert rows["power of chips"].energy_J == pytest.approx(0.5 * 0.02)
    assert rows["power of cores"].energy_J == pytest.approx(2 * 0.01 * 0.02)
    assert found.step_duration_s == 2e-3
    assert found.missing == (), "what the cores compute is in their power"
    without = cost_by_hand(two_layers(), sheet(power_per_chip_W=0.5), input=[0], a=[0, 0, 0], b=[0, 0])
    assert without.energy_J is None
    assert "power of chips" in without.missing


def test_links_between_chips_are_counted_and_have_no_price():
    network, chip = two_layers(), target("loihi1")
    cut = by_hand(network, [[("a", ((0, 3),))], [("b", ((0, 2),))]])
    totals = {"input": np.array([0]), "a": np.array([1, 1, 1]), "b": np.array([0, 0])}
    activity = Activity(1, 10, totals, {"a": 0.0, "b": 0.0}, 1)
    placement = placed(floor_of(chip.geometry, 129), [0, 128])
    found = cost_of(network, chip, placement, spike_traffic(cut, activity), activity)
    rows = {line.what: line for line in found.lines}
    assert rows["links between chips"].count == 3
    assert rows["links between chips"].energy_J is None
    assert "links between chips" in found.missing
    assert rows["hops east and west"].count == 3 * 8


def test_against_sanafe():
    """SANA-FE 2.2.9 on the same tiles and spikes: synaptic events, messages, and the energy of both and of all hops."""
    shapes = {"image": (3, 6, 6), "conv": (4, 6, 6), "dense": (10,)}
    kernel = np.full((4, 3, 3, 3), 2, np.int32)
    network = network_of(
        variant("loihi1"),
        [
            population("image", shapes["image"], role="hidden", driven=True),
            population("conv", shapes["conv"], role="hidden"),
            population("dense", shapes["dense"]),
        ],
        [
            IntProjection(
                "image", "conv", IntConv2d(kernel, conv_geometry((3, 6, 6), kernel.shape, (1, 1), (1, 1), (1, 1), 1))
            ),
            dense(np.full((10, 144), 2), "conv", "dense"),
        ],
    )
    sites: dict[int, list] = {}
    for tile in REFERENCE["tiles"]:
        box = tuple(tuple(ends) for ends in tile["box"])
        sites.setdefault(4 * tile["tile"] + tile["core"], []).append((tile["population"], box))
    cut = by_hand(network, list(sites.values()))
    totals = {name: np.array(n).reshape(shapes[name]) for name, n in REFERENCE["totals"].items()}
    activity = Activity(1, REFERENCE["steps"], totals, dict.fromkeys(shapes, 0.0), 1)
    theirs = sheet(
        energy_per_synaptic_event_J=35.5e-12,  # loihi_dense_synapse
        energy_per_spike_message_J=111e-12,
        energy_per_hop_east_west_J=3.0e-12,
        energy_per_hop_north_south_J=4.2e-12,
    )
    placement = placed(floor_of(theirs.geometry, len(sites)), list(sites))
    found = cost_of(network, theirs, placement, spike_traffic(cut, activity), activity)
    rows = {line.what: line for line in found.lines}
    assert rows["synaptic events"].count == REFERENCE["spikes"]
    assert rows["spike messages"].count == REFERENCE["packets_sent"]
    assert rows["synaptic events"].energy_J == pytest.approx(REFERENCE["energy"]["synapse"], rel=1e-9)
    network_j = sum(rows[what].energy_J for what in ("spike messages", "hops east and west", "hops north and south"))
    assert network_j == pytest.approx(REFERENCE["energy"]["network"], rel=1e-9)


def test_multiply_accumulates_of_an_ann():
    weight = np.ones((4, 3, 3, 3))
    nodes = (
        Node("x", Input(), (), (3, 6, 6)),
        Node("conv", Conv2d(weight, np.zeros(4)), ("x",), (4, 4, 4)),
        Node("up", ConvTranspose2d(np.ones((4, 2, 2, 2)), np.zeros(2), (2, 2)), ("conv",), (2, 8, 8)),
        Node("flat", Reshape(), ("up",), (128,)),
        Node("fc", Linear(np.ones((10, 128)), np.zeros(10)), ("flat",), (10,)),
    )
    assert n_macs(AnnGraph(nodes, ("fc",))) == 4 * 4 * 4 * 27 + 4 * 4 * 4 * 8 + 1280
