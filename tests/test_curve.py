"""`neuroport curve`: what its files hold, that they agree with each other and with `deploy`, and how it ends."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from neuroport.bundle import verify
from neuroport.cli import app
from neuroport.datasheets import data_dir
from neuroport.errors import UsageError
from neuroport.verbs import curve as module
from neuroport.verbs.curve import CurveOptions, curve
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions
from neuroport.verbs.plot import draw_curves

DIGITS = data_dir("digits") / "digits.npz"
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments):
    return CliRunner().invoke(app, ["curve", *(str(a) for a in arguments)])


def options(tmp_path, **changed):
    return CurveOptions(**({"steps": 12, "eval_samples": 40, "out": tmp_path / "out"} | changed))


def yaml(path, **keys):
    content = {"name": path.stem, "summary": "a test's", "source": "none"} | keys
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in content.items()))
    return path


def read(folder):
    with (folder / "curve.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    return rows, json.loads((folder / "curve.json").read_text())


def test_files_and_table(tmp_path):
    result = run("--recipe", "max-norm", "--recipe", "robust", "--steps", 12, "--eval", 40, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    verify(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"curve.csv", "curve.json", "curve.png", "manifest.json"}
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(PNG)
    rows, report = read(tmp_path / "out")
    assert rows[0] == ["step", "max-norm", "robust"]
    assert [row[0] for row in rows[1:]] == [str(t) for t in range(1, 13)]
    for k, recipe in enumerate(report["recipes"], 1):
        assert [float(row[k]) for row in rows[1:]] == pytest.approx(recipe["accuracy"], abs=5e-7)
        assert recipe["accuracy"][-1] >= 0.9
        assert all(a * 40 == pytest.approx(round(a * 40)) for a in recipe["accuracy"])
        assert (recipe["readout"], recipe["other_readouts"]) == ("membrane", {})
        assert recipe["recipe"]["name"] == recipe["name"]
    assert {key: report[key] for key in ("schema", "model", "data", "samples", "steps", "seed")} == {
        "schema": "neuroport-curve/1",
        "model": "digits",
        "data": "digits.npz",
        "samples": 40,
        "steps": 12,
        "seed": 0,
    }
    assert report["scaling"].keys() == {"factor", "mean", "std"}
    assert {"neuroport", "torch"} <= report["versions"].keys()
    for word in ("max-norm", "robust", "membrane", f"ANN {100 * report['ann_accuracy']:.2f} %", "curves and numbers"):
        assert word in result.output


def test_latencies_follow_their_definition(tmp_path):
    """The first step from which accuracy stays within 0.01 and 0.005 of the ANN's, on the same samples."""
    found = curve(options(tmp_path, steps=20, eval_samples=150, recipes=("max-norm", "reset-zero")))
    latencies = []
    for row in found.report["recipes"]:
        for key, points in (("within_1_percent", 0.01), ("within_0.5_percent", 0.005)):
            right = np.rint(np.array(row["accuracy"]) * 150)
            least = np.rint(found.report["ann_accuracy"] * 150) - points * 150
            good = [t for t in range(1, 21) if (right[t - 1 :] >= least - 1e-6).all()]
            assert row["latency_steps"][key] == (good[0] if good else None)
            latencies.append(good[0] if good else None)
    assert any(step is not None and step > 1 for step in latencies)
    short = curve(options(tmp_path, steps=2, recipes=("max-norm",)))
    assert set(short.report["recipes"][0]["latency_steps"].values()) == {None}
    assert "never" in run("--recipe", "max-norm", "--steps", 2, "--eval", 20, "--out", tmp_path / "o").output


def test_it_ends_where_the_ladder_of_a_deployment_does(tmp_path):
    found = curve(options(tmp_path, recipes=("robust",), eval_samples=100, seed=4))
    again = DeployOptions(target="cpu", recipe="robust", steps=12, eval_samples=100, samples=1, seed=4)
    rungs = {rung.name: rung.accuracy for rung in deploy(replace(again, out=tmp_path / "b")).rungs}
    assert found.report["ann_accuracy"] == rungs["ann"]
    assert found.accuracy["robust"][-1] == rungs["float_snn"]
    assert found.accuracy["robust"].shape == (12,)


def test_a_readout_that_counts_has_its_membrane_too(tmp_path):
    counting = yaml(tmp_path / "counting.yaml", readout="count", v_init=0.5)
    sampling = yaml(tmp_path / "sampling.yaml", readout="softmax", v_init=0.5)
    first, second = curve(options(tmp_path, recipes=(counting, sampling))).report["recipes"]
    assert (first["readout"], list(first["other_readouts"])) == ("count", ["membrane"])
    assert (second["readout"], list(second["other_readouts"])) == ("softmax", ["membrane"])
    for row in (first, second):
        assert len(row["accuracy"]) == len(row["other_readouts"]["membrane"]) == 12
        assert row["other_readouts"]["membrane"][-1] >= 0.9


