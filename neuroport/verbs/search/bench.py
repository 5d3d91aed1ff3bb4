"""What one conversion is worth: cheap predictions first, then the integer core on more and more samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn
from neuroport.chip.digest import network_hash
from neuroport.chip.inputs import EncodedInputs
from neuroport.chip.suit import suited
from neuroport.chip.target import Target
from neuroport.engine import Evaluation, evaluate_samples
from neuroport.engine.shards import Engine
from neuroport.errors import DoesNotFitError, EngineError
from neuroport.mapping.activity import measure
from neuroport.mapping.mapped import map_to_cores
from neuroport.mapping.partition import partition
from neuroport.mapping.precision import coarser
from neuroport.normalize.convert import convert
from neuroport.normalize.predict import predict_relu1
from neuroport.normalize.scales import Normalized
from neuroport.snn.over_time import accuracy_over_time
from neuroport.validation.outputs import TestSet
from neuroport.verbs.conversion import Conversion, Made
from neuroport.verbs.search.points import Share, share_of
from neuroport.verbs.search.space import Candidate

PREDICTED = 500  # samples of the clipped ANN
FLOAT = 100  # samples of the float simulation
FIRST, GROWTH = 100, 3  # samples of the core's first rung, and how many times more each next one sees
ENERGY = 32  # calibration samples whose spikes are counted for the energy


@dataclass(frozen=True)
class Step:
    """A rung of a trial: its name, what was right there, and what is known of the costs by then."""

    rung: str
    share: Share
    costs: dict[str, float]


@dataclass(frozen=True)
class Value:
    """What a trial found: which of all samples are right, its costs, the network's hash, seconds to make and to run.

    is_right: [N]; energy_notes: what the energy is worth, and what it leaves out.
    """

    is_right: NDArray[np.bool_]
    costs: dict[str, float]
    digest: str
    made_s: float
    core_s: float
    energy_notes: dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all trials share.

    calibration: of the training part; samples: those trials are judged on. wants: objectives, and `cores` where
    they are constrained. engine: shares samples among processors or machines.
    """

    ann: LoadedAnn
    target: Target
    calibration: TestSet
    samples: TestSet
    events: bool
    seed: int
    wants: frozenset[str]
    engine: Engine
    predicted: dict[tuple[str, float], Share] = field(default_factory=dict)

    def value(self, candidate: Candidate, on_rung: Callable[[Step], None], on_shard: Callable[[], None]) -> Value:
        """What a candidate is worth; on_rung and on_shard are told after each of them, and end the trial by raising.

        Raises:
            ConversionError: it cannot be converted, or does not fit.
        """
        began = time.monotonic()
        costs: dict[str, float] = {"steps": candidate.recipe.steps} if "steps" in self.wants else {}
        if candidate.recipe.scale == "activation" and not self.events:
            on_rung(Step("relu1", self._relu1(candidate), costs))
        normalized = self._float(candidate)
        on_rung(Step("float", self._on_float(normalized, candidate), costs))
        made = self.made(candidate, normalized)
        found, notes = self._costs(candidate, made)
        costs = costs | found
        made_s, is_right = time.monotonic() - began, np.zeros(0, np.bool_)
        began = time.monotonic()
        for part in _growing(len(self.samples)):
            seen = part_of(self.samples, part)
            answers = self.on_core(made, seen, candidate.recipe.steps, on_shard).classes
            is_right = np.concatenate([is_right, answers == seen.labels])
            if part.stop < len(self.samples):
                on_rung(Step(f"core-{part.stop}", share_of(is_right), costs))
        digest = network_hash(made.recalibrated.quantized.network)
        return Value(is_right, costs, digest, made_s, time.monotonic() - began, notes)

    def on_core(
        self, made: Made, samples: TestSet, n_steps: int, on_shard: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """The integer core on all samples; everything a search measures on it comes through here.

        Raises:
            DoesNotFitError: samples that the network cannot hold. EngineError: samples that could not be evaluated for
            another reason, so that there is no accuracy to compare.
        """
        network, normalized = made.recalibrated.quantized.network, made.recalibrated.normalized
        found = evaluate_samples(
            network,
            normalized,
            samples,
            n_steps,
            scheduler=self.engine,
            seed=self.seed,
            on_progress=lambda done, total: on_shard(),
        )
        found.check_held()
        if found.failed:
            raise EngineError(
                f"{len(samples) - found.n} of {len(samples)} samples could not be evaluated, so there is no accuracy "
                f"to compare; the first: {found.failed[0].reason}; finished trials are kept, the same command goes on"
            )
        return found

    def made(self, candidate: Candidate, normalized: Normalized | None = None) -> Made:
        """The integer network of a candidate."""
        target = self.chip(candidate)
        if candidate.weight_bits is not None:
            found = coarser(target, candidate.weight_bits)
            if found is None:
                raise DoesNotFitError(f"{candidate.weight_bits} bits hold no weight of {target.name}")
            target = found
        known = {} if normalized is None else {suited(candidate.recipe, target).model_dump_json(): normalized}
        steps = candidate.recipe.steps
        conversion = Conversion(self.ann, self.calibration, steps, self.events, self.seed, _unheard, known)
        return conversion.made(target, candidate.recipe)

    def chip(self, candidate: Candidate) -> Target:
        """The target with the candidate's neuron, and all weights it can hold."""
        return self.target if candidate.neuron is None else self.target.with_neuron(candidate.neuron)

    def _relu1(self, candidate: Candidate) -> Share:
        """What the percentile costs at any number of steps; nothing else of a candidate matters there."""
        recipe, few = candidate.recipe, self.samples.first(PREDICTED)
        key = (recipe.granularity, recipe.percentile)
        if key not in self.predicted:
            percentiles = (recipe.percentile,)
            plain = recipe.model_copy(update={"corrections": ()})
            found = predict_relu1(self.ann.graph, self.calibration.images, few.images, few.labels, percentiles, plain)
            self.predicted[key] = Share(round(found[0][1] * len(few)), len(few))
        return self.predicted[key]

    def _float(self, candidate: Candidate) -> Normalized:
        recipe = suited(candidate.recipe, self.chip(candidate))
        images, steps = self.calibration.images, recipe.steps
        return convert(self.ann.graph, images, recipe, steps, events=self.events, seed=self.seed)

    def _on_float(self, normalized: Normalized, candidate: Candidate) -> Share:
        few, steps = self.samples.first(FLOAT), candidate.recipe.steps
        found = accuracy_over_time(normalized.network, few.samples(slice(None)), few.labels, steps, seed=self.seed)
        return Share(round(float(next(iter(found.values()))[-1]) * len(few)), len(few))

    def _costs(self, candidate: Candidate, made: Made) -> tuple[dict[str, float], dict[str, list[str]]]:
        """Cores and energy, where they are asked for, and what is to be said of the energy."""
        network, chip = made.recalibrated.quantized.network, self.chip(candidate)
        found: dict[str, float] = {}
        notes: dict[str, list[str]] = {}
        if "energy" in self.wants:
            few = self.calibration.samples(slice(0, ENERGY))
            normalized = made.recalibrated.normalized.network
            activity = measure(network, EncodedInputs(normalized, network, few, candidate.recipe.steps))
            mapped = map_to_cores(network, chip, activity, seed=self.seed)
            if mapped.cost is not None:
                found["energy"] = mapped.cost.energy_J or 0.0
                notes = {"marks": list(mapped.cost.marks), "leaves_out": list(mapped.cost.missing)}
            n_cores = mapped.n_cores
        elif "cores" in self.wants:
            n_cores = len(partition(network, chip).cores)
        if "cores" in self.wants:
            found["cores"] = n_cores
        return found, notes


def _growing(n: int) -> Iterator[slice]:
    """Parts whose ends grow geometrically; together all n samples, each once."""
    start, stop = 0, FIRST
    while start < n:
        # a last part smaller than what was seen would cost a rung and tell nothing
        stop = n if stop * GROWTH > 2 * n else stop
        yield slice(start, min(stop, n))
        start, stop = min(stop, n), stop * GROWTH


def part_of(samples: TestSet, part: slice) -> TestSet:
    """Some of the samples."""
    spikes = None if samples.spikes is None else samples.spikes[part]
    return replace(samples, images=samples.images[part], labels=samples.labels[part], spikes=spikes, numbers=None)


def right(ann: LoadedAnn, samples: TestSet) -> NDArray[np.bool_]:
    """Which samples the trained network has right, [N]."""
    return np.asarray(ann.run_framework(samples.images).argmax(1) == samples.labels)


def _unheard(_: str) -> None:
    """Stages of a trial are not told: a line for each trial is enough."""
