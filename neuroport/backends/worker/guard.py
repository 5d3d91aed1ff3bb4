"""Keeps a worker honest: heartbeats, an end when the parent is gone, a report when a Lava process dies or raises.

Shared by the workers of all toolchains, each of which puts this folder on its path.

Lava itself waits forever when one of its processes raises while another waits for its message
(lava-nc 0.10.0, lava/magma/core/model/py/model.py l.228-232), so a thread looks at the processes instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

_PERIOD_S = 0.2
_PR_SET_PDEATHSIG = 1  # Linux, include/uapi/linux/prctl.h


class Guard:
    """A thread of the worker's main process."""

    def __init__(self, work_dir: Path, token: str, parent: int) -> None:
        self.work_dir, self.token, self.parent = work_dir, token, parent
        self.actors: dict[str, Any] = {}
        self.lock = threading.Lock()

    def start(self) -> None:
        """Begin to look.

        Processes forked from now on end with this one, on Linux even where nobody is left to end them.
        """
        worker, prctl = os.getpid(), getattr(ctypes.CDLL(None), "prctl", None)

        def end_with_worker() -> None:
            if prctl is not None:
                prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != worker:  # it died before
                os._exit(1)

        os.register_at_fork(after_in_child=end_with_worker)
        threading.Thread(target=self._look, daemon=True).start()

    def watch(self, actors: Mapping[str, Any]) -> None:
        """Look at these Lava processes from now on: {name: process}."""
        with self.lock:
            self.actors = dict(actors)

    def release(self) -> None:
        """The run is over: processes may end."""
        with self.lock:
            self.actors = {}

    def beat(self, state: str, n_samples: int) -> None:
        """Say that the worker lives, and how far it is."""
        _write(self.work_dir / "heartbeat.json", {"pid": os.getpid(), "state": state, "samples": n_samples})

    def _look(self) -> None:
        while True:
            time.sleep(_PERIOD_S)
            if os.getppid() != self.parent:
                self._end()
            with self.lock:
                found = next((self._failure(n, a) for n, a in self.actors.items() if self._has_failed(a)), None)
            if found is not None:
                self.report(self.work_dir, *found)
                self._end()

    @staticmethod
    def _has_failed(actor: Any) -> bool:
        with contextlib.suppress(ValueError):  # closed: ended in good order
            return actor.exitcode is not None or actor.exception is not None
        return False

    @staticmethod
    def _failure(name: str, actor: Any) -> tuple[str, str, str]:
        time.sleep(_PERIOD_S)  # the exception may still be on its way through the pipe
        with contextlib.suppress(Exception):
            if actor.exception is not None:
                error, text = actor.exception
                return name, f"{type(error).__name__}: {error}", text
        return name, f"its process ended with exit status {actor.exitcode}", ""

    @staticmethod
    def report(work_dir: Path, where: str, reason: str, text: str) -> None:
        """Write error.json; the first report stands."""
        path = work_dir / "error.json"
        if not path.exists():
            _write(path, {"where": where, "reason": reason, "traceback": text})

    def clean_up(self) -> None:
        """End what the run has started and free its memory, in case nobody is left to do it."""
        self.release()
        for child in multiprocessing.active_children():
            child.kill()
        self._free_memory()

    def _free_memory(self) -> None:
        for path in Path("/dev/shm").glob(f"{self.token}_*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _end(self) -> None:
        """End the whole process group and leave no shared memory."""
        self._free_memory()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def run_and_leave(main: Callable[[Path], None], work_dir: Path) -> NoReturn:
    """Run a worker and end its process: status 0, or 1 and error.json says why. No exit handler of a simulator's runs.

    Exit handlers can hang (Lava's do), and every file is written by then.
    """
    status = 0
    try:
        main(work_dir)
    except BaseException as error:  # noqa: BLE001 - whatever it was, it is reported and ends the process
        status = 1
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        sys.stderr.write(text)
        Guard.report(work_dir, "worker", f"{type(error).__name__}: {error}", text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):  # the directory is gone when the run was cancelled
        draft.write_text(json.dumps(content))
        draft.replace(path)
