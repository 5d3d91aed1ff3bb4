"""`neuroport evaluate`: a bundle or a model, the core or a backend, and its confidence interval."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from typer.testing import CliRunner

from neuroport.bundle import verify
from neuroport.cli import app
from neuroport.datasheets import data_dir
from neuroport.engine import cluster
from neuroport.engine.shards import wilson
from neuroport.verbs.deployment import deploy
from neuroport.verbs.evaluate import EvaluateOptions
from neuroport.verbs.evaluate import evaluate as run_evaluate
from neuroport.verbs.options import DeployOptions

DIGITS = data_dir("digits") / "digits.npz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    deploy(DeployOptions(target="cpu", samples=3, steps=16, eval_samples=None, out=out))
    return out


def evaluate(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_a_bundle_a_model_and_deploy_agree(bundle: Path, tmp_path: Path) -> None:
    rungs = json.loads((bundle / "report.json").read_text())["rungs"]
    core = next(rung for rung in rungs if rung["name"] == "integer_core")
    of_bundle = evaluate(bundle, "--data", DIGITS, "--json", "--out", tmp_path / "out")
    of_model = evaluate("--target", "cpu", "--steps", 16, "--json")
    reports = [json.loads(result.stdout) for result in (of_bundle, of_model)]
    for report in reports:
        assert (report["evaluated"], report["accuracy"]) == (core["samples"], core["accuracy"])
        assert report["confidence_interval_95"][0] < core["accuracy"] < report["confidence_interval_95"][1]
    assert reports[0]["classes"] == reports[1]["classes"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == reports[0]
    assert len(reports[0]["accuracy_over_time"]) == 16


def test_deploy_has_its_samples_evaluated_by_the_same_engines(bundle: Path, tmp_path: Path) -> None:
    options = DeployOptions(target="cpu", samples=3, steps=16, eval_samples=None, out=tmp_path / "out")
    made = deploy(replace(options, scheduler="local")).report
    here = json.loads((bundle / "report.json").read_text())
    for key in ("rungs", "layers", "accuracy_over_time", "outputs"):
        assert json.loads(json.dumps(made[key])) == here[key]
    assert made["command"].endswith("--eval 0 --scheduler local")


def test_paths_as_text(bundle: Path, tmp_path: Path) -> None:
    data, out = str(DIGITS), str(tmp_path / "made")
    found = run_evaluate(EvaluateOptions(model=str(bundle), data=data, samples=5, out=out))  # type: ignore[arg-type]
    assert found.evaluation.n == 5
    assert (tmp_path / "made" / "evaluation.json").is_file()


def test_deploy_with_nobody_at_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    result = CliRunner().invoke(app, ["deploy", "--scheduler", "tcp://127.0.0.1:1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 4
    assert "tcp://127.0.0.1:1" in result.stderr
    assert "reading model" not in result.stderr  # told at once
    assert not (tmp_path / "out").exists()


def test_a_backend_answers_as_the_core(bundle: Path) -> None:
    core, oracle = (
        json.loads(evaluate(bundle, "--data", DIGITS, "--eval", 12, "--json", *more).stdout)
        for more in ((), ("--backend", "cpu"))
    )
    assert oracle["backend"] == "cpu"
    assert core["classes"] == oracle["classes"]


def test_failed_samples_are_told_and_give_their_exit_code(bundle: Path, tmp_path: Path) -> None:
    with np.load(DIGITS) as f:
        arrays = {name: f[name] for name in f.files}
    arrays |= {name: arrays[name].astype(np.float32) / 16 for name in ("x_train", "x_test")}
    arrays["x_test"][7] = np.nan
    np.savez(tmp_path / "bad.npz", **arrays)
    result = evaluate(bundle, "--data", tmp_path / "bad.npz", "--scale", 1)
    assert result.exit_code == 4
    assert re.search(r"\d+ samples failed, numbers (\d+, ){5}\.\.\.: ", result.stdout)
    assert "hold NaN or infinite values" in result.stdout
    assert "samples could not be evaluated" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cpu"], "--target: bundle"),
        (["--steps", 4], "--steps: bundle"),
        (["--backend", "nothing"], "unknown backend 'nothing'"),
        (["--scheduler", "x"], "--scheduler 'x' is not known"),
    ],
)
def test_wrong_options(bundle: Path, arguments: list[object], message: str) -> None:
    result = evaluate(bundle, "--data", DIGITS, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_place_that_cannot_be_written_is_told_before_the_work(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path / "file", "cannot be written: File exists"),
        (tmp_path / "file" / "below", "cannot be written: Not a directory"),
        (Path("/proc/nothing"), "cannot be written"),
        (bundle, "is a bundle, which one more file would damage"),
    ):
        result = evaluate(bundle, "--data", tmp_path / "nosuch.npz", "--out", out)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    verify(bundle)


def test_the_interval_is_the_score_tests() -> None:
    """Its ends are the accuracies at which the score test just does not reject."""
    for n_right, n in ((0, 10), (593, 599), (50, 100), (10, 10)):
        for end in wilson(n_right, n):
            if 0 < end < 1:
                z = abs(n_right / n - end) / np.sqrt(end * (1 - end) / n)
                assert z == pytest.approx(norm.ppf(0.975), rel=1e-9)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)
