"""What chips and simulators are known to do to a neuron instead of what the integer network says.

Each rule looks at a population alone and yields the changes that would make it behave so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neuroport.chip.target import Arithmetic, Register
from neuroport.validation.isolate import Site

Change = Callable[[Site], Site]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One thing that may explain a difference.

    rule: its name, one for all of a kind; text: what the backend then does, as the end of "it ..."; cause: who is known
    to, empty where nobody is; change: makes a site do so.
    """

    rule: str
    text: str
    cause: str
    change: Change


Rule = Callable[[Site], Iterator[Candidate]]


def _population(**changes: Any) -> Change:
    return lambda site: replace(site, population=replace(site.population, **changes))


def _arithmetic(change: Callable[[Arithmetic], dict[str, Any]]) -> Change:
    return lambda site: replace(site, arithmetic=site.arithmetic.model_copy(update=change(site.arithmetic)))


def comparison(site: Site) -> Iterator[Candidate]:
    """`>` versus `>=`."""
    here = site.arithmetic.threshold.compare
    there = ">" if here == ">=" else ">="
    cause = {
        ">": "Loihi and Lava fire above the threshold, lava-nc 0.10.0, lava/proc/lif/models.py l.268-278",
        ">=": "NEST and SpiNNaker fire at the threshold, sPyNNaker 7.4.1, threshold_type_static.h",
    }[there]

    def change(a: Arithmetic) -> dict[str, Any]:
        return {"threshold": a.threshold.model_copy(update={"compare": there})}

    yield Candidate("threshold-compare", f"fires where v {there} threshold, not {here}", cause, _arithmetic(change))


def threshold(site: Site) -> Iterator[Candidate]:
    """The threshold's mantissa off by one."""
    m = site.population.threshold_mantissa
    for wrong in (m - 1, m + 1):
        text = f"has threshold mantissa {wrong}, not {m}"
        yield Candidate("threshold-off-by-one", text, "", _population(threshold_mantissa=wrong))


def reset(site: Site) -> Iterator[Candidate]:
    """Reset to zero versus by subtraction."""
    here = site.population.reset
    there = "subtract" if here == "zero" else "zero"
    cause = "Lava's LIF only resets to zero, lava-nc 0.10.0, lava/proc/lif/models.py l.188-192"
    text = "resets to zero, not by subtraction" if there == "zero" else "resets by subtraction, not to zero"
    yield Candidate("reset-kind", text, cause if there == "zero" else "", _population(reset=there))


def overflow(site: Site) -> Iterator[Candidate]:
    """A register that wraps where it should saturate, or the other way."""
    known = {
        ("current", "wrap"): "Lava wraps the current, lava-nc 0.10.0, lava/proc/lif/models.py l.161-170",
        ("membrane", "saturate"): "Lava holds the potential at its end, lava-nc 0.10.0, lava/proc/lif/models.py l.176",
    }
    for name, word in (("current", "current"), ("membrane", "potential")):
        register: Register = getattr(site.arithmetic, name)
        there = "wrap" if register.overflow == "saturate" else "saturate"
        verb, other = ("wraps", "saturating") if there == "wrap" else ("saturates", "wrapping")
        changed = register.model_copy(update={"overflow": there})
        text = f"{verb} the {word} of {register.bits} bits instead of {other}"
        cause = known.get((name, there), "")
        yield Candidate(f"{word}-overflow", text, cause, _arithmetic(lambda _, n=name, c=changed: {n: c}))  # type: ignore[misc]


def accumulator(site: Site) -> Iterator[Candidate]:
    """Weight sums that end in one accumulator or in two."""
    a = site.arithmetic
    if a.accumulators == "split":
        joint = _reweighed("joint")
        yield Candidate("accumulators", "adds weights of both signs in one accumulator, not in one each", "", joint)
        return
    cause = "SpiNNaker adds up each sign on its own and holds it at 65535, in ring buffers of uint16"
    text = f"holds the sums of each sign at {a.accumulator_limit} before it subtracts them"
    yield Candidate("accumulators", text, cause, _reweighed("split"))
    bits = min(max(8, a.accumulator_bits), 40)  # what a register can have
    ends = (Register(bits=bits, overflow="wrap"), Register(bits=bits, overflow="saturate"))
    for end, cause in zip(ends, ("nengo-loihi 1.1.0 wraps it, builder/discretize.py l.19", ""), strict=True):
        text = f"{end.overflow}s weight sums at {bits} bits"
        yield Candidate("accumulator-overflow", text, cause, lambda s, end=end: replace(s, accumulator=end))  # type: ignore[misc]


