"""Chips with several kinds of neurons, from end to end: the most accurate one is taken, or the one asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neuroport.chip.files import read_network
from neuroport.chip.target import load_target
from neuroport.cli import app
from neuroport.datasheets import read_text
from neuroport.errors import DoesNotFitError, UsageError
from neuroport.terminal.deployment import neuron_line
from neuroport.verbs.conversion import Made, Tried, neuron_row
from neuroport.verbs.deployment import Deployment, DeployOptions, deploy


def deployed(tmp_path: Path, **changes: Any) -> Deployment:
    """The embedded example on SpiNNaker's arithmetic, 16 steps."""
    options = DeployOptions(
        target="spinnaker", backend="cpu", steps=16, samples=2, eval_samples=20, out=tmp_path / "out"
    )
    return deploy(replace(options, **changes))


def narrow_sheet(tmp_path: Path, *neurons: str) -> Path:
    """spinnaker1's datasheet with accumulators of one unit in these neurons, without its sources."""
    text = read_text("targets", "spinnaker1")
    text = text[: text.index("references:")] + text[text.index("toolchain:") :]
    if "if-trunc-delta" in neurons:  # the one all others are like
        text = text.replace("  accumulator_bits: 17 ", "  accumulator_bits: 2 ")
    elif "if-curr-delta" in neurons:
        text = text.replace("    fixed_decay: 64", "    fixed_decay: 64\n    accumulator_bits: 2")
    path = tmp_path / "narrow.yaml"
    path.write_text(text)
    return path


def test_both_neurons_are_tried_and_the_better_one_runs(tmp_path: Path) -> None:
    result = deployed(tmp_path)
    found, report = result.report["neuron"], result.report
    shares = {tried["neuron"]: tried["accuracy"] for tried in found["tried"]}
    assert list(shares) == ["if-trunc-delta", "if-curr-delta"]
    assert all(0.5 < share <= 1 for share in shares.values())
    assert found["name"] == max(shares, key=lambda name: shares[name])
    assert found["reason"].startswith("right most often on calibration samples")
    assert [tried["samples"] for tried in found["tried"]] == [200, 200]
    assert (report["target"], report["recipe"]) == ("spinnaker1", "hard-reset-unclamped")
    assert result.is_equal and result.comparison.compared_spikes > 0
    sheet = load_target(tmp_path / "out" / "target.yaml")  # of the neuron that ran
    network = read_network(tmp_path / "out" / "network.h5")
    assert network.arithmetic == sheet.arithmetic == load_target("spinnaker1").neurons[found["name"]]


def test_the_neuron_asked_for_runs(tmp_path: Path) -> None:
    result = deployed(tmp_path, neuron="if-curr-delta")
    assert result.report["neuron"] == {"name": "if-curr-delta", "reason": "asked for", "tried": []}
    assert read_network(tmp_path / "out" / "network.h5").arithmetic.leak == "closed-form"
    assert "leak: 0.998046875" in (tmp_path / "out" / "recipe.yaml").read_text()
    assert result.is_equal


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"neuron": "lif"}, UsageError, "spinnaker1 has no neuron 'lif'"),
        ({"recipe": "robust"}, DoesNotFitError, "offers reset zero; leave --recipe out"),
        ({"recipe": "hard-reset"}, DoesNotFitError, "leave --recipe out, or choose one without clamp"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_read(
    tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        deployed(tmp_path, model="no-such-file.pt2", **changes)
    assert not (tmp_path / "out").exists()


def test_a_neuron_that_the_network_does_not_fit_is_left_out(tmp_path: Path) -> None:
    result = deployed(tmp_path, target=narrow_sheet(tmp_path, "if-curr-delta"))
    found = result.report["neuron"]
    problems = {tried["neuron"]: tried["problem"] for tried in found["tried"]}
    assert (found["name"], problems["if-trunc-delta"]) == ("if-trunc-delta", "")
    assert "layer 'conv2': no scale brings its weights into spinnaker1's range" in problems["if-curr-delta"]
    assert [tried["accuracy"] is None for tried in found["tried"]] == [False, True]


def test_a_network_that_fits_no_neuron_is_refused_with_all_reasons(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"neuron if-trunc-delta: layer .*; neuron if-curr-delta: layer "):
        deployed(tmp_path, target=narrow_sheet(tmp_path, "if-trunc-delta", "if-curr-delta"))
    assert not (tmp_path / "out").exists()


def test_a_chip_of_one_neuron_reports_none() -> None:
    made = object.__new__(Made)
    object.__setattr__(made, "target", load_target("cpu"))
    object.__setattr__(made, "tried", (Tried("a", "b", 0.5, 3),))
    assert neuron_row(made) is None


def test_the_command_line_takes_a_neuron_and_says_which_one_ran(tmp_path: Path) -> None:
    asked = ["deploy", "--target", "spinnaker", "--backend", "cpu", "--steps", "8", "--eval", "5", "--samples", "1"]
    out = ["--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, [*asked, *out, "--neuron", "if-curr-delta"])
    assert shown.exit_code == 0, shown.output
    assert "\nneuron if-curr-delta: asked for\n" in shown.output
    wrong = CliRunner().invoke(app, [*asked, *out, "--neuron", "lif"])
    assert (wrong.exit_code, "no neuron 'lif'; known: if-trunc-delta, if-curr-delta" in wrong.output) == (2, True)


def test_what_was_tried_is_shown() -> None:
    tried = [
        {"neuron": "a", "accuracy": 0.954, "problem": ""},
        {"neuron": "b", "accuracy": None, "problem": "layer 'x' is too large"},
    ]
    shown = neuron_line({"name": "a", "reason": "the best", "tried": tried})
    assert shown == "neuron a: the best (a 95.4 %, b: layer 'x' is too large)"
