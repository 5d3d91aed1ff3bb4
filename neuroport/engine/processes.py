"""Processes of this machine: Dask's own local cluster, sized to processors and memory."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

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
    made = tempfile.TemporaryDirectory(prefix="neuroport-", ignore_cleanup_errors=True)  # with what killed ones leave
    with made as folder, dask.config.set(SETTINGS), quiet():
        interrupts, cluster, client = _Interrupts(), None, None
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
            interrupts.release()
            client = Client(cluster, timeout=CONNECT_S, set_as_default=False)
            yield ClusterEngine(client, f"{n} processes of this machine")
        except (OSError, RuntimeError, TimeoutError) as error:
            if client is not None:
                raise
            interrupts.release()  # Ctrl-C may be why
            raise EngineError(f"{n} worker processes cannot be started: {error}; give fewer by --workers") from error
        finally:
            interrupts.restore()
            interrupts = _Interrupts()  # a second Ctrl-C would leave processes behind
            workers = _children() - before
            theirs = {child for worker in workers for child in _family(worker)}
            with suppress(Exception):  # nothing of it may outlive this block, whatever it says
                if client is not None:
                    client.close(timeout=_END_S)
                if cluster is not None:
                    cluster.close(timeout=_END_S)
            _end(_children() - before)
            _end(theirs)  # simulators notice within a second that they are alone, and take their memory along
            interrupts.release()


class _Interrupts:
    """Ctrl-C held back until it is released: Dask, cut while it starts or ends processes, says so at length.

    Signals are blocked as well, which threads and processes started meanwhile inherit: a terminal's Ctrl-C goes to all.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None
        resource_tracker.ensure_running()  # which, where it is not, unblocks signals for good when it starts
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hold)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._came = True

    def restore(self) -> None:
        """Let later ones through."""
        if self._before is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def release(self) -> None:
        """Let them through, and raise what came."""
        self.restore()
        if self._came:
            raise KeyboardInterrupt


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
