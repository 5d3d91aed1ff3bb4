"""Float networks for tests of quantization: small ones by hand, and random ones by hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy.sparse import csr_array

from neuroport.snn.network import Encoding, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Operator,
    Scale,
    Sparse,
    conv_geometry,
)
from tests.chip.networks import target

MEMBRANE = Neuron(fires=False)


def float_population(name: str, shape: tuple[int, ...], neuron: Neuron | None = None, **changes: Any) -> Population:
    """A hidden population without bias, reset to zero, with some fields changed."""
    fields: dict[str, Any] = {"bias": np.zeros(shape), "neuron": neuron or Neuron("zero")}
    return Population(name=name, shape=shape, **(fields | changes))


def float_dense(weight: Any, pre: str = "input", post: str = "out") -> Projection:
    """A dense projection with these weights [n_out, n_in]."""
    weight = np.asarray(weight, np.float64)
    return Projection(pre, post, Dense(weight, weight.shape[1:], weight.shape[:1]))


def one_layer(weight: Any, bias: Any = None, *, encoding: Encoding = "rate", neuron: Neuron | None = None) -> Any:
    """Input and one readout: rate coded it has synapses, with input currents it has none."""
    weight = np.asarray(weight, np.float64)
    n_out, n_in = weight.shape
    out = float_population(
        "out", (n_out,), neuron, role="readout", bias=np.zeros(n_out) if bias is None else np.asarray(bias, np.float64)
    )
    source = float_population("input", (n_in,), role="input")
    return SpikingNetwork((source, out), (float_dense(weight),), encoding)


def _weights(draw: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    fan_in = int(np.prod(shape[1:]))
    gain = draw(st.sampled_from([0.1, 1.0, 3.0]))
    w = gain * rng.uniform(-1, 1, shape) / np.sqrt(fan_in)
    match draw(st.sampled_from(["mixed", "excitatory", "inhibitory", "outlier"])):
        case "excitatory":
            w = np.abs(w)
        case "inhibitory":
            w = -np.abs(w)
        case "outlier":
            w.flat[0] *= 5
    return w


def _operator(draw: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> Operator:
    if len(shape) == 3 and draw(st.booleans()):
        k = draw(st.integers(1, min(3, *shape[1:])))
        groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
        weight = _weights(draw, rng, (groups * draw(st.integers(1, 2)), shape[0] // groups, k, k))
        padding, stride = draw(st.integers(0, 1)), draw(st.integers(1, 2))
        geometry = conv_geometry(shape, weight.shape, (stride, stride), (padding, padding), (1, 1), groups)
        conv = Conv2d(weight, geometry)
        return Chain((Scale(np.array([[[0.5]]]), shape), conv)) if draw(st.booleans()) else conv
    if len(shape) == 3 and draw(st.booleans()):
        kernel, stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), (draw(st.integers(1, 2)), 1)
        weight = _weights(draw, rng, (shape[0], draw(st.integers(1, 3)), *kernel))
        sizes = [(n - 1) * s + k for n, s, k in zip(shape[1:], stride, kernel, strict=True)]
        return ConvTranspose2d(weight, ConvGeometry(shape, (weight.shape[1], *sizes), kernel, stride))
    n_in, n_out = int(np.prod(shape)), draw(st.integers(1, 10))
    weight = _weights(draw, rng, (n_out, n_in))
    if draw(st.booleans()):
        held = rng.random(weight.shape) < 0.2
        held[0, 0] = True
        return Sparse(csr_array(weight * held), shape, (n_out,))
    return Dense(weight, shape, (n_out,))


@st.composite
def float_networks(draw: Any, target_name: str) -> tuple[SpikingNetwork, Any]:
    """A network with weights and biases as training leaves them, and calibration images in [0, 1]."""
    a = target(target_name).arithmetic
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape: tuple[int, ...] = draw(st.sampled_from([(3, 5, 4), (2, 6, 6), (17,), (1, 4, 4)]))
    images = rng.random((8, *shape)).astype(np.float32)
    neuron = Neuron(
        draw(st.sampled_from(a.resets)),
        v_init=draw(st.sampled_from([0.0, 0.5])) if a.v_init else 0.0,
        leak=draw(st.sampled_from([1.0, 0.9] if a.fixed_leak is None else [a.fixed_leak])),
    )
    populations = [float_population("input", shape, role="input")]
    projections: list[Projection] = []
    for k in range(1, draw(st.integers(1, 3)) + 1):
        before, name = populations[-1], f"layer{k}"
        op = _operator(draw, rng, before.shape)
        projections.append(Projection(before.name, name, op))
        if k > 1 and draw(st.booleans()):
            other = populations[draw(st.integers(1, k - 1))]
            weight = _weights(draw, rng, (int(np.prod(op.out_shape)), other.n_neurons))
            projections.append(Projection(other.name, name, Dense(weight, other.shape, op.out_shape)))
        bias = rng.uniform(-1, 1, op.out_shape) * draw(st.sampled_from([0.0, 0.01, 1.0]))
        populations.append(float_population(name, op.out_shape, neuron, bias=bias))
    last = populations[-1]
    fires = draw(st.booleans())
    accumulator = MEMBRANE if a.fixed_leak is None else replace(MEMBRANE, leak=a.fixed_leak)
    populations[-1] = float_population(
        last.name, last.shape, neuron if fires else accumulator, bias=last.bias, role="readout"
    )
    encoding = draw(st.sampled_from(["current", "rate"]))
    return SpikingNetwork(tuple(populations), tuple(projections), encoding), images
