"""Files of NIR that other tools write: every node that is read, against NIR's own equations in numpy, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch

import neuroport as nrp
from neuroport.errors import InvalidNetworkError, ModelFileError, UnsupportedOperatorError, UsageError
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.simulate import simulate

DT = 1e-4
RNG = np.random.default_rng(4)


def chain(*nodes: Any) -> Any:
    """A graph of nodes one behind the other: n0, n1, ..."""
    names = [f"n{k}" for k in range(len(nodes))]
    return nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(pairwise(names)), type_check=False)


def saved(graph: Any, path: Path) -> Path:
    nir.write(path / "n.nir", graph)
    return path / "n.nir"


def read(graph: Any, path: Path, **options: Any) -> SpikingNetwork:
    found = nrp.read_nir(saved(graph, path), **options)
    assert isinstance(found, SpikingNetwork)
    return found


def source(*shape: int) -> Any:
    return nir.Input(np.array(shape))


def sink(*shape: int) -> Any:
    return nir.Output(np.array(shape))


def fires(*shape: int, v_threshold: float = 1.0) -> Any:
    return nir.IF(r=np.ones(shape), v_threshold=np.full(shape, v_threshold))


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


def weights(*shape: int) -> Any:
    return RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))


def conv(c_out: int, c_in: int, *kernel: int, groups: int = 1, padding: Any = (1, 1), stride: Any = (1, 1)) -> Any:
    bias = RNG.uniform(0, 0.2, c_out)
    return nir.Conv2d(None, weights(c_out, c_in // groups, *kernel), stride, padding, (1, 1), groups, bias)


def lif(n: int, tau: float, **changes: Any) -> Any:
    full = {"r": np.full(n, tau / DT), "v_leak": np.zeros(n), "v_threshold": np.ones(n), **changes}
    return nir.LIF(tau=np.full(n, tau), **full)


def cuba(n: int, tau_syn: float) -> Any:
    return nir.CubaLIF(
        tau_syn=np.full(n, tau_syn),
        tau_mem=np.full(n, 2e-3),
        r=np.full(n, 10.0),
        v_leak=np.zeros(n),
        v_threshold=np.ones(n),
        w_in=np.full(n, 2.0),
    )


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
            fires(2, 2, 2, v_threshold=0.3),
        ],
    ),
    "lif": lambda: ((6,), [nir.Affine(weights(5, 6), RNG.uniform(0, 0.3, 5)), lif(5, 2e-3)]),
    "lif that rests elsewhere": lambda: ((6,), [nir.Linear(weights(5, 6)), lif(5, 1e-3, v_leak=np.full(5, 0.7))]),
    "cubalif": lambda: ((6,), [nir.Linear(weights(5, 6) * 8), cuba(5, 1e-4)]),
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


def recurrent() -> Any:
    return nir.NIRGraph(
        {"in": source(2), "s": fires(2), "w": nir.Linear(np.eye(2)), "out": sink(2)},
        [("in", "s"), ("s", "w"), ("w", "s"), ("s", "out")],
        type_check=False,
    )


def two_inputs() -> Any:
    nodes = {"a": source(2), "b": source(2), "s": fires(2), "out": sink(2)}
    return nir.NIRGraph(nodes, [("a", "s"), ("b", "s"), ("s", "out")])


def with_edges(*edges: tuple[str, str]) -> Any:
    nodes = {"in": source(2), "w": nir.Linear(np.eye(2)), "s": fires(2), "out": sink(2)}
    return nir.NIRGraph(nodes, list(edges), type_check=False)


def different_shapes() -> Any:
    nodes = {"in": source(2), "w": nir.Linear(np.ones((3, 2))), "s": fires(2), "out": sink(2)}
    return nir.NIRGraph(nodes, [("in", "s"), ("in", "w"), ("w", "s"), ("s", "out")], type_check=False)


def li_in_the_middle() -> Any:
    li = nir.LI(tau=np.full(2, 1e-3), r=np.ones(2), v_leak=np.zeros(2))
    return chain(source(2), li, nir.Linear(np.eye(2)), fires(2), sink(2))


def inside() -> Any:
    return chain(source(2), recurrent(), sink(2))


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (recurrent, UnsupportedOperatorError, "nodes 's', 'w'.* are, or read, a circle; neuroport's networks run forward"),
    (inside, UnsupportedOperatorError, "node 'n1' of '.*' is a NIRGraph, neuroport reads Input, .*a graph inside is"),
    (two_inputs, UnsupportedOperatorError, r"the graph has 2 inputs \(a, b\), neuroport reads graphs with one; join"),
    (
        lambda: chain(source(2), cuba(2, 5e-3), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' has synapses with a time constant of 0.005 s, neuroport's currents last one step .*train with LIF",
    ),
    (
        lambda: chain(source(2), lif(2, 1e-3, v_reset=np.array([0.0, -0.5])), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' is reset to -0.5, neuroport's neurons to 0 or by their threshold; shift potentials",
    ),
    (
        lambda: chain(source(2), nir.Delay(np.array([0.0, 2e-3])), fires(2), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' delays by up to 0.002 s, neuroport's layers read the spikes of the same step; take the delay out",
    ),
    (
        lambda: chain(
            source(2),
            nir.LIF(tau=np.array([1e-3, 2e-3]), r=np.ones(2), v_leak=np.zeros(2), v_threshold=np.ones(2)),
            sink(2),
        ),
        UnsupportedOperatorError,
        "node 'n1' has time constants from 0.001 to 0.002 s, a population of neuroport's has one leak; split the node",
    ),
    (
        lambda: chain(source(2), lif(2, 1e-5), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' has a time constant of 1e-05 s, shorter than a step of 0.0001 s.*--dt",
    ),
    (
        lambda: chain(source(2), fires(2, v_threshold=0.0), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' has a threshold of 0, neuroport's are above 0",
    ),
    (
        lambda: chain(source(2, 4), nir.Linear(np.ones((2, 3, 4))), sink(2, 3)),
        UnsupportedOperatorError,
        r"node 'n1' has weights of shape \[2, 3, 4\], neuroport reads \[outputs, inputs\]",
    ),
    (
        lambda: chain(source(1, 6, 6), conv(1, 1, 3, 3, padding="same", stride=(2, 2)), fires(1, 3, 3), sink(1, 3, 3)),
        UnsupportedOperatorError,
        r"node 'n1' has padding 'same' and stride \[2, 2\]; numbers, 'valid', and 'same' with stride 1 are read",
    ),
    (li_in_the_middle, UnsupportedOperatorError, "node 'n2' reads the potential of 'n1', which does not fire"),
    (different_shapes, InvalidNetworkError, r"node 's': signals of shapes \[2\] and \[3\] lead to it, NIR adds"),
    (
        lambda: with_edges(("in", "w"), ("s", "out")),
        InvalidNetworkError,
        r"node 's' \(IF\) receives nothing; connect it, or take it out",
    ),
    (
        lambda: with_edges(("in", "w"), ("w", "s")),
        InvalidNetworkError,
        r"node 'out' \(Output\) receives nothing",
    ),
    (lambda: with_edges(("in", "w"), ("w", "gone")), InvalidNetworkError, "edge 'w' -> 'gone' leads to no node"),
    (
        lambda: chain(source(2), fires(2)),
        InvalidNetworkError,
        "the graph has no Output, so nothing says what its answer is; add one",
    ),
    (
        lambda: chain(source(3), nir.Linear(np.ones((2, 4))), fires(2), sink(2)),
        InvalidNetworkError,
        r"node 'n1' reads 4 numbers, what leads to it has shape \[3\]; is a Flatten or an edge missing",
    ),
    (
        lambda: chain(source(3, 3), conv(1, 1, 3, 3), fires(1, 3, 3), sink(1, 3, 3)),
        InvalidNetworkError,
        r"node 'n1' reads \[C, H, W\] with C = 1, what leads to it has shape \[3, 3\]",
    ),
    (
        lambda: chain(source(1, 2, 2), conv(1, 1, 5, 5, padding=(0, 0)), fires(1), sink(1)),
        InvalidNetworkError,
        r"node 'n1' reads at least the \[5, 5\] places its kernel covers",
    ),
    (
        lambda: chain(source(2), nir.Linear(np.array([[np.nan, 1.0]])), fires(1), sink(1)),
        InvalidNetworkError,
        "node 'n1': weight holds NaN or infinite values, finite numbers are read",
    ),
    (
        lambda: chain(source(2), nir.Affine(np.ones((3, 2)), np.ones(2)), fires(3), sink(3)),
        InvalidNetworkError,
        r"node 'n1' has biases of shape \[2\], its outputs need \[3\]",
    ),
    (
        lambda: chain(source(2), fires(3), sink(3)),
        InvalidNetworkError,
        r"node 'n1': r has shape \[3\], its input \[2\]; give one number, one per channel or one per neuron",
    ),
    (
        lambda: chain(source(2, 3), nir.Flatten(np.array([2, 3]), 2, 5), fires(6), sink(6)),
        InvalidNetworkError,
        r"node 'n1' flattens axes 2 to 5 of \[2, 3\], which has 2; NIR counts no batch axis",
    ),
    (
        lambda: chain(source(4), nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), sink(1)),
        InvalidNetworkError,
        r"node 'n1' reads \[C, H, W\], what leads to it has shape \[4\]",
    ),
    (
        lambda: chain(
            source(1, 4, 4), nir.SumPool2d(np.array([2, 2]), np.array([0, 2]), np.array([0, 0])), sink(1, 2, 2)
        ),
        InvalidNetworkError,
        r"node 'n1': stride \[0, 2\]; 2 whole numbers are needed, 1 or more",
    ),
]


@pytest.mark.parametrize(("build", "kind", "match"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_what_neuroport_does_not_have_is_refused_by_node(
    tmp_path: Path, build: Callable[[], Any], kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match):
        read(build(), tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model file '.*none\.nir' does not exist; give a \.nir file"):
        nrp.read_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("not HDF5")
    with pytest.raises(ModelFileError, match=r"'.*text\.nir' is not a file of NIR, or is damaged"):
        nrp.read_nir(tmp_path / "text.nir")
    with h5py.File(tmp_path / "other.nir", "w") as f:
        f["data"] = np.arange(3)
    with pytest.raises(ModelFileError, match=r"'.*other\.nir' is not a file of NIR, or is damaged"):
        nrp.read_nir(tmp_path / "other.nir")


def test_a_file_cut_short_anywhere(tmp_path: Path) -> None:
    graph = chain(source(6), nir.Affine(weights(5, 6), RNG.normal(size=5)), fires(5), sink(5))
    whole = saved(graph, tmp_path).read_bytes()
    for part in (1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.nir").write_bytes(whole[:part])
        with pytest.raises(ModelFileError, match="damaged"):
            nrp.read_nir(tmp_path / "cut.nir")


def test_a_node_without_its_fields(tmp_path: Path) -> None:
    path = saved(chain(source(2), nir.Linear(np.eye(2)), fires(2), sink(2)), tmp_path)
    with h5py.File(path, "r+") as f:
        del f["node/nodes/n1/weight"]
    with pytest.raises(ModelFileError, match=r"is damaged: TypeError: .*'weight'; write it again with nir.write"):
        nrp.read_nir(path)


@pytest.mark.parametrize("dt_s", [0.0, -1e-3, float("inf"), float("nan")])
def test_a_step_needs_a_length(tmp_path: Path, dt_s: float) -> None:
    with pytest.raises(UsageError, match="is no length of a step; give seconds above 0"):
        read(chain(source(2), fires(2), sink(2)), tmp_path, dt_s=dt_s)


def test_our_own_file_says_itself_how_neurons_are_reset(tmp_path: Path) -> None:
    network = read(chain(source(2), fires(2), sink(2)), tmp_path)
    nrp.export_nir(replace(network, seed=3), tmp_path / "own.nir")
    with pytest.raises(UsageError, match="says itself how its neurons are reset and how long a step is; leave --reset"):
        nrp.read_nir(tmp_path / "own.nir", reset="zero")
