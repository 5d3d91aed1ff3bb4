"""`neuroport search`: frontiers that come again, that go on where they stopped, and what is refused."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from typer.testing import CliRunner

from neuroport.bundle import verify
from neuroport.chip.target import load_target
from neuroport.cli import app
from neuroport.datasheets import data_dir
from neuroport.engine.shards import Outcome
from neuroport.errors import DataError, DoesNotFitError, EngineError, UsageError
from neuroport.normalize.recipe import load_recipe
from neuroport.progress import Silent
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions
from neuroport.verbs.search import run as module
from neuroport.verbs.search.options import SearchOptions, parse_budget, parse_objectives
from neuroport.verbs.search.points import Done, Share, dominates, frontier, is_hopeless, packed, unpacked
from neuroport.verbs.search.run import search
from neuroport.verbs.search.space import Space

COMMAND = [sys.executable, "-c", "from neuroport.cli import main; main()"]


def run(*arguments):
    return CliRunner().invoke(app, ["search", *(str(a) for a in arguments)])


def options(out, **changed):
    small = {"target": "cpu", "trials": 7, "samples": 60, "eval_samples": 40, "max_steps": 8, "budget_s": 600.0}
    return SearchOptions(**(small | {"out": out} | changed))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One search of seven trials, and where its files are."""
    out = tmp_path_factory.mktemp("search") / "whole"
    return out, search(options(out)).report


def points(report):
    return [(row["params"], row["digest"], row["searched_on"], row["held_out"]) for row in report["frontier"]]


def test_the_files_and_what_they_hold(made):
    out, report = made
    verify(out)
    assert json.loads((out / "search.json").read_text()) == report
    assert report["schema"] == "neuroport-search/1" and report["ended"] == "trials"
    assert report["trials"]["finished"] == 7 >= report["trials"]["complete"] >= len(report["frontier"]) >= 1
    told = f"--target cpu --objective accuracy,steps --trials 7 --budget 600s --out {out} --samples 60 --max-steps 8"
    assert report["command"] == f"neuroport search {told} --eval 40"
    page = (out / "report.html").read_text()
    assert page.count("<circle") == len(report["frontier"])
    for row in report["frontier"]:
        recipe = load_recipe(out / row["recipe"])
        assert recipe.steps == row["steps"] <= 8
        assert row["recipe"] in page
        share = row["held_out"]
        assert share["low"] < share["accuracy"] < share["high"] or share["accuracy"] in (0, 1)
        assert share["samples"] == 40 and row["searched_on"]["samples"] == 60


def test_a_point_is_what_deploy_makes_of_its_recipe(made, tmp_path):
    """The held-out samples are the first of the test part in deploy's order, so its core has as many right."""
    out, report = made
    row = report["frontier"][-1]
    told = {"target": "cpu", "recipe": out / row["recipe"], "samples": 1, "eval_samples": 40, "out": tmp_path / "b"}
    deployed = deploy(DeployOptions(**told))
    core = next(rung for rung in deployed.rungs if rung.name == "integer_core")
    assert round(core.accuracy * core.samples) == row["held_out"]["right"]
    assert deployed.report["steps"] == row["steps"]
    assert f"--recipe {out / row['recipe']} --steps {row['steps']}" in row["command"]


def test_the_same_seed_gives_the_same_frontier_and_a_cut_one_goes_on(made, tmp_path):
    """Four trials first, then the rest from the storage: the frontier of all at once."""
    _, whole = made
    first = search(options(tmp_path / "cut", trials=4)).report
    assert first["trials"]["finished"] == 4
    second = search(options(tmp_path / "cut")).report
    assert second["study"] == first["study"] == whole["study"]
    assert points(second) == points(whole)
    assert second["trials"] == whole["trials"]


def test_another_seed_is_another_study(made, tmp_path):
    _, whole = made
    other = search(options(tmp_path / "other", trials=1, seed=1)).report
    assert other["study"] != whole["study"]
    assert other["trials"]["finished"] == 1


def test_a_trial_of_a_killed_process_is_asked_again(made, tmp_path):
    """What `kill -9` leaves, a running trial, changes nothing."""
    _, whole = made
    store = f"sqlite:///{tmp_path / 's.sqlite3'}"
    search(options(tmp_path / "cut", storage=store, trials=4))
    left = optuna.load_study(study_name=whole["study"], storage=store)
    left.ask()
    report = search(options(tmp_path / "cut", storage=store)).report
    assert points(report) == points(whole)
    states = [t.state.name for t in left.get_trials()]
    assert states.count("FAIL") == 1 and "RUNNING" not in states


