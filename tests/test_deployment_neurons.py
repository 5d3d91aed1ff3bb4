"""Chips with several kinds of neurons, from end to end: the most accurate one is taken, or the one asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroport.chip.files import read_network
from neuroport.chip.target import load_target
from neuroport.conversion import Made, Tried, neuron_row
from neuroport.deployment import Deployment, DeployOptions, deploy
from neuroport.errors import DoesNotFitError, UsageError


def deployed(tmp_path: Path, **changes: str | None) -> Deployment:
    """The embedded example on SpiNNaker's arithmetic, 16 steps."""
    return deploy(
        DeployOptions(
            target="spinnaker", backend="cpu", steps=16, samples=2, eval_samples=20, out=tmp_path / "out", **changes
        )
    )


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


def test_a_chip_of_one_neuron_reports_none() -> None:
    made = object.__new__(Made)
    object.__setattr__(made, "target", load_target("cpu"))
    object.__setattr__(made, "tried", (Tried("a", "b", 0.5, 3),))
    assert neuron_row(made) is None
