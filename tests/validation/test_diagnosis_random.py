"""Random networks, random planted faults: the right rule is always among those told, so never a wrong one alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.oracle import run_oracle
from neuroport.validation.diagnosis import diagnose
from neuroport.validation.isolate import site_of, sources_of
from tests.chip.networks import cases, networks, target, variant
from tests.validation import planted

_SPLIT = variant("cpu", accumulators="split", accumulator_bits=17, membrane_floor=-4000)
ARITHMETICS = [target("loihi-sim").arithmetic, target("cpu").arithmetic, _SPLIT]
PLAIN = ("one-step-late", "clamp-ignored", "v-init-ignored", "reset-kind", "bias-dropped")


@given(case=networks(ARITHMETICS))
@cases(60)
def test_a_population_alone_is_the_oracle(case):
    """In any samples, in any order."""
    network, inputs = case
    trace = run_oracle(network, inputs)
    samples = np.arange(inputs.n_samples)[::-1]
    for p in network.populations:
        if p.role == "input":
            continue
        spikes, v = site_of(network, p, sources_of(network, trace.spikes, inputs), inputs, samples).run()
        np.testing.assert_array_equal(spikes, trace.spikes[p.name][samples])
        np.testing.assert_array_equal(v, trace.potentials[p.name][samples])


def faults_of(network, p, rng):
    """Faults that could be there: (rule, the altered network)."""
    a, name, m = network.arithmetic, p.name, p.threshold_mantissa
    other = {"zero": "subtract", "subtract": "zero"}[p.reset]
    faults = [
        ("threshold-off-by-one", planted.with_population(network, name, threshold_mantissa=m + rng.choice([-1, 1]))),
        ("reset-kind", planted.with_population(network, name, reset=other)),
        ("v-init-ignored", planted.with_population(network, name, v_init_int=0)),
        ("clamp-ignored", planted.with_population(network, name, clamp_until=0)),
        ("decay-off-by-one", planted.with_population(network, name, decay=min(p.decay + 1, 1 << a.decay_bits))),
        ("threshold-compare", planted.unchecked(network, arithmetic=planted.other_compare(a))),
        ("current-overflow", planted.unchecked(network, arithmetic=planted.other_overflow(a, "current"))),
        ("potential-overflow", planted.unchecked(network, arithmetic=planted.other_overflow(a, "membrane"))),
        ("odd-weights-floored", planted.with_weights(network, name, planted.floored)),
    ]
    if not p.driven:
        faults.append(("bias-dropped", planted.no_bias(network, name)))
    if network.incoming[name]:
        bits = 9 if a.weights.mixed.maximum > 127 else 8
        faults.append(("one-weight", planted.one_bit(network, name, rng, bits)))
    if network.incoming[name] and planted.has_conv(network, name):
        faults.append(("axes-swapped", planted.with_weights(network, name, planted.transposed)))
        faults.append(("kernel-flipped", planted.with_weights(network, name, planted.turned)))
    return faults


def check(case, seed, seen):
    """One random fault in one random population; counts what was seen."""
    network, inputs = case
    rng = np.random.default_rng(seed)
    p = network.populations[int(rng.integers(len(network.populations)))]
    p = network.populations[-1] if p.role == "input" else p
    faults = [("one-step-late", network), *([] if p.gate else faults_of(network, p, rng))]
    core, found = run_oracle(network, inputs), None
    order = sorted(rng.permutation(len(faults)), key=lambda k: faults[k][0] in PLAIN)
    for rule, altered in (faults[k] for k in order):  # the first that makes a difference, those that rarely do first
        after = {"after": planted.late} if rule == "one-step-late" else {}
        found = diagnose(network, inputs, core, planted.run_with(network, inputs, p.name, altered, **after))
        if found is not None:
            break
    if found is None:
        seen["no difference"] += 1
        return
    assert [origin.population for origin in found.origins] == [p.name]
    (origin,) = found.origins
    told = {e.rule for e in origin.exact}
    assert rule in told or not origin.is_complete, f"{rule}: {origin.sentence}"
    assert len(told) == 1 or "several rules explain it" in found.verdict
    seen[rule] += 1
    seen["alone"] += told == {rule}


def test_the_planted_fault_is_told():
    """Whatever the network; and the test saw every kind of fault, many of them told as the only explanation."""
    seen: Counter[str] = Counter()

    @given(case=networks(ARITHMETICS), seed=st.integers(0, 2**32 - 1))
    @cases(300)
    def run(case, seed):
        check(case, seed, seen)

    run()
    kinds = {rule for rule in seen if rule not in ("alone", "no difference")}
    assert len(kinds) >= 10, seen
    assert seen["alone"] > 100, seen
