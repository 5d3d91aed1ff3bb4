"""The command line as a user meets it: exit codes, one-line reasons, the report, a bundle left or not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import neuroport
from neuroport.bundle import verify
from neuroport.cli import app
from neuroport.datasheets import data_dir

DIGITS = data_dir("digits") / "digits.npz"
SHEET = (data_dir("targets") / "cpu.yaml").read_text()
RUNGS = ["ann", "folded", "normalized", "float_snn", "integer_core", "backend"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def deploy(tmp_path, *arguments):
    return run("deploy", "--target", "cpu", "--samples", 2, "--eval", 20, "--out", tmp_path / "out", *arguments)


def save(path, *layers):
    module = nn.Sequential(*layers).eval()
    example = torch.randn(2, 1, 8, 8)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    return path


def classifier(activation):
    torch.manual_seed(0)
    return nn.Conv2d(1, 4, 3), activation, nn.Flatten(), nn.Linear(144, 10)


def arrays(**changed):
    with np.load(DIGITS) as d:
        found = {name: d[name][:50] for name in d.files}
    found.update(changed)
    return {name: value for name, value in found.items() if value is not None}


def test_embedded_example_with_both_resets(tmp_path):
    for recipe, least in (("robust", 0.98), ("reset-zero", 0.98)):
        result = run("deploy", "--target", "cpu", "--samples", 3, "--recipe", recipe, "--out", tmp_path / recipe)
        assert result.exit_code == 0, result.output
        report = json.loads((tmp_path / recipe / "report.json").read_text())
        assert [rung["name"] for rung in report["rungs"]] == RUNGS
        accuracy = {rung["name"]: rung["accuracy"] for rung in report["rungs"]}
        assert accuracy["ann"] >= 0.97
        assert accuracy["integer_core"] >= max(least, accuracy["ann"] - 0.01)
        assert report["rungs"][4]["samples"] == 599
        assert report["backend"]["mismatches"] == 0
        assert report["backend"]["first_mismatch"] is None
        assert report["backend"]["divergence"] is None
        assert report["backend"]["compared_spikes"] > 1000
        assert {"target", "recipe", "steps", "seed", "model", "versions"} <= report.keys()
        assert (report["steps"], report["recipe"], report["target"]) == (64, recipe, "cpu")
        verify(tmp_path / recipe)
        assert "every spike equal" in result.output


@pytest.mark.lava
def test_default_target_runs_on_lava(lava, tmp_path):
    """The product's own command, in a process of its own, with the bundle at its default place."""
    command = [sys.executable, "-c", "from neuroport.cli import main; main()", "deploy", "--json", "--samples", "20"]
    environment = os.environ | {"PYTHONPATH": str(Path(neuroport.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    verify(tmp_path / "neuroport-out" / "digits-loihi-sim")
    report = json.loads(done.stdout)
    assert report["backend"]["name"] == "lava"
    assert (report["backend"]["samples"], report["backend"]["mismatches"]) == (20, 0)
    assert report["backend"]["populations"] == len(report["layers"]) == 4
    assert report["versions"]["lava:lava-nc"] == "0.10.0"
    assert "error" not in done.stderr


def test_json_and_quiet(tmp_path):
    shown = deploy(tmp_path, "--json")
    assert json.loads(shown.stdout)["rungs"][0]["samples"] == 20
    assert deploy(tmp_path, "--quiet").output == ""


def test_same_seed_same_bundle(tmp_path):
    for name in ("a", "b"):
        run("deploy", "--target", "cpu", "--samples", 2, "--eval", 20, "--seed", 7, "--out", tmp_path / name, "--quiet")
    first, second = (json.loads((tmp_path / n / "manifest.json").read_text())["files"] for n in ("a", "b"))
    assert first == second


def test_module_with_weights(tmp_path, monkeypatch):
    code = "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    (tmp_path / "my_nets.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.randn(10)}, "w.pth")
    result = deploy(tmp_path, "my_nets:net", "--weights", "w.pth", "--data", DIGITS)
    assert result.exit_code == 0, result.output


def test_a_wrong_backend_exits_with_1(tmp_path, monkeypatch):
    """A backend that flips one spike is caught, located and told."""
    from neuroport.backends.cpu import CpuBackend

    honest = CpuBackend.run

    def flip(self, job):
        trace = honest(self, job)
        trace.spikes["conv2"][1, 5, 3, 2, 1] ^= 1
        return trace

    monkeypatch.setattr(CpuBackend, "run", flip)
    result = deploy(tmp_path)
    assert result.exit_code == 1
    assert "population 'conv2', neuron [3, 2, 1], sample 1, step 5: spike is" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert f"(number {report['sample_numbers'][1]} of the test part)" in result.output
    assert report["backend"]["mismatches"] == 1
    assert report["backend"]["first_mismatch"]["neuron"] == [3, 2, 1]
    verdict = report["backend"]["divergence"]["verdict"]
    assert verdict in result.output
    assert verdict.startswith("population 'conv2' differs by itself: no known rule explains it")
    assert "population 'conv2', neuron [3, 2, 1] (channel, row, column), sample 1\n" in result.output
    rows = dict(re.findall(r"^  (step|spike, core|spike, backend) +(.*)$", result.output, re.MULTILINE))
    assert rows["step"].split() == ["3", "4", "5", "6", "7"]
    core, backend = (rows[f"spike, {side}"].split() for side in ("core", "backend"))
    assert [a != b for a, b in zip(core, backend, strict=True)] == [False, False, True, False, False]


BAD_MODELS = {
    "missing.pt2": (None, 2, "does not exist"),
    "text.pt2": (lambda p: p.write_text("hello"), 2, "not an archive of torch.export"),
    "pickle.pth": (lambda p: torch.save({"a": 1}, p), 2, "may be a pickle that runs code"),
    "sigmoid.pt2": (lambda p: save(p, *classifier(nn.Sigmoid())), 3, "operator 'sigmoid' in module '1'"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(tmp_path, name):
    make, code, reason = BAD_MODELS[name]
    if make:
        make(tmp_path / name)
    _refused(deploy(tmp_path, tmp_path / name, "--data", DIGITS), code, reason, tmp_path)


def test_nan_weights(tmp_path):
    layers = classifier(nn.ReLU())
    with torch.no_grad():
        layers[0].weight[0, 0, 0, 0] = float("nan")
    model = save(tmp_path / "nan.pt2", *layers)
    reason = "1 of 36 numbers in its weight are NaN or infinite"
    _refused(deploy(tmp_path, model, "--data", DIGITS), 3, reason, tmp_path)


BAD_DATA = {
    "shape": (arrays(x_test=np.zeros((5, 9, 9), np.float32), y_test=np.zeros(5, int)), "the model reads [1, 8, 8]"),
    "labels": (arrays(y_train=None, y_test=None), "labels are missing: y_train, y_test"),
    "classes": (arrays(y_test=np.full(50, 12)), "labels go up to 12, the model has 10 outputs"),
    "nan": (arrays(x_train=np.full((50, 1, 8, 8), np.nan, np.float32)), "NaN or infinite"),
    "pickle": (arrays(x_train=np.array([{}] * 50, dtype=object)), "cannot be read as .npz"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(tmp_path, name):
    content, reason = BAD_DATA[name]
    np.savez(tmp_path / "data.npz", **content)
    _refused(deploy(tmp_path, "--data", tmp_path / "data.npz"), 2, reason, tmp_path)


BAD_SHEETS = {
    "unknown": (SHEET + "\nvolume: 11\n", "unknown key 'volume'"),
    "duplicate": (SHEET + "\nname: again\n", "key 'name' stands twice"),
    "negative": (SHEET.replace("current: {bits: 32", "current: {bits: -32"), "'arithmetic.current.bits' is -32"),
    "not-yaml": ("a: [1,", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_SHEETS)
def test_bad_datasheet(tmp_path, name):
    text, reason = BAD_SHEETS[name]
    (tmp_path / "chip.yaml").write_text(text)
    result = run("deploy", "--target", tmp_path / "chip.yaml", "--out", tmp_path / "out")
    _refused(result, 2, reason, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--target", "nosuch"], 2, "unknown target 'nosuch'; known: cpu, loihi-sim, loihi1, loihi2"),
        (["--recipe", "nosuch"], 2, "unknown recipe 'nosuch'"),
        (["--backend", "nosuch"], 2, "unknown backend 'nosuch'; known: cpu, lava"),
        (["--data", "gone.npz"], 2, "'gone.npz' does not exist"),
        (["--nosuch"], 2, "No such option"),
        (["--steps", "0"], 2, "--steps"),
        (["--samples", "none"], 2, "--samples"),
        (["some:callable"], 2, "--data is needed with a MODEL"),
        (["--weights", "w.pth"], 2, "--weights needs a MODEL"),
        (["--target", "loihi1", "--recipe", "robust", "--backend", "cpu"], 3, "needs an initial potential"),
        (["--target", "cpu", "--backend", "lava"], 3, "computes differently from Lava"),
    ],
)
def test_wrong_use(tmp_path, arguments, code, reason):
    _refused(run("deploy", "--out", tmp_path / "out", *arguments), code, reason, tmp_path)


def _refused(result, code, reason, tmp_path):
    assert result.exit_code == code, result.output
    assert reason in result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.output.splitlines() if line.startswith(("error: ", "Error: "))]
    assert len(errors) == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_foreign_directory_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    result = deploy(tmp_path)
    assert result.exit_code == 2
    assert "holds files that neuroport did not write" in result.output
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_no_toolchain_is_exit_code_4_and_cpu_still_works(tmp_path, monkeypatch):
    """No Python 3.10, nothing to download: what was tried is said, and the targets without a toolchain run."""
    monkeypatch.setenv("NEUROPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEUROPORT_PYTHON_3_10", str(tmp_path / "no-python"))
    result = run("deploy", "--target", "loihi-sim", "--out", tmp_path / "out")
    assert result.exit_code == 4, result.output
    assert "NEUROPORT_PYTHON_3_10" in result.output
    assert not (tmp_path / "out").exists()
    assert deploy(tmp_path).exit_code == 0
    assert run("deploy", "--target", "loihi-sim", "--backend", "cpu", "--out", tmp_path / "o2").exit_code == 0


@pytest.mark.lava
def test_a_failed_backend_keeps_what_was_computed(lava, tmp_path, monkeypatch):
    from neuroport.backends.loihi import backend

    monkeypatch.setattr(backend, "_WORKER", Path("no-such-worker.py"))
    result = run("deploy", "--eval", 20, "--samples", 2, "--out", tmp_path / "out")
    assert result.exit_code == 4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [rung["name"] for rung in report["rungs"]] == RUNGS[:-1]
    assert "no-such-worker.py" in report["backend"]["error"]
    assert (tmp_path / "out" / "worker.log").is_file()
    verify(tmp_path / "out")


def test_targets_commands(tmp_path):
    listed = run("targets")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in ("cpu", "loihi1", "loihi2", "loihi-sim"))
    shown = run("targets", "show", "loihi1")
    assert shown.exit_code == 0
    assert "1024" in shown.output and "NL/block.py l.8" in shown.output and "second-hand" in shown.output
    assert run("targets", "show", "nosuch").exit_code == 2
    assert run("targets", "install", "nosuch").exit_code == 2
    assert "needs no toolchain" in run("targets", "install", "cpu").output


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from neuroport.cli import app; app(['--help'], standalone_mode=False); "
        "print({'torch', 'numpy', 'numba', 'scipy', 'dask'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "deploy" in shown
    assert shown.splitlines()[-1] == "set()"
