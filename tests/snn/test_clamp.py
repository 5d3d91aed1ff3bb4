"""The voltage clamp: how long each population waits, that it is silent until then, and what the readout counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neuroport.ann.graph import AnnGraph
from neuroport.ann.simplify import simplify
from neuroport.errors import ConversionError
from neuroport.normalize.convert import convert
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.network import Gate, SpikingNetwork
from neuroport.snn.simulate import simulate
from neuroport.validation.outputs import Reading
from tests.normalize.nets import recipe
from tests.snn.graphs import Sketch, draw


def three_layers(w: Sketch, x: str) -> str:
    a = w.relu(w.dense(x, 4, name="a"))
    b = w.relu(w.dense(a, 4, name="b"))
    return w.dense(b, 3, name="out")


def shortcut(w: Sketch, x: str) -> str:
    """input -> a -> b -> c, and a -> c beside b, input -> d beside all: c lies behind b, d behind nothing."""
    a = w.relu(w.dense(x, 4, name="a"))
    b = w.relu(w.dense(a, 4, name="b"))
    c = w.at("c").relu(w.add(w.dense(b, 4, name="main"), a))
    d = w.relu(w.dense(x, 4, name="d"))
    return w.dense(w.concat([c, d], 0), 3, name="out")


def pooled(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(w.reshape(x, (1, 4, 4)), 2, name="a"))
    gate = w.at("gate").max_pool(a, (2, 2), (2, 2), (0, 0))
    return w.dense(w.relu(w.layer(gate, 2, 1, name="b")), 3, name="out")


def waits(net: Any, clamp: float, shape: tuple[int, ...] = (6,), **options: Any) -> dict[str, int]:
    network = build_network(simplify(draw(net, shape)), BuildOptions(clamp=clamp, **options))
    return {p.name: p.clamp_until for p in network.populations}


@pytest.mark.parametrize(
    ("clamp", "encoding", "expected"),
    [
        (0.0, "current", [0, 0, 0, 0]),
        (1.0, "current", [0, 0, 1, 2]),
        (3.0, "current", [0, 0, 3, 6]),
        (1.0, "rate", [0, 1, 2, 3]),
        (2.0, "poisson", [0, 2, 4, 6]),
        (1.0, "events", [0, 1, 2, 3]),
        (0.4, "current", [0, 0, 0, 0]),
        (0.4, "rate", [0, 0, 0, 1]),
        (1.5, "rate", [0, 1, 3, 4]),
    ],
)
def test_each_level_waits_clamp_steps_longer(clamp: float, encoding: Any, expected: list[int]) -> None:
    """Mueller 2021: N(l) = d l, rounded down. A constant current is there at once, so its readers are level 0."""
    assert list(waits(three_layers, clamp, encoding=encoding).values()) == expected


@pytest.mark.parametrize(("encoding", "first"), [("current", 0), ("rate", 1)])
def test_the_level_is_the_longest_path(encoding: Any, first: int) -> None:
    """c (named after 'main') is two levels behind a, which also reaches it at once; out one behind c, not behind d."""
    found = waits(shortcut, 2.0, encoding=encoding)
    level = {"input": 0, "a": first, "b": first + 1, "main": first + 2, "d": first, "out": first + 3}
    assert found == {name: 2 * n for name, n in level.items()}


def test_a_gate_waits_for_nothing_and_adds_no_level() -> None:
    assert waits(pooled, 2.0, (16,), encoding="rate", max_pool="gated") == {
        "input": 0,
        "a": 2,
        "gate": 0,
        "b": 4,
        "out": 6,
    }
    average = waits(pooled, 2.0, (16,), encoding="rate", max_pool="expand")
    assert average["b"] > 4  # rectifiers are populations, and take levels


def clamped(net: Any, shape: tuple[int, ...], **options: Any) -> tuple[AnnGraph, SpikingNetwork]:
    graph = draw(net, shape)
    images = np.random.default_rng(0).random((20, *shape), np.float32)
    return graph, convert(graph, images, recipe(v_init=0.5, steps=40, **options)).network


@pytest.mark.parametrize(
    ("net", "shape", "options"),
    [
        (three_layers, (6,), {"input": "current"}),
        (three_layers, (6,), {"input": "rate"}),
        (shortcut, (6,), {"input": "current", "readout": "count"}),
        (pooled, (16,), {"input": "poisson", "max_pool": "gated"}),
    ],
)
def test_nothing_is_emitted_before_and_something_in_the_first_steps_after(
    net: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    _, network = clamped(net, shape, clamp=4, **options)
    images = np.random.default_rng(1).random((30, *shape), np.float32)
    names = tuple(p.name for p in network.populations if p.neuron.fires and p.role != "input")
    rasters = simulate(network, images, 40, record=names).rasters
    until = {name: network.by_name[name].clamp_until for name in names}
    for name in names:
        p = network.by_name[name]
        begin = until[network.incoming[name][0].pre] if isinstance(p.neuron, Gate) else until[name]
        assert not rasters[name][:, :begin].any(), name
        # of 30 samples some neuron is charged by more than half its threshold within four steps
        assert rasters[name][:, begin : begin + 4].any(), name
    assert max(until.values()) >= 4


def test_a_readout_starts_at_its_own_step_and_is_read_over_its_own_steps() -> None:
    """x = 3/4 of the largest input: a fires in three of four steps, and of 12 steps the readout adds up the last 8.

    Reading divides by these 8.
    """

    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.at("a").linear(x, np.array([[2.0]]), None))
        return w.at("out").linear(a, np.array([[1.0], [-3.0]]), np.array([0.5, 0.0]))

    graph = draw(net, (1,))
    normalized = convert(graph, np.array([[0.0], [1.0]], np.float32), recipe(clamp=4, steps=12))
    network = normalized.network
    assert network.output.clamp_until == 4
    image = np.array([[0.75]])
    run = simulate(network, image, 12, record=("a",), dtype=torch.float64)
    # v after steps 1, 2, ...: 3/4, 1/2 (spike at 2), 1/4 (3), 0 (4), 3/4, ...: three of four steps
    assert np.flatnonzero(run.rasters["a"][0, :, 0]).tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    scale = normalized.scales["out"][0]
    # 6 spikes of size 2 in the 8 steps from step 4 on, and the bias in each of them
    assert run.readout[0] * scale == pytest.approx([6 * 2 + 8 * 0.5, -6 * 2 * 3], rel=1e-12)
    answer = Reading(normalized, 12).float_run(run, 0)
    assert answer.scores[0] == pytest.approx([2.0, -4.5], rel=1e-12)  # the ANN's: 1.5 + 0.5, and -3 * 1.5


@pytest.mark.parametrize(("steps", "fits"), [(5, True), (4, False), (1, False)])
def test_a_run_that_ends_before_the_output_begins_is_refused(steps: int, fits: bool) -> None:
    graph = draw(three_layers, (6,))
    images = np.random.default_rng(0).random((20, 6), np.float32)
    chosen = recipe(clamp=2, steps=50)
    if fits:
        assert convert(graph, images, chosen, steps).network.output.clamp_until == 4
        return
    message = (
        rf"output 'out' is clamped for 4 steps \(recipe 'test', clamp: 2.0 per level\), and {steps} are run; "
        r"use more steps \(--steps\), or a recipe without clamp"
    )
    with pytest.raises(ConversionError, match=message):
        convert(graph, images, chosen, steps)


def test_the_latest_output_counts() -> None:
    """Two outputs, the second one level behind: five steps are too few for it."""

    def net(w: Sketch, x: str) -> list[str]:
        a = w.relu(w.dense(x, 4, name="a"))
        b = w.relu(w.dense(a, 4, name="b"))
        return [w.dense(a, 3, name="early"), w.dense(b, 3, name="late")]

    images = np.random.default_rng(0).random((20, 6), np.float32)
    with pytest.raises(ConversionError, match=r"output 'late' is clamped for 4 steps"):
        convert(draw(net, (6,)), images, recipe(clamp=2), 4)
    assert convert(draw(net, (6,)), images, recipe(clamp=2), 5).network.by_name["early"].clamp_until == 2
