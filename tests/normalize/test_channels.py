"""Constants of channels: what they add, what they multiply, and along which path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroport.ann.graph import MaxPool2d
from neuroport.normalize.channels import along, feeds_gate, with_gain, with_offset, with_spike_size
from neuroport.snn.network import Gate, Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, ConvGeometry, Dense, Window, apply
from neuroport.snn.rates import forward_rates
from neuroport.snn.sparse import as_matrix
from tests.normalize.nets import between, population

READOUT = {"neuron": Neuron(fires=False), "role": "readout"}
RNG = np.random.default_rng(2)


def small() -> SpikingNetwork:
    """input [2] -> a [2, 1, 2], a convolution -> b [2, 1, 2]; a and b, read flat, -> out [3]."""
    source = population("input", (2,), role="input")
    a = population("a", (2, 1, 2), bias=RNG.normal(size=(2, 1, 2)))
    b = population("b", (2, 1, 2), bias=RNG.normal(size=(2, 1, 2)))
    out = population("out", (3,), **READOUT)
    geometry = ConvGeometry((2, 1, 2), (2, 1, 2), (1, 1))
    projections = (
        Projection("input", "a", Dense(RNG.normal(size=(4, 2)), (2,), (4,))),
        Projection("a", "b", Conv2d(RNG.normal(size=(2, 2, 1, 1)), geometry)),
        Projection("a", "out", Dense(RNG.normal(size=(3, 4)), (4,), (3,))),
        between(b, out, RNG.normal(size=(3, 4))),
    )
    return SpikingNetwork((source, a, b, out), projections)


NET = small()
# Channel 0 is neurons 0 and 1, channel 1 neurons 2 and 3.
GAIN = np.array([2.0, 0.5])
BY_NEURON = np.array([2.0, 2.0, 0.5, 0.5])


def matrix(network: SpikingNetwork, pre: str, post: str) -> np.ndarray:
    (found,) = (j.operator for j in network.projections if (j.pre, j.post) == (pre, post))
    return as_matrix(found).toarray()


def assert_only(found: SpikingNetwork, *changed: tuple[str, str], biases: tuple[str, ...] = ()) -> None:
    """Nothing but these projections and these populations' biases is new."""
    for before, after in zip(NET.projections, found.projections, strict=True):
        assert ((before.pre, before.post) in changed) or after.operator is before.operator
    for before, after in zip(NET.populations, found.populations, strict=True):
        assert before is after or (before.name in biases and replace(after, bias=before.bias).name == before.name)


def test_an_offset_is_added_to_the_biases_of_its_channel() -> None:
    found = with_offset(NET, NET.by_name["a"], np.array([0.25, -1.0]))
    before, after = NET.by_name["a"].bias.reshape(-1), found.by_name["a"].bias.reshape(-1)
    np.testing.assert_array_equal(after, before + np.array([0.25, 0.25, -1, -1]))
    assert found.by_name["a"].bias.shape == (2, 1, 2)
    assert_only(found, biases=("a",))


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_gain_multiplies_all_that_arrives_and_nothing_that_leaves(name: str) -> None:
    found = with_gain(NET, NET.by_name[name], GAIN)
    (pre,) = (j.pre for j in NET.incoming[name])
    np.testing.assert_allclose(matrix(found, pre, name), BY_NEURON[:, None] * matrix(NET, pre, name), rtol=1e-15)
    expected = BY_NEURON * NET.by_name[name].bias.reshape(-1)
    np.testing.assert_allclose(found.by_name[name].bias.reshape(-1), expected, rtol=1e-15)
    assert_only(found, (pre, name), biases=(name,))


def test_a_gain_reaches_every_projection_into_a_population() -> None:
    found = with_gain(NET, NET.by_name["out"], np.array([1.0, 2.0, 4.0]))
    for pre in ("a", "b"):
        expected = np.array([[1.0], [2.0], [4.0]]) * matrix(NET, pre, "out")
        np.testing.assert_allclose(matrix(found, pre, "out"), expected, rtol=1e-15)


def test_the_size_of_a_spike_multiplies_all_that_leaves_and_nothing_that_arrives() -> None:
    found = with_spike_size(NET, NET.by_name["a"], GAIN)
    for post in ("b", "out"):
        np.testing.assert_allclose(matrix(found, "a", post), matrix(NET, "a", post) * BY_NEURON, rtol=1e-15)
    assert_only(found, ("a", "b"), ("a", "out"))


def test_gain_and_the_inverse_size_leave_what_comes_behind_as_it_is() -> None:
    """relu(g x) / g = relu(x): with rates that are not clipped nobody behind notices."""
    changed = with_gain(NET, NET.by_name["a"], GAIN)
    changed = with_spike_size(changed, changed.by_name["a"], 1 / GAIN)
    x = torch.from_numpy(RNG.normal(size=(20, 2)))
    before, after = (dict(forward_rates(n, x, clip=False)) for n in (NET, changed))
    assert before["a"].max() > 0
    torch.testing.assert_close(after["a"].flatten(1), before["a"].flatten(1) * torch.from_numpy(BY_NEURON))
    for name in ("b", "out"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-14, atol=1e-14)


def gated() -> SpikingNetwork:
    """a [2, 2, 2] -> gate of 2x2 windows [2, 1, 1] -> out, and a -> out beside it."""
    source, a = population("input", (1,), role="input"), population("a", (2, 2, 2))
    gate, out = population("gate", (2, 1, 1), neuron=Gate()), population("out", (1,), **READOUT)
    window = Window(MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False), a.shape, gate.shape)
    projections = (
        between(source, a, np.ones((8, 1))),
        Projection("a", "gate", window),
        between(gate, out, [[3.0, 5.0]]),
        between(a, out, np.arange(8.0)[None]),
    )
    return SpikingNetwork((source, a, gate, out), projections)


def test_a_gate_hands_the_size_on_to_the_weights_behind_it() -> None:
    network = gated()
    found = with_spike_size(network, network.by_name["a"], np.full(2, 4.0))
    np.testing.assert_array_equal(matrix(found, "gate", "out"), [[12, 20]])
    np.testing.assert_array_equal(matrix(found, "a", "out"), 4 * np.arange(8.0)[None])
    assert found.incoming["gate"][0] is network.incoming["gate"][0]
    assert found.incoming["a"][0] is network.incoming["a"][0]


def test_what_feeds_a_gate() -> None:
    network = gated()
    assert [p.name for p in network.populations if feeds_gate(network, p)] == ["a"]
    assert not any(feeds_gate(NET, p) for p in NET.populations)


def test_channels_seen_under_another_shape() -> None:
    one = np.array([3.0, 3.0])
    assert along(one, (2, 1, 2), (4,)).tolist() == [3]
    two = np.array([1.0, 2.0])
    assert along(two, (2, 1, 2), (2, 2)).tolist() == [1, 2]
    assert along(two, (2, 1, 2), (4,)).tolist() == [1, 1, 2, 2]
    assert along(two, (2, 3), (1, 6)).tolist() == [[1, 1, 1, 2, 2, 2]]


def test_the_network_given_is_not_changed() -> None:
    before = [apply(j.operator, torch.eye(int(np.prod(j.operator.in_shape))).double()) for j in NET.projections]
    p = NET.by_name["a"]
    for change in (with_offset, with_gain, with_spike_size):
        change(NET, p, GAIN)
    for j, value in zip(NET.projections, before, strict=True):
        assert torch.equal(apply(j.operator, torch.eye(int(np.prod(j.operator.in_shape))).double()), value)
