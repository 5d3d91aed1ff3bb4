"""Files of NIR on the command line: as MODEL of deploy, as a format of export, and what is said of wrong ones."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import neuroport as nrp
from neuroport.bundle import verify
from neuroport.chip.core import run_core
from neuroport.chip.files import read_inputs, read_network, read_trace
from neuroport.chip.network import IntNetwork
from neuroport.cli import app
from neuroport.datasheets import data_dir
from neuroport.errors import ModelFileError
from neuroport.normalize.convert import convert
from neuroport.normalize.files import read_normalized
from neuroport.normalize.recipe import load_recipe
from neuroport.snn.network import SpikingNetwork


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def foreign(path: Path, **neuron: Any) -> Path:
    """A convolution, a pool and two classes, as another tool would write them; trained on nothing."""
    rng = np.random.default_rng(2)
    out = (np.full(2, x) for x in (1.0, 1.0))
    nodes = {
        "input": nir.Input(np.array([1, 4, 4])),
        "conv": nir.Conv2d((4, 4), rng.normal(size=(2, 1, 3, 3)) + 0.2, 1, 1, 1, 1, np.array([0.1, 0.2])),
        "a": nir.IF(r=np.ones((2, 4, 4)), v_threshold=np.full((2, 4, 4), 1.5), **neuron),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten(np.array([2, 2, 2]), 0, -1),
        "fc": nir.Affine(rng.normal(size=(2, 8)), np.array([0.1, 0.1])),
        "out": nir.IF(*out),
        "output": nir.Output(np.array([2])),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names))))
    return path


def images(path: Path) -> Path:
    rng = np.random.default_rng(6)
    x = rng.random((60, 1, 4, 4)).astype(np.float32)
    np.savez(path, x=x, y=(x.mean((1, 2, 3)) > 0.5).astype(np.int64))
    return path


def deploy(tmp_path: Path, model: Path, *more: object) -> Result:
    place = ("--out", tmp_path / "b", "--steps", 40, "--samples", 4, "--eval", 20, "--json")
    return run("deploy", model, "--target", "cpu", "--data", images(tmp_path / "d.npz"), *place, *more)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_spiking_network_enters_at_the_float_simulation(tmp_path: Path, reset: str) -> None:
    done = deploy(tmp_path, foreign(tmp_path / "net.nir"), "--reset", reset)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [rung["name"] for rung in report["rungs"]] == ["float_snn", "integer_core", "backend"]
    assert report["rungs"][1]["agreement"] >= 0.9
    assert report["recipe"] == "as-it-is"
    said = {"zero": "to zero", "subtract": "by subtraction"}[reset]
    assert report["recipe_reason"] == f"a spiking network, its neurons reset {said}"
    assert report["backend"]["mismatches"] == 0
    assert [row["name"] for row in report["layers"]] == ["a", "out"]
    assert all(row["mean_rate"] > 0 for row in report["layers"])
    assert report["outputs"][0]["population"] == "out"
    verify(tmp_path / "b")
    network = read_network(tmp_path / "b" / "network.h5")
    assert {p.reset for p in network.populations} == {reset}


def test_the_report_is_shown(tmp_path: Path) -> None:
    model, data = foreign(tmp_path / "net.nir"), images(tmp_path / "d.npz")
    given = ("--target", "cpu", "--data", data, "--steps", 20, "--samples", 2, "--eval", 8, "--out", tmp_path / "b")
    done = run("deploy", model, *given)
    assert done.exit_code == 0, done.output
    assert "net on cpu (as-it-is, 20 steps)" in done.output
    assert "every spike equal" in done.output


def test_spikes_as_data(tmp_path: Path) -> None:
    """Recorded spikes go to the input as they are."""
    rng = np.random.default_rng(1)
    x = (rng.random((30, 25, 1, 4, 4)) < 0.4).astype(np.uint8)
    np.savez(tmp_path / "s.npz", spikes=x, y=rng.integers(0, 2, 30))
    given = ("--target", "cpu", "--data", tmp_path / "s.npz", "--samples", 3, "--eval", 10, "--out", tmp_path / "b")
    done = run("deploy", foreign(tmp_path / "net.nir"), *given, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["steps"] == 25
    assert report["backend"]["mismatches"] == 0
    assert read_inputs(tmp_path / "b" / "inputs.h5").spikes is not None


def digits(tmp_path: Path) -> tuple[SpikingNetwork, Path]:
    """The converted digits network, and its file of NIR."""
    ann = nrp.load_ann(data_dir("digits") / "digits.pt2")
    with np.load(data_dir("digits") / "digits.npz") as f:
        x = f["x_train"][:200].astype(np.float32)
    x = x.reshape(-1, *ann.input_shape) / x.max()
    normalized = convert(ann.graph, x, load_recipe("hard-reset-unclamped"), 32)
    nrp.export_nir(normalized.network, tmp_path / "digits.nir")
    return normalized.network, tmp_path / "digits.nir"


def test_the_digits_there_and_back(tmp_path: Path) -> None:
    """Converted, written as NIR, read again and deployed: as accurate as the float network it was."""
    network, path = digits(tmp_path)
    back = nrp.read_nir(path)
    assert isinstance(back, SpikingNetwork)
    for one, other in zip(network.populations, back.populations, strict=True):
        assert np.array_equal(one.bias, other.bias)
    data = data_dir("digits") / "digits.npz"
    place = ("--out", tmp_path / "b", "--steps", 32, "--samples", 3, "--eval", 100, "--json")
    done = run("deploy", path, "--target", "cpu", "--data", data, *place)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert min(rung["accuracy"] for rung in report["rungs"][:2]) > 0.9
    assert report["backend"]["mismatches"] == 0


def test_export_of_a_bundle(tmp_path: Path) -> None:
    """The integers of a deployment come back from the file, and give its spikes on its inputs."""
    assert deploy(tmp_path, foreign(tmp_path / "net.nir")).exit_code == 0
    done = run("export", tmp_path / "b", "--to", "nir", "--out", tmp_path / "int.nir")
    assert done.exit_code == 0, done.output
    assert (
        f"{tmp_path / 'int.nir'}: 2 layers of neurons, in the integers of cpu; it takes input currents" in done.stdout
    )
    assert "which the host makes of the samples: those of 'a', mantissas << " in done.stdout
    network = nrp.read_nir(tmp_path / "int.nir")
    assert isinstance(network, IntNetwork)
    found = run_core(network, read_inputs(tmp_path / "b" / "inputs.h5"), record="spikes").trace.spikes
    for name, spikes in read_trace(tmp_path / "b" / "core.h5").spikes.items():
        assert np.array_equal(found[name], spikes)
    verify(tmp_path / "b")


def test_export_of_the_floats_of_a_bundle(tmp_path: Path) -> None:
    """What the integers were rounded from, bit for bit; deployed again it gives the same integers."""
    assert deploy(tmp_path, foreign(tmp_path / "net.nir")).exit_code == 0
    done = run("export", tmp_path / "b" / "float.h5", "--to", "nir", "--out", tmp_path / "float.nir")
    assert done.exit_code == 0, done.output
    assert "float.nir: 2 layers of neurons, in floats; it takes the samples in every step" in done.stdout
    one, other = nrp.read_nir(tmp_path / "float.nir"), read_normalized(tmp_path / "b" / "float.h5").network
    assert isinstance(one, SpikingNetwork)
    assert [(p.name, p.neuron) for p in one.populations] == [(p.name, p.neuron) for p in other.populations]
    assert all(np.array_equal(p.bias, q.bias) for p, q in zip(one.populations, other.populations, strict=True))
    first = read_network(tmp_path / "b" / "network.h5")
    (tmp_path / "again").mkdir()
    assert deploy(tmp_path / "again", tmp_path / "float.nir").exit_code == 0
    assert nrp.network_hash(read_network(tmp_path / "again" / "b" / "network.h5")) == nrp.network_hash(first)
    done = run("export", tmp_path / "d.npz", "--to", "nir", "--out", tmp_path / "no.nir")
    assert done.exit_code == 2
    assert not (tmp_path / "no.nir").exists()


def test_an_integer_network_is_no_model(tmp_path: Path) -> None:
    assert deploy(tmp_path, foreign(tmp_path / "net.nir")).exit_code == 0
    assert run("export", tmp_path / "b", "--to", "nir", "--out", tmp_path / "int.nir").exit_code == 0
    done = run("deploy", tmp_path / "int.nir", "--data", tmp_path / "d.npz", "--out", tmp_path / "c")
    assert done.exit_code == 2
    assert "is a network in the integers of cpu already, deploy quantizes float networks; read it with" in done.output


def test_of_a_chips_neurons_the_one_with_the_files_leak_is_taken(tmp_path: Path) -> None:
    """SpiNNaker's second neuron leaks 1/512 a step; the first has no leak."""

    def leaky(tau: float) -> Path:
        rng = np.random.default_rng(2)
        full = {"tau": np.full(2, tau), "r": np.full(2, tau / 1e-4), "v_leak": np.zeros(2), "v_threshold": np.ones(2)}
        nodes = {
            "input": nir.Input(np.array([1, 4, 4])),
            "flat": nir.Flatten(np.array([1, 4, 4]), 0, -1),
            "fc": nir.Affine(rng.uniform(-0.1, 0.3, (2, 16)), np.zeros(2)),
            "out": nir.LIF(**full),
            "output": nir.Output(np.array([2])),
        }
        nir.write(tmp_path / "leaky.nir", nir.NIRGraph(nodes, list(pairwise(nodes))))
        return tmp_path / "leaky.nir"

    target = ("--target", "spinnaker1", "--backend", "cpu")
    done = deploy(tmp_path, leaky(512e-4), *target)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["neuron"]["name"] == "if-curr-delta"
    done = deploy(tmp_path, leaky(1e-3), *target, "--out", tmp_path / "c")
    assert done.exit_code == 3
    assert "has a leak of 0.9 per step, spinnaker1's neuron if-trunc-delta always has 1; choose" in done.output
    assert "has a leak of 0.9 per step, spinnaker1's neuron if-curr-delta always has 0.998047; choose" in done.output


