"""Integer networks for tests: small ones by hand, random ones by hypothesis, and registers narrower than they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from neuroport.ann.graph import MaxPool2d
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntDense,
    IntSparse,
    IntWeights,
    IntWindow,
    sum_bound,
)
from neuroport.chip.target import Arithmetic, Target, WeightRange, load_target
from neuroport.snn.operators import ConvGeometry, conv_geometry

TARGETS = ("cpu", "loihi-sim", "loihi1", "loihi2", "spinnaker1", "spinnaker2")
NEURONS = (*TARGETS, "spinnaker1/if-curr-delta")  # spinnaker1 by itself has its first neuron, if-trunc-delta


def cases(n: int) -> settings:
    """Examples of a property test: n, or as many as the environment's NEUROPORT_CASES says."""
    return settings(max_examples=int(os.environ.get("NEUROPORT_CASES", n)))


def arithmetics() -> list[Arithmetic]:
    """Those of all packaged datasheets, of every kind of neuron."""
    return [target(name).arithmetic for name in NEURONS]


@cache
def target(name: str) -> Target:
    """The packaged datasheet of that name, or `name/neuron` with one of its neurons."""
    chip, _, neuron = name.partition("/")
    return load_target(chip).with_neuron(neuron) if neuron else load_target(chip)


def variant(name: str, **changes: Any) -> Arithmetic:
    """A packaged arithmetic with some keys changed, checked like any datasheet."""
    return Arithmetic.model_validate(target(name).arithmetic.model_dump() | changes)


def population(name: str = "out", shape: tuple[int, ...] = (1,), **changes: Any) -> IntPopulation:
    """A readout that starts at 0, has no bias and resets by subtraction, with some fields changed."""
    given: dict[str, Any] = {
        "role": "readout",
        "threshold_mantissa": 1,
        "bias_mantissa": np.zeros(shape, np.int32),
        "bias_exponent": 0,
        "v_init_int": 0,
        "reset": "zero",
        "decay": 0,
        "clamp_until": 0,
        "driven": False,
        "unit": 64,
    }
    return IntPopulation(name=name, shape=shape, **(given | changes))


def source(shape: tuple[int, ...] = (1,), name: str = "input") -> IntPopulation:
    """A spike source."""
    return population(name, shape, role="input")


def dense(mantissa: Any, pre: str = "input", post: str = "out", exponent: int = 0) -> IntProjection:
    """A dense projection with these mantissas [n_out, n_in]."""
    return IntProjection(pre, post, IntDense(np.asarray(mantissa, np.int32)), exponent)


def sparse(rows: Sequence[dict[int, int]], pre: str = "input", post: str = "out", exponent: int = 0) -> IntProjection:
    """A sparse projection with these mantissas {column: mantissa} per post-synaptic neuron."""
    columns = np.array([c for row in rows for c in row], np.int32)
    mantissa = np.array([m for row in rows for m in row.values()], np.int32)
    row_start = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return IntProjection(pre, post, IntSparse(mantissa, columns, row_start), exponent)


def gate(name: str, shape: tuple[int, ...], **changes: Any) -> IntPopulation:
    """A max-pool gate."""
    return population(name, shape, **({"role": "hidden", "gate": True, "unit": 1} | changes))


def windows(
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    kernel: tuple[int, int] = (2, 2),
    pre: str = "input",
    post: str = "out",
    **op: Any,
) -> IntProjection:
    """The windows of a gate, side by side unless said otherwise."""
    return IntProjection(pre, post, IntWindow(MaxPool2d(kernel, **({"stride": kernel} | op)), in_shape, out_shape))


def network_of(
    arithmetic: Arithmetic,
    populations: Sequence[IntPopulation],
    projections: Sequence[IntProjection] = (),
    readout: Any = "count",
    name: str = "testchip",
    heads: Sequence[IntHead] | None = None,
) -> IntNetwork:
    """An integer network of these parts; its output is the last readout population unless `heads` are given."""
    if heads is None:
        heads = [IntHead(p.name, readout) for p in populations if p.role == "readout"][-1:]
    return IntNetwork(name, arithmetic, tuple(populations), tuple(projections), tuple(heads))


