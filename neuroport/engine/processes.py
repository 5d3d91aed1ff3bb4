"""Processes of this machine: Dask's own local cluster, sized to processors and memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dask
import psutil
from distributed import Client, LocalCluster

from neuroport.engine.cluster import CONNECT_S, SETTINGS, ClusterEngine, quiet
from neuroport.errors import EngineError

_PER_WORKER = 3 << 29  # bytes: torch, compiled code, and a network with its shard
_START_S, _END_S = 120.0, 10.0


def default_processes() -> int:
    """As many as this machine has processors, if its free memory holds them."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // _PER_WORKER))


@contextmanager
def local_processes(n_workers: int | None = None) -> Iterator[ClusterEngine]:
    """An engine on processes of one thread each; all of them have ended when it is closed, however that comes about.

    Raises:
        EngineError: they do not start.
    """
    n = n_workers or default_processes()
    limit = psutil.virtual_memory().available // n
    before = _children()
    with dask.config.set(SETTINGS), quiet():
        try:
            cluster = LocalCluster(
                n_workers=n,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=limit,
                death_timeout=_START_S,
                preload=["neuroport.engine.worker_setup"],
                silence_logs=logging.CRITICAL + 1,
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            _end(_children() - before)
            raise EngineError(f"{n} worker processes cannot be started: {error}; give fewer by --workers") from error
        client = None
        try:
            client = Client(cluster, timeout=CONNECT_S, set_as_default=False)
            yield ClusterEngine(client, f"{n} processes of this machine")
        finally:
            with suppress(Exception):  # nothing of it may outlive this block, whatever it says
                if client is not None:
                    client.close(timeout=_END_S)
                cluster.close(timeout=_END_S)
            _end(_children() - before)


def _children() -> set[psutil.Process]:
    """Processes started by multiprocessing, without the tracker that all of them share."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()):
                found.add(process)
    return found


def _end(processes: set[psutil.Process]) -> None:
    """End what was started here and is still there."""
    alive = psutil.wait_procs(processes, timeout=1)[1]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_END_S)
