"""What a Dask worker does: it says what it sees, takes parcels, and runs tasks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from neuroport.engine.shards import ShardResult
from neuroport.engine.work import Stored
from neuroport.errors import EngineError
from neuroport.version import __version__


@dataclass(frozen=True)
class Answered:
    """A worker's neuroport, and whether it sees all files that it was asked about."""

    version: str
    sees_all: bool


def probe(paths: Sequence[str]) -> Answered:
    """What a worker says of itself."""
    return Answered(__version__, all(Path(path).exists() for path in paths))


class Parcel(WorkerPlugin):  # type: ignore[misc]
    """Files for workers that do not see ours; the scheduler hands it to those that start later, too."""

    idempotent = True

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self.name, self.files = name, dict(files)

    def setup(self, worker: Worker) -> None:
        """Write the files where this worker keeps its own."""
        folder = Path(worker.local_directory) / self.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def teardown(self, worker: Worker) -> None:
        """Take them away again: a search sends many."""
        shutil.rmtree(Path(worker.local_directory) / self.name, ignore_errors=True)


class NotSeenError(EngineError):
    """A worker does not see the files of a task that came without samples."""


def run_task(work: Stored, shard: slice, raw: Any) -> ShardResult:
    """A shard's result. raw: its samples, where they come with the task."""
    torch.set_num_threads(1)  # threads of the worker share the processors already
    if raw is None:
        if unseen := [path for path in work.paths if not path.exists()]:
            raise NotSeenError(f"this worker does not see '{unseen[0]}'")
        return work.run(shard)
    folder = Path(get_worker().local_directory) / work.folder.name
    return work.moved(folder).run_raw(shard, raw)
