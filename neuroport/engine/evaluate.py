"""From samples to an accuracy, by any engine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.engine.samples import HeldSamples, SampleStore
from neuroport.engine.shards import Engine, OnProgress, Outcome, shards_of, wilson
from neuroport.engine.start import open_engine
from neuroport.engine.work import Networks, ShardWork
from neuroport.errors import DoesNotFitError, EngineError
from neuroport.normalize.scales import Normalized
from neuroport.validation.core_batch import BatchSum
from neuroport.validation.outputs import TestSet

NO_CLASS = -1


@dataclass(frozen=True)
class FailedShard:
    """A shard that gave no result, with the numbers of its samples in the data set, or their places if unknown.

    is_misfit: the network cannot hold these samples, whoever tries.
    """

    numbers: tuple[int, ...]
    reason: str
    is_misfit: bool = False


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What all shards gave.

    n: samples that were evaluated; n_right: of them; classes: [all samples], the answer, -1 where a shard failed or did
    not run; over_time: accuracy after each step; workers: shards by who ran them. batches: all that the core gave,
    where it was asked for, else empty.
    """

    n: int
    n_right: int
    classes: NDArray[np.int64]
    over_time: tuple[float, ...] = ()
    failed: tuple[FailedShard, ...] = ()
    workers: tuple[tuple[str, int], ...] = ()
    batches: BatchSum = field(default_factory=BatchSum)

    @property
    def accuracy(self) -> float:
        """Of the samples that were evaluated; 0 if there are none."""
        return self.n_right / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson)."""
        return wilson(self.n_right, self.n)

    @property
    def is_complete(self) -> bool:
        """Whether every sample was evaluated."""
        return self.n == len(self.classes)

    def check_held(self) -> None:
        """Refuse a network that cannot hold some samples: no other worker could.

        Raises:
            DoesNotFitError: what it cannot hold.
        """
        misfit = next((shard for shard in self.failed if shard.is_misfit), None)
        if misfit is not None:
            raise DoesNotFitError(misfit.reason.removeprefix("DoesNotFitError: "))

    def complete(self) -> Evaluation:
        """Itself.

        Raises:
            DoesNotFitError: the network cannot hold some samples. EngineError: others could not be evaluated.
        """
        self.check_held()
        if self.failed:
            first = self.failed[0]
            raise EngineError(
                f"{len(self.classes) - self.n} of {len(self.classes)} samples could not be evaluated, numbers "
                f"{first.numbers[0]} to {first.numbers[-1]} among them: {first.reason}"
            )
        return self


def evaluate_samples(
    network: IntNetwork,
    normalized: Normalized,
    tests: TestSet | SampleStore,
    n_steps: int,
    *,
    scheduler: str | Engine = "none",
    seed: int = 0,
    backend: str | None = None,
    target: Target | None = None,
    keeps_batches: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Show samples to the integer core or a backend, in shards; the same numbers bit for bit whoever shares them.

    Args:
        network: and the float network it was made of, which encodes samples and reads outputs.
        normalized: the float network.
        tests: samples, in memory or a store that is read shard by shard.
        n_steps: per sample.
        scheduler: 'none' (threads here), 'local' (processes), the address of a Dask scheduler, or an engine that
            `open_engine` gave, which is kept open for the next call.
        seed: of the spiking softmax.
        backend: what answers instead of the core; target: its datasheet, None for that of the network.
        keeps_batches: whether outputs, spikes of each neuron and overflows of the core come along (`batches`).
        on_progress: told samples that are done, and all.

    Raises:
        EngineError: nobody is left to work, or no shard could be evaluated; `partial` holds what came before.
        DoesNotFitError: no shard could, because the network cannot hold the samples.
    """
    samples: SampleStore = HeldSamples(tests) if isinstance(tests, TestSet) else tests
    work = ShardWork(Networks(network, normalized, n_steps, seed, backend, target, keeps_batches), samples)
    shards = shards_of(len(samples), network, n_steps, is_backend=backend is not None)
    if not isinstance(scheduler, str):
        return gather(scheduler, work, shards, samples, on_progress)
    with open_engine(scheduler) as engine:
        return gather(engine, work, shards, samples, on_progress)


def gather(
    engine: Engine, work: ShardWork, shards: list[slice], samples: SampleStore, on_progress: OnProgress
) -> Evaluation:
    """All outcomes together, whatever their order.

    Raises:
        EngineError, DoesNotFitError: see evaluate_samples.
    """
    found: list[Outcome] = []
    batches = BatchSum()
    done = 0
    try:
        with closing(engine.outcomes(work, shards)) as outcomes:
            for outcome in outcomes:
                if outcome.result is not None and outcome.result.batch is not None:
                    batches.add(outcome.shard.start, outcome.result.batch)
                    outcome = replace(outcome, result=replace(outcome.result, batch=None))
                found.append(outcome)
                done += outcome.shard.stop - outcome.shard.start
                on_progress(done, len(samples))
    except EngineError as error:
        error.partial = _added(found, samples)
        raise
    made = replace(_added(found, samples), batches=batches)
    if not made.n and made.failed:
        made.check_held()
        lost = EngineError(f"none of {len(shards)} shards could be evaluated; the first: {made.failed[0].reason}")
        lost.partial = made
        raise lost
    return made


def _added(found: list[Outcome], samples: SampleStore) -> Evaluation:
    classes = np.full(len(samples), NO_CLASS, np.int64)
    n = n_right = 0
    over_time: NDArray[np.int64] | None = None
    failed: list[FailedShard] = []
    workers: dict[str, int] = {}
    numbers = samples.numbers
    for outcome in sorted(found, key=lambda o: o.shard.start):
        result = outcome.result
        if result is None:
            places = range(outcome.shard.start, outcome.shard.stop)
            named = places if numbers is None else numbers[outcome.shard].tolist()
            failed.append(FailedShard(tuple(named), outcome.reason, outcome.is_misfit))
            continue
        classes[outcome.shard] = result.classes
        n, n_right = n + len(result.classes), n_right + result.n_right
        over_time = result.n_right_over_time + (0 if over_time is None else over_time)
        workers[result.worker] = workers.get(result.worker, 0) + 1
    curve = () if over_time is None else tuple((over_time / n).tolist())
    return Evaluation(n, n_right, classes, curve, tuple(failed), tuple(sorted(workers.items())))
