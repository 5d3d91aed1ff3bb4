"""Some samples on the integer core: answers, and what its populations did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core import run_core
from neuroport.chip.core.record import CoreRun, Record
from neuroport.chip.inputs import EncodedInputs
from neuroport.chip.network import IntHead, IntNetwork
from neuroport.validation.outputs import Answer, Reading, TestSet

_HELD = 1 << 26  # potentials of outputs that are held at a time


@dataclass(frozen=True, eq=False)
class CoreBatch:
    """What some samples gave.

    n_right_over_time: [T] samples whose first output's largest number is the label's after each step; totals: spikes
    of each neuron by population; overflows, floored: see LayerActivity.
    """

    answer: Answer
    n_right_over_time: NDArray[np.int64]
    totals: Mapping[str, NDArray[np.int64]]
    overflows: Mapping[str, int]
    floored: Mapping[str, int]


def run_core_batch(
    reading: Reading, network: IntNetwork, tests: TestSet, *, first_sample: int, n_threads: int | None = None
) -> CoreBatch:
    """The answers of the core.

    first_sample: what number the first one has among all; threads change no result.
    """
    first = network.heads[0]
    membranes = [head.population for head in network.heads if head.read == "membrane"]
    record = Record(spikes=[first.population] if first.read == "count" else [], potentials=dict.fromkeys(membranes))
    shown = tests.samples(slice(None))
    inputs = EncodedInputs(reading.normalized.network, network, shown, reading.n_steps, first_sample)
    run = run_core(network, inputs, record=record, n_threads=n_threads)
    n_right = (_classes_over_time(run, first) == tests.labels[:, None]).sum(0)
    answer = reading.integers(network, run.readouts, run.trace.potentials, first_sample)
    return CoreBatch(answer, n_right, run.totals, run.overflows, run.floored)


class BatchSum:
    """Batches put together, in whatever order they come; spikes are added at once, so that they take little room."""

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.n_right: NDArray[np.int64] | None = None
        self.totals: dict[str, NDArray[np.int64]] = {}
        self.overflows: Counter[str] = Counter()
        self.floored: Counter[str] = Counter()

    def add(self, first_sample: int, batch: CoreBatch) -> None:
        """A batch whose first sample has this number."""
        self.answers[first_sample] = batch.answer
        self.n_right = batch.n_right_over_time + (0 if self.n_right is None else self.n_right)
        for name, spiked in batch.totals.items():
            self.totals[name] = spiked + self.totals.get(name, 0)
        self.overflows.update(batch.overflows)
        self.floored.update(batch.floored)

    def whole(self) -> CoreBatch:
        """All of them as one; there is at least one."""
        answers = [self.answers[first] for first in sorted(self.answers)]
        outputs = tuple(np.concatenate(parts) for parts in zip(*(a.outputs for a in answers), strict=True))
        answer = Answer(np.concatenate([a.scores for a in answers]), outputs)
        n_right = np.zeros(0, np.int64) if self.n_right is None else self.n_right
        return CoreBatch(answer, n_right, self.totals, self.overflows, self.floored)


def most_samples(network: IntNetwork, n_steps: int) -> int:
    """Samples whose recorded outputs stay small."""
    names = {network.heads[0].population, *(head.population for head in network.heads if head.read == "membrane")}
    return max(1, _HELD // (n_steps * sum(network.by_name[name].n_neurons for name in names)))


def _classes_over_time(run: CoreRun, head: IntHead) -> NDArray[np.int64]:
    """[N, T]: the class with the largest number after each step."""
    if head.read == "membrane":
        values = run.potentials[head.population]
    else:
        values = run.rasters[head.population].unpack().cumsum(1, dtype=np.int64)
    classes: NDArray[np.int64] = values.reshape(*values.shape[:2], -1).argmax(2)
    return classes
