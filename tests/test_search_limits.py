"""`neuroport search` at its limits: no time left, networks that some samples do not suit, another network."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neuroport.datasheets import data_dir
from neuroport.engine import evaluate_samples
from neuroport.errors import DoesNotFitError, UsageError
from neuroport.progress import Silent
from neuroport.verbs.search import bench, trials
from neuroport.verbs.search.options import SearchOptions
from neuroport.verbs.search.run import search


def options(out, **changed):
    small = {"target": "cpu", "trials": 7, "samples": 60, "eval_samples": 40, "max_steps": 8, "budget_s": 600.0}
    return SearchOptions(**(small | {"out": out} | changed))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the clock of the trials is ahead; a test sets them."""
    ahead = [0.0]
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    return ahead


def test_the_budget_ends_it_and_trials_are_kept(tmp_path, clock):
    """The hour is over after the second trial."""

    class Late(Silent):
        def stage(self, text):
            clock[0] = 3600.0 if text.startswith("trial 2 of") else clock[0]

    report = search(options(tmp_path / "b", trials=100_000, budget_s=3600.0), Late()).report
    assert report["ended"] == "budget"
    assert report["trials"]["finished"] == 2


def test_the_budget_ends_a_trial_between_two_shards(tmp_path, clock, monkeypatch):
    measured = []

    def evaluate(*given, **more):
        measured.append(given)
        clock[0] = 3600.0 if len(measured) == 3 else clock[0]  # of the recipe to beat, and of trial 1
        return evaluate_samples(*given, **more)

    monkeypatch.setattr(bench, "evaluate_samples", evaluate)
    report = search(options(tmp_path / "b", budget_s=3600.0)).report
    assert (report["ended"], report["trials"]["finished"]) == ("budget", 1)


def test_a_budget_too_small(tmp_path, clock):
    with pytest.raises(UsageError, match="--budget was over while the recipe to beat, robust, was measured on 40"):
        search(options(tmp_path / "b", budget_s=0.001))
    clock[0] = 600.0
    with pytest.raises(UsageError, match="--budget was over before the first trial"):
        search(options(tmp_path / "b", budget_s=600.0))
    assert not (tmp_path / "b").exists()


def test_a_network_that_cannot_hold_a_sample_is_refused_and_the_others_go_on(tmp_path):
    """Some test images are brighter than those of the calibration, which not every scale leaves room for."""
    with np.load(data_dir("digits") / "digits.npz") as f:
        arrays = {name: f[name] for name in f.files}
    arrays["x_test"][::7] *= 1.3
    np.savez(tmp_path / "d.npz", **arrays)
    told = {"target": "loihi1", "samples": 300, "eval_samples": 200, "max_steps": 16, "data": tmp_path / "d.npz"}
    with pytest.raises(DoesNotFitError, match=r"needs an input current .* outside the range of the calibration data"):
        search(options(tmp_path / "o", trials=4, **told))  # the only one that is not refused, on the held-out samples
    report = search(options(tmp_path / "o", trials=7, **told)).report
    assert report["trials"] == {"finished": 7, "complete": 2, "refused": 5, "core": 2}
    assert [row["trial"] for row in report["frontier"]] == [6]


def test_another_network_with_the_same_answers_is_another_study(tmp_path):
    program = torch.export.load(data_dir("digits") / "digits.pt2")
    studies = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        torch.export.save(program, tmp_path / name / "net.pt2")
        told = {"model": tmp_path / name / "net.pt2", "data": data_dir("digits") / "digits.npz", "trials": 1}
        studies.append(search(options(tmp_path / "o", **told)).report["study"])
        with torch.no_grad():
            for value in program.state_dict.values():
                if value.is_floating_point():
                    value.mul_(1.0001)
    assert studies[0] != studies[1]
