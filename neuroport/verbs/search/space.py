"""What a trial may choose: fields of a recipe, a kind of neuron, bits of the weights; what the target has of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from neuroport.chip.suit import suited
from neuroport.chip.target import Arithmetic, Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.precision import coarser
from neuroport.normalize.recipe import BiasCorrection, Recipe, ResetCorrection, load_recipe

# Published recipes that a search begins with, cut to its range of steps.
STARTS = ("light-calibration", "extended", "robust", "hard-reset", "hard-reset-unclamped")
_TAIL = (1e-3, 5.0)  # percent of the activations that are clipped
_V_INIT, _CLAMP, _TENTH = 0.9, 1.0, 0.1
_LEAST_BITS = 3


class Chooser(Protocol):
    """Of an Optuna trial, what a space asks for."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from low to high."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """An integer from low to high."""


@dataclass(frozen=True)
class Candidate:
    """A conversion to try. neuron: None where the target has one kind; weight_bits: None for all that it has."""

    recipe: Recipe
    neuron: str | None = None
    weight_bits: int | None = None


@dataclass(frozen=True, eq=False)
class Space:
    """The choices for a target.

    base: the recipe that says what is not searched; steps: fewest and most; searches_bits: whether cores count.
    """

    target: Target
    base: Recipe
    steps: tuple[int, int]
    searches_bits: bool

    def arithmetic(self, neuron: str | None) -> Arithmetic:
        """Of a kind of neuron."""
        return self.target.arithmetic if neuron is None else self.target.neurons[neuron]

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of the weights to choose from, most first; empty where there is no choice."""
        sheet = sorted(self.target.geometry.synapse_weight_bits or (), reverse=True)
        found = tuple(b for b in sheet[1:] if b >= _LEAST_BITS and coarser(self.target, b) is not None)
        return (sheet[0], *found) if self.searches_bits and found else ()

    def choose(self, trial: Chooser) -> Candidate:
        """What the trial chooses."""
        names = list(self.target.neurons)
        neuron = trial.suggest_categorical("neuron", names) if len(names) > 1 else next(iter(names), None)
        a = self.arithmetic(neuron)
        change: dict[str, Any] = {
            "steps": trial.suggest_int("steps", *self.steps, log=True),
            "reset": a.resets[0],
            "scale": trial.suggest_categorical("scale", ["activation", "mmse", "balance"]),
            "granularity": trial.suggest_categorical("granularity", ["layer", "channel"]),
        }
        if len(a.resets) > 1:
            change["reset"] = trial.suggest_categorical("reset", sorted(a.resets))
        if change["scale"] == "activation":
            change["percentile"] = round(100 - trial.suggest_float("clipped_percent", *_TAIL, log=True), 4)
        if a.v_init:
            change["v_init"] = round(trial.suggest_float("v_init", 0.0, _V_INIT, step=_TENTH), 1)
        if a.clamp:
            change["clamp"] = round(trial.suggest_float("clamp", 0.0, _CLAMP, step=_TENTH), 1)
        if trial.suggest_categorical("calibrate", [False, True]):
            change["corrections"] = (
                ResetCorrection(kind="hard-reset") if change["reset"] == "zero" else BiasCorrection(kind="bias"),
            )
        bits = trial.suggest_categorical("weight_bits", list(self.widths)) if self.widths else None
        fixed = {"search": None, "threshold": 1.0, "corrections": (), "v_init": 0.0, "clamp": 0.0}
        recipe = self.base.model_copy(update=fixed | change)
        return Candidate(recipe, neuron, None if bits == next(iter(self.widths), None) else bits)

    def starts(self, percentile: float | None) -> list[dict[str, Any]]:
        """What is tried first, as parameters: the base, published recipes, and the base with a percentile if given."""
        recipes = [self.base, *(load_recipe(name) for name in STARTS)]
        if percentile is not None:
            recipes.append(self.base.model_copy(update={"scale": "activation", "percentile": percentile}))
        found: list[dict[str, Any]] = []
        for recipe in recipes:
            for params in self._params(recipe):
                if params not in found:
                    found.append(params)
        return found

    def _params(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        """A recipe as parameters for each kind of neuron that suits it; nothing where the space does not reach it."""
        if recipe.scale not in ("activation", "mmse", "balance"):
            return
        names: list[str | None] = [*self.target.neurons] or [None]
        for name in names:
            target = self.target if name is None else self.target.with_neuron(name)
            try:
                suited(recipe, target)
            except DoesNotFitError:
                continue
            yield self._params_for(recipe, name, target.arithmetic, has_choice=len(names) > 1)

    def _params_for(self, recipe: Recipe, neuron: str | None, a: Arithmetic, *, has_choice: bool) -> dict[str, Any]:
        wanted: Mapping[str, tuple[bool, Any]] = {
            "neuron": (has_choice, neuron),
            "steps": (True, min(max(recipe.steps, self.steps[0]), self.steps[1])),
            "scale": (True, recipe.scale),
            "granularity": (True, recipe.granularity),
            "reset": (len(a.resets) > 1, recipe.reset),
            "clipped_percent": (recipe.scale == "activation", min(max(100 - recipe.percentile, _TAIL[0]), _TAIL[1])),
            "v_init": (a.v_init, _tenth(recipe.v_init, _V_INIT)),
            "clamp": (a.clamp, _tenth(recipe.clamp, _CLAMP)),
            "calibrate": (True, recipe.calibrates_biases),
            "weight_bits": (bool(self.widths), next(iter(self.widths), None)),
        }
        return {name: value for name, (is_chosen, value) in wanted.items() if is_chosen}


def _tenth(value: float, most: float) -> float:
    return round(round(min(value, most) / _TENTH) * _TENTH, 1)
