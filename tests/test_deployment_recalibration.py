"""Recipes that match mean rates, from end to end: calibrated once more in the chip's integers, equal all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuroport.normalize.recipe import load_recipe
from neuroport.verbs.deployment import Deployment, deploy
from neuroport.verbs.options import DeployOptions

RUNGS = ["ann", "folded", "normalized", "float_snn", "integer_core", "backend"]


def deployed(tmp_path: Path, target: str, recipe: str) -> tuple[Deployment, dict[str, Any]]:
    """The embedded example on the core, 16 steps, and its report."""
    options = DeployOptions(
        target=target, backend="cpu", recipe=recipe, steps=16, samples=3, eval_samples=30, out=tmp_path / "out"
    )
    result = deploy(options)
    return result, json.loads((tmp_path / "out" / "report.json").read_text())


@pytest.mark.parametrize(
    ("target", "recipe"), [("loihi-sim", "light-calibration"), ("loihi1", "hard-reset"), ("loihi-sim", "hard-reset")]
)
def test_biases_are_calibrated_in_the_integers_of_the_chip(tmp_path: Path, target: str, recipe: str) -> None:
    result, report = deployed(tmp_path, target, recipe)
    assert load_recipe(recipe).calibrates_biases
    errors = report["calibration"]["rate_errors"]
    assert 2 <= len(errors) <= 4
    assert all(0 < error < 1 for error in errors)  # rates and their differences are below 1
    assert len(report["calibration"]["output_errors"]) == len(errors)
    assert (report["recipe"], report["recipe_reason"], report["steps"]) == (recipe, "asked for", 16)
    assert [rung["name"] for rung in report["rungs"]] == RUNGS
    assert result.is_equal and result.comparison.compared_spikes > 0
    accuracy = {rung["name"]: rung["accuracy"] for rung in report["rungs"]}
    assert accuracy["integer_core"] >= accuracy["ann"] - 0.1  # three of 30 samples


def test_other_recipes_are_rounded_once(tmp_path: Path) -> None:
    result, report = deployed(tmp_path, "loihi-sim", "robust")
    assert report["calibration"] == {"rate_errors": [], "output_errors": []}
    assert result.is_equal
