"""The engine that --scheduler names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from neuroport.engine.shards import Engine
from neuroport.engine.threads import ThreadEngine
from neuroport.errors import UsageError


@contextmanager
def open_engine(scheduler: str = "none", *, workers: int | None = None) -> Iterator[Engine]:
    """An engine, closed at the end with everything it started.

    scheduler: 'none', 'local', or the address of a Dask scheduler. workers: processes of 'local', threads of 'none';
    by processors and memory if None.

    Raises:
        UsageError: no such scheduler, or workers for one that has its own. EngineError: it does not answer.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if scheduler == "none":
        yield ThreadEngine(workers)
        return
    raise UsageError(f"--scheduler '{scheduler}' is not known; give none, local, or an address such as tcp://host:8786")
