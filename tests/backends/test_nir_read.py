"""Files of NIR that other tools write: every node that is read, against NIR's own equations in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from neuroport.snn.simulate import simulate
from tests.backends.nir_graphs import DT, RNG, chain, conv, cuba, fires, lif, read, sink, source, weights


def by_the_equations(nodes: list[Any], x: Any, n_steps: int, *, subtract: bool = False) -> tuple[Any, Any]:
    """(spikes summed over time, last potential) of the last neuron of a chain: Euler steps of nir/ir/neuron.py."""
    v: dict[int, Any] = {}
    total: Any = 0
    last: Any = None
    for _ in range(n_steps):
        y = x
        for k, node in enumerate(nodes):
            kind = type(node).__name__
            if kind in ("IF", "LIF", "CubaLIF", "I", "LI"):
                before = v.get(k, np.zeros(y.shape))
                if kind in ("IF", "I"):
                    now = before + node.r * y
                else:
                    tau = node.tau_mem if kind == "CubaLIF" else node.tau
                    current = node.w_in * y if kind == "CubaLIF" else y
                    now = before + DT / tau * (node.v_leak - before + node.r * current)
                z = now > node.v_threshold if kind in ("IF", "LIF", "CubaLIF") else np.zeros(y.shape, bool)
                v[k] = np.where(z, now - node.v_threshold if subtract else 0.0, now) if z.any() else now
                y, last = z.astype(float), v[k]
            elif kind == "Threshold":
                y = (y > node.threshold).astype(float)
            elif kind == "Scale":
                y = y * node.scale
            elif kind in ("Affine", "Linear"):
                y = node.weight @ y + getattr(node, "bias", 0)
            elif kind == "Flatten":
                y = y.reshape(-1)
            elif kind in ("Conv1d", "Conv2d", "SumPool2d", "AvgPool2d"):
                y = windowed(node, kind, y)
        total = total + y
    return total, last


def windowed(node: Any, kind: str, x: Any) -> Any:
    t = torch.from_numpy(np.asarray(x, np.float64))[None]
    if "Pool" in kind:
        mean = torch.nn.functional.avg_pool2d(t, tuple(node.kernel_size), tuple(node.stride), tuple(node.padding))
        return mean[0].numpy() * (np.prod(node.kernel_size) if kind == "SumPool2d" else 1)
    f = torch.nn.functional.conv1d if kind == "Conv1d" else torch.nn.functional.conv2d
    w, b = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return f(t, w, b, node.stride, node.padding, node.dilation, int(node.groups))[0].numpy()


CHAINS: dict[str, Callable[[], tuple[tuple[int, ...], list[Any]]]] = {
    "affine, if": lambda: ((6,), [nir.Affine(weights(5, 6), RNG.normal(size=5)), fires(5)]),
    "thresholds of each neuron": lambda: (
        (6,),
        [
            nir.Linear(weights(5, 6)),
            nir.IF(r=RNG.uniform(0.5, 2, 5), v_threshold=RNG.uniform(0.5, 3, 5)),
            nir.Linear(weights(4, 5)),
            fires(4),
        ],
    ),
    "thresholds of each channel": lambda: (
        (2, 5, 5),
        [
            conv(3, 2, 3, 3),
            nir.IF(r=np.ones((3, 5, 5)), v_threshold=np.repeat([0.5, 1.0, 2.0], 25).reshape(3, 5, 5)),
            nir.Flatten(np.array([3, 5, 5]), 0, -1),
            nir.Linear(weights(4, 75)),
            fires(4),
        ],
    ),
    "thresholds of each pixel": lambda: (
        (2, 4, 4),
        [conv(2, 2, 3, 3), nir.IF(r=np.ones((2, 4, 4)), v_threshold=RNG.uniform(0.5, 2, (2, 4, 4)))],
    ),
    "groups, oblong, strided": lambda: (
        (4, 7, 6),
        [conv(4, 4, 3, 2, groups=2, padding=(0, 1), stride=(2, 1)), fires(4, 3, 7)],
    ),
    "same": lambda: ((2, 5, 5), [conv(2, 2, 4, 4, padding="same"), fires(2, 5, 5)]),
    "valid": lambda: ((2, 5, 5), [conv(2, 2, 4, 4, padding="valid"), fires(2, 2, 2)]),
    "conv1d": lambda: (
        (3, 9),
        [nir.Conv1d(9, weights(2, 3, 3), 2, 1, 1, 1, RNG.uniform(0, 0.2, 2)), fires(2, 5)],
    ),
    "pools": lambda: (
        (2, 8, 8),
        [
            conv(2, 2, 3, 3),
            fires(2, 8, 8),
            nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            conv(2, 2, 3, 3),
            fires(2, 4, 4),
            nir.AvgPool2d(np.array([3, 3]), np.array([2, 2]), np.array([1, 1])),
            fires(2, 2, 2, v_threshold=3.05),
        ],
    ),
    "lif": lambda: ((6,), [nir.Affine(weights(5, 6), RNG.uniform(0, 0.3, 5)), lif(5, 2e-3)]),
    "lif that rests elsewhere": lambda: ((6,), [nir.Linear(weights(5, 6)), lif(5, 1e-3, v_leak=np.full(5, 0.7))]),
    "cubalif": lambda: ((6,), [nir.Linear(weights(5, 6)), cuba(5, 1e-4)]),
    "scale and threshold": lambda: (
        (6,),
        [
            nir.Scale(RNG.uniform(0.5, 2, 6)),
            nir.Linear(weights(5, 6)),
            nir.Threshold(np.full(5, 0.2)),
            nir.Linear(weights(4, 5)),
            fires(4),
        ],
    ),
    "nothing before the neurons": lambda: ((6,), [fires(6, v_threshold=0.7)]),
    "integrator": lambda: ((6,), [nir.Affine(weights(5, 6), RNG.normal(size=5)), nir.I(r=np.full(5, 2.0))]),
    "leaky integrator": lambda: (
        (6,),
        [nir.Linear(weights(5, 6)), nir.LI(tau=np.full(5, 1e-3), r=np.full(5, 3.0), v_leak=np.zeros(5))],
    ),
}


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("case", CHAINS)
def test_nodes_do_what_nirs_equations_say(tmp_path: Path, case: str, subtract: bool) -> None:
    """Counts in float64; random numbers keep potentials off the threshold, where the two tests differ."""
    shape, nodes = CHAINS[case]()
    network = read(chain(source(*shape), *nodes, sink(1)), tmp_path, reset="subtract" if subtract else "zero", dt_s=DT)
    image = RNG.random((1, *shape))
    run = simulate(network, image, 50, dtype=torch.float64)
    counts, v = by_the_equations(nodes, image[0], 50, subtract=subtract)
    if network.output.neuron.fires:
        assert np.array_equal(run.readout[0], counts.reshape(-1))
        assert 0 < counts.sum() < 50 * counts.size
    else:
        assert np.allclose(run.readout[0], v.reshape(-1), atol=1e-12)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("v_threshold", [0.5, 1.0, 3.0, 7.0])
def test_a_potential_exactly_at_the_threshold_does_not_fire(tmp_path: Path, v_threshold: float, reset: str) -> None:
    """Sums of integers meet it often; NIR asks for v > v_threshold."""
    nodes = [nir.Linear(np.arange(-1, 5)[:, None] * min(v_threshold, 1.0)), fires(6, v_threshold=v_threshold)]
    network = read(chain(source(1), *nodes, sink(6)), tmp_path, reset=reset)
    counts, _ = by_the_equations(nodes, np.ones(1), 100, subtract=reset == "subtract")
    assert np.array_equal(simulate(network, np.ones((1, 1)), 100, dtype=torch.float64).readout[0], counts)


def test_two_edges_into_a_node_are_their_sum(tmp_path: Path) -> None:
    a, b = weights(5, 6), weights(5, 6)
    graph = nir.NIRGraph(
        {"in": source(6), "a": nir.Linear(a), "b": nir.Affine(b, np.full(5, 0.3)), "s": fires(5), "out": sink(5)},
        [("in", "a"), ("in", "b"), ("a", "s"), ("b", "s"), ("s", "out")],
    )
    x = RNG.random((1, 6))
    run = simulate(read(graph, tmp_path), x, 40, dtype=torch.float64)
    counts, _ = by_the_equations([nir.Affine(a + b, np.full(5, 0.3)), fires(5)], x[0], 40)
    assert np.array_equal(run.readout[0], counts)


def test_an_output_behind_weights_adds_up_what_they_write(tmp_path: Path) -> None:
    w = weights(3, 6)
    network = read(chain(source(6), nir.Linear(np.eye(6)), fires(6), nir.Linear(w), sink(3)), tmp_path)
    x = RNG.random((1, 6))
    counts, _ = by_the_equations([fires(6)], x[0], 30)
    assert not network.output.neuron.fires
    assert np.allclose(simulate(network, x, 30, dtype=torch.float64).readout[0], w @ counts)


def test_a_reset_is_to_zero_where_nothing_says_otherwise(tmp_path: Path) -> None:
    graph = chain(source(6), nir.Linear(weights(5, 6)), fires(5), sink(5))
    assert read(graph, tmp_path).output.neuron.reset == "zero"
    assert read(graph, tmp_path, reset="subtract").output.neuron.reset == "subtract"
