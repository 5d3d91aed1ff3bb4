"""Graphs for tests: a writer that draws its weights, and one small network for each pattern of published nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph, Origin
from neuroport.ann.writer import GraphWriter

IMAGE = (3, 8, 8)


class Sketch(GraphWriter):
    """A growing graph whose layers are named and have random weights of size 1 per output."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def at(self, name: str) -> Sketch:
        """The next nodes belong to this module; those with weights have its name."""
        self.place(name, name, Origin(name, "net.py:1"), other=f"{name}_op")
        return self

    def weight(self, *shape: int) -> NDArray[np.float64]:
        return self.rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[1:])))

    def layer(self, x: str, n_out: int, kernel: int = 3, *, name: str | None = None, **options: Any) -> str:
        """A convolution, or its transpose; padded to keep the size unless said otherwise."""
        n_in, n_axes = self.shape(x)[0], len(self.shape(x)) - 1
        groups, transposed = options.get("groups", 1), options.get("transposed", False)
        shape = (n_in, n_out // groups) if transposed else (n_out, n_in // groups)
        settings = {"stride": 1, "padding": kernel // 2, "dilation": 1, **options}
        for key in ("stride", "padding", "dilation"):
            settings[key] = (settings[key],) * n_axes
        settings["groups"] = groups
        if name:
            self.at(name)
        return self.conv(x, self.weight(*shape, *(kernel,) * n_axes), self.rng.normal(size=n_out) / 4, **settings)

    def norm(self, x: str) -> str:
        n = self.shape(x)[0]
        return self.batch_norm(x, self.rng.uniform(0.5, 1.5, n), self.rng.normal(size=n) / 4)

    def dense(self, x: str, n_out: int, *, name: str | None = None) -> str:
        """Flatten and a linear layer."""
        if name:
            self.at(name)
        n_in = math.prod(self.shape(x))
        return self.linear(self.reshape(x, (n_in,)), self.weight(n_out, n_in), self.rng.normal(size=n_out) / 4)

    def up(self, x: str, factor: int = 2) -> str:
        """Each pixel repeated in a block."""
        index = np.arange(math.prod(self.shape(x))).reshape(self.shape(x))
        return self.gather(x, index.repeat(factor, 1).repeat(factor, 2))

    def qcfs(self, x: str, levels: int, ceiling: float = 1.0, *, clip_first: bool = True) -> str:
        """Bu et al. 2022, eq. 15: clip then floor, or floor then clip."""
        if clip_first:
            y = self.relu(x, ceiling)
            y = self.rounded(self.affine(y, np.array(levels / ceiling), np.array(0.5)), "floor")
        else:
            y = self.rounded(self.affine(x, np.array(levels / ceiling), np.array(0.5)), "floor")
            y = self.relu(y, float(levels))
        return self.affine(y, np.array(ceiling / levels), None)


Net = Callable[[Sketch, str], str | Sequence[str]]


def draw(net: Net, shape: Sequence[int] = IMAGE, *, seed: int = 0) -> AnnGraph:
    """The graph of a net of one input."""
    w = Sketch(seed)
    made = net(w, w.input(shape))
    return w.graph((made,) if isinstance(made, str) else made)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of float64: sums of at most some thousand products of numbers near 1."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-11 * max(1.0, float(expected.abs().max()))


def samples(graph: AnnGraph, n: int = 3, *, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, *graph.input_shape)))


def residual(w: Sketch, x: str) -> str:
    a = w.relu(w.norm(w.layer(x, 6, name="conv1")))
    b = w.norm(w.layer(a, 6, name="conv2"))
    return w.dense(w.relu(w.add(a, b)), 5, name="fc")


def padded_shortcut(w: Sketch, x: str) -> str:
    """ResNet's option A: every other pixel, channels of zeros around."""
    a = w.relu(w.layer(x, 4, name="conv1"))
    index = np.arange(math.prod(w.shape(a))).reshape(w.shape(a))[:, ::2, ::2]
    shortcut = w.gather(a, np.pad(index, ((2, 2), (0, 0), (0, 0)), constant_values=-1))
    return w.dense(w.relu(w.add(w.layer(a, 8, stride=2, name="conv2"), shortcut)), 5, name="fc")