def test_ctrl_c_writes_what_was_found_and_the_same_command_goes_on(made, tmp_path):
    """A real process: interrupted after a trial, it ends with 130, a whole result, and trials that are kept."""
    _, whole = made
    flags = ["--target", "cpu", "--samples", "60", "--eval", "40", "--max-steps", "8", "--budget", "10m"]
    command = [*COMMAND, "search", *flags, "--trials", "1000", "--out", str(tmp_path / "cut")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as process:
        try:
            for line in process.stderr:
                if line.startswith("trial 2 of"):
                    break
            process.send_signal(signal.SIGINT)
            shown, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    verify(tmp_path / "cut")
    report = json.loads((tmp_path / "cut" / "search.json").read_text())
    assert report["ended"] == "interrupted" and 2 <= report["trials"]["finished"] < 1000
    assert "Interrupted; the same command goes on" in shown
    store = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'cut.sqlite3'}")
    trials = optuna.load_study(study_name=report["study"], storage=store).get_trials()
    assert all(t.state.is_finished() for t in trials)
    if report["trials"]["finished"] <= 7:
        assert points(search(options(tmp_path / "cut")).report) == points(whole)


def test_cores_energy_and_fewer_bits(tmp_path):
    """On a chip with a geometry; a point with coarser weights comes with its own target."""
    objectives = ("accuracy", "steps", "energy", "cores")
    out = tmp_path / "l"
    start = {"target": "loihi1", "samples": 60, "eval_samples": 40, "max_steps": 8, "trials": 7}
    report = search(options(out, objectives=objectives, max_cores=1000, **start)).report
    for row in report["frontier"]:
        assert row["costs"]["energy"] > 0 and 1 <= row["costs"]["cores"] <= 1000
        assert (row["target"] is None) == (row["weight_bits"] is None)
        if row["target"] is not None:
            step = 2 << (8 - row["weight_bits"])
            assert load_target(out / row["target"]).arithmetic.weights.mixed.step == step
    page = (out / "report.html").read_text()
    assert report["frontier"][0]["energy_notes"]["marks"] == ["second-hand"]
    assert (
        "Energies are of second-hand numbers" in page and "Accuracy over cores" in page and "nJ per inference" in page
    )


def test_events_keep_their_steps(tmp_path):
    """Recorded spikes of four steps: the digits, drawn as Bernoulli trials."""
    with np.load(data_dir("digits") / "digits.npz") as file:
        x, y = file["x_test"].reshape(-1, 1, 8, 8) / file["x_test"].max(), file["y_test"]
    spikes = (np.random.default_rng(0).random((len(x), 4, *x.shape[1:])) < x[:, None]).astype(np.uint8)
    parts = {"spikes_train": spikes[:200], "y_train": y[:200], "spikes_test": spikes[200:], "y_test": y[200:]}
    np.savez(tmp_path / "events.npz", **parts)
    report = search(options(tmp_path / "o", data=tmp_path / "events.npz", trials=4, min_accuracy=0.3)).report
    assert {row["steps"] for row in report["frontier"]} == {4} and report["default"]["steps"] == 4
    assert report["trials"].get("relu1", 0) == 0


def test_wrong_flags(tmp_path):
    for arguments, words in (
        (["--objective", "accuracy,speed"], "'speed' is not known; choose from accuracy,steps,energy,cores"),
        (["--objective", "accuracy,accuracy"], "names 'accuracy' twice"),
        (["--objective", "steps"], "add accuracy"),
        (["--budget", "30"], "--budget '30' is no time"),
        (["--budget", "0s"], "--budget '0s' is no time"),
        (["--min-accuracy", "0.98"], "in percent"),
        (["--target", "cpu", "--objective", "accuracy,cores"], "does not say what a core holds"),
        (["--target", "cpu", "--max-cores", "4"], "does not say what a core holds"),
        (["--storage", tmp_path], "cannot be opened"),
        (["--storage", "nosuchdatabase://u:secret@h/n"], "cannot be opened"),
    ):
        result = run(*arguments, "--trials", 1, "--samples", 20, "--eval", 20, "--out", tmp_path / "o")
        assert result.exit_code == 2, (arguments, result.output)
        assert words in re.sub(r"\s+", " ", result.output), arguments
        assert "secret" not in result.output and not (tmp_path / "o").exists()


