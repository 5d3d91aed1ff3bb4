"""The engine that --scheduler names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuroport.engine.shards import Engine
from neuroport.engine.threads import ThreadEngine
from neuroport.errors import EngineError, UsageError


@contextmanager
def open_engine(scheduler: str = "none", *, workers: int | None = None, shared: Path | None = None) -> Iterator[Engine]:
    """An engine, closed at the end with everything it started.

    scheduler: 'none', 'local', or the address of a Dask scheduler. workers: processes of 'local', threads of 'none';
    by processors and memory if None. shared: a folder that the workers of an address see.

    Raises:
        UsageError: no such scheduler, or workers for one that has its own. EngineError: it does not answer.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if shared is not None and scheduler in ("none", "local"):
        raise UsageError(f"--shared '{shared}' is for the workers of a scheduler; give its address by --scheduler")
    if scheduler == "none":
        yield ThreadEngine(workers)
        return
    if scheduler != "local" and "://" not in scheduler:
        raise UsageError(
            f"--scheduler '{scheduler}' is not known; give none, local, or an address such as tcp://host:8786"
        )
    try:
        from neuroport.engine.cluster import connected
        from neuroport.engine.processes import local_processes
    except ImportError as error:
        raise EngineError(
            f"--scheduler {scheduler} needs Dask ({error}); install neuroport[cluster], or use --scheduler none"
        ) from error
    if scheduler == "local":
        with local_processes(workers) as engine:
            yield engine
        return
    if workers is not None:
        raise UsageError(f"--workers {workers}: the scheduler at {scheduler} has its own workers; leave it out")
    if shared is not None and not shared.is_dir():
        raise UsageError(f"--shared '{shared}' is no folder; give one that this machine and the workers see")
    with connected(scheduler, shared=shared) as engine:
        yield engine
