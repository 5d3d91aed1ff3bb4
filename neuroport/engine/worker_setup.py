"""What Dask has each of our own processes do first: Ctrl-C is for the command, which ends them in order."""

from __future__ import annotations

import signal

from distributed import Worker

import neuroport.engine.parcel  # noqa: F401 - takes seconds, which the first shard then does not


def dask_setup(worker: Worker) -> None:
    """Ignore a terminal's interrupt, which goes to all processes of a command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