def with_arithmetic(network: IntNetwork, arithmetic: Arithmetic) -> IntNetwork:
    """The same network in other registers, past the checks: the only way to make a current wrap or saturate.

    Initial potentials end where the new register does.
    """
    end, changed = arithmetic.membrane.limit, object.__new__(IntNetwork)
    populations = [replace(p, v_init_int=min(max(p.v_init_int, -end), end)) for p in network.populations]
    for f in fields(network):
        object.__setattr__(changed, f.name, getattr(network, f.name))
    object.__setattr__(changed, "populations", tuple(populations))
    object.__setattr__(changed, "arithmetic", arithmetic)
    return changed


def spikes_of(raster: Any) -> IntInputs:
    """Inputs of one sample from its raster [T, ...]."""
    raster = np.asarray(raster, np.uint8)[None]
    return IntInputs(1, raster.shape[1], raster, {})


def currents_of(mantissa: Any, n_steps: int, name: str = "out") -> IntInputs:
    """Inputs of samples [S, ...] as currents of one driven population."""
    mantissa = np.asarray(mantissa, np.int32)
    return IntInputs(len(mantissa), n_steps, None, {name: mantissa})


def weight_range(arithmetic: Arithmetic, sign: str) -> WeightRange:
    """The range of 'mixed', 'excitatory' or 'inhibitory' weights."""
    found: WeightRange = getattr(arithmetic.weights, sign)
    return found


def random_weights(draw: Any, rng: np.random.Generator, arithmetic: Arithmetic, shape: tuple[int, ...]) -> Any:
    """Mantissas within their range: all values, only the ends, or few and small; never all zero."""
    sign = draw(st.sampled_from(["mixed", "excitatory", "inhibitory"]))
    sheet = weight_range(arithmetic, sign)
    low, high = sheet.minimum // sheet.step, sheet.maximum // sheet.step
    match draw(st.sampled_from(["uniform", "ends", "small"])):
        case "uniform":
            m = rng.integers(low, high, shape, endpoint=True)
        case "ends":
            m = rng.choice([low, high], shape)
        case _:
            m = rng.integers(max(low, -3), min(high, 3), shape, endpoint=True) * (rng.random(shape) < 0.5)
    m = m * sheet.step
    if not m.any():
        m.flat[0] = sheet.step if high > 0 else -sheet.step
    if sign == "mixed" and (m.min() >= 0 or m.max() <= 0):
        m.flat[0] = -sheet.step if m.min() >= 0 else sheet.step  # one sign only would be read by another range
    return m.astype(np.int32)


_PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


