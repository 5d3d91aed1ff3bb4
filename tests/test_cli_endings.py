"""Endings that have nothing to do with the network: closed pipes, full disks, models that exit, odd names."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import neuroport
from neuroport.chip import files
from neuroport.cli import app

COMMAND = [sys.executable, "-c", "from neuroport.cli import main; main()"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(neuroport.__file__).parents[1])}
QUICK = ["deploy", "--target", "cpu", "--samples", "1", "--eval", "5"]


@pytest.mark.parametrize("arguments", [["targets"], [*QUICK, "--out", "b"], [*QUICK, "--out", "b", "--json"]])
def test_a_reader_that_has_gone_is_no_difference(tmp_path, arguments):
    """`neuroport ... | true`: not 1, which says that the backend differs, and no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    os.close(writer)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


def test_standard_output_on_a_full_disk(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *QUICK, "--out", "b"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=ENVIRONMENT,
        )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr and "bug" not in done.stderr


def test_a_full_disk_under_the_bundle(tmp_path, monkeypatch):
    """Where the disk is full the file cannot be written; the HDF5 library never meets it."""

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(files.Path, "write_bytes", full)
    result = CliRunner().invoke(app, [*QUICK, "--out", str(tmp_path / "b")])
    assert result.exit_code == 2
    assert "cannot write the bundle" in result.output and "No space left on device" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)", "def build():\n    raise SystemExit(0)"])
def test_a_model_that_exits_is_not_a_success(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    name = f"exits_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    np.savez("d.npz", x=np.zeros((4, 3), np.float32), y=np.zeros(4, int))
    result = CliRunner().invoke(app, ["deploy", f"{name}:build", "--data", "d.npz", "--target", "cpu", "--out", "b"])
    assert result.exit_code == 2
    assert "error: " in result.output


class OddNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("[bold] /x [/y]", nn.Linear(6, 8))
        self.add_module("schicht-ü", nn.Linear(8, 2))

    def forward(self, x):
        first, second = self.children()
        return second(torch.relu(first(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_odd_layer_names_and_other_dtypes(tmp_path, dtype):
    torch.manual_seed(0)
    example = torch.rand(2, 6, dtype=dtype)
    module = OddNames().eval().to(dtype)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "net.pt2")
    x = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(40, int))
    arguments = [str(tmp_path / "net.pt2"), "--data", str(tmp_path / "d.npz"), "--out", str(tmp_path / "b")]
    result = CliRunner().invoke(app, [*QUICK, *arguments])
    assert result.exit_code == 0, result.output
    assert "every spike equal" in result.output and "[bold]" in result.output


DROPPED = """
import gc, os, time
from neuroport.cli.shared import reporting

def collected(phase, info):  # what Dask has the collector call
    if phase == "start" and not met:
        met.append(phase)
        os.kill(os.getpid(), NUMBER)

met = []
with reporting():
    gc.callbacks.append(collected)
    gc.collect()
    assert met
    for _ in range(3000):
        time.sleep(0.01)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_that_meets_the_garbage_collector_is_heard(number, status):
    """Python drops what is raised there; the command went on to its end."""
    code = DROPPED.replace("NUMBER", str(int(number)))
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert "Exception ignored" not in done.stderr