def test_a_floor_that_the_file_does_not_have_is_said(tmp_path: Path) -> None:
    """SpiNNaker's neuron without a leak ends at 0 from below."""
    model = foreign(tmp_path / "net.nir")
    done = deploy(tmp_path, model, "--target", "spinnaker1", "--backend", "cpu", "--neuron", "if-trunc-delta")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["warnings"]
    message = "spinnaker1 holds potentials at 0 or above, those of 'net.nir' have no floor; the rung integer_core says"
    assert [text.split(":")[0] for text in found if message in text] == ["layer 'a'", "layer 'out'"]
    (tmp_path / "cpu").mkdir()
    assert "no floor" not in deploy(tmp_path / "cpu", model).stdout


@pytest.mark.parametrize(
    ("more", "code", "match"),
    [
        (("--recipe", "robust"), 2, "--recipe 'robust' does not go with"),
        (("--weights", "w.pt"), 2, "--weights 'w.pt' does not go with"),
        (("--dt", "0"), 2, "--dt 0 is no length of a step; give seconds above 0: 1e-4"),
        (
            ("--target", "spinnaker1", "--backend", "cpu", "--reset", "subtract"),
            3,
            "layer 'a' of 'net.nir' is reset by 'subtract'",
        ),
        (
            ("--target", "spinnaker1", "--backend", "cpu", "--neuron", "if-curr-delta"),
            3,
            "has a leak of 1 per step, spinnaker1's neuron",
        ),
    ],
)
def test_wrong_use(tmp_path: Path, more: tuple[str, ...], code: int, match: str) -> None:
    done = deploy(tmp_path, foreign(tmp_path / "net.nir"), *more)
    assert done.exit_code == code, done.output
    assert match in done.output
    assert not (tmp_path / "b").exists()


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("not HDF5")
    done = deploy(tmp_path, tmp_path / "text.nir")
    assert done.exit_code == 2
    assert "is not a file of NIR, or is damaged" in done.output
    done = deploy(tmp_path, tmp_path / "none.nir")
    assert done.exit_code == 2
    assert "does not exist; give a .nir file" in done.output
    done = deploy(tmp_path, foreign(tmp_path / "net.nir", v_reset=np.full((2, 4, 4), 0.5)))
    assert done.exit_code == 3
    assert "node 'a' is reset to 0.5, neuroport's neurons to 0 or by their threshold" in done.output
    assert not (tmp_path / "b").exists()


def test_data_are_needed_and_reset_goes_with_nir(tmp_path: Path) -> None:
    done = run("deploy", foreign(tmp_path / "net.nir"), "--target", "cpu")
    assert done.exit_code == 2
    assert "--data is needed with a MODEL" in done.output
    done = run("deploy", "--reset", "zero", "--target", "cpu")
    assert done.exit_code == 2
    assert "--reset and --dt go with a .nir file" in done.output


def test_other_verbs_say_whose_file_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a spiking network, no trained ANN; `neuroport deploy` takes it"):
        nrp.load_ann(foreign(tmp_path / "net.nir"))
    done = run("curve", tmp_path / "net.nir", "--data", images(tmp_path / "d.npz"))
    assert done.exit_code == 2
    assert "is a spiking network, no trained ANN" in done.output


def test_formats_and_places_of_export(tmp_path: Path) -> None:
    done = run("export", tmp_path, "--to", "onnx", "--out", tmp_path / "n")
    assert done.exit_code == 2
    assert "--to 'onnx' is not known; netx, nir and pynn are" in done.output
    done = run("export", tmp_path / "none", "--to", "nir", "--out", tmp_path / "n.nir")
    assert done.exit_code == 2
    assert "is not there; give a bundle" in done.output
