"""Random ANN graphs of every operator, with values that several nodes read and outputs anywhere."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from neuroport.ann.graph import AnnGraph
from tests.snn.graphs import Sketch

_LARGEST = 700  # numbers in one value

KINDS = (
    *("conv", "conv", "norm", "norm", "relu", "relu", "concat", "concat", "permute", "max_pool", "affine", "again"),
    *("relu6", "clamp", "leaky", "up", "pad", "slice", "flatten", "linear", "add", "avg_pool", "up_conv", "qcfs"),
    *("resample", "maximum", "broadcast"),
)


@st.composite
def graphs(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, longest: int = 10) -> AnnGraph:
    """Up to ten operators, each on one of the last values; one to three outputs, the last value among them."""
    w = Sketch(draw(st.integers(0, 2**16)))
    values = [w.input(draw(st.sampled_from([(2, 4, 4), (3, 5, 3), (2, 6), (7,)])))]
    for k, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=longest))):
        x = values[-1 - draw(st.sampled_from([0, 0, 0, 1, 2])) % len(values)]
        made = _step(draw, w.at(f"m{k}"), kind, x, values)
        if made is not None and math.prod(w.shape(made)) <= _LARGEST:
            values.append(made)
    extra = draw(st.lists(st.sampled_from(values), max_size=2))
    return w.graph([values[-1], *extra])


def _step(draw: st.DrawFn, w: Sketch, kind: str, x: str, values: list[str]) -> str | None:
    shape = w.shape(x)
    is_image = len(shape) == 3
    if kind in ("conv", "up_conv") and len(shape) > 1:
        options = {"stride": draw(st.sampled_from([1, 1, 2])), "groups": shape[0] if draw(st.booleans()) else 1}
        kernel = draw(st.sampled_from([1, 2, 3]))
        n_out = shape[0] * draw(st.integers(1, 2)) if options["groups"] > 1 else draw(st.integers(1, 3))
        return w.layer(x, n_out, kernel, transposed=kind == "up_conv", **options) if min(shape[1:]) > 1 else None
    if kind == "linear":
        return w.linear(x, w.weight(draw(st.integers(1, 4)), shape[-1]), w.rng.normal(size=1))
    if kind == "norm":
        return w.batch_norm(x, w.rng.normal(size=shape[0]), w.rng.normal(size=shape[0]))
    if kind == "affine":
        kept = [n if draw(st.booleans()) else 1 for n in shape]
        return w.affine(x, w.rng.normal(size=kept), w.rng.normal(size=kept[-1:]))
    if kind == "relu":
        return w.relu(x)
    if kind == "relu6":
        return w.relu(x, draw(st.sampled_from([0.5, 1.0])))
    if kind == "clamp":
        return w.clamp(x, *draw(st.sampled_from([(-0.5, 0.5), (None, 0.25), (-0.25, None)])))
    if kind == "leaky":
        return w.leaky_relu(x, w.rng.uniform(-0.5, 1.5, (shape[0],) + (1,) * (len(shape) - 1)))
    if kind == "qcfs":  # powers of two: no tie is broken by rounding
        return w.qcfs(x, draw(st.sampled_from([2, 4])), 1.0, clip_first=draw(st.booleans()))
    if kind == "add":
        others = [v for v in values if w.shape(v) == shape]
        return w.add(x, draw(st.sampled_from(others)), draw(st.sampled_from([1, -1])))
    if kind == "maximum":
        others = [v for v in values if w.shape(v) == shape]
        return w.maximum(x, draw(st.sampled_from(others)))
    if kind in ("concat", "again"):
        return _joined(draw, w, x, values)
    if kind == "permute":
        return w.permute(x, draw(st.permutations(range(len(shape)))))
    if kind == "flatten":
        return w.reshape(x, draw(st.sampled_from([(math.prod(shape),), (shape[0], math.prod(shape[1:]))])))
    if kind == "broadcast":
        return w.affine(x, None, w.rng.normal(size=(2, *(1 for _ in shape)))) if len(shape) < 3 else None
    return _windowed(draw, w, kind, x) if is_image else None


def _joined(draw: st.DrawFn, w: Sketch, x: str, values: list[str]) -> str:
    shape = w.shape(x)
    axis = draw(st.integers(0, len(shape) - 1))
    others = [v for v in values if len(w.shape(v)) == len(shape)]
    fitting = [
        v for v in others if all(m == n for a, (m, n) in enumerate(zip(w.shape(v), shape, strict=True)) if a != axis)
    ]
    return w.concat([x, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))], axis)


def _windowed(draw: st.DrawFn, w: Sketch, kind: str, x: str) -> str | None:
    shape = w.shape(x)
    index = np.arange(math.prod(shape)).reshape(shape)
    if kind == "up":
        return w.up(x)
    if kind == "pad":
        return w.gather(x, np.pad(index, ((0, 1), (1, 0), (0, 1)), constant_values=-1))
    if kind == "slice":
        return w.gather(x, index[:, ::2, -2:])
    if kind == "resample":
        return w.resample(x, w.rng.normal(size=(2, shape[1])), w.rng.normal(size=(3, shape[2])))
    if min(shape[1:]) < 2:
        return None
    if kind == "max_pool":
        return w.max_pool(x, (2, 2), draw(st.sampled_from([(1, 1), (2, 2)])), (1, 0), ceil_mode=draw(st.booleans()))
    return w.avg_pool(x, (2, 2), (2, 1), (0, 1), ceil_mode=draw(st.booleans()), count_include_pad=draw(st.booleans()))
