"""What is done with a shard: its samples are shown to the network, and its answers compared with the labels."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.engine.shards import ShardResult
from neuroport.normalize.scales import Normalized
from neuroport.validation.core_batch import run_core_batch
from neuroport.validation.outputs import Reading, TestSet


class SampleStore(Protocol):
    """Samples that can be had a shard at a time."""

    def __len__(self) -> int:
        """Number of samples."""

    def take(self, shard: slice) -> TestSet:
        """The samples of a shard, as the network reads them, and their labels."""

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """Which samples of the data set they are, where that is known."""


@dataclass(frozen=True, eq=False)
class HeldSamples:
    """Samples in memory."""

    tests: TestSet

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.tests)

    def take(self, shard: slice) -> TestSet:
        """Those of a shard."""
        t = self.tests
        return TestSet(t.images[shard], t.labels[shard], None if t.spikes is None else t.spikes[shard])

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """Which samples of the data set they are."""
        return self.tests.numbers


@dataclass(frozen=True, eq=False)
class CoreWork:
    """A shard on the integer core, in one thread."""

    network: IntNetwork
    normalized: Normalized
    samples: SampleStore
    n_steps: int
    seed: int

    def run(self, shard: slice) -> ShardResult:
        """Answers of the core."""
        began = time.monotonic()
        tests = self.samples.take(shard)
        reading = Reading(self.normalized, self.n_steps, self.seed)
        found = run_core_batch(reading, self.network, tests, first_sample=shard.start, n_threads=1)
        classes = found.answer.scores.argmax(1).astype(np.int64)
        n_right = int((classes == tests.labels).sum())
        return ShardResult(classes, n_right, found.n_right_over_time, worker_name(), time.monotonic() - began)


def worker_name() -> str:
    """Machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
