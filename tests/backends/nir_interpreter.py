"""What a NIR graph says, in numpy and nothing of neuroport: the independent reader of the tests.

Integers stay integers. A step is the graph in topological order; several edges into a node are a sum. Metadata are
asked for what NIR has no place for: the kind of reset, v_init, the test at the threshold, and the leak's rounding.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

Rasters = dict[str, np.ndarray]


def described(graph: Any) -> Any:
    return json.loads(graph.metadata["neuroport"])


def run(graph: Any, inputs: dict[str, np.ndarray], n_steps: int) -> tuple[Rasters, Rasters]:
    """(spikes [T, ...], potentials [T, ...]) by node of neurons; inputs: [T, ...] or, the same in every step, [...]."""
    says = described(graph)
    rows = {row["node"]: row for row in says["populations"]}
    before = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order: list[str] = []
    while len(order) < len(graph.nodes):
        order += [n for n in graph.nodes if n not in order and all(b in order for b in before[n])]
    v: dict[str, Any] = {}
    spikes: dict[str, list[Any]] = {}
    potentials: dict[str, list[Any]] = {}
    for t in range(n_steps):
        out: dict[str, Any] = {}
        for name in order:
            node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
            if kind == "Input":
                out[name] = inputs[name][t] if inputs[name].ndim > len(node.input_type["input"]) else inputs[name]
                continue
            x = sum((out[b] for b in before[name][1:]), out[before[name][0]])
            if kind in ("IF", "LIF", "I", "LI"):
                out[name], v[name] = neuron(node, kind, rows[name], says, x, v.get(name))
                spikes.setdefault(name, []).append(out[name])
                potentials.setdefault(name, []).append(v[name])
            else:
                out[name] = linear(node, kind, x)
    return {k: np.stack(s) for k, s in spikes.items()}, {k: np.stack(p) for k, p in potentials.items()}


def linear(node: Any, kind: str, x: Any) -> Any:
    if kind in ("Affine", "Linear"):
        return node.weight @ x + getattr(node, "bias", 0)
    if kind in ("Conv1d", "Conv2d"):
        f = torch.nn.functional.conv1d if kind == "Conv1d" else torch.nn.functional.conv2d
        w, b = (torch.from_numpy(a.astype(np.float64)) for a in (node.weight, node.bias))
        whole = lambda k: tuple(int(n) for n in np.atleast_1d(k))  # noqa: E731
        places = (whole(node.stride), whole(node.padding), whole(node.dilation), int(node.groups))
        y = f(torch.from_numpy(np.asarray(x, np.float64))[None], w, b, *places)[0].numpy()
        return y.astype(np.int64) if node.weight.dtype.kind == "i" else y
    return x.reshape(-1) if kind == "Flatten" else x


def neuron(node: Any, kind: str, row: Any, says: Any, x: Any, v: Any) -> tuple[Any, Any]:
    step = integer_step if says["kind"] == "integer" else float_step
    return step(node, kind, row, says, x, v)


def integer_step(node: Any, kind: str, row: Any, says: Any, x: Any, v: Any) -> tuple[Any, Any]:
    """v in the chip's membrane integers, of which the file's are shifted ones; its leak cuts towards 0."""
    k, bits = row["exponent"], says["arithmetic"]["decay_bits"]
    v = np.full(x.shape, row["v_init_int"], np.int64) if v is None else v
    left, x = (1 << bits) - row["decay"], x.astype(np.int64) << k
    if says["arithmetic"]["leak"] == "added":
        v = np.sign(v) * (np.abs(v) * left >> bits) + x
    else:  # SpiNNaker's: the solution for an input that is steady for a step, rounded down
        v = x - (left * (x - v) >> bits)
    if kind in ("I", "LI"):
        return np.zeros(x.shape, np.int64), v
    if row["reset"] == "zero":
        fired = v / (1 << k) > node.v_threshold
        return fired.astype(np.int64), np.where(fired, 0, v)
    v_th = node.v_threshold << k
    fired = v >= v_th if says["threshold_rule"] == ">=" else v > v_th
    return fired.astype(np.int64), v - fired * v_th


def float_step(node: Any, kind: str, row: Any, says: Any, x: Any, v: Any) -> tuple[Any, Any]:
    ours = row["neuron"]
    v = np.full(x.shape, ours["v_init"]) if v is None else v
    v = v + (says["dt_s"] / node.tau * (node.r * x - v) if kind in ("LIF", "LI") else node.r * x)
    if kind in ("I", "LI"):
        return np.zeros(x.shape, np.int64), v
    fired = v > node.v_threshold
    return fired.astype(np.int64), np.where(fired, v - ours["v_th"] if ours["reset"] == "subtract" else 0.0, v)