def test_options_of_the_verb(tmp_path):
    for change, words in (({"trials": 0}, "--trials must be at least 1"), ({"min_accuracy": 1.5}, "--min-accuracy")):
        with pytest.raises(UsageError, match=words):
            search(options(tmp_path / "o", **change))


def test_energies_that_nobody_knows(tmp_path):
    sheet = load_target("loihi1").model_dump(mode="json", exclude_none=True)
    kept = {key: value for key, value in sheet["sources"].items() if not key.startswith("energy")}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(sheet | {"energy": {}, "sources": kept}))
    with pytest.raises(UsageError, match="knows no energies; leave energy out"):
        search(options(tmp_path / "o", target=tmp_path / "t.yaml", objectives=("accuracy", "energy")))


def test_a_storage_that_another_search_has(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / "s.sqlite3.lock"), pytest.raises(UsageError, match="in use by another search"):
        search(options(tmp_path / "o", storage=tmp_path / "s.sqlite3"))


def test_a_storage_that_is_no_database(tmp_path):
    (tmp_path / "s.sqlite3").write_text("no database at all, but long enough for a header of one" * 10)
    with pytest.raises(UsageError, match="cannot be opened"):
        search(options(tmp_path / "o", storage=tmp_path / "s.sqlite3"))


def test_a_storage_that_breaks_during_the_search(tmp_path):
    class Breaking(Silent):
        def stage(self, text):
            if text.startswith("trial 1 of"):
                with sqlite3.connect(tmp_path / "s.sqlite3") as database:
                    database.execute("DROP TABLE trials")

    with pytest.raises(UsageError, match="failed during the search"):
        search(options(tmp_path / "o", storage=tmp_path / "s.sqlite3"), Breaking())
    assert not (tmp_path / "o").exists()


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'neuroport\[search\]'"):
        search(options(tmp_path / "o"))


def test_a_constraint_that_nothing_satisfies(tmp_path):
    small = ["--target", "cpu", "--trials", 3, "--samples", 60, "--eval", 40, "--max-steps", 1]
    result = run(*small, "--min-accuracy", 100, "--out", tmp_path / "o")
    assert result.exit_code == 3, result.output
    said = " ".join(result.output.split())
    assert re.search(r"none of 3 trials has 100 % accuracy in up to 1 steps; the most accurate one has \d", said)
    assert not (tmp_path / "o").exists()


def test_cores_that_nothing_satisfies(tmp_path):
    with pytest.raises(DoesNotFitError, match=r"1 cores at most .*the fewest cores \d"):
        search(options(tmp_path / "o", target="loihi1", trials=2, max_cores=1, max_steps=8, samples=40))


def test_a_constraint_that_only_the_samples_searched_on_satisfy(tmp_path):
    """Seed 5: the default recipe in 8 steps has all 60 samples searched on right, and 39 of 40 held-out ones."""
    with pytest.raises(DoesNotFitError, match=r"1 trials meet the constraints .* none on 40 held-out ones"):
        search(options(tmp_path / "o", trials=1, seed=5, min_accuracy=0.99))
    verify(tmp_path / "o")
    report = json.loads((tmp_path / "o" / "search.json").read_text())
    assert report["best"] is None and not report["frontier"][0]["is_allowed"]
    assert "No point meets the constraints" in (tmp_path / "o" / "report.html").read_text()


def test_trials_that_are_all_refused(tmp_path):
    """The default of loihi1 makes layers wait for longer than one step."""
    with pytest.raises(DoesNotFitError, match="all were refused, the first because: output 'fc2' is clamped"):
        search(options(tmp_path / "o", target="loihi1", trials=1, max_steps=1))


def test_samples_that_nobody_could_evaluate(tmp_path, monkeypatch):
    """An engine whose shards fail: no accuracy is made up from the others."""

    class Failing:
        summary = "nowhere"

        def outcomes(self, work, shards):
            for shard in shards:
                yield Outcome(shard, work.run(shard) if shard.start else None, "poisoned")

    @contextmanager
    def opened(name, **_):
        yield Failing()

    monkeypatch.setattr(module, "open_engine", opened)
    with pytest.raises(EngineError, match="poisoned"):
        search(options(tmp_path / "o"))


