"""Spike counts converge to the clipped rates as 1/T, on whole networks, within a bound that is derived.

Reset by subtraction: let the current a neuron received up to step t be t z + e with |e| <= E at every t. Then its
spikes n satisfy |n - t clip(z, 0, 1)| <= max(v_init, 1 - v_init) + E at every t. (Above: at its last spike s,
v >= 0, so n <= v_init + s z + E. Below: at the last step s with v < 1, n > v_init + s z - E - 1, and it fired at
every step since.) Behind weights W the next layer has E' = |W| (max(v_init, 1 - v_init) + E), and a membrane that only
accumulates is off by no more than that. Constant current has E = 0, a deterministic rate code 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.gate import window_index
from neuroport.snn.heads import read_out
from neuroport.snn.network import Gate, SpikingNetwork
from neuroport.snn.operators import Window, apply
from neuroport.snn.rates import forward_rates
from neuroport.snn.simulate import FloatRun, simulate
from neuroport.snn.sparse import as_matrix
from tests.snn.graphs import NETS, Net, Sketch, draw
from tests.snn.test_max_pool import convolved, joined, of_all, twice

V_INIT = 0.5
Array = NDArray[np.float64]


def backbone(w: Sketch, x: str) -> list[str]:
    """ResNet-18's first three stages in small: residual blocks with batch norm, strides and 1x1 shortcuts."""
    a = w.relu(w.norm(w.layer(x, 4, stride=2, name="stem")))
    scales = []
    for stage, channels in enumerate((4, 6, 8)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            name = f"layer{stage + 1}.{block}"
            b = w.relu(w.norm(w.layer(a, channels, stride=stride, name=f"{name}.conv1")))
            b = w.norm(w.layer(b, channels, name=f"{name}.conv2"))
            short = a if stride == 1 else w.norm(w.layer(a, channels, 1, stride=2, name=f"{name}.downsample"))
            a = w.relu(w.add(b, short))
        scales.append(a)
    return scales


def retina_net(w: Sketch, x: str) -> list[str]:
    """A feature pyramid on the backbone; a class and a box head of two layers on each scale, with shared weights."""
    scales = backbone(w, x)
    merged = w.layer(scales[-1], 4, 1, name="lateral2")
    pyramid = [merged]
    for k in (1, 0):
        merged = w.add(w.layer(scales[k], 4, 1, name=f"lateral{k}"), w.up(merged))
        pyramid.append(merged)
    pyramid = [w.layer(p, 4, name=f"smooth{k}") for k, p in enumerate(pyramid)]
    once = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    outputs = []
    for head, n_out in (("class", 6), ("box", 4)):
        first, last = (w.weight(4, 4, 3, 3), w.weight(n_out, 4, 3, 3))
        for k, p in enumerate(pyramid):
            h = w.relu(w.at(f"{head}.{k}.0").conv(p, first, None, **once))
            outputs.append(w.at(f"{head}.{k}.1").conv(h, last, np.full(n_out, 0.1), **once))
    return outputs


CASES: dict[str, tuple[Net, tuple[int, ...], dict[str, Any]]] = {
    "residual": (NETS["residual"], (3, 8, 8), {}),
    "residual, scales per channel": (NETS["residual"], (3, 8, 8), {"granularity": "channel", "percentile": 99.0}),
    "residual, counts": (NETS["residual"], (3, 8, 8), {"readout": "count"}),
    "dense block": (NETS["dense_block"], (3, 8, 8), {}),
    "feature pyramid": (NETS["feature_pyramid"], (3, 8, 8), {}),
    "inverted residual": (NETS["inverted_residual"], (3, 8, 8), {"ceiling": "measured"}),
    "transposed": (NETS["upsampled"], (3, 8, 8), {}),
    "leaky": (NETS["leaky"], (3, 8, 8), {}),
    "line": (NETS["line"], (3, 8, 8), {}),
    "max-pool": (convolved, (3, 8, 8), {}),
    "max-pool of joined channels": (joined, (3, 8, 8), {}),
    "rate code": (NETS["residual"], (3, 8, 8), {"input": "rate"}),
    "spiking pools": (NETS["average_pools"], (3, 8, 8), {"pool": "spiking"}),
    "RetinaNet": (retina_net, (3, 32, 32), {"percentile": 99.9}),
}


def images(shape: tuple[int, ...], n: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(8).random((n, *shape), np.float32)


def normalized(net: Net, shape: tuple[int, ...], options: dict[str, Any]) -> Normalized:
    recipe = Recipe(name="", summary="", source="", v_init=V_INIT, **options)
    return convert(draw(net, shape), images(shape), recipe)


def spike_bounds(network: SpikingNetwork) -> dict[str, Array]:
    """For each population how far its spikes, or its potential, may be from T times the clipped rates."""
    of_input = 0.0 if network.encoding == "current" else 0.5
    bounds = {network.input.name: np.full(network.input.n_neurons, of_input)}
    for p in network.populations[1:]:
        arriving = sum(abs(as_matrix(j.operator)) @ bounds[j.pre] for j in network.incoming[p.name])
        bounds[p.name] = arriving + (max(V_INIT, 1 - V_INIT) if p.neuron.fires else 0.0)
    return bounds


def distances(network: SpikingNetwork, run: FloatRun, x: Array, n_steps: int) -> dict[str, Array]:
    """|spikes - T rate| of every population, and |potential - T sum| of the readouts; [N, n]."""
    rates = dict(forward_rates(network, torch.from_numpy(x), clip=True))
    found = {}
    for p in network.populations[1:]:
        value = run.counts[p.name] if p.neuron.fires else run.readouts[p.name]
        found[p.name] = np.abs(value.reshape(len(x), -1) - n_steps * rates[p.name].numpy().reshape(len(x), -1))
    return found


@pytest.mark.parametrize("case", CASES)
def test_spikes_stay_within_the_bound_and_the_error_falls_as_one_over_t(case: str) -> None:
    """The bound holds neuron by neuron; where deep networks make it wide, the mean error must shrink with T as well.

    As 1/T it falls to a quarter from T to 4 T; an error that stays would not fall. Half lies between.
    """
    net, shape, options = CASES[case]
    network = normalized(net, shape, options).network
    bounds = spike_bounds(network)
    x = images(shape).astype(np.float64)
    errors = []
    for n_steps in (48, 192):
        run = simulate(network, x, n_steps, dtype=torch.float64)
        found = distances(network, run, x, n_steps)
        for name, distance in found.items():
            assert (distance <= bounds[name] + 1e-9).all(), name
        errors.append({name: distance.mean() / n_steps for name, distance in found.items()})
    assert sum(run.counts[p.name].sum() for p in network.populations if p.role == "hidden") > 100
    for name, first in errors[0].items():
        assert errors[1][name] < first / 2 or errors[1][name] < 1e-3, name


def test_the_readout_over_time_gives_the_ann_its_numbers_back() -> None:
    """Potential / T times the readout's scale, through the tail: the ANN's own softmax, as no rate was clipped."""
    net, shape, options = CASES["leaky"]
    found = normalized(net, shape, options)
    x = images(shape).astype(np.float64)
    n_steps = 2000
    run = simulate(found.network, x, n_steps, dtype=torch.float64)
    (head,) = found.network.outputs
    scale = found.scales[head.population][0]
    values = torch.from_numpy(run.readout / n_steps * scale)
    expected = run_outputs(draw(net, shape), torch.from_numpy(x))[0]
    bound = spike_bounds(found.network)[head.population].max() * scale / n_steps
    # a softmax moves by at most half the largest change of its inputs
    assert bound < 0.1
    assert (read_out(head, values) - expected).abs().max() <= bound / 2 + 1e-6


@pytest.mark.parametrize("net", [convolved, joined, twice, of_all])
def test_a_gate_passes_the_train_of_a_clear_winner_and_never_more_than_all(net: Callable[[Sketch, str], str]) -> None:
    """A clear winner leads by 1/16: the estimate of a train that stays within 1/2 of T z is off by at most 1/64.

    (By summation by parts, 2 * 1/2 * 1/64 for weights that fall from 1/64; the start is forgotten by step 300 to
    (63/64)^236 < 1/40 of what it was off, the whole numbers round by at most 64 in 2^20.)
    """
    network = normalized(net, (3, 8, 8), {"max_pool": "gated"}).network
    x = images((3, 8, 8)).astype(np.float64)
    gate = next(p for p in network.populations if isinstance(p.neuron, Gate))
    (projection,) = network.incoming[gate.name]
    assert isinstance(projection.operator, Window)
    run = simulate(network, x, 500, record=(gate.name, projection.pre), dtype=torch.float64)
    index = window_index(projection.operator)
    before = run.rasters[projection.pre].reshape(len(x), 500, -1)
    passed = run.rasters[gate.name].reshape(len(x), 500, -1)
    rates = dict(forward_rates(network, torch.from_numpy(x), clip=True))[projection.pre].numpy().reshape(len(x), -1)
    in_window = np.where(index >= 0, rates[:, index.clip(0)], -1.0)
    ordered = np.sort(in_window, 2)
    lead = ordered[:, :, -1] - ordered[:, :, -2]
    winner = np.take_along_axis(np.broadcast_to(index, in_window.shape), in_window.argmax(2)[:, :, None], 2)[:, :, 0]
    clear = lead > 1 / 16
    assert clear.any()
    expected = np.take_along_axis(before, np.broadcast_to(winner[:, None], passed.shape), 2)
    assert (passed == expected)[:, 300:].transpose(0, 2, 1)[clear].all()
    everything = np.where(index >= 0, before[:, :, index.clip(0)], 0)
    assert (passed <= everything.max(3)).all()


# --- the same numbers by another way


def padded_net(w: Sketch, x: str) -> str:
    return w.dense(w.relu(w.layer(w.relu(w.layer(x, 4, 5, name="conv1")), 4, name="conv2")), 3, name="fc")


def test_recorded_events_run_as_the_rate_code_that_wrote_them() -> None:
    graph = draw(padded_net)
    rate = build_network(simplify(graph), BuildOptions(encoding="rate", v_init=0.5))
    x = images((3, 8, 8)).astype(np.float64)
    first = simulate(rate, x, 40, record=("input", "conv2"), dtype=torch.float64)
    events = first.rasters["input"]
    assert 0.2 < events.mean() < 0.8
    second = simulate(replace(rate, encoding="events"), events, 40, record=("input", "conv2"), dtype=torch.float64)
    for name in ("input", "conv2"):
        np.testing.assert_array_equal(first.rasters[name], second.rasters[name])
    np.testing.assert_array_equal(first.readout, second.readout)


def test_negative_inputs_as_on_and_off_spikes_are_exact_at_padded_borders() -> None:
    """The sum over the steps of what arrives at a first layer that pads is its weights times the counted values."""
    graph = draw(lambda w, x: w.layer(x, 4, 5, name="conv"))
    x = np.random.default_rng(2).normal(size=(2, 3, 8, 8))
    largest = float(np.abs(x).max())
    network = build_network(simplify(graph), BuildOptions(encoding="rate", n_signs=2, input_scale=np.array([largest])))
    run = simulate(network, x, 50, dtype=torch.float64)
    counts = run.counts["input"]
    np.testing.assert_array_equal(counts[:, :3], np.floor(50 * np.maximum(x, 0) / largest + 0.5))
    np.testing.assert_array_equal(counts[:, 3:], np.floor(50 * np.maximum(-x, 0) / largest + 0.5))
    assert (counts[:, :3] * counts[:, 3:] == 0).all()
    seen = largest * (counts[:, :3] - counts[:, 3:].astype(np.float64)) / 50
    expected = run_outputs(graph, torch.from_numpy(seen))[0].flatten(1).numpy()
    np.testing.assert_allclose(run.readout / 50, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert np.abs(seen - x).max() <= 0.5 * largest / 50 + 1e-12
    bias: Any = graph.by_name["conv"].op
    alone = apply(network.projections[0].operator, torch.from_numpy(counts.astype(np.float64)))
    np.testing.assert_allclose(
        run.readout.reshape(2, 4, 8, 8), alone.numpy() + 50 * bias.bias[None, :, None, None], rtol=1e-12, atol=1e-9
    )
