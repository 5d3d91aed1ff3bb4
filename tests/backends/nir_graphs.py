"""Graphs of NIR as other tools write them, for tests of reading them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np

import neuroport as nrp
from neuroport.snn.network import SpikingNetwork

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


def weights(*shape: int) -> Any:
    return (RNG.normal(size=shape) + 0.4) / np.sqrt(np.prod(shape[1:]))


def conv(c_out: int, c_in: int, *kernel: int, groups: int = 1, padding: Any = (1, 1), stride: Any = (1, 1)) -> Any:
    bias = RNG.uniform(0, 0.2, c_out)
    return nir.Conv2d((9, 9), weights(c_out, c_in // groups, *kernel), stride, padding, (1, 1), groups, bias)


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
