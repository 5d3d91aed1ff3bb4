"""The ladder: the same samples at every rung, from the trained network to the chip's output.

ANN -> folded ANN -> normalized ANN clipped to [0, 1] -> float SNN -> integer core -> backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph, ReLU
from neuroport.ann.interpret import run_outputs
from neuroport.ann.load import LoadedAnn
from neuroport.errors import ConversionError
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.rates import forward_rates
from neuroport.snn.simulate import simulate
from neuroport.validation.core_batch import CoreBatch
from neuroport.validation.margins import Margins, margins
from neuroport.validation.outputs import Answer, Reading, Scores, TestSet

_BATCH = 100


@dataclass(frozen=True)
class Rung:
    """One rung: its accuracy on `samples` test images, and the fraction of them with the class of the rung before.

    margins: how sure its answers are, beside the ANN's.
    """

    name: str
    samples: int
    accuracy: float
    agreement: float | None
    margins: Margins | None = None

    @property
    def standard_error(self) -> float:
        """Of the accuracy, from the number of samples."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.samples))


@dataclass(frozen=True, eq=False)
class LayerActivity:
    """What one population did on the integer core.

    mean_rate: spikes per neuron and step; silent_fraction: neurons that never fired; overflows, floored: neuron-steps
    in which a register was at its upper end or wrapped, and at its lower end.
    """

    mean_rate: float
    silent_fraction: float
    overflows: int
    floored: int


@dataclass(frozen=True, eq=False)
class CoreRung:
    """The integer core on all samples.

    activity: by population; over_time: accuracy of the first output's largest number after each step (a spiking
    softmax draws its answer, and has potentials here).
    """

    activity: Mapping[str, LayerActivity]
    over_time: tuple[float, ...]


