"""Workers as child processes with deadlines, runs in turn, and ratios of neighbouring runs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.errors import WorkerDeadlineError, WorkerDiedError

START_S = 240.0
RUN_S = 120.0


@dataclass(frozen=True)
class Command:
    """What starts a path's worker. threads: 1 is timed by CPU, more and other processes by the wall."""

    path: str
    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    threads: int = 1


class Worker:
    """One path on one network in a process of its own."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self.process = subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=command.folder,
            env=dict(command.environment),
            text=True,
            start_new_session=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")  # the end

    def answer(self, deadline_s: float) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerDeadlineError: none in time. WorkerDiedError: none will come; with the worker's last words.
        """
        try:
            line = self.lines.get(timeout=deadline_s)
        except queue.Empty:
            raise WorkerDeadlineError(
                f"{self.command.path}: no answer after {deadline_s:.0f} s{self._said()}"
            ) from None
        try:
            found: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            raise WorkerDiedError(
                f"{self.command.path}: its worker ended with exit status {self.process.poll()}{self._said()}"
            ) from None
        return found

    def run(self) -> dict[str, Any]:
        """Time one run."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        return self.answer(RUN_S)

    def stop(self) -> None:
        """End the worker and whatever it has started."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.stdout.close()
        self.errors.close()

    def _said(self) -> str:
        self.errors.seek(0)
        text = self.errors.read().decode("utf-8", "replace").strip()
        return f"; it said:\n{text[-2000:]}" if text else ""


def ask_once(command: Command) -> dict[str, Any]:
    """The one answer of a worker that is not timed."""
    worker = Worker(command)
    try:
        return worker.answer(START_S)
    finally:
        worker.stop()


@dataclass
class Track:
    """The runs of one path: n_samples * n_steps each."""

    path: str
    threads: int
    n_samples: int
    n_steps: int
    note: str
    runs: list[dict[str, Any]] = field(default_factory=list)

    def rate(self, k: int, timed: str) -> float | None:
        """Samples times steps per second of run k, by `cpu_s` or `wall_s`."""
        seconds = self.runs[k][timed]
        return self.n_samples * self.n_steps / seconds if seconds else None

    @property
    def timed(self) -> str:
        """CPU time for one thread (a machine may be shared), wall time otherwise."""
        return "cpu_s" if self.threads == 1 and all(run["cpu_s"] for run in self.runs) else "wall_s"

    @property
    def rates(self) -> list[float]:
        """One for each run."""
        return [r for k in range(len(self.runs)) if (r := self.rate(k, self.timed)) is not None]


def ratio(a: Track, b: Track | None) -> dict[str, float] | None:
    """How many times faster a is than b, run by run: {min, median, max}; by CPU time where both are timed by it."""
    if b is None:
        return None
    timed = "cpu_s" if a.timed == b.timed == "cpu_s" else "wall_s"
    pairs = [(a.rate(k, timed), b.rate(k, timed)) for k in range(min(len(a.runs), len(b.runs)))]
    ratios = [x / y for x, y in pairs if x and y]
    return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)} if ratios else None


def measure(
    commands: Sequence[Command],
    check: Callable[[str, Mapping[str, list[int]], int, int], None],
    rounds: int,
    say: Callable[[str], None],
) -> tuple[list[Track], dict[str, str]]:
    """Tracks of the paths that can run, in turn A B C A B C ..., and why the others cannot.

    check: told path, spike totals, samples and steps before anything is timed; it raises where they are wrong.
    """
    workers: list[Worker] = []
    tracks: list[Track] = []
    left_out: dict[str, str] = {}
    try:
        for command in commands:
            start = time.monotonic()
            worker = Worker(command)
            workers.append(worker)
            ready = worker.answer(START_S)
            if "unsupported" in ready:
                left_out[command.path] = ready["unsupported"]
                worker.stop()
                workers.remove(worker)
                say(f"  {command.path}: left out, {ready['unsupported']}")
                continue
            check(command.path, ready["totals"], ready["n_samples"], ready["n_steps"])
            tracks.append(Track(command.path, command.threads, ready["n_samples"], ready["n_steps"], ready["note"]))
            say(f"  {command.path}: ready after {time.monotonic() - start:.0f} s {ready['note']}")
        for k in range(rounds):
            for worker, track in zip(workers, tracks, strict=True):
                track.runs.append(worker.run())
            say(f"  round {k + 1} of {rounds}")
    finally:
        for worker in workers:
            worker.stop()
    return tracks, left_out