def random_conv(draw: Any, rng: np.random.Generator, arithmetic: Arithmetic, shape: tuple[int, ...]) -> IntConv2d:
    """A convolution over [C, H, W] with any stride, padding, dilation and groups that leave an output."""
    kernel, stride, dilation = draw(_PAIR), draw(_PAIR), draw(_PAIR)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(n + 2 * p < span for n, p, span in zip(shape[1:], padding, spans, strict=True)):
        kernel = (1, 1)
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    c_out = groups * draw(st.integers(1, 2))
    weight_shape = (c_out, shape[0] // groups, *kernel)
    geometry = conv_geometry(shape, weight_shape, stride, padding, dilation, groups)
    return IntConv2d(random_weights(draw, rng, arithmetic, weight_shape), geometry)


def random_image(draw: Any, n: int) -> tuple[int, int, int]:
    """Any [C, H, W] of n neurons."""
    c = draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
    h = draw(st.sampled_from([k for k in range(1, n // c + 1) if (n // c) % k == 0]))
    return (c, h, n // c // h)


def random_cut_conv(
    draw: Any, rng: np.random.Generator, arithmetic: Arithmetic, n_in: int, n_out: int
) -> IntConv2d | IntConvTranspose2d:
    """A convolution or its transpose between any images of these sizes, padded or cut on any side."""
    in_shape, out_shape = random_image(draw, n_in), random_image(draw, n_out)
    common = [g for g in range(1, min(in_shape[0], out_shape[0]) + 1) if not in_shape[0] % g and not out_shape[0] % g]
    groups = draw(st.sampled_from(common))
    padding = draw(st.tuples(st.integers(-2, 3), st.integers(-2, 3)))
    geometry = ConvGeometry(in_shape, out_shape, draw(_PAIR), draw(_PAIR), padding, draw(_PAIR), groups)
    if draw(st.booleans()):
        weight = random_weights(draw, rng, arithmetic, (out_shape[0], in_shape[0] // groups, *geometry.kernel))
        return IntConv2d(weight, geometry)
    weight = random_weights(draw, rng, arithmetic, (in_shape[0], out_shape[0] // groups, *geometry.kernel))
    return IntConvTranspose2d(weight, geometry)


def random_sparse(draw: Any, rng: np.random.Generator, arithmetic: Arithmetic, n_in: int, n_out: int) -> IntSparse:
    """A sparse matrix; some rows and columns may be empty."""
    held = rng.random((n_out, n_in)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    held[rng.integers(n_out), rng.integers(n_in)] = True
    rows, columns = np.nonzero(held)
    index = draw(st.sampled_from([np.int32, np.int64]))
    row_start = np.searchsorted(rows, np.arange(n_out + 1)).astype(index)
    return IntSparse(random_weights(draw, rng, arithmetic, rows.shape), columns.astype(index), row_start)


def random_synapse(draw: Any, rng: np.random.Generator, arithmetic: Arithmetic, n_in: int, n_out: int) -> IntWeights:
    """Synapses of any kind from n_in to n_out neurons."""
    match draw(st.sampled_from(["dense", "sparse", "conv"])):
        case "dense":
            return IntDense(random_weights(draw, rng, arithmetic, (n_out, n_in)))
        case "sparse":
            return random_sparse(draw, rng, arithmetic, n_in, n_out)
        case _:
            return random_cut_conv(draw, rng, arithmetic, n_in, n_out)


def random_window(draw: Any, shape: tuple[int, ...]) -> IntWindow:
    """A max-pool over [C, H, W] as torch allows it: padding of half a kernel at most, any stride and dilation."""
    kernel, stride, dilation = draw(_PAIR), draw(_PAIR), draw(_PAIR)
    if any(d * (k - 1) + 1 > n for k, d, n in zip(kernel, dilation, shape[1:], strict=True)):
        kernel, dilation = (1, 1), (1, 1)
    padding = tuple(draw(st.integers(0, k // 2)) if d == 1 else 0 for k, d in zip(kernel, dilation, strict=True))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    ceil_mode = draw(st.booleans())
    out = []
    for n, span, s, p in zip(shape[1:], spans, stride, padding, strict=True):
        size = -((n + 2 * p - span) // -s if ceil_mode else -((n + 2 * p - span) // s)) + 1
        out.append(size - (ceil_mode and (size - 1) * s >= n + p))
    return IntWindow(MaxPool2d(kernel, stride, (padding[0], padding[1]), dilation, ceil_mode), shape, (shape[0], *out))


def fitted(draw: Any, parts: Sequence[tuple[str, IntWeights]], post: str, a: Arithmetic) -> list[IntProjection]:
    """The projections with exponents drawn from those that the accumulator allows together.

    Where it allows none, all weights are halved first.
    """
    projections, room, step = [], a.synaptic_limit, a.weights.mixed.step
    synapses = [synapse for _, synapse in parts]
    while sum(map(sum_bound, synapses)) > room:
        halves = [(s.mantissa / (2 * step)).astype(np.int32) * step for s in synapses]
        for m in halves:
            m.flat[0] = m.flat[0] if m.any() else step
        synapses = [replace(s, mantissa=m) for s, m in zip(synapses, halves, strict=True)]
    for k, ((pre, _), synapse) in enumerate(zip(parts, synapses, strict=True)):
        later, bound = sum(map(sum_bound, synapses[k + 1 :])), sum_bound(synapse)
        fitting = [e for e in range(a.weights.exponent_max + 1) if bound << e <= room - later]
        exponent = draw(st.sampled_from([0, fitting[-1], fitting[len(fitting) // 2]]))
        room -= bound << exponent
        projections.append(IntProjection(pre, post, synapse, exponent))
    return projections


def random_population(
    draw: Any, rng: np.random.Generator, a: Arithmetic, name: str, shape: tuple[int, ...], typical: int, n_steps: int
) -> IntPopulation:
    """Neurons anywhere in the ranges of the arithmetic; `typical`: an input that one step may bring."""
    top = a.threshold.mantissa_max
    near = min(max(1, typical >> a.input_shift >> a.threshold.shift), top)
    threshold = draw(st.sampled_from([1, near, min(2 * near, top), top]))
    limit = a.membrane.limit
    starts = [0, (threshold << a.threshold.shift) // 2, limit, -limit, int(rng.integers(-limit, limit))]
    v_init = draw(st.sampled_from([v for v in starts if abs(v) <= limit])) if a.v_init else 0
    low, high = a.bias.mantissa_min, a.bias.mantissa_max
    if a.bias.through == "synapses":  # what is left beside the weights
        room = max(0, a.synaptic_limit - (typical >> a.synaptic_shift))
        low, high = max(low, -room), min(high, room)
    exponent = draw(st.sampled_from([a.bias.exponent_min if a.bias.through == "synapses" else 0, a.bias.exponent_max]))
    bias = {
        "none": np.zeros(shape),
        "uniform": rng.integers(low, high, shape, endpoint=True),
        "ends": rng.choice([low, high], shape),
        "small": rng.integers(max(low, -5), min(high, 5), shape, endpoint=True),
    }[draw(st.sampled_from(["none", "uniform", "ends", "small"]))]
    full = 1 << a.decay_bits
    decays = [0, 0, 1, int(rng.integers(0, full)), full] if a.fixed_decay is None else [a.fixed_decay]
    clamps = [0, 0, 1, n_steps - 1, n_steps + 1] if a.clamp else [0]
    # where a reset takes a second compartment, the threshold needs room among the weights
    resets = [r for r in a.resets if r not in getattr(a, "two_compartments", ())]
    return population(
        name,
        shape,
        role="hidden",
        threshold_mantissa=threshold,
        bias_mantissa=bias.astype(np.int32),
        bias_exponent=exponent,
        v_init_int=v_init,
        reset=draw(st.sampled_from(resets)),
        decay=draw(st.sampled_from(decays)),
        clamp_until=draw(st.sampled_from(clamps)),
    )


@st.composite
def networks(draw: Any, arithmetics: Sequence[Arithmetic]) -> tuple[IntNetwork, IntInputs]:
    """A network with one to three layers of any kind and inputs for it, every number within its range.

    Layers read the population before by synapses of any kind, or a gate does; some read earlier ones besides, once or
    twice. A population in the middle may be an output too.
    """
    a = draw(st.sampled_from(arithmetics))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_samples, n_steps = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    sides = st.integers(1, 5)
    shape: tuple[int, ...] = draw(st.one_of(st.tuples(st.integers(1, 4), sides, sides), st.tuples(st.integers(1, 12))))
    driven = draw(st.booleans())
    if driven:
        made = [replace(random_population(draw, rng, a, "p0", shape, 2 * a.bias.limit, n_steps), driven=True)]
        low, high = a.bias.mantissa_min, a.bias.mantissa_max
        currents = rng.integers(low, high, (n_samples, *shape), endpoint=True).astype(np.int32)
        inputs = IntInputs(n_samples, n_steps, None, {"p0": currents})
    else:
        made = [source(shape, "p0")]
        density = draw(st.sampled_from([0.1, 0.5, 1.0]))
        raster = (rng.random((n_samples, n_steps, *shape)) < density).astype(np.uint8)
        inputs = IntInputs(n_samples, n_steps, raster, {})
    projections: list[IntProjection] = []
    for k in range(1, draw(st.integers(1, 3)) + 1):
        name, before = f"p{k}", made[-1]
        if a.gated_max_pool and before.role != "input" and len(before.shape) == 3 and draw(st.booleans()):
            window = random_window(draw, before.shape)
            made.append(gate(name, window.out_shape))
            projections.append(IntProjection(before.name, name, window))
            continue
        parts: list[tuple[str, IntWeights]] = []
        if len(before.shape) == 3 and draw(st.booleans()):
            conv = random_conv(draw, rng, a, before.shape)
            parts.append((before.name, conv))
            shape = conv.geometry.out_shape
        else:
            shape = draw(st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 3), sides, sides)))
            parts.append((before.name, random_synapse(draw, rng, a, before.n_neurons, int(np.prod(shape)))))
        for _ in range(draw(st.integers(0, 2))):
            other = draw(st.sampled_from(made))
            synapse = random_synapse(draw, rng, a, other.n_neurons, int(np.prod(shape)))
            parts.insert(draw(st.integers(0, 1)), (other.name, synapse))
        incoming = fitted(draw, parts, name, a)
        typical = sum(sum_bound(j.synapse) << j.exponent for j in incoming)
        made.append(random_population(draw, rng, a, name, shape, typical << a.synaptic_shift, n_steps))
        projections.extend(incoming)
    made[-1] = replace(made[-1], role="readout")
    heads = [IntHead(made[-1].name, draw(st.sampled_from(["count", "membrane"])))]
    if made[-2].role == "hidden" and draw(st.booleans()):
        made[-2] = replace(made[-2], role="readout")
        heads.insert(draw(st.integers(0, 1)), IntHead(made[-2].name, draw(st.sampled_from(["count", "membrane"]))))
    return network_of(a, made, projections, heads=heads), inputs
