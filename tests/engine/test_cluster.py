"""Shards on real Dask processes: same numbers as here, killed workers, poisoned shards, a scheduler that is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from neuroport.chip.files import read_network
from neuroport.data import Samples, load_npz
from neuroport.datasheets import data_dir
from neuroport.engine import Evaluation, cluster, evaluate_samples, open_engine, shards
from neuroport.engine.cluster import ClusterEngine
from neuroport.engine.parcel import probe
from neuroport.engine.samples import DataSamples, HeldSamples
from neuroport.engine.shards import ShardResult
from neuroport.engine.threads import ThreadEngine
from neuroport.errors import DoesNotFitError, EngineError, UsageError
from neuroport.normalize.files import read_normalized
from neuroport.validation.core_batch import run_core_batch
from neuroport.validation.outputs import Reading, TestSet
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions
from tests.benchmarks.scaling import Asleep
from tests.processes import is_alive, wait_until

DIGITS = data_dir("digits") / "digits.npz"
N_STEPS = 16
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "bundle"
    deploy(DeployOptions(target="cpu", samples=1, steps=N_STEPS, eval_samples=20, out=out))
    return read_network(out / "network.h5"), read_normalized(out / "float.h5")


@pytest.fixture(scope="module")
def samples() -> DataSamples:
    dataset = load_npz(DIGITS)
    return DataSamples(dataset, dataset.choose("test", 200, 0), (1, 8, 8), [(1, 8, 8)], N_STEPS)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "_MOST", 4)  # fifty shards


@pytest.fixture(scope="module")
def two() -> Iterator[object]:
    with open_engine("local", workers=2) as engine:
        yield engine


def here(networks, samples) -> Evaluation:
    network, normalized = networks
    return evaluate_samples(network, normalized, samples, N_STEPS)


def same(a: Evaluation, b: Evaluation) -> bool:
    return np.array_equal(a.classes, b.classes) and (a.n, a.n_right, a.over_time) == (b.n, b.n_right, b.over_time)


def test_threads_and_processes_agree(networks, samples, two):
    network, normalized = networks
    expected = here(networks, samples)
    assert expected.is_complete
    assert expected.n_right > 150
    told = []
    found = evaluate_samples(
        network, normalized, samples, N_STEPS, scheduler=two, on_progress=lambda done, total: told.append((done, total))
    )
    assert same(found, expected)
    assert told[-1] == (200, 200)
    assert sum(n for _, n in found.workers) == 50
    assert "dashboard: http://127.0.0.1:" in two.summary
    held = HeldSamples(samples.shown(samples.raw(slice(None))))
    assert same(evaluate_samples(network, normalized, held, N_STEPS, scheduler=two), expected)


def test_all_that_the_core_gave_comes_along_and_is_the_same(networks, samples, two, monkeypatch):
    network, normalized = networks
    many, apart = (
        evaluate_samples(network, normalized, samples, N_STEPS, scheduler=engine, keeps_batches=True).batches.whole()
        for engine in (ThreadEngine(2), two)
    )
    monkeypatch.setattr(shards, "_MOST", 256)  # one shard, of which each of four threads takes a part
    tests = samples.shown(samples.raw(slice(None)))
    one = run_core_batch(Reading(normalized, N_STEPS), network, tests, first_sample=0)
    shared = evaluate_samples(network, normalized, samples, N_STEPS, scheduler=ThreadEngine(4), keeps_batches=True)
    for found in (many, apart, shared.batches.whole()):
        np.testing.assert_array_equal(found.answer.scores, one.answer.scores)
        for output, expected in zip(found.answer.outputs, one.answer.outputs, strict=True):
            np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(found.n_right_over_time, one.n_right_over_time)
        assert found.totals.keys() == one.totals.keys()
        for name, spikes in one.totals.items():
            np.testing.assert_array_equal(found.totals[name], spikes)
        assert dict(found.overflows) == dict(one.overflows)
        assert dict(found.floored) == dict(one.floored)


def test_a_killed_worker_changes_nothing(networks, samples, two):
    network, normalized = networks
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done >= 20 and not killed:
            killed.append(two_workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    found = evaluate_samples(network, normalized, samples, N_STEPS, scheduler=two, on_progress=kill)
    assert killed
    assert same(found, here(networks, samples))


def dies_once(paths):
    """A worker that is killed while it is asked what it sees."""
    kill_once(Path(paths[0]))
    return probe(paths)


def kill_once(flag: Path) -> None:
    with contextlib.suppress(FileExistsError):
        flag.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_killed_while_it_is_asked_changes_nothing(two, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "probe", dies_once)
    found = list(two.outcomes(Asleep(0.01, paths=(tmp_path / "flag",)), [slice(k, k + 1) for k in range(9)]))
    assert (tmp_path / "flag").exists()
    assert [outcome.reason for outcome in found] == [""] * 9


class Fatal(str):
    """A part of a result whose worker is killed when it is fetched."""

    def __reduce__(self):
        kill_once(Path(self))
        return str, ("fetched",)


class Fetched(Asleep):
    def run(self, shard):
        time.sleep(self.seconds)
        return ShardResult(np.zeros(1, np.int64), 0, np.zeros(1, np.int64), Fatal(self.parcel[0]))


def test_a_worker_killed_with_its_results_changes_nothing(two, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)  # to do it again takes longer
    (found,) = two.outcomes(Fetched(1.0, parcel=(tmp_path / "flag",)), [slice(0, 1)])
    assert (tmp_path / "flag").exists()
    assert found.reason == ""
    assert found.result.worker == "fetched"


def two_workers() -> list[psutil.Process]:
    return spawned(os.getpid())


def spawned(pid: int) -> list[psutil.Process]:
    """Workers among what a process has started; those that end meanwhile are none."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
    return found


