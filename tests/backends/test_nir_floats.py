"""Float networks as files of NIR: the same network back, and the same spikes in Norse and in a reader of the tests."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import norse.torch
import numpy as np
import pytest
import torch
from hypothesis import assume, given

import neuroport as nrp
from neuroport.ann.graph import MaxPool2d
from neuroport.backends.nir.file import same_fields
from neuroport.backends.nir.write_float import below
from neuroport.errors import DoesNotFitError, ModelFileError
from neuroport.snn.encode import encode_spikes
from neuroport.snn.network import Gate, Head, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, Window, conv_geometry
from neuroport.snn.simulate import simulate
from neuroport.snn.sparse import materialize
from tests.backends.nir_interpreter import described, run
from tests.chip.float_networks import float_dense, float_networks, float_population, one_layer
from tests.chip.networks import cases

T = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nir")


def as_read(network: SpikingNetwork, folder: Path) -> SpikingNetwork:
    nrp.export_nir(network, folder / "n.nir")
    back = nrp.read_nir(folder / "n.nir")
    assert isinstance(back, SpikingNetwork)
    return back


@cases(40)
@given(case=float_networks("cpu"))
def test_a_float_network_comes_back(folder: Path, case: Any) -> None:
    """Its own spikes at every step, biases bit for bit, and written again the same file."""
    network, images = case
    back = as_read(network, folder)
    first = nir.read(folder / "n.nir")
    nrp.export_nir(back, folder / "again.nir")
    second = nir.read(folder / "again.nir")
    assert first.nodes.keys() == second.nodes.keys()
    assert first.edges == second.edges
    assert first.metadata == second.metadata
    assert not any(same_fields(first.nodes[name], second.nodes[name]) for name in first.nodes)
    assert (back.encoding, back.seed, back.n_signs) == (network.encoding, network.seed, network.n_signs)
    for one, other in zip(network.populations, back.populations, strict=True):
        assert (one.name, one.shape, one.role, one.neuron) == (other.name, other.shape, other.role, other.neuron)
        assert np.array_equal(one.bias, other.bias)
    names = tuple(p.name for p in network.populations if p.role != "input" and p.neuron.fires)
    exact = replace(
        network,
        projections=tuple(replace(j, operator=materialize(j.operator)) for j in network.projections),
    )
    runs = [simulate(n, images, T, record=names, dtype=torch.float64) for n in (exact, back)]
    # sums in another order (a kernel, or its matrix) may move a potential by rounding, and a spike by a step
    for name in names:
        assert np.abs(runs[0].counts[name] - runs[1].counts[name]).max() <= 1


@cases(40)
@given(case=float_networks("cpu"))
def test_a_reader_of_the_tests_gives_the_same_spikes(folder: Path, case: Any) -> None:
    """Plain numpy in float64: the same counts but for potentials within rounding of the threshold."""
    network, images = case
    nrp.export_nir(network, folder / "r.nir")
    graph = nir.read(folder / "r.nir")
    rows = {row["name"]: row for row in described(graph)["populations"]}
    ours = simulate(network, images[:1], T, dtype=torch.float64)
    shape = graph.nodes["input"].input_type["input"]
    if network.encoding == "current":
        given_: Any = images[0].astype(np.float64).reshape(shape)
    else:
        given_ = encode_spikes(network, images[:1], T)[0].reshape(-1, *shape).astype(np.float64)
    spikes, potentials = run(graph, {"input": given_}, T)
    near = min(
        float(np.abs(v - 1).min(initial=1))
        for name, row in rows.items()
        if row["role"] != "input" and row["neuron"]["fires"]
        for v in [unfired(potentials[row["node"]], spikes[row["node"]], row["neuron"])]
    ) if any(row["role"] != "input" and row["neuron"]["fires"] for row in rows.values()) else 1.0
    assume(near > 1e-6)  # of NIR's v_threshold, a float32 below 1, and of rounding, 1e-16 in each of some 1,000 sums
    for name, row in rows.items():
        if row["role"] != "input":
            assert np.array_equal(spikes[row["node"]].sum(0).reshape(-1), ours.counts[name].reshape(-1))
    for name, readout in ours.readouts.items():
        if not network.by_name[name].neuron.fires:
            assert np.allclose(potentials[rows[name]["node"]][-1].reshape(-1), readout[0], atol=1e-9)


def unfired(v: Any, spikes: Any, neuron: Any) -> Any:
    """Potentials before the reset; after one to zero they are not known, and the spike's own step is left out."""
    return v + spikes if neuron["reset"] == "subtract" else np.where(spikes == 1, np.inf, v)
