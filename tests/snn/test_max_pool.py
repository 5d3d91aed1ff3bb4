"""Max-pool three ways: as rectifiers, as gates, refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import AnnGraph, MaxPool2d, ReLU
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.errors import InvalidNetworkError, UnsupportedOperatorError
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.gate import ONE_SPIKE_BITS, GateState, shift_at, window_index
from neuroport.snn.heads import read_out
from neuroport.snn.max_pool import expand_max_pools
from neuroport.snn.network import Gate, Projection, SpikingNetwork
from neuroport.snn.operators import Dense, Window
from neuroport.snn.rates import forward_rates
from neuroport.snn.simulate import simulate
from tests.snn.graphs import Sketch, assert_close, draw, samples


def assert_same(graph: AnnGraph, **options: Any) -> SpikingNetwork:
    network = build_network(simplify(graph), BuildOptions(**options))
    x = samples(graph)
    found = dict(forward_rates(network, x, clip=False))
    for head, expected in zip(network.outputs, run_outputs(graph, x), strict=True):
        assert_close(read_out(head, found[head.population]).reshape(expected.shape), expected)
    return network


@st.composite
def pools(draw_: st.DrawFn) -> tuple[tuple[int, int, int], MaxPool2d]:
    shape = (draw_(st.integers(1, 2)), draw_(st.integers(1, 8)), draw_(st.integers(1, 8)))
    kernel = draw_(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw_(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = (draw_(st.integers(0, kernel[0] // 2)), draw_(st.integers(0, kernel[1] // 2)))
    for n, k, p, d in zip(shape[1:], kernel, padding, dilation, strict=True):
        assume(n + 2 * p >= d * (k - 1) + 1)
        # torch itself answers -inf where a window holds nothing but padding
        assume(p < d or n > d * (k - 1))
    stride = draw_(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return shape, MaxPool2d(kernel, stride, padding, dilation, draw_(st.booleans()))


def pooled(op: MaxPool2d, w: Sketch, x: str) -> str:
    return w.at("pool").max_pool(x, op.kernel, op.stride, op.padding, dilation=op.dilation, ceil_mode=op.ceil_mode)


@settings(max_examples=150)
@given(case=pools(), is_rectified=st.booleans())
def test_rectifiers_give_the_maximum_of_any_window(case: tuple[Any, MaxPool2d], is_rectified: bool) -> None:
    """Of numbers of both signs, where padding must not win, and of activations, where it is 0."""
    shape, op = case
    graph = draw(lambda w, x: pooled(op, w, w.at("act").relu(x) if is_rectified else x), shape)
    x = samples(graph)
    expected = run_outputs(graph, x)[0]
    assume(bool(torch.isfinite(expected).all()))
    expanded, helpers = expand_max_pools(graph)
    assert not any(isinstance(n.op, MaxPool2d) for n in expanded)
    assert {n.name for n in expanded if isinstance(n.op, ReLU)} == helpers | ({"act_op"} if is_rectified else set())
    assert_close(run_outputs(expanded, x)[0], expected)


@settings(max_examples=100)
@given(case=pools())
def test_a_window_lists_what_the_pool_reads(case: tuple[Any, MaxPool2d]) -> None:
    shape, op = case
    graph = draw(lambda w, x: pooled(op, w, x), shape)
    window = Window(op, shape, graph.by_name[graph.output].shape)
    x = samples(graph, 1)
    flat = torch.cat([x.flatten(), torch.tensor([-torch.inf], dtype=x.dtype)])
    expected = run_outputs(graph, x)[0].flatten()
    assert torch.equal(flat[torch.from_numpy(window_index(window))].amax(1), expected)


def pool(w: Sketch, x: str, kernel: tuple[int, int], *rest: tuple[int, int], **options: Any) -> str:
    stride, padding = (*rest, (0, 0))[:2]
    return w.at("pool").max_pool(x, kernel, stride, padding, **options)


def convolved(w: Sketch, x: str) -> str:
    return w.dense(pool(w, w.relu(w.layer(x, 4, name="conv")), (2, 2), (2, 2)), 3, name="fc")


def before_relu(w: Sketch, x: str) -> str:
    a = pool(w, w.layer(x, 4, name="conv"), (3, 3), (2, 2), (1, 1))
    return w.dense(w.relu(w.norm(a)), 3, name="fc")


def of_line(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(w.reshape(x, (3, 64)), 4, name="conv"))
    return w.dense(pool(w, a, (1, 3), (1, 2), (0, 1), ceil_mode=True), 3, name="fc")


def of_all(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(x, 4, name="conv"))
    return w.dense(w.at("pool").largest(a, (1, 2), keep=False), 3, name="fc")


def twice(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(x, 4, name="conv"))
    for k in range(2):
        a = w.at(f"pool{k}").max_pool(a, (2, 2), (2, 2), (0, 0), ceil_mode=True)
    return w.dense(w.relu(a), 3, name="fc")


def joined(w: Sketch, x: str) -> str:
    """SqueezeNet, Inception: a pool of joined channels, whose parts have numbered names of their own."""
    parts = [w.relu(w.layer(x, 2, name=f"c{k}")) for k in range(4)]
    return w.dense(pool(w, w.concat(parts, 0), (2, 2), (2, 2)), 3, name="fc")


def relu_behind(w: Sketch, x: str) -> str:
    a = pool(w, w.layer(x, 4, name="conv"), (2, 2), (2, 2))
    return w.dense(w.relu(a, 0.5), 3, name="fc")


FIRED = {f.__name__: f for f in (convolved, of_line, of_all, twice, joined, relu_behind)}


@pytest.mark.parametrize("net", FIRED)
@pytest.mark.parametrize("max_pool", ["expand", "gated"])
def test_pools_of_spiking_layers_have_the_rates_of_the_ann(net: str, max_pool: Any) -> None:
    network = assert_same(draw(FIRED[net]), max_pool=max_pool)
    gates = [p for p in network.populations if isinstance(p.neuron, Gate)]
    helpers = [p for p in network.populations if p.is_helper]
    assert (len(gates) > 0) == (max_pool == "gated")
    assert (len(helpers) > 0) == (max_pool == "expand")
    for gate in gates:
        assert isinstance(network.incoming[gate.name][0].operator, Window)
        assert gate.role == "hidden"
        assert gate.neuron.fires


def test_a_pool_of_weighted_sums_is_expanded_and_cannot_be_gated() -> None:
    graph = draw(before_relu)
    network = assert_same(graph)
    helpers = [p.name for p in network.populations if p.is_helper]
    assert len(helpers) == 4  # of three columns two, of three rows two
    for net in (before_relu, lambda w, x: w.dense(pool(w, x, (2, 2), (2, 2)), 2, name="fc")):
        with pytest.raises(UnsupportedOperatorError) as caught:
            build_network(simplify(draw(net)), BuildOptions(max_pool="gated"))
        assert str(caught.value) == (
            "max-pool 'pool_op' in module 'pool' (net.py:1): a gate passes spikes, and what it reads is no "
            "population of spikes but a sum; use a recipe with max_pool: expand"
        )


def test_new_names_do_not_meet_those_of_a_pool_of_joined_channels() -> None:
    for n_parts in range(2, 6):

        def net(w: Sketch, x: str, n: int = n_parts) -> str:
            parts = [w.layer(x, 2, name=f"c{k}") for k in range(n)]
            w.at("cat")
            return w.dense(pool(w, w.concat(parts, 0), (2, 2), (2, 2)), 3, name="fc")

        network = assert_same(draw(net))
        assert sum(p.is_helper for p in network.populations) == 2 * n_parts


def test_pools_are_refused_by_name_where_the_recipe_refuses_them() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"max-pool 'pool_op' in module 'pool' \(net.py:1\): the recipe"):
        build_network(simplify(draw(convolved)), BuildOptions(max_pool="refuse"))
    assert_same(draw(lambda w, x: w.dense(x, 2, name="fc")), max_pool="refuse")


def test_a_two_by_two_pool_takes_three_neurons_for_each_output() -> None:
    network = assert_same(draw(convolved))
    n_outputs = 4 * 4 * 4
    assert sum(p.n_neurons for p in network.populations if p.is_helper) == 3 * n_outputs


def test_an_output_that_is_a_pool_is_a_readout_either_way() -> None:
    def net(w: Sketch, x: str) -> list[str]:
        a = pool(w, w.relu(w.layer(x, 4, name="conv")), (2, 2), (2, 2))
        return [w.dense(a, 3, name="fc"), a]

    assert_same(draw(net))
    network = assert_same(draw(net), max_pool="gated")
    assert isinstance(network.by_name[network.outputs[1].population].neuron, Gate)


# --- gates


def gate_oracle(op: MaxPool2d, spikes: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
    """The gate for one sample, spikes [T, C, H, W], one window after the other in plain Python."""
    n_steps, n_channels, height, width = spikes.shape
    estimate = {(c, y, x): 0 for c in range(n_channels) for y in range(height) for x in range(width)}
    passed = np.zeros((n_steps, *out), np.uint8)
    for t in range(n_steps):
        shift = 0
        while shift < 6 and 2**shift <= t:
            shift += 1
        for place, e in estimate.items():
            target = 2**20 if spikes[(t, *place)] else 0
            estimate[place] = e + (target - e) // 2**shift
        for c, row, column in np.ndindex(*out):
            best, chosen = -1, None
            for i in range(op.kernel[0]):
                for j in range(op.kernel[1]):
                    y = row * op.stride[0] - op.padding[0] + i * op.dilation[0]
                    x = column * op.stride[1] - op.padding[1] + j * op.dilation[1]
                    if (c, y, x) in estimate and estimate[c, y, x] > best:
                        best, chosen = estimate[c, y, x], (c, y, x)
            assert chosen is not None
            passed[t, c, row, column] = spikes[(t, *chosen)]
    return passed


@pytest.mark.parametrize(
    "op",
    [
        MaxPool2d((2, 2), (2, 2)),
        MaxPool2d((3, 3), (2, 2), (1, 1)),
        MaxPool2d((2, 3), (1, 2), (1, 0), (2, 1)),
        MaxPool2d((3, 1), (3, 2), ceil_mode=True),
    ],
)
def test_a_gate_passes_what_the_plain_rule_passes(op: MaxPool2d) -> None:
    rng = np.random.default_rng(4)
    shape = (2, 5, 6)
    rate = rng.choice([0.0, 0.1, 0.5, 0.5, 0.9, 1.0], (3, 1, *shape))
    spikes = (rng.random((3, 90, *shape)) < rate).astype(np.uint8)
    out = draw(lambda w, x: pooled(op, w, x), shape)
    gate_shape = out.by_name[out.output].shape
    for dtype, order in product((torch.float32, torch.float64, torch.uint8), (torch.contiguous_format, None)):
        state = GateState(Window(op, shape, gate_shape), 3)
        given_ = torch.from_numpy(spikes).to(dtype)
        steps = [given_[:, t].contiguous(memory_format=order or torch.channels_last) for t in range(90)]
        passed = [state.step(t, step) for t, step in enumerate(steps)]
        assert {step.dtype for step in passed} == {dtype}
        found = torch.stack(passed, 1).numpy()
        assert set(np.unique(found)) == {0, 1}
        np.testing.assert_array_equal(given_, spikes)
        for sample, expected in zip(found, spikes, strict=True):
            np.testing.assert_array_equal(sample, gate_oracle(op, expected, gate_shape))


def test_the_estimate_starts_as_the_mean_and_never_leaves_its_range() -> None:
    assert [shift_at(t) for t in (0, 1, 2, 3, 4, 31, 32, 63, 1000)] == [0, 1, 2, 2, 3, 5, 6, 6, 6]
    state = GateState(Window(MaxPool2d((1, 1), (1, 1)), (1, 1, 2), (1, 1, 2)), 1)
    for t in range(300):
        state.step(t, torch.tensor([[1.0, 0.0]]))
        assert state.estimate.tolist() == [[1 << ONE_SPIKE_BITS, 0]]
    for t in range(300, 2000):
        state.step(t, torch.tensor([[0.0, 1.0]]))
        assert (state.estimate >= 0).all()
        assert (state.estimate <= 1 << ONE_SPIKE_BITS).all()
    # floor of (2^20 - e) / 64 stops 63 short of one spike per step, and at 0 from above
    assert state.estimate.tolist() == [[0, (1 << ONE_SPIKE_BITS) - 63]]


def test_a_gate_of_constant_rates_passes_the_largest() -> None:
    """After the estimates settle: the spikes of 3/4, which come three times in four steps."""

    def net(w: Sketch, x: str) -> str:
        same = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        a = pool(w, w.relu(w.at("conv").conv(x, np.ones((1, 1, 1, 1)), None, **same)), (2, 2), (2, 2))
        return w.linear(w.reshape(a, (1,)), np.ones((1, 1)), None)

    network = build_network(simplify(draw(net, (1, 2, 2))), BuildOptions(max_pool="gated"))
    image = np.array([[[[0.25, 0.5], [0.75, 0.0]]]])
    run = simulate(network, image, 400, record=("pool", "conv"), dtype=torch.float64)
    assert run.counts["conv"].reshape(-1).tolist() == [100, 200, 300, 0]
    np.testing.assert_array_equal(run.rasters["pool"][0, 64:, 0, 0, 0], run.rasters["conv"][0, 64:, 0, 1, 0])


def test_a_gate_that_reads_anything_but_one_window_is_refused() -> None:
    network = build_network(simplify(draw(convolved)), BuildOptions(max_pool="gated"))
    a, b, c = network.projections
    assert (a.post, b.post, c.post) == ("conv", "pool", "fc")
    dense = Projection("conv", "pool", Dense(np.zeros((64, 256)), (256,), (64,)))
    for wrong in ((a, dense, c), (a, b, b, c)):
        with pytest.raises(InvalidNetworkError, match="gate 'pool' must read the windows of one population"):
            SpikingNetwork(network.populations, wrong)
