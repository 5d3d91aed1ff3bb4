"""The ladder: the same samples at every rung, from the trained network to the chip's output.

ANN -> folded ANN -> normalized ANN clipped to [0, 1] -> float SNN -> integer core -> backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_graph
from neuroport.ann.load import LoadedAnn
from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.errors import ConversionError
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.rates import forward_rates
from neuroport.snn.simulate import simulate

Scores = NDArray[np.float64]
_BATCH = 100


@dataclass(frozen=True)
class Rung:
    """One rung: its accuracy on `samples` test images, and the fraction of them with the class of the rung before."""

    name: str
    samples: int
    accuracy: float
    agreement: float | None


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


@dataclass(eq=False)
class Ladder:
    """Rungs as they are climbed; each is compared with the one before on the samples both saw."""

    labels: NDArray[np.int64]
    on_rung: Callable[[str], None] = lambda _: None
    rungs: list[Rung] = field(default_factory=list)
    _classes: NDArray[np.int64] | None = None

    def add(self, name: str, scores: Scores) -> Rung:
        """Record a rung from its scores [n, n_out], n at most the number of labels; ties go to the first class."""
        classes = scores.argmax(1)
        n = len(classes)
        agreement = None if self._classes is None else float((classes == self._classes[:n]).mean())
        rung = Rung(name, n, float((classes == self.labels[:n]).mean()), agreement)
        self.rungs.append(rung)
        self._classes = classes
        return rung

    def climb_float(
        self, ann: LoadedAnn, folded: AnnGraph, normalized: Normalized, images: NDArray[np.float32], n_steps: int
    ) -> None:
        """The four rungs in floating point: ann, folded, normalized, float_snn.

        Raises:
            ConversionError: the folded network, or the spiking one in unclipped rates, does not answer as the trained
            one does, up to rounding: a conversion that is wrong is not carried further.
        """
        network = normalized.network
        self.on_rung("ann")
        trained = ann.run_framework(images).astype(np.float64)
        self.add("ann", trained)
        self.on_rung("folded")
        answer = _batched(images, lambda x: run_graph(folded, torch.from_numpy(x)).numpy())
        _check_same("the folded network", answer, trained, ann.precision)
        self.add("folded", answer)
        few = images[:_BATCH]
        rates = _rates(network, few, clip=False) * normalized.scales[network.output.name][0]  # one for all classes
        _check_same("the spiking network in unclipped rates", rates, answer[: len(few)], ann.precision)
        self.on_rung("normalized")
        self.add("normalized", _batched(images, lambda x: _rates(network, x, clip=True)))
        self.on_rung("float_snn")
        self.add("float_snn", _batched(images, lambda x: simulate(network, x, n_steps).readout))

    def climb_core(
        self, float_network: SpikingNetwork, network: IntNetwork, images: NDArray[np.float32], n_steps: int
    ) -> dict[str, LayerActivity]:
        """The integer core on all samples; returns what each population did."""
        self.on_rung("integer_core")
        total: dict[str, NDArray[np.int64]] = {}
        lost: dict[str, tuple[int, int]] = {}

        def run(x: NDArray[np.float32]) -> Scores:
            result = run_core(network, encode_inputs(float_network, network, x, n_steps))
            for name, counts in result.counts.items():
                total[name] = total.get(name, np.zeros(counts.shape[1:], np.int64)) + counts.sum(0)
                over, floor = lost.get(name, (0, 0))
                lost[name] = (over + result.overflows[name], floor + result.floored[name])
            return result.readout.astype(np.float64)

        self.add("integer_core", _batched(images, run))
        scale = len(images) * n_steps
        return {
            name: LayerActivity(float(spikes.mean() / scale), float((spikes == 0).mean()), *lost[name])
            for name, spikes in total.items()
        }


def _check_same(what: str, found: Scores, expected: Scores, precision: float) -> None:
    """Refuse a difference that rounding cannot explain: 10,000 steps of float32, 50 of a coarser type."""
    difference = float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if not difference <= max(1e4 * 2**-23, 50 * precision):
        raise ConversionError(
            f"{what} differs from the trained one by {difference:.2g} of its largest score, which rounding cannot "
            f"explain: neuroport has converted it wrongly; please report it with the model"
        )


def _rates(network: SpikingNetwork, images: NDArray[np.float32], *, clip: bool) -> Scores:
    *_, (_, last) = ((name, value) for name, value in forward_rates(network, torch.from_numpy(images), clip=clip))
    return last.reshape(len(images), -1).double().numpy()


def _batched(images: NDArray[np.float32], run: Callable[[NDArray[np.float32]], NDArray[np.floating]]) -> Scores:
    parts = [run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return np.concatenate(parts).reshape(len(images), -1).astype(np.float64)
