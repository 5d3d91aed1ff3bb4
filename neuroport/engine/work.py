"""What is done with a shard: its samples are shown to the network, and its answers compared with the labels."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from filelock import FileLock

from neuroport.backends.base import Job
from neuroport.backends.registry import get_backend
from neuroport.chip.core import run_core
from neuroport.chip.files import read_network, write_network
from neuroport.chip.inputs import EncodedInputs, encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target, load_target
from neuroport.engine.samples import SampleStore, StoredSamples
from neuroport.engine.shards import ShardResult
from neuroport.errors import ToolchainError
from neuroport.normalize.files import read_normalized, write_normalized
from neuroport.normalize.scales import Normalized
from neuroport.toolchains import cache_dir
from neuroport.validation.core_batch import run_core_batch
from neuroport.validation.outputs import Reading, TestSet, answer_of

_COMPILE_S = 600.0
_READY: dict[Path, Networks] = {}  # one entry: what the tasks of this process are about
_LOADING = threading.Lock()


class Storable(Protocol):
    """Work that can be done by other processes."""

    def stored(self, folder: Path) -> Stored:
        """The same work, of which only paths need to be sent; files go into the folder."""


class Stored(Protocol):
    """Work whose networks and samples lie in files. `samples`: where each shard comes from."""

    @property
    def folder(self) -> Path:
        """Where the networks' files lie."""

    @property
    def samples(self) -> SampleStore:
        """What the shards are of."""

    @property
    def paths(self) -> Sequence[Path]:
        """Files that who runs a shard by itself must see."""

    @property
    def parcel(self) -> Sequence[Path]:
        """Those that must be sent to who does not, but for the samples."""

    def moved(self, folder: Path) -> Stored:
        """The same work where the parcel was unpacked."""

    def run(self, shard: slice) -> ShardResult:
        """A shard, its samples read from the files."""

    def run_raw(self, shard: slice, raw: Any) -> ShardResult:
        """A shard whose samples are at hand."""


@dataclass(frozen=True, eq=False)
class Networks:
    """What samples are shown to. backend: its name, None for the core; target: its datasheet.

    keeps_batches: whether all that the core gave is wanted, beside the classes.
    """

    network: IntNetwork
    normalized: Normalized
    n_steps: int
    seed: int
    backend: str | None = None
    target: Target | None = None
    keeps_batches: bool = False

    def evaluate(self, tests: TestSet, first_sample: int, n_threads: int = 1) -> ShardResult:
        """The answers to some samples; threads: of the core."""
        began = time.monotonic()
        reading = Reading(self.normalized, self.n_steps, self.seed)
        batch = None
        if self.backend is None:
            found = run_core_batch(reading, self.network, tests, first_sample=first_sample, n_threads=n_threads)
            answer, over_time = found.answer, found.n_right_over_time
            batch = found if self.keeps_batches else None
        else:
            answer, over_time = self._on_backend(reading, tests, first_sample), np.zeros(0, np.int64)
        classes = answer.scores.argmax(1).astype(np.int64)
        n_right = int((classes == tests.labels).sum())
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return ShardResult(classes, n_right, over_time, worker, time.monotonic() - began, batch)

    def _on_backend(self, reading: Reading, tests: TestSet, first_sample: int) -> Any:
        shown = tests.samples(slice(None))
        inputs = encode_inputs(self.normalized.network, self.network, shown, self.n_steps, first_sample=first_sample)
        backend = get_backend(str(self.backend))
        sheet = self.target or load_target(self.network.target)
        with tempfile.TemporaryDirectory(prefix="neuroport-") as folder:
            job = Job(sheet, self.network, inputs, Path(folder))
            backend.check(job)
            backend.prepare(sheet, job.on_message)
            trace = backend.run(job)
        return answer_of(self.network, trace, reading, first_sample)

    def compile(self, tests: TestSet) -> None:
        """Have the core's code compiled for this network, by one process of the machine; the others find it on disk."""
        if self.backend is not None:
            return
        one = tests.first(1)
        n_steps = self.n_steps if one.spikes is None else one.spikes.shape[1]
        inputs = EncodedInputs(self.normalized.network, self.network, one.samples(slice(None)), n_steps)
        try:
            cache_dir().mkdir(parents=True, exist_ok=True)
            lock: Any = FileLock(cache_dir() / "compiling.lock", timeout=_COMPILE_S)
        except (OSError, ToolchainError):  # nothing is kept, each compiles for itself
            lock = nullcontext()
        with lock:
            run_core(self.network, inputs, n_threads=1)


@dataclass(frozen=True, eq=False)
class ShardWork:
    """Networks and samples in this process."""

    networks: Networks
    samples: SampleStore

    def run(self, shard: slice, n_threads: int = 1) -> ShardResult:
        """A shard, by so many threads of the core."""
        return self.networks.evaluate(self.samples.shown(self.samples.raw(shard)), shard.start, n_threads)

    def stored(self, folder: Path) -> StoredWork:
        """The networks as files of a bundle, the samples as arrays."""
        n = self.networks
        write_network(folder / "network.h5", n.network)
        write_normalized(folder / "float.h5", n.normalized)
        if n.target is not None:
            text = yaml.safe_dump(n.target.model_dump(mode="json", exclude_none=True), sort_keys=False)
            (folder / "target.yaml").write_text(text, encoding="utf-8")
        return StoredWork(
            folder,
            self.samples.stored(folder),
            n.n_steps,
            n.seed,
            n.backend,
            has_target=n.target is not None,
            keeps_batches=n.keeps_batches,
        )


@dataclass(frozen=True)
class StoredWork:
    """Networks and samples in files: what a task carries."""

    folder: Path
    samples: StoredSamples
    n_steps: int
    seed: int
    backend: str | None
    has_target: bool
    keeps_batches: bool

    @property
    def parcel(self) -> tuple[Path, ...]:
        """The networks' files."""
        names = ("network.h5", "float.h5", "target.yaml")
        return tuple(self.folder / name for name in names[: 3 if self.has_target else 2])

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.parcel, *self.samples.paths)

    def moved(self, folder: Path) -> StoredWork:
        """The networks in another folder."""
        return replace(self, folder=folder)

    def run(self, shard: slice) -> ShardResult:
        """A shard, its samples read from the files."""
        return self.run_raw(shard, self.samples.raw(shard))

    def run_raw(self, shard: slice, raw: Any) -> ShardResult:
        """A shard whose samples are at hand."""
        tests = self.samples.shown(raw)
        return self._networks(tests).evaluate(tests, shard.start)

    def _networks(self, tests: TestSet) -> Networks:
        """Read and compiled at the first shard, kept for the next ones."""
        with _LOADING:
            if self.folder not in _READY:
                target = load_target(self.folder / "target.yaml") if self.has_target else None
                network, normalized = (
                    read_network(self.folder / "network.h5"),
                    read_normalized(self.folder / "float.h5"),
                )
                made = Networks(network, normalized, self.n_steps, self.seed, self.backend, target, self.keeps_batches)
                made.compile(tests)
                _READY.clear()
                _READY[self.folder] = made
            return _READY[self.folder]