def test_processes_that_share_the_samples_change_nothing(tmp_path):
    pytest.importorskip("distributed")
    alone, shared = (
        search(options(tmp_path / name, trials=2, scheduler=name, workers=n)).report
        for name, n in (("none", None), ("local", 2))
    )
    assert points(alone) == points(shared)


def test_a_scheduler_that_is_not_known(tmp_path):
    with pytest.raises(UsageError, match="--scheduler 'nosuch'"):
        search(options(tmp_path / "o", scheduler="nosuch"))


def test_too_few_test_samples(tmp_path):
    x = np.zeros((4, 8, 8), np.float32)
    y = np.arange(4)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    with pytest.raises(DataError, match="holds 1 sample"):
        search(options(tmp_path / "o", data=tmp_path / "d.npz"))


def test_a_recipe_that_the_chip_does_not_have(tmp_path):
    with pytest.raises(DoesNotFitError, match="needs reset 'subtract'"):
        search(options(tmp_path / "o", target="spinnaker1", recipe="robust"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("0.5h", 1800)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


def test_objectives_have_one_order():
    assert parse_objectives("cores, accuracy") == ("accuracy", "cores")


def test_wilson_and_the_frontier():
    low, high = Share(10, 10).interval
    assert low == pytest.approx(0.7225, abs=1e-4) and high == pytest.approx(1)
    a, b, c = ({"accuracy": x, "steps": s} for x, s in ((0.9, 4), (0.95, 8), (0.9, 8)))
    assert dominates(a, c) and dominates(b, c) and not dominates(a, b) and not dominates(a, a)
    assert frontier([c, b, a, dict(a)]) == [2, 1]


def test_a_trial_ends_where_its_interval_cannot_reach_what_is_there():
    """The point to beat has 99 of the first 100 samples right, and 990 of all 1000; the ANN has all."""
    ann, right = np.ones(1000, bool), np.ones(1000, bool)
    right[[5, *range(500, 509)]] = False
    done = [Done({"steps": 8}, right)]
    assert is_hopeless(Share(80, 100), {"steps": 8}, done, 0.5, ann)
    assert not is_hopeless(Share(80, 100), {"steps": 7}, done, 0.5, ann), "cheaper"
    assert not is_hopeless(Share(99, 100), {"steps": 8}, done, 0.5, ann), "not told apart"
    assert not is_hopeless(Share(100, 100), {"steps": 8}, done, 0.5, ann), "the others may be right too"
    assert is_hopeless(Share(100, 100), {"steps": 8}, [Done({"steps": 8}, ann)], 0.5, ann), "nothing beats all"
    hard = np.arange(1000) >= 20
    assert not is_hopeless(Share(80, 100), {"steps": 8}, [Done({"steps": 8}, hard)], 0.5, ann), "those are hard ones"
    assert is_hopeless(Share(80, 100), {}, [], 0.9, ann), "below what is asked for"
    assert not is_hopeless(Share(80, 100), {}, [], 0.9, hard), "as the ANN, which has few of the first right"


def test_bits_of_a_storage():
    is_right = np.random.default_rng(0).random(37) < 0.5
    np.testing.assert_array_equal(unpacked(packed(is_right), 37), is_right)


@pytest.mark.parametrize("target", ["cpu", "loihi-sim", "loihi1", "loihi2", "spinnaker1", "spinnaker2"])
def test_starts_lie_in_the_space_and_begin_with_the_default(target):
    """Each start chooses a recipe that its neurons have; the first one is the target's own."""
    sheet = load_target(target)
    base = load_recipe(sheet.default_recipe)
    space = Space(sheet, base, (1, 64), searches_bits=True)
    candidates = [space.choose(optuna.trial.FixedTrial(start)) for start in space.starts(99.9)]
    assert candidates
    first = candidates[0].recipe
    for name in ("reset", "scale", "granularity", "percentile", "v_init", "clamp", "steps", "corrections"):
        assert getattr(first, name) == getattr(base, name), name
    for candidate in candidates:
        assert candidate.recipe.reset in space.arithmetic(candidate.neuron).resets
        assert (candidate.neuron is None) == (not sheet.neurons)
