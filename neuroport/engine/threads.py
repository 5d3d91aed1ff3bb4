"""Shards in this process: one thread for each processor, without Dask."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from neuroport.engine.shards import Outcome, ShardResult
from neuroport.engine.work import ShardWork
from neuroport.errors import ConversionError


class ThreadEngine:
    """Threads share the shards; a backend's, which starts processes of its own, run one after another."""

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads or len(os.sched_getaffinity(0))

    @property
    def summary(self) -> str:
        """Where the work is done."""
        return f"this process, {self.n_threads} threads"

    def outcomes(self, work: ShardWork, shards: Sequence[slice]) -> Generator[Outcome, None, None]:
        """Each shard's outcome as it ends; where there are fewer shards than threads, the core shares each of them."""
        if work.networks.backend is not None:  # here, where an interrupt reaches it: a simulator's shard takes long
            for shard in shards:
                yield _outcome_of(work, shard)
            return
        executor = ThreadPoolExecutor(self.n_threads)
        n_each = max(1, self.n_threads // max(1, len(shards)))
        try:
            open_ = {executor.submit(work.run, shard, n_each): shard for shard in shards}
            while open_:
                done, _ = wait(open_, return_when=FIRST_COMPLETED)
                for future in done:
                    yield _outcome(open_.pop(future), future)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _outcome_of(work: ShardWork, shard: slice) -> Outcome:
    try:
        return Outcome(shard, work.run(shard))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other shards go on
        return failed(shard, error)


def _outcome(shard: slice, future: Future[ShardResult]) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(shard, future.result())
    if not isinstance(error, Exception):  # an interrupt is nobody's fault
        raise error
    return failed(shard, error)


def failed(shard: slice, error: BaseException) -> Outcome:
    """The outcome of a shard that raised."""
    return Outcome(shard, None, reason_of(error), isinstance(error, ConversionError))


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
