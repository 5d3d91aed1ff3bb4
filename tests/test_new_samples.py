"""`validate BUNDLE --data`: new samples through a bundle that may come from another machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from neuroport.cli import app
from neuroport.errors import BundleError, DataError
from neuroport.verbs.deployment import deploy
from neuroport.verbs.loading import Source
from neuroport.verbs.new_samples import evaluate_bundle
from neuroport.verbs.options import DeployOptions

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "digits.npz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    deploy(DeployOptions(target="cpu", samples=3, steps=16, eval_samples=None, out=out))
    return out


@pytest.fixture
def elsewhere(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "moved"))


def validate(*arguments: object) -> object:
    return CliRunner().invoke(app, ["validate", *map(str, arguments)])


def test_the_same_test_part_gives_the_same_accuracy(elsewhere: Path) -> None:
    core = next(
        rung for rung in json.loads((elsewhere / "report.json").read_text())["rungs"] if rung["name"] == "integer_core"
    )
    found = evaluate_bundle(elsewhere, Source(data=DIGITS), backends=["cpu"], n_backend=2)
    assert (found.rung.samples, found.rung.accuracy) == (core["samples"], core["accuracy"])
    assert found.is_equal
    assert found.reruns[0].comparison.samples == 2
    assert found.reruns[0].comparison.compared_spikes > 100


def test_other_samples_are_scaled_as_the_bundles_were(elsewhere: Path, tmp_path: Path) -> None:
    with np.load(DIGITS) as f:
        few = {"x_train": f["x_test"][:2], "y_train": f["y_test"][:2], "x_test": f["x_test"][-40:]}
        few["y_test"] = f["y_test"][-40:].copy()
    few["y_test"][:10] = (few["y_test"][:10] + 1) % 10  # a quarter is labelled wrongly
    np.savez(tmp_path / "few.npz", **few)
    found = evaluate_bundle(elsewhere, Source(data=tmp_path / "few.npz"))
    assert found.rung.samples == 40
    assert found.rung.accuracy == pytest.approx(0.75, abs=0.051)  # two of forty may be wrong by themselves
    assert f"{100 * found.rung.accuracy:.2f} % of 40 samples right" in str(found)


def test_the_command(elsewhere: Path) -> None:
    result = validate(elsewhere, "--data", DIGITS, "--eval", 30, "--samples", 2, "--backend", "cpu", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["samples"], report["steps"]) == (30, 16)
    assert report["reruns"][0]["mismatches"] == 0
    shown = validate(elsewhere, "--data", DIGITS, "--eval", 30)
    assert "of 30 samples right on the core (standard error" in shown.stdout


@pytest.mark.parametrize("option", ["--scale", "--eval", "--samples", "--seed"])
def test_options_of_new_samples_need_them(elsewhere: Path, option: str) -> None:
    result = validate(elsewhere, option, 30)
    assert result.exit_code == 2
    assert "--scale, --eval, --samples and --seed are of new samples; give them with --data" in result.output


def test_a_scale_leaves_the_bundles_mean_and_std(tmp_path: Path) -> None:
    out = tmp_path / "shifted"
    deploy(DeployOptions(target="cpu", samples=1, steps=8, mean=(0.5,), std=(0.25,), eval_samples=50, out=out))
    usual = evaluate_bundle(out, Source(data=DIGITS), n_samples=50)
    told = evaluate_bundle(out, Source(data=DIGITS, scale=1.0), n_samples=50)  # as its floats have anyway
    other = evaluate_bundle(out, Source(data=DIGITS, scale=1.0, mean=(0.0,), std=(1.0,)), n_samples=50)
    assert told.rung == usual.rung
    assert told.rung != other.rung


def test_an_edited_bundle_is_told(elsewhere: Path) -> None:
    path = elsewhere / "float.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = validate(elsewhere, "--data", DIGITS)
    assert result.exit_code == 2
    assert "file 'float.h5' was changed since it was written" in result.output


def test_a_bundle_without_a_float_network_is_told(elsewhere: Path) -> None:
    (elsewhere / "float.h5").unlink()
    manifest = json.loads((elsewhere / "manifest.json").read_text())
    del manifest["files"]["float.h5"]
    (elsewhere / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"holds no float\.h5, which new samples need; deploy again"):
        evaluate_bundle(elsewhere, Source(data=DIGITS))


def test_data_of_another_shape_are_told(elsewhere: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((10, 1, 5, 5), np.uint8), y=np.zeros(10, np.int64))
    with pytest.raises(DataError):
        evaluate_bundle(elsewhere, Source(data=tmp_path / "other.npz"))
