"""`neuroport export --to pynn`, and a deployment whose bundle holds the same directory."""

import json

import pytest
from typer.testing import CliRunner

from neuroport.backends.spinnaker.export import SCRIPT
from neuroport.bundle import staged_bundle
from neuroport.chip.files import read_network, write_inputs, write_network, write_trace
from neuroport.chip.oracle import run_oracle
from neuroport.cli import app
from tests.backends.spinnaker_networks import N_SAMPLES, network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """What deploy leaves of a small network."""
    net, inputs = network()
    core = run_oracle(net, inputs)
    place = tmp_path_factory.mktemp("bundle") / "made"
    with staged_bundle(place) as stage:
        write_network(stage / "network.h5", net)
        write_inputs(stage / "inputs.h5", inputs)
        write_trace(stage / "core.h5", core.spikes, core.potentials)
    return place


def export(*args):
    done = CliRunner().invoke(app, ["export", *map(str, args), "--to", "pynn"])
    return done.exit_code, done.output


def test_export(bundle, tmp_path):
    code, output = export(bundle, "--out", tmp_path / "new" / "pynn")
    assert code == 0, output
    assert f"{N_SAMPLES} samples; run it by python run.py nest --verify" in output
    found = sorted(p.name for p in (tmp_path / "new" / "pynn").iterdir())
    assert found == ["README.md", "expected.h5", "network.h5", "run.py", "stimulus.h5"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["pynn"]


def test_what_a_killed_export_left_is_removed_by_the_next(bundle, tmp_path):
    (tmp_path / ".pynn.999999999.abc").mkdir()  # no process has that number
    code, output = export(bundle, "--out", tmp_path / "pynn")
    assert code == 0, output
    assert [p.name for p in tmp_path.iterdir()] == ["pynn"]


def test_a_place_that_is_taken(bundle, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    code, output = export(bundle, "--out", tmp_path)
    assert code == 2 and "is there already and is not empty; choose another --out" in output
    code, output = export(bundle, "--out", bundle / "pynn")
    assert code == 2 and "would change the bundle" in output
    code, output = export(bundle, "--out", tmp_path / "mine.txt" / "pynn")
    assert code == 2 and "cannot write" in output
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_no_bundle(bundle, tmp_path):
    code, output = export(bundle / "network.h5", "--out", tmp_path / "x")
    assert code == 2 and "holds no manifest.json: the export needs a network, samples" in output
    assert not (tmp_path / "x").exists()


def test_an_unknown_format(bundle, tmp_path):
    done = CliRunner().invoke(app, ["export", str(bundle), "--out", str(tmp_path / "x"), "--to", "sbml"])
    assert done.exit_code == 2 and "--to 'sbml' is not known; netx, nir and pynn are" in done.output


@pytest.mark.spinnaker
def test_deploy_runs_and_maps_and_keeps_the_script(spinnaker, tmp_path):
    out = tmp_path / "bundle"
    command = ["deploy", "--target", "spinnaker", "--neuron", "if-trunc-delta", "--samples", "2", "--eval", "20"]
    done = CliRunner().invoke(app, [*command, "--steps", "32", "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())["backend"]
    assert (report["name"], report["samples"], report["mismatches"]) == ("spinnaker-nest", 2, 0)
    assert report["compared_spikes"] > 1000
    assert (report["mapping"]["differences"], report["mapping"]["machine"]["chips"]) == (0, 48)
    rows = {row["what"]: row for row in report["mapping"]["predicted"]}
    assert rows["cores"]["predicted"] == rows["cores"]["used"] == report["mapping"]["machine"]["cores_used"]
    assert f"MB of SDRAM (predicted: {rows['cores']['predicted']}, 1 and " in done.output
    page = (out / "report.html").read_text()
    n_bytes = rows["SDRAM bytes"]
    assert f"<td>{n_bytes['predicted']:,}</td><td>{n_bytes['used']:,}</td><td>+0.00 %</td>" in page
    assert "weights and delays read back, 0 differ" in done.output and "every spike equal" in done.output
    assert (out / "pynn" / "run.py").read_text() == SCRIPT.read_text()


@pytest.mark.spinnaker
def test_deploy_that_only_maps(spinnaker, tmp_path):
    out = tmp_path / "bundle"
    command = ["deploy", "--target", "spinnaker", "--backend", "spinnaker-virtual", "--samples", "1", "--eval", "5"]
    done = CliRunner().invoke(app, [*command, "--neuron", "if-curr-delta", "--steps", "32", "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert report["backend"]["name"] == "spinnaker-virtual" and report["backend"]["mapping"]["differences"] == 0
    assert [rung["name"] for rung in report["rungs"]][-1] == "integer_core"
    assert "mapped; nothing ran" in done.output
    assert read_network(out / "network.h5").arithmetic.neuron == "if-curr-delta"
