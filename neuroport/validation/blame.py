"""Which population costs accuracy, and by what: each in turn is computed exactly, and the accuracy regained is counted.

Exactly means float weights, and the activation instead of spikes, without an end at one spike per step. For those that
cost most, three runs tell the causes apart: float weights and a float neuron that still spikes (rounding), then the
activation clipped at one spike per step (spiking), then unclipped (clipping). What is left belongs to no single one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from neuroport.chip.core.record import CoreRun
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import Gate, Population
from neuroport.validation.exact import Bench, Values, all_driven
from neuroport.validation.outputs import Reading, Scores, TestSet

_SPLIT = 5  # populations whose causes are told apart
_HELD = 1 << 30  # spikes of one batch, in bits
_MAX_BATCH = 250
CAUSES = ("rounding", "spiking", "clipping")
REMEDIES: Mapping[str, str] = {
    "rounding": "a recipe with `granularity: layer` spreads its weights less, a target with more weight bits rounds "
    "them less; split weights of mixed sign where that costs a bit",
    "spiking": "more steps (--steps), v_init of one half, or a clamp (recipes basic, extended)",
    "clipping": "a higher percentile, or one scale per channel (recipe channel-wise)",
}


@dataclass(frozen=True)
class Regained:
    """What one population, or one cause in it, costs.

    accuracy: of the network with it mended, minus the accuracy as it is; error: how much smaller the root mean square
    difference of the scores from the ANN's gets, relative to the ANN's scores.
    """

    accuracy: float
    error: float


@dataclass(frozen=True)
class LayerBlame:
    """One population computed exactly.

    standard_error: of the accuracy regained, from the samples whose answer changed; chance: that as many of these or
    more get right where right and wrong are as likely, which holds of few samples too; causes: what each of
    CAUSES regains, of the populations that cost most; cause: the one that regains most.
    """

    name: str
    regained: Regained
    standard_error: float
    chance: float
    causes: Mapping[str, Regained] = field(default_factory=dict)

    @property
    def cause(self) -> str | None:
        """What costs most of it, None where that is not known."""
        if not self.causes:
            return None
        return max(self.causes, key=lambda name: (self.causes[name].accuracy, self.causes[name].error))

    def __str__(self) -> str:
        """One sentence."""
        points = f"{100 * self.regained.accuracy:.1f} points (standard error {100 * self.standard_error:.1f})"
        if self.cause is None:
            return f"'{self.name}' costs {points}"
        return f"'{self.name}' costs {points}, by {self.cause}: try {REMEDIES[self.cause]}"


@dataclass(frozen=True)
class Blame:
    """All populations, those that cost most first; samples: that it was measured on; accuracy: of the core on them."""

    samples: int
    accuracy: float
    layers: tuple[LayerBlame, ...]

    def is_certain(self, layer: LayerBlame) -> bool:
        """Whether chance hardly explains what a layer costs: at 5 %, for any of as many layers as there are."""
        return layer.chance <= 0.05 / len(self.layers)

    @property
    def verdict(self) -> str:
        """The sentence for the top of a report: on the costliest layer that chance does not explain."""
        certain = next((layer for layer in self.layers if self.is_certain(layer)), None)
        if certain is not None:
            return str(certain)
        return (
            f"no single layer costs more than chance explains on {self.samples} samples; what is lost is spread over "
            f"the layers, or not lost here"
        )


def find_blame(
    normalized: Normalized,
    network: IntNetwork,
    tests: TestSet,
    reference: Scores,
    n_steps: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda n_done, n_total: None,
) -> Blame:
    """Measure what each population costs.

    Args:
        normalized: the float network that `network` was rounded from.
        network: the integer network.
        tests: samples with labels.
        reference: the ANN's class scores of those samples, [N, n_out].
        n_steps: per sample.
        seed: of a spiking softmax.
        on_progress: told how many samples have run, of those of all runs together.
    """
    return _Search(Reading(normalized, n_steps, seed), network, tests, reference, on_progress).run()


class _Search:
    """The batches, and the scores of every variant of the network."""

    def __init__(
        self,
        reading: Reading,
        network: IntNetwork,
        tests: TestSet,
        reference: Scores,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.reading, self.network, self.tests, self.reference = reading, network, tests, reference
        self.driven, self.on_progress = all_driven(network), on_progress
        self.populations = [p for p in reading.normalized.network.populations if p.role != "input"]
        bits = reading.n_steps * sum(p.n_neurons for p in self.populations)
        size = max(1, min(_MAX_BATCH, 8 * _HELD // bits, len(tests)))
        edges = [*range(0, len(tests), size), len(tests)]
        self.batches = [slice(*pair) for pair in pairwise(edges)]
        self.n_done = 0
        self.n_total = len(tests) * (1 + len(self.populations) + 2 * min(_SPLIT, len(self.populations)))

    def run(self) -> Blame:
        scores = self._scores([(p, "clipping") for p in self.populations], with_base=True)
        base = scores[None]
        found = {p.name: self._regained(base, scores[p.name, "clipping"]) for p in self.populations}
        order = sorted(found, key=lambda name: (found[name].accuracy, found[name].error), reverse=True)
        worst = [p for name in order[:_SPLIT] for p in self.populations if p.name == name]
        scores |= self._scores([(p, cause) for p in worst for cause in ("rounding", "spiking")])
        layers = []
        for name in order:
            changed = self._is_right(scores[name, "clipping"]).astype(int) - self._is_right(base)
            error = float(changed.std() / np.sqrt(len(changed)))
            causes = self._causes(name, base, scores) if name in {p.name for p in worst} else {}
            layers.append(LayerBlame(name, found[name], error, _chance(changed), causes))
        return Blame(len(self.tests), float(self._is_right(base).mean()), tuple(layers))

    def _causes(self, name: str, base: Scores, scores: Mapping[object, Scores]) -> dict[str, Regained]:
        steps = [base, *(scores[name, cause] for cause in CAUSES)]
        return {cause: self._regained(*pair) for cause, pair in zip(CAUSES, pairwise(steps), strict=True)}

    def _regained(self, before: Scores, after: Scores) -> Regained:
        accuracy = self._is_right(after).mean() - self._is_right(before).mean()
        return Regained(float(accuracy), self._error(before) - self._error(after))

    def _is_right(self, scores: Scores) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = scores.argmax(1) == self.tests.labels
        return right

    def _error(self, scores: Scores) -> float:
        size = max(float(np.sqrt(np.square(self.reference).mean())), 1e-12)
        return float(np.sqrt(np.square(scores - self.reference).mean())) / size

    def _scores(self, variants: list[tuple[Population, str]], *, with_base: bool = False) -> dict[object, Scores]:
        """Class scores [N, n_out] of all samples by (population, cause), of the network as it is by None."""
        parts: dict[object, list[Scores]] = {}
        for chosen in self.batches:
            bench = self._bench(chosen)
            if with_base:
                parts.setdefault(None, []).append(self._read(bench.base, chosen))
                self._advance(chosen)
            for p, cause in variants:
                parts.setdefault((p.name, cause), []).append(self._variant(bench, p, cause, chosen))
                self._advance(chosen)
        return {key: np.concatenate(found) for key, found in parts.items()}

    def _bench(self, chosen: slice) -> Bench:
        normalized, samples = self.reading.normalized, self.tests.samples(chosen)
        inputs = encode_inputs(
            normalized.network, self.network, samples, self.reading.n_steps, first_sample=chosen.start
        )
        return Bench(normalized, self.network, self.driven, inputs, samples)

    def _variant(self, bench: Bench, p: Population, cause: str, chosen: slice) -> Scores:
        head = self.reading.heads[0].population
        accumulates = not p.neuron.fires
        if cause == "rounding" and not accumulates and not isinstance(p.neuron, Gate):
            return self._read(bench.with_spikes(p), chosen)
        values: Values = bench.activation(p, clip=cause != "clipping" and not accumulates)
        if p.name != head:
            if p.role == "readout":  # another output: the scores do not hang on it
                return self._read(bench.base, chosen)
            return self._read(bench.with_values(p, values), chosen)
        shape = {q.name: (len(values), *q.shape) for q in self.populations}
        others = {h.population: torch.zeros(shape[h.population]) for h in self.reading.heads}
        return self.reading.rates({**others, p.name: torch.from_numpy(values)}).scores

    def _read(self, run: CoreRun, chosen: slice) -> Scores:
        return self.reading.integers(self.network, run.readouts, {}, chosen.start).scores

    def _advance(self, chosen: slice) -> None:
        self.n_done += chosen.stop - chosen.start
        self.on_progress(self.n_done, self.n_total)


def _chance(changed: NDArray[np.int_]) -> float:
    """One side of McNemar's test, mid-p; changed: [N], 1 where an answer got right, -1 where it got wrong.

    Source: Fagerland, Lydersen & Laake 2013, doi:10.1186/1471-2288-13-91, of paired answers.
    """
    n, n_right = int(np.count_nonzero(changed)), int((changed > 0).sum())
    return float(binom.sf(n_right, n, 0.5) + 0.5 * binom.pmf(n_right, n, 0.5)) if n else 1.0
