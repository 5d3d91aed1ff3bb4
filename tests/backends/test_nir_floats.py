"""Float networks as files of NIR: the same network back, and the same spikes in Norse and in a reader of the tests."""

from __future__ import annotations

import json
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
    for name in names:
        assert np.array_equal(runs[0].rasters[name], runs[1].rasters[name])
    for name, readout in runs[0].readouts.items():
        assert np.allclose(readout, runs[1].readouts[name], rtol=0, atol=1e-9)


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
    # NIR's v_threshold is a float32 below 1 (6e-8), and sums round in another order (some 1,000 of them, 1e-16 each)
    neurons = [row for row in rows.values() if row["role"] != "input" and row["neuron"]["fires"]]
    held = [potentials[row["node"]] + (spikes[row["node"]] == 1) for row in neurons]
    assume(all(np.abs(v - 1).min(initial=1) > 1e-6 for v in held))
    for name, row in rows.items():
        if row["role"] != "input":
            assert np.array_equal(spikes[row["node"]].sum(0).reshape(-1), ours.counts[name].reshape(-1))
    for name, readout in ours.readouts.items():
        if not network.by_name[name].neuron.fires:
            assert np.allclose(potentials[rows[name]["node"]][-1].reshape(-1), readout[0], atol=1e-9)


def small_net() -> SpikingNetwork:
    """Two convolutions, and dense neurons that count; numbers in 64ths."""
    rng = np.random.default_rng(3)

    def rounded(*shape: int, size: float) -> Any:
        return np.rint(64 * size * rng.normal(size=shape)) / 64

    def conv(c_out: int, c_in: int) -> Conv2d:
        weight = rounded(c_out, c_in, 3, 3, size=1 / 3)
        return Conv2d(weight, conv_geometry((c_in, 6, 6), weight.shape, (1, 1), (1, 1), (1, 1), 1))

    populations = [float_population("input", (2, 6, 6), role="input")]
    for name in ("a", "b"):
        bias = np.repeat(rounded(4, size=0.1), 36).reshape(4, 6, 6)
        populations.append(float_population(name, (4, 6, 6), bias=bias))
    populations.append(float_population("out", (5,), role="readout", bias=rounded(5, size=0.1)))
    last = float_dense(rounded(5, 144, size=1 / 6), "b")
    projections = [Projection("input", "a", conv(4, 2)), Projection("a", "b", conv(4, 4)), last]
    return SpikingNetwork(tuple(populations), tuple(projections), "current")


