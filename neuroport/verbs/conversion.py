"""From the trained network to the integers of a chip, with the best of its neurons where it has several kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from neuroport.ann.load import LoadedAnn
from neuroport.chip.quantize import quantize
from neuroport.chip.recalibrate import Recalibrated, recalibrate
from neuroport.chip.suit import suited
from neuroport.chip.target import Target
from neuroport.data import Dataset
from neuroport.engine import evaluate_samples
from neuroport.errors import DoesNotFitError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized
from neuroport.validation.outputs import TestSet
from neuroport.verbs.loading import CALIBRATION_SAMPLES, Loaded, take_samples
from neuroport.verbs.spiking import LoadedSnn

COMPARED_SAMPLES = 200  # of the calibration data, on the core, where neurons are compared


def calibration_set(ann: Loaded, dataset: Dataset, recipe: Recipe, n_steps: int, seed: int) -> TestSet:
    """As many samples of the training part as the recipe asks for."""
    n = recipe.calibration_samples or CALIBRATION_SAMPLES
    return take_samples(ann, dataset, "train", n, seed=seed, n_steps=n_steps)


@dataclass(frozen=True)
class Tried:
    """A kind of neuron, its recipe, and its accuracy on calibration samples in the chip's arithmetic.

    accuracy: None of one that the network does not fit, for the reason in `problem`.
    """

    neuron: str
    recipe: str
    accuracy: float | None
    samples: int
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Made:
    """The float network, the integer one, the target with the neuron they are made for, the recipe, what was tried."""

    target: Target
    recipe: Recipe
    normalized: Normalized
    recalibrated: Recalibrated
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True, eq=False)
class Conversion:
    """What all networks made of one model share.

    calibration: with labels; stage: told what is being done; known: float networks by recipe.
    """

    ann: LoadedAnn | LoadedSnn
    calibration: TestSet
    n_steps: int
    events: bool
    seed: int
    stage: Callable[[str], None]
    known: dict[str, Normalized] = field(default_factory=dict)

    def made(self, target: Target, recipe: Recipe) -> Made:
        """The network with the neuron of the target that is right most often, of equals the first.

        Raises:
            ConversionError: it cannot be converted, or fits none of the neurons.
        """
        if not target.neurons:
            return self._made(target, recipe)
        found: list[tuple[Made, Tried]] = []
        refused: list[Tried] = []
        for name in target.neurons:
            self.stage(f"neuron {name}:")
            try:
                made = self._made(target.with_neuron(name), recipe)
            except DoesNotFitError as error:
                refused.append(Tried(name, recipe.name, None, 0, str(error)))
                continue
            found.append((made, self._tried(made, name)))
        if not found:
            raise DoesNotFitError("; ".join(f"neuron {t.neuron}: {t.problem}" for t in refused))
        best = max(found, key=lambda pair: pair[1].accuracy or 0.0)[0]
        tried = (*(t for _, t in found), *refused)
        return Made(best.target, best.recipe, best.normalized, best.recalibrated, tried)

    def _made(self, target: Target, recipe: Recipe) -> Made:
        """For a target of one kind of neuron."""
        images = self.calibration.images
        if isinstance(self.ann, LoadedSnn):
            normalized = self.ann.normalized(images)
        else:
            recipe = suited(recipe, target)
            normalized = self._in_rates(self.ann, recipe)
        self.stage(f"quantizing for {target.name}")
        quantized = quantize(
            normalized.network, target, self.n_steps, images=images, input_range=normalized.input_range
        )
        made = Recalibrated(normalized, quantized)
        if recipe.calibrates_biases:
            self.stage(f"calibrating biases in the integers of {target.name}")
            made = recalibrate(normalized, quantized, target, images, self.n_steps)
        return Made(target, recipe, normalized, made)

    def _in_rates(self, ann: LoadedAnn, recipe: Recipe) -> Normalized:
        """The float network; made once for all targets that suit the recipe alike."""
        key = recipe.model_dump_json()
        if key not in self.known:
            images = self.calibration.images
            self.stage(f"normalizing ({recipe.name}) on {len(images)} samples")
            self.known[key] = convert(ann.graph, images, recipe, self.n_steps, events=self.events, seed=self.seed)
            if recipe.search is not None:
                self.stage(f"the search chose the {self.known[key].percentile:g}th percentile")
        return self.known[key]

    def _tried(self, made: Made, neuron: str) -> Tried:
        """Its accuracy on some calibration samples."""
        samples = self.calibration.first(COMPARED_SAMPLES)
        network, normalized = made.recalibrated.quantized.network, made.recalibrated.normalized
        accuracy = evaluate_samples(network, normalized, samples, self.n_steps, seed=self.seed).complete().accuracy
        self.stage(f"neuron {neuron}: {100 * accuracy:.1f} % of {len(samples)} calibration samples right")
        return Tried(neuron, made.recipe.name, accuracy, len(samples))


def neuron_row(made: Made) -> dict[str, Any] | None:
    """Which neuron it is, why, and what was tried, for report.json; None of a chip that has no choice."""
    name, tried = made.target.arithmetic.neuron, [asdict(t) for t in made.tried]
    if name is None:
        return None
    reason = "right most often on calibration samples, of equals the first" if tried else "asked for"
    return {"name": name, "reason": reason, "tried": tried}


def default_reason(target: Target) -> str:
    """Why a target's default recipe is the one it is, in a few words."""
    a = target.arithmetic
    if set(a.resets) == {"zero"}:
        return f"the default of {target.name}, whose neurons only reset to zero"
    if "subtract" in a.two_compartments:
        return f"the default of {target.name}, whose neurons reset to zero; by subtraction they take two compartments"
    return f"the default of {target.name}, whose neurons reset by subtraction"
