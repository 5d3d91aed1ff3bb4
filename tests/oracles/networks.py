"""Networks within what all emulators of Loihi compute alike, by hypothesis; and single layers outside of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntWeights, sum_bound
from tests.chip.networks import fitted, network_of, random_population, random_synapse, source, variant

# nengo-loihi's discretizer clips mixed weights at -254, see the test of it; all else are Loihi 1's own ranges.
_MIXED = {"minimum": -254, "maximum": 254, "step": 2}
_WEIGHTS = {**variant("loihi1").weights.model_dump(), "mixed": _MIXED}
COMMON = variant("loihi1", weights=_WEIGHTS, resets=("zero",), two_compartments=())


@st.composite
def layered(
    draw: Any, *, has_biases: bool, has_skips: bool, n_steps: tuple[int, int] = (4, 24)
) -> tuple[IntNetwork, IntInputs]:
    """One to three levels of one or two populations, each with synapses of any kind from the level before.

    has_biases: also populations driven by input currents. has_skips: also synapses from earlier levels.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_samples, steps = draw(st.integers(1, 3)), draw(st.integers(*n_steps))
    first, inputs = _first(draw, rng, n_samples, steps, is_driven=has_biases and draw(st.booleans()))
    levels: list[list[IntPopulation]] = [[first]]
    projections: list[IntProjection] = []
    n_levels = draw(st.integers(1, 3))
    for level in range(1, n_levels + 1):
        made = []
        for name in ("a", "b")[: draw(st.integers(1, 2)) if level < n_levels else 1]:
            shape = draw(st.one_of(st.tuples(st.integers(1, 8)), st.tuples(*[st.integers(1, 3)] * 3)))
            before = list(levels[-1])
            if has_skips and level > 1 and draw(st.booleans()):
                before.append(draw(st.sampled_from([p for earlier in levels[:-1] for p in earlier])))
            parts: list[tuple[str, IntWeights]] = [
                (p.name, random_synapse(draw, rng, COMMON, p.n_neurons, int(np.prod(shape)))) for p in before
            ]
            incoming = fitted(draw, parts, f"{name}{level}", COMMON)
            typical = sum(sum_bound(j.synapse) << j.exponent for j in incoming) << COMMON.synaptic_shift
            made.append(_neurons(draw, rng, f"{name}{level}", shape, typical // 8, steps, has_biases=has_biases))
            projections += incoming
        levels.append(made)
    levels[-1] = [replace(levels[-1][0], role="readout")]
    return network_of(COMMON, [p for level in levels for p in level], projections), inputs


def _first(
    draw: Any, rng: np.random.Generator, n_samples: int, n_steps: int, *, is_driven: bool
) -> tuple[IntPopulation, IntInputs]:
    """A spike source, or a population that input currents drive."""
    shape = draw(st.one_of(st.tuples(st.integers(1, 8)), st.tuples(*[st.integers(1, 3)] * 3)))
    if is_driven:
        driven = _neurons(draw, rng, "p0", shape, COMMON.bias.limit, n_steps, has_biases=True)
        low, high = COMMON.bias.mantissa_min, COMMON.bias.mantissa_max
        currents = rng.integers(low, high, (n_samples, *shape), endpoint=True).astype(np.int32)
        return replace(driven, driven=True), IntInputs(n_samples, n_steps, None, {"p0": currents})
    density = draw(st.sampled_from([0.2, 0.5, 1.0]))
    raster = (rng.random((n_samples, n_steps, *shape)) < density).astype(np.uint8)
    return source(shape, "p0"), IntInputs(n_samples, n_steps, raster, {})


def _neurons(
    draw: Any,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    typical: int,
    n_steps: int,
    *,
    has_biases: bool,
) -> IntPopulation:
    """Neurons anywhere in the ranges, without a clamp: no emulator has one."""
    kept = draw(st.sampled_from([None, None, 1, 100, 2048, 4095, 4096]))
    made = random_population(draw, rng, COMMON, name, shape, typical, n_steps)
    made = replace(made, clamp_until=0, current_decay=kept)
    if made.threshold_mantissa == COMMON.threshold.mantissa_max and draw(st.booleans()):  # it would hardly ever fire
        made = replace(made, threshold_mantissa=max(1, typical >> COMMON.threshold.shift + 1))
    return made if has_biases else replace(made, bias_mantissa=np.zeros(shape, np.int32), bias_exponent=0)


def layer(weights: Any, spikes: Any, *, exponent: int = 0, **changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A case of one layer, past all our checks; `changed` keys of its population, threshold never reached.

    weights: [n_out, n_in]; spikes: [n_steps, n_in].
    """
    weights, spikes = np.asarray(weights, np.int64), np.asarray(spikes, np.uint8)
    neuron = {"threshold": 131071, "decay": 0, "du": 4095, "bias_exponent": 0}
    header = {
        "n_samples": 1,
        "n_steps": len(spikes),
        "options": changed.pop("options", {}),
        "populations": [
            {"name": "in", "n": weights.shape[1], "role": "input", "depth": 0, **neuron},
            {"name": "out", "n": len(weights), "role": "readout", "depth": 1, **neuron, **changed},
        ],
        "projections": [{"pre": "in", "post": "out", "exponent": exponent}],
    }
    biases = {f"bias.{k}": np.zeros((1, n), np.int64) for k, n in enumerate(weights.shape[::-1])}
    return header, {"weights.0": weights, "spikes": spikes[None], **biases}
