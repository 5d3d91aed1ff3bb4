"""Progress of a command on the terminal while it runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from neuroport.terminal.console import PipedConsole

_QUIET_S = 10.0  # between two lines of progress


class _Speed(ProgressColumn):
    """Samples a second, once there are some."""

    def render(self, task: Task) -> Text:
        """The cell."""
        return Text(f"{task.speed:.3g} a second" if task.speed and task.total else "")


class TerminalProgress:
    """Stages and sample counts on standard error: a live line on a terminal, plain lines anywhere else."""

    def __init__(self) -> None:
        self.console = PipedConsole(stderr=True)
        self.live = self.console.is_terminal
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), _Speed())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, *times, console=self.console, transient=True)
        self.task = self.bar.add_task("starting", total=None)
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Self:
        """Start the live line."""
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live line away."""
        if self.live:
            self.bar.stop()

    def stage(self, text: str) -> None:
        """A new stage begins."""
        if self.live:
            self.bar.remove_task(self.task)
            self.task = self.bar.add_task(text, total=None)
        else:
            self.console.say(text)
        self.began = self.said = time.monotonic()

    def samples(self, n_done: int, n_total: int) -> None:
        """Samples finished on the backend; where nothing moves on the screen, a line now and then."""
        if self.live:
            self.bar.update(self.task, completed=n_done, total=n_total)
            return
        now = time.monotonic()
        if n_done and n_done < n_total and now - self.said >= _QUIET_S:
            self.said = now
            speed = n_done / (now - self.began)
            text = f"  {n_done:,} of {n_total:,} samples, {speed:.3g} a second, {(n_total - n_done) / speed:.0f} s left"
            self.console.say(text)
