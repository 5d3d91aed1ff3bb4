"""A MODEL that is a spiking network already: it enters the line at the float network, and nothing is converted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.nir.verbs import read_nir
from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntWindow
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError, UsageError
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import Normalized, check_images
from neuroport.snn.network import Neuron, Reset, SpikingNetwork

_STEPS = 64  # where neither --steps nor the data say


@dataclass(frozen=True, eq=False)
class LoadedSnn:
    """A spiking network and the name of its file."""

    name: str
    network: SpikingNetwork

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample; on and off channels of a rate code are one channel there."""
        channels, *rest = self.network.input.shape
        return (channels // self.network.n_signs, *rest)

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The one input."""
        return [self.input_shape]

    @property
    def outputs(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of every output."""
        return [(head.population, self.network.by_name[head.population].shape) for head in self.network.outputs]

    @property
    def recipe(self) -> Recipe:
        """What stands where other networks have their recipe: nothing is done to this one."""
        neurons = [p.neuron for p in self.network.populations if isinstance(p.neuron, Neuron) and p.role != "input"]
        firing = next((n for n in neurons if n.fires), neurons[0])
        return Recipe(
            name="as-it-is",
            summary="A spiking network, deployed as it was trained.",
            source=f"{self.name}.nir",
            scale="none",
            reset=firing.reset,
            v_init=firing.v_init if 0 <= firing.v_init < 1 else 0.0,
            input="current" if self.network.encoding == "events" else self.network.encoding,
            readout="count" if self.network.output.neuron.fires else "membrane",
            steps=_STEPS,
        )

    @property
    def reason(self) -> str:
        """Why that recipe, in a few words; NIR has no flag for the kind of reset, so it is said here."""
        return f"a spiking network, its neurons reset {'to zero' if self.recipe.reset == 'zero' else 'by subtraction'}"

    def shown_events(self) -> LoadedSnn:
        """The same network for samples that are spikes."""
        return replace(self, network=replace(self.network, encoding="events"))

    def check(self, target: Target) -> None:
        """Refuse a chip whose neurons are others, before anything is done; of several kinds one has to suit.

        Raises:
            DoesNotFitError: the layer, what it needs, and what the chip offers.
        """
        chips = [target.with_neuron(name) for name in target.neurons] or [target]
        problems = [self._problem(chip) for chip in chips]
        if all(problems):
            raise DoesNotFitError("; ".join(dict.fromkeys(problems)))

    def _problem(self, target: Target) -> str:
        a = target.arithmetic
        for p in self.network.populations:
            n = p.neuron
            if p.role == "input" or not isinstance(n, Neuron) or not n.fires:
                continue
            if n.reset not in a.resets:
                return (
                    f"layer '{p.name}' of '{self.name}.nir' is reset by '{n.reset}', {target.name}'s neurons by "
                    f"{' or '.join(a.resets)}; choose another --target, or --reset where the file does not say it"
                )
            if a.fixed_leak is not None and round((1 - n.leak) * (1 << a.decay_bits)) != a.fixed_decay:
                kind = f" {a.neuron}" if a.neuron else ""
                return (
                    f"layer '{p.name}' of '{self.name}.nir' has a leak of {n.leak:g} per step, {target.name}'s neuron"
                    f"{kind} always has {a.fixed_leak:g}; choose another --target or --neuron"
                )
        return ""

    def remarks(self, network: IntNetwork) -> list[str]:
        """What the chip's neurons do that the file's do not, where it can change an answer."""
        held = [p for p in network.populations if p.role != "input" and network.floor_of(p) is not None]
        fall = [p.name for p in held if p.driven or (p.bias_mantissa < 0).any() or _inhibits(network, p.name)]
        return [
            f"layer '{name}': {network.target} holds potentials at {network.arithmetic.membrane_floor} or above, those "
            f"of '{self.name}.nir' have no floor; the rung integer_core says what it costs"
            for name in fall
        ]

    def normalized(self, images: NDArray[np.float32]) -> Normalized:
        """The network as the later rooms take it, its rates the activations; images: calibration samples [N, ...]."""
        images = check_images(images)
        scales = {p.name: np.ones(1) for p in self.network.populations}
        return Normalized(self.network, scales, {}, {}, (float(images.min()), float(images.max())))


def _inhibits(network: IntNetwork, name: str) -> bool:
    return any((j.synapse.mantissa < 0).any() for j in network.incoming[name] if not isinstance(j.synapse, IntWindow))


def is_spiking(model: Any) -> bool:
    """Whether a MODEL is a file of NIR."""
    return isinstance(model, str | Path) and Path(model).suffix == ".nir"


def load_spiking(
    model: Any, *, weights: Path | None, recipe: str | Path | None, reset: Reset | None, dt_s: float | None
) -> LoadedSnn | None:
    """The spiking network behind a MODEL; None of a trained ANN.

    Raises:
        UsageError: options that do not go with the model, or an integer network. ConversionError: see read_nir.
    """
    if not is_spiking(model):
        if reset is not None or dt_s is not None:
            raise UsageError("--reset and --dt go with a .nir file; of other models the recipe says how neurons reset")
        return None
    for flag, given in (("--recipe", recipe), ("--weights", weights)):
        if given is not None:
            raise UsageError(f"{flag} '{given}' does not go with '{model}', a spiking network that is taken as it is")
    found = read_nir(model, reset=reset, dt_s=dt_s)
    if isinstance(found, IntNetwork):
        raise UsageError(
            f"'{model}' is a network in the integers of {found.target} already, deploy quantizes float networks; read "
            f"it with neuroport.read_nir and run it with neuroport.run_core"
        )
    return LoadedSnn(Path(model).stem, found)
