"""One run shared among several workers: each takes some of the samples, the first failure ends all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from neuroport.backends.base import Job
from neuroport.backends.supervise import WorkerCancelledError
from neuroport.chip.trace import Trace, join_traces

_PROCESSORS_PER_WORKER = 2  # a simulator's own processes keep more than one busy
_LEAST_SAMPLES = 4  # per worker: a start takes as long as some samples

RunPart = Callable[[Job, Callable[[], bool]], Trace]


def default_workers() -> int:
    """Workers that this machine has processors for."""
    return max(1, len(os.sched_getaffinity(0)) // _PROCESSORS_PER_WORKER)


def n_parts(job: Job, n_workers: int) -> int:
    """Workers that share the samples of a job: none for fewer than a start is worth."""
    return max(1, min(n_workers, job.inputs.n_samples // _LEAST_SAMPLES))


def run_in_parts(job: Job, run_part: RunPart, n_workers: int) -> Trace:
    """Run shares of the samples side by side, each in a directory of its own, and join what they return.

    run_part runs one share; it is to stop soon once the function it is given says so.

    Raises:
        what run_part raises: the first failure, once all workers have ended.
    """
    n_samples, n = job.inputs.n_samples, n_parts(job, n_workers)
    if n == 1:
        return run_part(job, lambda: False)
    done, lock, stop = [0] * n, threading.Lock(), threading.Event()

    def part_of(k: int) -> Job:
        def on_progress(n_done: int) -> None:
            with lock:
                done[k] = n_done
                job.on_progress(sum(done))

        work_dir = job.work_dir / f"part{k}"
        work_dir.mkdir()
        share = slice(k * n_samples // n, (k + 1) * n_samples // n)
        return replace(job, inputs=job.inputs.part(share), work_dir=work_dir, on_progress=on_progress)

    parts = [part_of(k) for k in range(n)]
    with ThreadPoolExecutor(n) as executor:
        runs = [executor.submit(run_part, part, stop.is_set) for part in parts]
        try:
            wait(runs, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # those that are done do not look any more
    return join_traces([_result(run, part, job) for run, part in _failed_first(runs, parts)])


def _failed_first(runs: list[Future[Trace]], parts: list[Job]) -> list[tuple[Future[Trace], Job]]:
    """In order; but a worker that failed before those that were ended because of it."""
    pairs = list(zip(runs, parts, strict=True))
    if all(run.exception() is None for run in runs):
        return pairs
    return sorted(
        pairs, key=lambda pair: pair[0].exception() is None or isinstance(pair[0].exception(), WorkerCancelledError)
    )


def _result(run: Future[Trace], part: Job, job: Job) -> Trace:
    if run.exception() is not None:  # the log of the one that failed is the run's
        with contextlib.suppress(OSError):
            shutil.copyfile(part.work_dir / "worker.log", job.work_dir / "worker.log")
    return run.result()
