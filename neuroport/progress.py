"""Who is told what a verb is doing while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is going on."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def samples(self, n_done: int, n_total: int) -> None:
        """Samples finished on the backend."""


class Silent:
    """Progress nobody looks at."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def samples(self, n_done: int, n_total: int) -> None:
        """Say nothing."""