def dense_block(w: Sketch, x: str) -> str:
    features = [w.layer(x, 4, name="conv0")]
    for k in range(2):
        a = w.at(f"norm{k}").relu(w.norm(w.concat(features, 0)))
        features.append(w.layer(a, 2, name=f"conv{k + 1}"))
    pooled = w.total(w.relu(w.norm(w.concat(features, 0))), (1, 2), keep=False, mean=True)
    return w.dense(pooled, 3, name="fc")


def concat_then_max_pool(w: Sketch, x: str) -> str:
    a, b = w.relu(w.layer(x, 4, name="left")), w.relu(w.layer(x, 3, 1, name="right"))
    return w.dense(w.at("pool").max_pool(w.concat([a, b], 0), (3, 3), (2, 2), (1, 1)), 4, name="fc")


def inverted_residual(w: Sketch, x: str) -> str:
    """MobileNetV2: linear bottlenecks, ReLU6, depthwise convolutions."""
    a = w.layer(x, 4, 1, name="stem")
    for k in range(2):
        h = w.relu(w.layer(a, 8, 1, name=f"expand{k}"), 1.0)
        h = w.relu(w.layer(h, 8, groups=8, name=f"depthwise{k}"), 1.0)
        a = w.add(a, w.layer(h, 4, 1, name=f"project{k}"))
    return w.dense(w.relu(w.layer(a, 6, 1, name="last")), 4, name="fc")


def feature_pyramid(w: Sketch, x: str) -> list[str]:
    """Three scales, joined from the top down, two heads on each."""
    c1 = w.relu(w.layer(x, 4, name="c1"))
    c2 = w.relu(w.layer(c1, 5, stride=2, name="c2"))
    c3 = w.relu(w.layer(c2, 6, stride=2, name="c3"))
    p3 = w.layer(c3, 4, 1, name="lateral3")
    p2 = w.add(w.layer(c2, 4, 1, name="lateral2"), w.up(p3))
    p1 = w.add(w.layer(c1, 4, 1, name="lateral1"), w.up(p2))
    outputs = []
    for k, p in enumerate((p1, p2, p3)):
        h = w.relu(w.layer(w.layer(p, 4, name=f"smooth{k}"), 4, name=f"head{k}"))
        outputs += [w.layer(h, 2, name=f"class{k}"), w.layer(h, 4, name=f"box{k}")]
    return outputs


def upsampled(w: Sketch, x: str) -> str:
    """Strided down, transposed convolution up, twice in a row without an activation between."""
    a = w.relu(w.layer(x, 4, stride=2, name="down"))
    b = w.layer(a, 4, 4, stride=2, padding=1, transposed=True, name="up1")
    c = w.relu(w.norm(w.layer(b, 3, 2, stride=2, padding=0, groups=1, transposed=True, name="up2")))
    return w.layer(c, 2, name="out")


def leaky(w: Sketch, x: str) -> str:
    a = w.leaky_relu(w.layer(x, 4, name="conv"), w.rng.uniform(-0.2, 0.4, (4, 1, 1)))
    return w.softmax(w.leaky_relu(w.dense(a, 4, name="fc"), np.array(0.2)), 0)


def clamped(w: Sketch, x: str) -> str:
    a = w.clamp(w.norm(w.layer(x, 4, name="conv1")), 0, 1.0)
    b = w.clamp(w.layer(a, 4, groups=4, name="conv2"), -1, 1)
    c = w.clamp(w.layer(b, 4, name="conv3"), None, 0.5)
    return w.dense(w.clamp(c, -0.25, None), 4, name="fc")


def quantized(w: Sketch, x: str) -> str:
    a = w.qcfs(w.norm(w.layer(x, 4, name="conv1")), 8, 0.7)
    b = w.qcfs(w.layer(a, 4, name="conv2"), 4, 1.3, clip_first=False)
    return w.dense(b, 4, name="fc")