def _reweighed(kind: str) -> Change:
    """Sums by other accumulators: each arrival is weighed again."""

    def change(site: Site) -> Site:
        site = replace(site, arithmetic=site.arithmetic.model_copy(update={"accumulators": kind}))
        for k in range(len(site.arrivals)):
            site = site.rewired(k)
        return site

    return change


def bias(site: Site) -> Iterator[Candidate]:
    """A bias that is lost, late, or at another scale."""
    p, shift = site.population, site.arithmetic.synaptic_shift
    word = "input current" if p.driven else "bias"
    if p.driven and p.bias_mantissa.any():
        own = p.bias_mantissa.astype(np.int64) << p.bias_exponent
        text = "has no bias besides the input current"
        yield Candidate("bias-dropped", text, "", lambda s: replace(s, bias=s.bias - own))
    if not site.bias.any():
        return
    yield Candidate("bias-dropped", f"has no {word}", "", lambda s: replace(s, bias=np.zeros_like(s.bias)))
    text = f"adds the {word} from the second step on"
    yield Candidate("bias-late", text, "", _late_bias)
    if p.bias_exponent:
        text, e = f"ignores the {word}'s exponent {p.bias_exponent}", p.bias_exponent
        yield Candidate("bias-scale", text, "", lambda s: replace(s, bias=s.bias >> e))
    if shift:
        text = f"shifts the {word} by {shift} as it does weights"
        cause = "Lava shifts weights and thresholds, never the bias, lava-nc 0.10.0, lava/proc/lif/models.py l.110-122"
        yield Candidate("bias-scale", text, cause, lambda s: replace(s, bias=s.bias << shift))


def _late_bias(site: Site) -> Site:
    over_time = np.array(np.broadcast_to(site.bias, (len(site.bias), site.n_steps, *site.population.shape)))
    over_time[:, 0] = 0
    return replace(site, bias=over_time)


def start(site: Site) -> Iterator[Candidate]:
    """An initial potential or a clamp that is not there, or off by a step."""
    p = site.population
    if p.v_init_int:
        cause = "Lava's LIFReset starts each sample at 0, lava-nc 0.10.0, lava/proc/lif/models.py l.386-449"
        text = f"starts at potential 0, not {p.v_init_int}"
        yield Candidate("v-init-ignored", text, cause, _population(v_init_int=0))
    if p.clamp_until:
        text = f"runs from the first step, not from step {p.clamp_until}"
        yield Candidate("clamp-ignored", text, "", _population(clamp_until=0))
    for wrong in {p.clamp_until - 1, p.clamp_until + 1} - {0, -1}:
        text = f"runs from step {wrong}, not {p.clamp_until}"
        yield Candidate("clamp-off-by-one", text, "", _population(clamp_until=wrong))


def decay(site: Site) -> Iterator[Candidate]:
    """Decays off by one, or not there."""
    p, full = site.population, 1 << site.arithmetic.decay_bits
    adds = "Lava adds 1 to du, not to dv, lava-nc 0.10.0, lava/proc/lif/models.py l.94, l.145"
    for field, word in (("decay", "potential"), ("current_decay", "current")):
        value = getattr(p, field)
        if value is None:
            continue
        for wrong in (value - 1, value + 1):
            if 0 <= wrong <= full:
                text = f"has {word} decay {wrong}, not {value}"
                yield Candidate("decay-off-by-one", text, adds, _population(**{field: wrong}))
        if value > 1:
            yield Candidate("decay-ignored", f"does not decay the {word}", "", _population(**{field: 0}))
    if p.current_decay is not None:
        text = "keeps nothing of the current for the next step"
        yield Candidate("decay-ignored", text, "", _population(current_decay=None))


def floor(site: Site) -> Iterator[Candidate]:
    """Potentials that end at the reset, or do not."""
    if site.arithmetic.membrane_floor is None:
        cause = "sPyNNaker's IFTruncDelta holds v at V_reset, neuron_model_if_trunc.h"
        change = _arithmetic(lambda _: {"membrane_floor": 0})
        yield Candidate("floor", "holds potentials at 0 from below", cause, change)
    else:
        text = f"lets potentials fall below {site.arithmetic.membrane_floor}"
        yield Candidate("floor", text, "", _arithmetic(lambda _: {"membrane_floor": None}))


NEURON_RULES: tuple[Rule, ...] = (comparison, threshold, reset, overflow, accumulator, bias, start, decay, floor)
