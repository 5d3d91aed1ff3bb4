"""A recipe for the neurons a chip has: what the chip alone decides is taken over, what it does not have is refused."""

from __future__ import annotations

from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.normalize.recipe import Recipe


def suited(recipe: Recipe, target: Target) -> Recipe:
    """The recipe with the leak and the floor of the chip's neurons, so that it is calibrated on what will run.

    Raises:
        DoesNotFitError: the recipe asks for a reset, a leak or a wait that the chip's neurons do not have.
    """
    a = target.arithmetic
    chip = f"{target.name}'s neuron" + (f" {a.neuron}" if a.neuron else "")
    if recipe.reset not in a.resets:
        raise DoesNotFitError(
            f"recipe '{recipe.name}' needs reset '{recipe.reset}', {chip} offers reset {' or '.join(a.resets)}; "
            f"leave --recipe out, or choose one for it: {target.default_recipe}"
        )
    if recipe.clamp and not a.clamp:
        raise DoesNotFitError(
            f"recipe '{recipe.name}' makes layers wait (clamp {recipe.clamp:g}), {chip} takes what arrives from "
            f"the first step on; leave --recipe out, or choose one without clamp: {target.default_recipe}"
        )
    if a.fixed_leak is not None and recipe.leak not in (1.0, a.fixed_leak):
        raise DoesNotFitError(
            f"recipe '{recipe.name}' has a leak of {recipe.leak:g} per step, {chip} always has {a.fixed_leak:g}; leave "
            f"`leak` out of the recipe"
        )
    found = recipe if a.fixed_leak is None else recipe.model_copy(update={"leak": a.fixed_leak, "leaky_readout": True})
    return found if a.membrane_floor != 0 else found.model_copy(update={"floor": 0.0})