def norse_counts(path: Path, image: Any, n_steps: int) -> Any:
    """Spikes of the output as Norse 1.1.0 reads and simulates the file, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = norse.torch.from_nir(nir.read(path), dt=1e-4)
    state, total = None, torch.zeros(())
    for _ in range(n_steps):
        with torch.no_grad():
            spikes, state = module(torch.from_numpy(image), state)
        total = total + spikes
    return total.numpy()


def test_norse_gives_every_spike_of_numbers_that_float32_holds(tmp_path: Path) -> None:
    """Tolerance 0: all sums are multiples of 2^-10 below 2^13, exact in float32, those at the threshold too.

    Without branches: nirtorch 2.6 walks a graph depth first (graph_utils.py l.71-88), and takes what
    comes by the longer way from the step before. The reader of the tests covers those.
    """
    network = small_net()
    nrp.export_nir(network, tmp_path / "n.nir")
    image = np.rint(16 * np.random.default_rng(8).random((1, 2, 6, 6))).astype(np.float32) / 16
    ours = simulate(network, image, 60, dtype=torch.float64)
    found = norse_counts(tmp_path / "n.nir", image[0], 60)
    assert np.array_equal(found, ours.counts["out"][0])
    assert found.sum() > 20


def test_norse_gives_the_counts_of_any_numbers_but_within_rounding_of_the_threshold(tmp_path: Path) -> None:
    """A step's sum of n terms, their magnitudes S together, is off by (n + 2) 2^-24 S at most in float32, the weights'
    own rounding included (Higham 2002, section 3.1, to first order); a potential by that of each of its steps.
    A neuron whose potentials stay further from the threshold has the same count.
    """
    n_in, n_out, n_steps = 30, 200, 40
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(size=(n_out, n_in)) / 8, rng.uniform(0, 0.1, n_out)
    network = one_layer(weight, bias, encoding="current", neuron=Neuron("zero"))
    nrp.export_nir(network, tmp_path / "n.nir")
    image = rng.random((1, n_in)).astype(np.float32)
    ours = simulate(network, image, n_steps, dtype=torch.float64).counts["out"][0]
    current, size = weight @ image[0] + bias, np.abs(weight) @ image[0] + bias
    error = n_steps * (n_in + 3) * 2.0**-24 * (size + 1)
    v, near = np.zeros(n_out), np.full(n_out, np.inf)
    for _ in range(n_steps):
        v = v + current
        near = np.minimum(near, np.abs(v - 1))
        v = np.where(v >= 1, 0.0, v)
    sure = near > error
    found = norse_counts(tmp_path / "n.nir", image[0], n_steps)
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], ours[sure])
    assert np.abs(found - ours).max() <= n_steps
    assert ours.sum() > 500


@pytest.mark.parametrize(("v_th", "expected"), [(1.0, 1 - 2**-24), (0.1, 0.09999999403953552), (8.0, 8 - 2**-21)])
def test_the_threshold_is_the_largest_float32_below(v_th: float, expected: float) -> None:
    assert below(v_th) == expected
    assert np.float32(expected) < v_th


def gated() -> SpikingNetwork:
    pool = Window(MaxPool2d((2, 2), (2, 2)), (1, 2, 2), (1, 1, 1))
    populations = (
        float_population("input", (1, 2, 2), role="input"),
        Population("g", (1, 1, 1), np.zeros((1, 1, 1)), Gate(), "readout"),
    )
    return SpikingNetwork(populations, (Projection("input", "g", pool),), "rate")


def silent_in_the_middle() -> SpikingNetwork:
    populations = (
        float_population("input", (2,), role="input"),
        float_population("m", (2,), Neuron(fires=False)),
        float_population("out", (2,), role="readout"),
    )
    return SpikingNetwork(populations, (float_dense(np.eye(2), "input", "m"), float_dense(np.eye(2), "m")), "rate")


def clamped() -> SpikingNetwork:
    network = one_layer([[1.0]])
    return replace(network, populations=(network.populations[0], replace(network.populations[1], clamp_until=3)))


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (gated(), "layer 'g' is a max-pool gate, NIR has no such node; use a recipe with `max_pool: expand`"),
        (clamped(), "layer 'out' waits for 3 steps, NIR has no clamp; use a recipe with `clamp: 0`"),
        (
            one_layer([[1.0]], neuron=Neuron("zero", floor=0.0)),
            "layer 'out' holds its potential at 0 or above, NIR's potentials have no floor; convert for a target",
        ),
        (silent_in_the_middle(), "layer 'm' never fires and sends spikes to others, NIR's integrators send their"),
    ],
)
def test_what_nir_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, network: SpikingNetwork, match: str
) -> None:
    with pytest.raises(DoesNotFitError, match=match):
        nrp.export_nir(network, tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def test_names_that_hdf5_would_read_as_folders_come_back(tmp_path: Path) -> None:
    network = one_layer([[1.0]])
    out = replace(network.populations[1], name="/fc/Gemm.1")
    j = replace(network.projections[0], post="/fc/Gemm.1")
    named = SpikingNetwork((network.populations[0], out), (j,), "events", (Head("/fc/Gemm.1"),))
    assert as_read(named, tmp_path).output.name == "/fc/Gemm.1"
    assert "_fc_Gemm_1" in nir.read(tmp_path / "n.nir").nodes


def test_a_neuron_that_was_changed_is_not_taken_for_ours(tmp_path: Path) -> None:
    nrp.export_nir(one_layer([[1.0]]), tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    graph.nodes["out"].v_threshold = np.array([2.0])
    nir.write(tmp_path / "n.nir", graph)
    with pytest.raises(ModelFileError, match=r"'n.nir' was changed after .* has another v_threshold"):
        nrp.read_nir(tmp_path / "n.nir")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoding", "x"),
        ("n_signs", 3),
        ("seed", 0.5),
        ("neuron", {"reset": "none"}),
        ("neuron", {"leak": "all"}),
        ("node", "x"),
        ("role", "x"),
    ],
)
def test_a_description_that_was_changed_is_not_believed(tmp_path: Path, key: str, value: Any) -> None:
    nrp.export_nir(one_layer([[1.0]]), tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    says = described(graph)
    (says if key in says else says["populations"][1])[key] = value
    graph.metadata["neuroport"] = json.dumps(says)
    nir.write(tmp_path / "n.nir", graph)
    with pytest.raises(ModelFileError, match=r"'n.nir' was changed after neuroport wrote it, its description does not"):
        nrp.read_nir(tmp_path / "n.nir")