def channels_last(w: Sketch, x: str) -> str:
    a = w.permute(w.layer(x, 4, name="conv1"), (1, 2, 0))
    a = w.relu(w.affine(a, w.rng.normal(size=4), w.rng.normal(size=4)))
    b = w.relu(w.layer(w.permute(a, (2, 0, 1)), 3, name="conv2"))
    return w.dense(w.permute(b, (1, 2, 0)), 4, name="fc")


def norms_everywhere(w: Sketch, x: str) -> str:
    a = w.relu(w.at("bn0").norm(x))
    a = w.relu(w.layer(w.norm(a), 4, name="conv1"))
    a = w.at("pool").norm(w.avg_pool(a, (3, 3), (2, 2), (1, 1), count_include_pad=False))
    a = w.relu(w.layer(a, 3, name="conv2"))
    flat = w.reshape(a, (math.prod(w.shape(a)),))
    return w.dense(w.at("bn3").norm(flat), 4, name="fc")


def average_pools(w: Sketch, x: str) -> str:
    a = w.avg_pool(w.relu(w.layer(x, 4, name="conv1")), (2, 2), (2, 2), (0, 0))
    a = w.avg_pool(w.layer(a, 4, name="conv2"), (2, 2), (2, 2), (1, 1), ceil_mode=True)
    a = w.avg_pool(w.relu(a), (2, 2), (1, 1), (0, 0), divisor=3)
    rows = w.rng.random((5, w.shape(a)[1]))
    return w.dense(w.relu(w.layer(w.resample(a, rows, rows[:3]), 3, name="conv3")), 4, name="fc")


def line(w: Sketch, x: str) -> str:
    """1-d convolutions of [C, L], a pool and a transposed one."""
    a = w.relu(w.norm(w.layer(w.reshape(x, (3, 64)), 4, 5, stride=2, dilation=2, name="conv1")))
    a = w.avg_pool(a, (1, 2), (1, 2), (0, 0))
    b = w.relu(w.layer(a, 5, 3, stride=2, transposed=True, name="up"))
    return w.dense(
        w.concat([b, w.relu(w.gather(b, np.arange(5 * w.shape(b)[1]).reshape(w.shape(b))[::-1]))], 0), 4, name="fc"
    )


def squeeze(w: Sketch, x: str) -> str:
    """A constant, a mean subtracted, two vectors joined, minima and maxima and magnitudes."""
    a, b = w.layer(x, 4, name="a"), w.layer(x, 4, name="b")
    c = w.minimum(w.maximum(a, b), w.absolute(a))
    c = w.add(c, w.total(c, (1, 2), keep=True, mean=True), sign=-1)
    c = w.add(c, w.constant(w.rng.normal(size=(4, 1, 8))))
    d = w.relu(c)
    vectors = [w.total(d, (1, 2), keep=False, mean=False), w.relu(w.dense(d, 3, name="v"))]
    return w.dense(w.concat(vectors, 0), 4, name="fc")


def tokens(w: Sketch, x: str) -> str:
    """Features along the last axis: a linear layer at each place, mixed over places and channels as an MLP mixer."""
    a = w.permute(w.reshape(w.layer(x, 6, 4, stride=4, padding=0, name="patch"), (6, 4)), (1, 0))
    mixed = w.at("mix").linear(a, w.weight(5, 6), w.rng.normal(size=5))
    b = w.at("back").linear(w.relu(mixed), w.weight(6, 5), None)
    c = w.permute(w.add(a, b), (1, 0))
    d = w.relu(w.at("places").linear(c, w.weight(3, 4), w.rng.normal(size=3)))
    return w.dense(d, 4, name="fc")


NETS: dict[str, Net] = {
    f.__name__: f
    for f in (
        residual,
        padded_shortcut,
        dense_block,
        concat_then_max_pool,
        inverted_residual,
        feature_pyramid,
        upsampled,
        leaky,
        clamped,
        quantized,
        channels_last,
        norms_everywhere,
        average_pools,
        line,
        squeeze,
        tokens,
    )
}
