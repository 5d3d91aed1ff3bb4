"""Files of NIR that are refused, by node, value and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

import neuroport as nrp
from neuroport.errors import InvalidNetworkError, ModelFileError, UnsupportedOperatorError, UsageError
from tests.backends.nir_graphs import RNG, chain, conv, cuba, fires, lif, read, saved, sink, source, weights


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


def diamonds() -> Any:
    """A fork that joins again, twelve times."""
    nodes: dict[str, Any] = {"in": source(2)}
    edges, last = [], "in"
    for k in range(12):
        nodes |= {f"a{k}": nir.Linear(np.eye(2)), f"b{k}": nir.Linear(np.eye(2)), f"m{k}": nir.Scale(np.ones(2))}
        edges += [(last, f"a{k}"), (last, f"b{k}"), (f"a{k}", f"m{k}"), (f"b{k}", f"m{k}")]
        last = f"m{k}"
    return nir.NIRGraph({**nodes, "out": sink(2)}, [*edges, (last, "out")], type_check=False)


def li_in_the_middle() -> Any:
    li = nir.LI(tau=np.full(2, 1e-3), r=np.ones(2), v_leak=np.zeros(2))
    return chain(source(2), li, nir.Linear(np.eye(2)), fires(2), sink(2))


def inside() -> Any:
    return chain(source(2), recurrent(), sink(2))


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (recurrent, UnsupportedOperatorError, "nodes .*'s', 'w' are, or read, a circle; neuroport's networks run forward"),
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
    (
        diamonds,
        UnsupportedOperatorError,
        "node 'm10' is reached on 2,048 paths without neurons, .* up to 1,024",
    ),
    (
        lambda: chain(source(2), nir.Linear(np.full((2, 2), 1e39)), fires(2), sink(2)),
        InvalidNetworkError,
        r"node 'n1': weight reaches 1e\+39, numbers up to 3.4e\+38 are read \(float32\); scale the node",
    ),
    (
        lambda: chain(source(2), fires(2, v_threshold=1e-300), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' has a threshold of 1e-300, neuroport's are above 0",
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
        lambda: with_edges(("in", "w"), ("w", "s"), ("w", "s"), ("s", "out")),
        InvalidNetworkError,
        "edge 'w' -> 's' is there twice, NIR's are there once; take one out, or add a Scale of 2",
    ),
    (
        lambda: with_edges(("in", "w"), ("w", "out"), ("out", "s")),
        InvalidNetworkError,
        "edge 'out' -> 's' leaves an Output, where a graph ends; start it at the node before 'out'",
    ),
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
        r"node 'n1' has biases of shape \[2\], 3 outputs need \[3\]",
    ),
    (
        lambda: chain(source(2), fires(3), sink(3)),
        InvalidNetworkError,
        r"node 'n1': r has shape \[3\], its input \[2\]; give one number, one per channel or one per neuron",
    ),
    (  # numpy would take them for the columns
        lambda: chain(source(2, 3, 4), fires(4), sink(2, 3, 4)),
        InvalidNetworkError,
        r"node 'n1': r has shape \[4\], its input \[2, 3, 4\]; give one number, one per channel or one per neuron",
    ),
    (
        lambda: chain(source(2, 3, 4), nir.Scale(np.ones((3, 4))), fires(2, 3, 4), sink(2, 3, 4)),
        InvalidNetworkError,
        r"node 'n1': scale has shape \[3, 4\], its input \[2, 3, 4\]; give one number",
    ),
    (
        lambda: chain(source(2), cuba(2, -1e-3), sink(2)),
        UnsupportedOperatorError,
        "node 'n1' has synapses with a time constant of -0.001 s",
    ),
    (
        lambda: chain(source(2), nir.Linear(np.ones((0, 2))), sink(1)),
        InvalidNetworkError,
        r"node 'n1' has weights of shape \[0, 2\], without an output; take it out",
    ),
    (
        lambda: chain(nir.Input(np.array([2.5])), fires(2), sink(2)),
        InvalidNetworkError,
        "input 'n0' has no shape; write the file again, with the shape of a sample",
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
    with pytest.raises(ModelFileError, match=r"is damaged: TypeError: .*'weight'; write it again"):
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


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(UsageError, match=r"files of NIR need the package nir .*: pip install 'neuroport\[nir\]'"):
        nrp.read_nir(tmp_path / "n.nir")