@dataclass(eq=False)
class Ladder:
    """Rungs as they are climbed; each is compared with the one before on the samples both saw.

    errors: for each rung after the first, each output's root mean square difference from the ANN's, relative to the
    root mean square of the ANN's.
    """

    labels: NDArray[np.int64]
    on_rung: Callable[[str], None] = lambda _: None
    rungs: list[Rung] = field(default_factory=list)
    errors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    _classes: NDArray[np.int64] | None = None
    _trained: tuple[Scores, ...] = ()

    @property
    def reference(self) -> Scores:
        """Class scores [N, n_out] of the ANN, once it was climbed."""
        return _flat(self._trained[0])

    def add(self, name: str, scores: Scores, outputs: Sequence[Scores] = ()) -> Rung:
        """Record a rung from its scores [n, n_out], n at most the number of labels; ties go to the first class."""
        classes = scores.argmax(1)
        n = len(classes)
        agreement = None if self._classes is None else float((classes == self._classes[:n]).mean())
        is_right = classes == self.labels[:n]
        sure = None
        if outputs:
            trained = (self._trained or outputs)[0]
            sure = margins(_flat(outputs[0]), _flat(trained)[:n], is_right)
        rung = Rung(name, n, float(is_right.mean()), agreement, sure)
        self.rungs.append(rung)
        self._classes = classes
        if outputs and self._trained:
            pairs = zip(outputs, self._trained, strict=True)
            self.errors[name] = tuple(_relative_error(found, trained[:n]) for found, trained in pairs)
        elif outputs:
            self._trained = tuple(outputs)
        return rung

    def climb_float(
        self, ann: LoadedAnn, folded: AnnGraph, normalized: Normalized, tests: TestSet, n_steps: int, seed: int = 0
    ) -> None:
        """The four rungs in floating point: ann, folded, normalized, float_snn.

        Raises:
            ConversionError: the folded network, or the spiking one in unclipped rates, does not answer as the trained
            one does, up to rounding: a conversion that is wrong is not carried further.
        """
        reading = Reading(normalized, n_steps, seed)
        self.on_rung("ann")
        trained = [output.astype(np.float64) for output in ann.run_outputs(tests.images)]
        self.add("ann", _flat(trained[0]), trained)
        self.on_rung("folded")
        parts = [run_outputs(folded, torch.from_numpy(tests.images[k])) for k in _batches(len(tests))]
        answers = [torch.cat(list(part)).double().numpy() for part in zip(*parts, strict=True)]
        steps = any(isinstance(node.op, ReLU) and node.op.levels for node in folded)
        _check_same("the folded network", answers, trained, ann.precision, has_levels=steps)
        self.add("folded", _flat(answers[0]), answers)
        few = tests.images[:_BATCH]
        exact = reading.rates(_head_rates(normalized.exact.network, few, clip=False))
        expected = [answer[: len(few)] for answer in answers]
        what = "the spiking network in unclipped rates"
        _check_same(what, exact.outputs, expected, ann.precision, has_levels=steps)
        self.on_rung("normalized")

        def clipped(k: slice) -> Answer:
            return reading.rates(_head_rates(normalized.exact.network, tests.images[k], clip=True))

        self._climb("normalized", len(tests), clipped)
        self.climb_snn(normalized, tests, n_steps, seed)

    def climb_snn(self, normalized: Normalized, tests: TestSet, n_steps: int, seed: int = 0) -> None:
        """The rung of the float simulation, the first one of a network that was spiking from the start."""
        network, reading = normalized.network, Reading(normalized, n_steps, seed)
        self.on_rung("float_snn")
        self._climb(
            "float_snn",
            len(tests),
            lambda k: reading.float_run(simulate(network, tests.samples(k), n_steps), k.start),
        )

    def add_core(self, found: CoreBatch) -> CoreRung:
        """The rung of the integer core: what it gave on all samples."""
        self.add("integer_core", found.answer.scores, found.answer.outputs)
        n, n_steps = len(found.answer.scores), len(found.n_right_over_time)
        activity = {
            name: LayerActivity(
                float(spikes.mean() / (n * n_steps)),
                float((spikes == 0).mean()),
                found.overflows[name],
                found.floored[name],
            )
            for name, spikes in found.totals.items()
        }
        return CoreRung(activity, tuple((found.n_right_over_time / n).tolist()))

    def _climb(self, name: str, n: int, run: Callable[[slice], Answer]) -> None:
        answers = [run(k) for k in _batches(n)]
        outputs = [np.concatenate(parts) for parts in zip(*(a.outputs for a in answers), strict=True)]
        self.add(name, np.concatenate([a.scores for a in answers]), outputs)


def _check_same(
    what: str, found: Sequence[Scores], expected: Sequence[Scores], precision: float, *, has_levels: bool
) -> None:
    """Refuse a difference that rounding cannot explain: 10,000 steps of float32, 50 of a coarser type.

    Where activations have levels, rounding can move a number across the edge of one; the median sample must agree.
    """
    for one, other in zip(found, expected, strict=True):
        per_sample = np.abs(_flat(one) - _flat(other)).max(1)
        worst = np.median(per_sample) if has_levels else per_sample.max()
        difference = float(worst) / max(float(np.abs(other).max()), 1e-12)
        if not difference <= max(1e4 * 2**-23, 50 * precision):
            raise ConversionError(
                f"{what} differs from the trained one by {difference:.2g} of its largest score, which rounding cannot "
                f"explain: neuroport has converted it wrongly; please report it with the model"
            )


def _head_rates(network: SpikingNetwork, images: NDArray[np.float32], *, clip: bool) -> dict[str, torch.Tensor]:
    wanted = {head.population for head in network.outputs}
    values = forward_rates(network, torch.from_numpy(images), clip=clip)
    return {name: value for name, value in values if name in wanted}


def _relative_error(found: Scores, trained: Scores) -> float:
    size = float(np.sqrt(np.square(trained).mean()))
    return float(np.sqrt(np.square(found.reshape(trained.shape) - trained).mean())) / max(size, 1e-12)


def _flat(output: Scores) -> Scores:
    return output.reshape(len(output), -1)


def _batches(n: int) -> list[slice]:
    return [slice(start, min(start + _BATCH, n)) for start in range(0, n, _BATCH)]
