"""Networks with one rule or one number changed: what a golden recording must notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import IntWindow
from neuroport.chip.target import Arithmetic
from tests.chip.networks import with_arithmetic


def mutations(network: IntNetwork) -> Iterator[tuple[str, IntNetwork]]:
    """(what is changed, the network with it changed)."""
    for key, changes in _other_rules(network.arithmetic).items():
        yield key, with_arithmetic(network, network.arithmetic.model_copy(update=changes))
    for k, p in enumerate(network.populations):
        if p.role == "input" or p.gate:
            continue
        for field, value in _other_numbers(p, network.arithmetic.weights.mixed.step).items():
            changed = [*network.populations]
            changed[k] = replace(p, **{field: value})
            yield f"{field} of {p.name}", _with(network, populations=tuple(changed))
    for k, j in enumerate(network.projections):
        if isinstance(j.synapse, IntWindow):
            continue
        one = j.synapse.mantissa.copy()
        late = one.size // 2  # behind the neurons of 'out' that stay at the end of their register
        one.flat[late + np.argsort(np.abs(one.reshape(-1)[late:]), stable=True)[-3:]] = 0  # not all get a spike
        others: dict[str, Any] = {"weights": replace(j, synapse=replace(j.synapse, mantissa=one))}
        if j.exponent:
            others["exponent"] = replace(j, exponent=j.exponent - 1)
        for what, other in others.items():
            links = [*network.projections]
            links[k] = other
            yield f"{what} {j.pre} -> {j.post}", _with(network, projections=tuple(links))


def _with(network: IntNetwork, **parts: Any) -> IntNetwork:
    """The network with other parts, past the checks."""
    changed = with_arithmetic(network, network.arithmetic)
    for name, value in parts.items():
        object.__setattr__(changed, name, value)
    for cached in ("by_name", "incoming", "depth"):
        changed.__dict__.pop(cached, None)
    return changed


def _other_rules(a: Arithmetic) -> dict[str, dict[str, Any]]:
    turned = {"wrap": "saturate", "saturate": "wrap"}
    compare = {">": ">=", ">=": ">"}[a.threshold.compare]
    rules: dict[str, dict[str, Any]] = {
        "compare": {"threshold": a.threshold.model_copy(update={"compare": compare})},
        "synaptic_shift": {"synaptic_shift": a.synaptic_shift + 1},
        "decay_bits": {"decay_bits": a.decay_bits + 1},
        "accumulators": {"accumulators": "split", "accumulator_bits": 8},
        "membrane.bits": {"membrane": a.membrane.model_copy(update={"bits": a.membrane.bits + 1})},
    }
    if a.accumulators == "split":
        rules["accumulators"] = {"accumulators": "joint"}
    for name in ("current", "membrane"):
        register = getattr(a, name)
        rules[f"{name}.overflow"] = {name: register.model_copy(update={"overflow": turned[register.overflow]})}
    if a.membrane_floor is not None:
        rules["membrane_floor"] = {"membrane_floor": None}
    return rules


def _other_numbers(p: IntPopulation, step: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if p.threshold_mantissa < 1 << 16:  # the readouts' is beyond reach
        numbers["threshold_mantissa"] = p.threshold_mantissa + max(step, p.threshold_mantissa >> 3)
        numbers["reset"] = {"zero": "subtract", "subtract": "zero"}[p.reset]
    for field, dropped in {"decay": 0, "current_decay": None, "clamp_until": 0, "v_init_int": 0}.items():
        if getattr(p, field) != dropped:
            numbers[field] = dropped
    if p.bias_mantissa.any():
        numbers["bias_mantissa"] = np.zeros_like(p.bias_mantissa)
        if p.bias_exponent:
            numbers["bias_exponent"] = p.bias_exponent - 1
    return numbers