def test_a_poisoned_shard_is_named_and_the_rest_is_right(networks, samples, two):
    network, normalized = networks
    images = samples.dataset.test.images[0][:].astype(np.float32) / 16
    clean = replace(samples, dataset=replace(samples.dataset, test=Samples((images,), samples.dataset.test.labels)))
    expected = here(networks, clean)
    poisoned = images.copy()
    poisoned[samples.index[9]] = np.nan
    bad = replace(clean, dataset=replace(clean.dataset, test=Samples((poisoned,), clean.dataset.test.labels)))
    for engine in (two, "none"):
        found = evaluate_samples(network, normalized, bad, N_STEPS, scheduler=engine)
        assert [shard.numbers for shard in found.failed] == [tuple(samples.index[8:12].tolist())]
        assert "DataError" in found.failed[0].reason
        assert "hold NaN or infinite values" in found.failed[0].reason
        assert (found.classes[8:12] == -1).all()
        kept = np.r_[0:8, 12:200]
        assert np.array_equal(found.classes[kept], expected.classes[kept])
        assert found.n == 196
        with pytest.raises(
            EngineError, match=rf"4 of 200 samples could not be evaluated, numbers .*{found.failed[0].numbers[0]} to"
        ):
            found.complete()


def test_nothing_but_poison_is_an_error(networks, samples):
    network, normalized = networks
    images = np.full(samples.dataset.test.images[0].shape, np.nan, np.float32)
    bad = replace(samples, dataset=replace(samples.dataset, test=Samples((images,), samples.dataset.test.labels)))
    with pytest.raises(EngineError, match="none of 50 shards could be evaluated; the first: DataError"):
        evaluate_samples(network, normalized, bad, N_STEPS)


@pytest.mark.parametrize("n_held", [0, 4])
def test_samples_that_the_network_cannot_hold_are_no_fault_of_the_engine(networks, n_held):
    network, normalized = networks
    tests = TestSet(np.full((8, 1, 8, 8), 1e9, np.float32), np.zeros(8, np.int64))
    tests.images[:n_held] = 0
    with pytest.raises(DoesNotFitError, match=f"^layer 'conv1': sample {n_held} needs an input current"):
        evaluate_samples(network, normalized, tests, N_STEPS).complete()


