"""Recipes on the command line: the list, one of them, a user's own, and which one a deployment takes and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neuroport.chip.target import load_target
from neuroport.cli import app
from neuroport.datasheets import data_dir, names
from neuroport.normalize.recipe import load_recipe
from neuroport.verbs.conversion import default_reason

OWN = """\
# mine, for [small] nets
name: mine
summary: a recipe of my own
source: my thesis, chapter 3
scale: mmse
steps: 12
"""


def run(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(a) for a in arguments])


def deploy(tmp_path: Path, *arguments: object) -> Any:
    return run(
        "deploy", "--backend", "cpu", "--samples", 2, "--eval", 20, "--steps", 16, "--out", tmp_path / "out", *arguments
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    return path


def rows(output: str) -> dict[str, list[str]]:
    """Cells of the table by their first one, lines of a cell joined."""
    found: dict[str, list[str]] = {}
    last = ""
    for line in output.splitlines():
        if not line.startswith("│"):
            continue
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        last = cells[0] or last
        before = found.get(last, [""] * (len(cells) - 1))
        found[last] = [f"{old} {new}".strip() for old, new in zip(before, cells[1:], strict=True)]
    return found


def test_the_list_has_every_recipe_with_its_scale_its_neuron_and_its_summary() -> None:
    result = run("recipes")
    assert result.exit_code == 0, result.output
    table = rows(result.output)
    assert sorted(table) == names("calibration")
    for name, (_, _, summary) in table.items():
        assert summary == load_recipe(name).summary
    expected = {
        "basic": ["layer 99.9 %", "subtract"],
        "direct-copy": ["threshold 1", "zero"],
        "model-based": ["layer weights", "zero"],
        "hard-reset": ["channel 99.9 %", "zero, clamp 1"],
        "extended": ["channel 99.99 %", "subtract, v_init 0.5, clamp 1"],
        "noise-search": ["channel search", "subtract, v_init 0.5"],
        "light-calibration": ["channel mmse", "subtract, v_init 0.2, clamp 0.4"],
        "l4": ["layer 99.9 %", "subtract, poisson"],
    }
    assert {name: table[name][:2] for name in expected} == expected


@pytest.mark.parametrize("name", names("calibration"))
def test_one_recipe_is_shown_as_its_file_stands(name: str) -> None:
    result = run("recipes", "show", name)
    assert result.exit_code == 0, result.output
    assert result.stdout == (data_dir("calibration") / f"{name}.yaml").read_text(encoding="utf-8").rstrip() + "\n"


def test_a_file_of_ones_own_is_shown_and_checked(own: Path) -> None:
    shown = run("recipes", "show", own)
    assert (shown.exit_code, shown.stdout) == (0, OWN)
    own.write_text(OWN + "threshold: 3\n")
    refused = run("recipes", "show", own)
    assert refused.exit_code == 2
    assert refused.output == (
        f"error: recipe '{own}': threshold goes with scale: none; every other scale rule sets thresholds of 1\n"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nosuch", "unknown recipe 'nosuch'; known: basic, channel-wise, "),
        ("gone.yaml", "recipe file 'gone.yaml' does not exist"),
    ],
)
def test_an_unknown_recipe_is_wrong_use(tmp_path: Path, name: str, reason: str) -> None:
    for result in (run("recipes", "show", name), deploy(tmp_path, "--target", "cpu", "--recipe", name)):
        assert result.exit_code == 2
        assert f"error: {reason}" in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


LOIHI1_REASON = "the default of loihi1, whose neurons reset to zero; by subtraction they take two compartments"


def test_every_target_has_a_default_that_its_neurons_can_run() -> None:
    for name in names("targets"):
        target = load_target(name)
        default = load_recipe(target.default_recipe)
        assert default.reset in target.arithmetic.resets
        assert default.v_init == 0 or target.arithmetic.v_init
        assert default_reason(target).startswith(f"the default of {name}, whose neurons ")
    assert load_target("loihi1").default_recipe == "hard-reset"
    assert default_reason(load_target("loihi1")) == LOIHI1_REASON
    hard = load_target("loihi1").model_copy(deep=True)
    hard = hard.model_copy(update={"arithmetic": hard.arithmetic.model_copy(update={"resets": ("zero",)})})
    assert default_reason(hard) == "the default of loihi1, whose neurons only reset to zero"
    subtracting = "the default of loihi-sim, whose neurons reset by subtraction"
    assert default_reason(load_target("loihi-sim")) == subtracting


@pytest.mark.parametrize(
    ("target", "asked", "recipe", "reason"),
    [
        ("loihi1", [], "hard-reset", LOIHI1_REASON),
        ("loihi-sim", [], "robust", "the default of loihi-sim, whose neurons reset by subtraction"),
        ("loihi-sim", ["--recipe", "robust"], "robust", "asked for"),
        ("loihi1", ["--recipe", "reset-zero"], "reset-zero", "asked for"),
    ],
)
def test_a_deployment_says_which_recipe_it_takes_and_why(
    tmp_path: Path, target: str, asked: list[str], recipe: str, reason: str
) -> None:
    result = deploy(tmp_path, "--target", target, *asked)
    assert result.exit_code == 0, result.output
    assert f"recipe {recipe}: {reason}\n" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["recipe"], report["recipe_reason"], report["percentile"]) == (recipe, reason, 99.9)


def test_a_deployment_with_a_recipe_of_ones_own(tmp_path: Path, own: Path) -> None:
    result = run("deploy", "--target", "cpu", "--samples", 2, "--eval", 20, "--out", tmp_path / "out", "--recipe", own)
    assert result.exit_code == 0, result.output
    assert "recipe mine: asked for\n" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["recipe"], report["steps"], report["percentile"]) == ("mine", 12, None)  # mmse reads no percentile
    written = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert written == load_recipe(own)


def test_a_search_says_what_it_chose(tmp_path: Path) -> None:
    result = deploy(tmp_path, "--target", "cpu", "--recipe", "noise-search")
    assert result.exit_code == 0, result.output
    percentile = json.loads((tmp_path / "out" / "report.json").read_text())["percentile"]
    search = load_recipe("noise-search").search
    assert search is not None
    assert percentile in search.percentiles
    assert f"the search chose the {percentile:g}th percentile" in result.stderr