def test_same_seed_same_files(tmp_path):
    manifests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        curve(options(tmp_path, recipes=("robust-rate",), eval_samples=20, seed=seed, out=tmp_path / name))
        manifests.append(json.loads((tmp_path / name / "manifest.json").read_text())["files"])
    assert manifests[0] == manifests[1] != manifests[2]


def test_steps_are_the_most_of_the_recipes_or_those_of_recorded_spikes(tmp_path):
    recipes = (yaml(tmp_path / "short.yaml", steps=3), yaml(tmp_path / "long.yaml", steps=5))
    found = curve(options(tmp_path, recipes=recipes, steps=None, eval_samples=5))
    assert [len(values) for values in found.accuracy.values()] == [5, 5]
    rng = np.random.default_rng(0)
    spikes = (rng.random((60, 7, 1, 8, 8)) < 0.3).astype(np.uint8)
    np.savez(tmp_path / "events.npz", spikes=spikes, y=rng.integers(0, 10, 60))
    found = curve(options(tmp_path, recipes=("robust",), steps=None, data=tmp_path / "events.npz"))
    assert (found.report["steps"], found.report["samples"]) == (7, 40)


def test_json_quiet_and_the_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run("--recipe", "robust", "--steps", 2, "--eval", 5, "--json")
    assert json.loads(shown.stdout)["recipes"][0]["name"] == "robust"
    verify(tmp_path / "neuroport-out" / "digits-curve")
    assert run("--recipe", "robust", "--steps", 2, "--eval", 5, "--quiet").output == ""


def test_without_matplotlib_the_numbers_are_there_and_the_way_to_the_plot_is_said(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--recipe", "robust", "--steps", 2, "--eval", 5, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "note: curve.png was not drawn: plots need matplotlib: pip install 'neuroport[plot]'" in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"curve.csv", "curve.json", "manifest.json"}
    verify(tmp_path / "out")


@pytest.mark.parametrize("n_steps", [1, 2, 3, 100])
def test_any_curves_can_be_drawn(tmp_path, n_steps):
    """Names that a plotting library would read as formulas or hide, more curves than colours, constant curves."""
    names = ["_hidden", "$x_{", "50 %", "über", *map(str, range(30))]
    curves = {name: np.linspace(0, 1, n_steps) for name in names} | {"flat": np.full(n_steps, 1.0)}
    marks = dict.fromkeys(curves, n_steps) | {"flat": None}
    path = tmp_path / "p.png"
    assert draw_curves(path, curves, marks, reference=1.0, tolerance=0.01, title="$a_{ & _b")
    assert path.read_bytes().startswith(PNG)


def test_ctrl_c_leaves_nothing_and_an_earlier_result_as_it_was(tmp_path, monkeypatch):
    curve(options(tmp_path, recipes=("robust",), steps=2))
    before = (tmp_path / "out" / "manifest.json").read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    arguments = ("--recipe", "robust", "--eval", 5, "--steps", 2, "--out", tmp_path / "out")
    for name in ("accuracy_over_time", "draw_curves"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            result = run(*arguments)
        assert result.exit_code == 130
        assert "interrupted; nothing half-written stays" in result.output
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--recipe", "nonsense"], 2, "unknown recipe 'nonsense'; known: "),
        (["--recipe", "robust", "--recipe", "robust"], 2, "2 recipes are named 'robust'; give each curve a name"),
        (["--steps", "0"], 2, "--steps"),
        (["--eval", "-1"], 2, "--eval"),
        (["--mean", "a"], 2, "--mean 'a' is not a list of numbers"),
        (["some:callable"], 2, "--data is needed with a MODEL"),
        (["nothing.pt2", "--data", DIGITS], 2, "model file 'nothing.pt2' does not exist"),
        (["--weights", "w.pth"], 2, "--weights needs a MODEL"),
        (["--data", "nothing.npz"], 2, "data file 'nothing.npz' does not exist"),
    ],
)
def test_wrong_use(tmp_path, arguments, code, reason):
    refused(run("--out", tmp_path / "out", *arguments), code, reason, tmp_path)


def refused(result, code, reason, tmp_path):
    assert result.exit_code == code, result.output
    assert reason in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_recipe_that_cannot_convert_the_network_is_named(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 10)).eval()
    example = (torch.randn(2, 1, 8, 8),)
    torch.export.save(
        torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("n")},)), tmp_path / "pool.pt2"
    )
    recipes = ("--recipe", "robust", "--recipe", yaml(tmp_path / "strict.yaml", max_pool="refuse"))
    result = run(
        tmp_path / "pool.pt2", "--data", DIGITS, "--eval", 5, "--steps", 2, "--out", tmp_path / "out", *recipes
    )
    refused(result, 3, "recipe 'strict': max-pool", tmp_path)


def test_a_foreign_directory_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    result = run("--eval", 5, "--steps", 2, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds files that neuroport did not write" in result.output
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"recipes": ()}, "no recipe is given; give one --recipe for each curve"),
        ({"eval_samples": 0}, "at least one test sample is needed"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
    ],
)
def test_wrong_options_in_code(tmp_path, changed, reason):
    with pytest.raises(UsageError, match=reason):
        curve(options(tmp_path, **changed))