@pytest.fixture
def outside(tmp_path) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a scheduler with one worker, started as users start them."""
    file, env = tmp_path / "scheduler.json", {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    common = [sys.executable, "-m", "distributed.cli.dask_"]
    started = []
    for program, *options in (
        ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
        (
            "worker",
            "--scheduler-file",
            str(file),
            "--nthreads",
            "1",
            "--no-dashboard",
            "--death-timeout",
            "60",
            "--local-directory",
            str(tmp_path / "workers"),
        ),
    ):
        command = [*common[:2], common[2] + program, *options]
        with (tmp_path / f"{program}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd="/", env=env, stdout=log, stderr=log))
        wait_until(lambda: file.is_file() and file.stat().st_size > 0)
    try:
        yield json.loads(file.read_text())["address"], psutil.Process(started[0].pid)
    finally:
        for process in started:
            family = [*psutil.Process(process.pid).children(recursive=True)] if is_alive(process.pid) else []
            process.kill()
            process.wait(10)
            for child in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def test_workers_that_see_no_file_of_ours_are_sent_them(networks, samples, outside, tmp_path, monkeypatch):
    network, normalized = networks
    (tmp_path / "ours").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_engine(outside[0], shared=Path("/proc/self/cwd/ours")) as engine:  # another folder to each process
        found = evaluate_samples(network, normalized, samples, N_STEPS, scheduler=engine)
    assert same(found, here(networks, samples))
    with open_engine(outside[0]) as engine:  # they see a temporary folder
        assert same(evaluate_samples(network, normalized, samples, N_STEPS, scheduler=engine), found)
    with open_engine(outside[0], shared=Path("ours")) as engine:
        assert engine.shared == tmp_path / "ours"  # the same folder to each process
    with open_engine(outside[0], shared=Path("/proc/self/cwd/ours")) as engine:
        monkeypatch.setattr(ClusterEngine, "_see", lambda *_: True)  # a worker that comes later is not asked
        assert same(evaluate_samples(network, normalized, samples, N_STEPS, scheduler=engine), found)
    assert list((tmp_path / "ours").iterdir()) == []
    wait_until(lambda: not list((tmp_path / "workers").rglob("neuroport-*")))


def test_a_scheduler_that_hangs_is_not_waited_for(outside, monkeypatch):
    address, scheduler = outside
    done = []
    with (
        pytest.raises(EngineError, match=r"has not answered for 1 s; is it overloaded\?"),
        open_engine(address) as engine,
    ):
        for outcome in engine.outcomes(Asleep(0.1), [slice(k, k + 1) for k in range(50)]):
            done.append(outcome)
            if len(done) == 2:
                scheduler.suspend()
                monkeypatch.setattr(cluster, "_WORKERS_S", 1.0)
                monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    assert 2 <= len(done) < 50
    with pytest.raises(EngineError, match="no scheduler answers at"), open_engine(address):
        pass


def test_a_scheduler_that_is_gone_leaves_what_was_done(networks, samples, outside):
    address, scheduler = outside
    network, normalized = networks

    def kill(done: int, total: int) -> None:
        if done == 20:
            scheduler.kill()

    began = time.monotonic()
    with open_engine(address) as engine, pytest.raises(EngineError, match="is gone: the connection was lost") as error:
        evaluate_samples(network, normalized, samples, N_STEPS, scheduler=engine, on_progress=kill)
    assert time.monotonic() - began < 60
    partial = error.value.partial
    assert isinstance(partial, Evaluation)
    assert 20 <= partial.n < 200
    done = partial.classes >= 0
    assert done.sum() == partial.n
    assert np.array_equal(partial.classes[done], here(networks, samples).classes[done])


def test_wrong_schedulers():
    for scheduler, workers, message in (
        ("cluster", None, "--scheduler 'cluster' is not known; give none, local, or an address"),
        ("local", 0, "--workers must be at least 1, got 0"),
        ("tcp://127.0.0.1:1", 2, "has its own workers; leave it out"),
    ):
        with pytest.raises(UsageError, match=message), open_engine(scheduler, workers=workers):
            pass
    for scheduler in ("none", "local"):
        with pytest.raises(UsageError, match="is for the workers"), open_engine(scheduler, shared=Path()):
            pass
    with pytest.raises(UsageError, match="is no folder"), open_engine("tcp://127.0.0.1:1", shared=Path("/nowhere")):
        pass


def test_an_address_that_dask_does_not_speak(monkeypatch):
    monkeypatch.setattr(cluster, "Client", None)  # none is made
    with pytest.raises(EngineError, match="unknown address scheme 'http'"), open_engine("http://localhost:8786"):
        pass


def test_no_scheduler_at_an_address(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 2.0)
    with (
        pytest.raises(EngineError, match="no scheduler answers at"),
        open_engine("tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize("is_started", [False, True])
def test_an_interrupt_leaves_no_process(tmp_path, is_started):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    code = "import sys; from neuroport.cli import main; main()"
    arguments = ["evaluate", "--target", "cpu", "--steps", "20000", "--scheduler", "local", "--workers", "1"]
    log = tmp_path / "log"
    with log.open("wb") as f:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stderr=f, stdout=f, start_new_session=True
        )
    try:
        wait_until(lambda: bool(spawned(process.pid)) or process.poll() is not None)
        if is_started:
            wait_until(lambda: b"20000 steps each" in log.read_bytes() or process.poll() is not None)
        family = psutil.Process(process.pid).children(recursive=True)
        assert spawned(process.pid), log.read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(45) == 130, log.read_text()
        wait_until(lambda: not any(is_alive(p.pid) for p in family))
        assert "interrupted" in log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
