"""The scripts of examples/papers on small data and networks: they run to their tables, and say what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "examples" / "papers"
SCRIPTS = ("allred", "dong_he", "mueller", "mueller_search", "rueckauer")
LIMIT_S = 240  # a script that hangs fails


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NEUROPORT_DATA", "NEUROPORT_MODELS")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(PAPERS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT
    )


def write_data(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    """60 training and 30 test images: noise over a bar whose place is the class."""
    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 60), ("test", 30)):
        y = np.arange(n) % 10
        x = rng.integers(0, 60, (n, *shape), dtype=np.uint8)
        for image, label in zip(x, y, strict=True):
            image[2 * label : 2 * label + 3] += 180
        parts |= {f"x_{part}": x, f"y_{part}": y.astype(np.int64)}
    np.savez(folder / f"{name}.npz", **parts)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data")
    write_data(folder, "mnist", (28, 28))
    write_data(folder, "fashion_mnist", (28, 28))
    write_data(folder, "cifar10", (32, 32, 3))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional network under the names the scripts look for."""
    folder: Path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(96, 10)).eval()
    batch = torch.export.Dim("n")
    program = torch.export.export(model, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    for name in ("rueckauer_cifar10", "resnet20_cifar10", "resnet18half_cifar10"):
        torch.export.save(program, folder / f"{name}.pt2")
    return folder


SMALL = ("--samples", "20", "--calibration", "40", "--steps", "12")
ARGUMENTS = {
    "dong_he": ("--train", "--epochs", "1", "--networks", "mlp", "--slow-steps", "12"),
    "rueckauer": ("--max-pools", "gated", "expand", "--percentiles", "99", "100"),
    "mueller": ("--nets", "resnet20_cifar10", "--percentile-steps", "12"),
    "mueller_search": ("--nets", "rueckauer_cifar10", "resnet20_cifar10"),
    "allred": ("--tuning", "20", "--leaks", "1", "0.9", "--thresholds", "0.8", "1", "--alphas", "0.3"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_to_its_tables(script: str, data: Path, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(script, "--data", data, "--models", models, "--out", out, *SMALL, *ARGUMENTS[script])
    assert result.returncode == 0, result.stderr
    assert "paper" in result.stdout
    assert "ours" in result.stdout
    written = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert written["schema"] == "neuroport-paper/1"
    assert (out / "tables.md").read_text(encoding="utf-8").count("|") > 20
    plots = list(out.glob("*.png"))
    assert plots
    assert all(plot.stat().st_size > 5_000 for plot in plots)


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_data_are_named_before_anything_runs(script: str, models: Path, tmp_path: Path) -> None:
    result = run(script, "--models", models, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "--data" in result.stderr
    assert "NEUROPORT_DATA" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
