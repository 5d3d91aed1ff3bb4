"""A run shared among workers: every sample once and in order, the first failure ends all and is the one reported."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from neuroport.backends import parts
from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.parts import default_workers, run_in_parts
from neuroport.backends.supervise import WorkerCancelledError
from neuroport.chip.core import run_core
from neuroport.chip.oracle import run_oracle
from neuroport.errors import WorkerError
from tests.backends.lava_networks import TARGET, driven_net


def job_of(tmp_path, n_samples=11, **fields):
    network, inputs = driven_net(5, n_samples=n_samples)
    return Job(TARGET, network, inputs, tmp_path, **fields)


@pytest.mark.parametrize(("n_workers", "sizes"), [(1, [11]), (2, [5, 6]), (9, [5, 6])])
def test_samples_are_shared_and_come_back_in_order(tmp_path, n_workers, sizes):
    """No worker for less than four samples: a start takes as long as some."""
    told, seen = [], {}
    job = job_of(tmp_path, on_progress=told.append)

    def run_part(part, is_cancelled):
        seen[part.work_dir.name] = part.inputs.n_samples
        for k in range(part.inputs.n_samples):
            part.on_progress(k + 1)
        assert not is_cancelled()
        return run_oracle(part.network, part.inputs)

    trace = run_in_parts(job, run_part, n_workers)
    assert [seen[name] for name in sorted(seen)] == sizes
    assert (max(told), told[-1]) == (11, 11)
    assert told == sorted(told)
    for name, spikes in run_oracle(job.network, job.inputs).spikes.items():
        np.testing.assert_array_equal(trace.spikes[name], spikes)


def test_the_first_failure_ends_all_and_its_log_is_the_runs(tmp_path):
    ended = []

    def run_part(part, is_cancelled):
        (part.work_dir / "worker.log").write_text(part.work_dir.name)
        if part.work_dir.name == "part1":
            raise WorkerError("part1 has failed")
        end = time.monotonic() + 20
        while not is_cancelled() and time.monotonic() < end:
            time.sleep(0.01)
        ended.append(part.work_dir.name)
        raise WorkerCancelledError("ended")

    began = time.monotonic()
    with pytest.raises(WorkerError, match="part1 has failed"):
        run_in_parts(job_of(tmp_path), run_part, 2)
    assert time.monotonic() - began < 10
    assert ended == ["part0"]
    assert (tmp_path / "worker.log").read_text() == "part1"


def test_an_interrupt_ends_all_workers(tmp_path, monkeypatch):
    """What Ctrl-C does in the main thread while it waits."""
    running = threading.Barrier(3, timeout=20)
    ended = []

    def run_part(part, is_cancelled):
        running.wait()
        while not is_cancelled():
            time.sleep(0.01)
        ended.append(part.work_dir.name)
        raise WorkerCancelledError("ended")

    def interrupted(runs, return_when):
        running.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(job_of(tmp_path), run_part, 2)
    assert sorted(ended) == ["part0", "part1"]


@pytest.mark.parametrize(("processors", "expected"), [(1, 1), (2, 1), (8, 4)])
def test_workers_by_processors(monkeypatch, processors, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)))
    assert default_workers() == expected


@pytest.mark.lava
def test_two_lava_workers_give_the_cores_spikes(lava, tmp_path):
    told = []
    job = job_of(tmp_path, n_samples=8, n_workers=2, on_progress=told.append)
    trace, core = LavaBackend().run(job), run_core(job.network, job.inputs, record="spikes").trace
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part0", "part1"]
    assert told[-1] == 8
    for name, spikes in core.spikes.items():
        np.testing.assert_array_equal(trace.spikes[name], spikes, err_msg=name)
    for name, v in trace.potentials.items():
        np.testing.assert_array_equal(v, core.potentials[name], err_msg=name)
