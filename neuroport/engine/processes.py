"""Processes of this machine: Dask's own local cluster, sized to processors and memory."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

import dask
import psutil
from distributed import Client, LocalCluster

from neuroport.engine.cluster import CONNECT_S, SETTINGS, ClusterEngine, quiet
from neuroport.errors import EngineError
from neuroport.interrupts import held_back

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
    made = tempfile.TemporaryDirectory(prefix="neuroport-", ignore_cleanup_errors=True)  # with what killed ones leave
    with made as folder, dask.config.set(SETTINGS), quiet():
        cluster, client = _started(n, limit, folder, before), None
        try:
            with _told(n):
                client = Client(cluster, timeout=CONNECT_S, set_as_default=False)
            yield ClusterEngine(client, f"{n} processes of this machine")
        finally:
            with held_back():  # a second Ctrl-C would leave processes behind
                _close(client, cluster, before)


@contextmanager
def _told(n: int) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EngineError(f"{n} worker processes cannot be started: {error}; give fewer by --workers") from error


def _started(n: int, limit: int, folder: str, before: set[psutil.Process]) -> LocalCluster:
    """The cluster, made by a thread that hears no SIGINT, and so neither do the processes that it starts.

    Ctrl-C reaches every process of a terminal; theirs would each print where they were.
    """
    made: Future[LocalCluster] = Future()

    def start() -> None:
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
                local_directory=folder,
                env={"TMPDIR": folder},
            )
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            made.set_exception(error)
        else:
            made.set_result(cluster)

    resource_tracker.ensure_running()  # where it starts, it makes its thread hear SIGINT again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=start, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        with _told(n):
            return made.result(_START_S)
    except BaseException:
        with held_back():
            with suppress(Exception):  # one that is half made cannot be closed
                _close(None, made.result(_END_S), before)
            _end(_children() - before)
        raise


def _close(client: Client | None, cluster: LocalCluster, before: set[psutil.Process]) -> None:
    """End everything that was started, whatever it says."""
    workers = _children() - before
    theirs = {child for worker in workers for child in _family(worker)}
    with suppress(Exception):
        if client is not None:
            client.close(timeout=_END_S)
        cluster.close(timeout=_END_S)
    _end(_children() - before)
    _end(theirs)  # simulators notice within a second that they are alone, and take their memory along


def _children() -> set[psutil.Process]:
    """Processes started by multiprocessing, without the tracker that all of them share."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()):
                found.add(process)
    return found


def _family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children(recursive=True))
    return []


def _end(processes: set[psutil.Process]) -> None:
    """End what was started here and is still there."""
    alive = psutil.wait_procs(processes, timeout=1)[1]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_END_S)
