"""Why a backend differs from the core: which populations compute differently by themselves, and what rule explains it.

Each population is run alone on the spikes that the backend itself gave its inputs. Where the core's rule then gives
what the backend gave, the population only inherits; where it does not, every known rule is tried in its place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Job
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.trace import Trace
from neuroport.validation.divergence import Comparison
from neuroport.validation.explain import Explanation, Observed, Samples, explain, wrong_at
from neuroport.validation.isolate import Site, Spikes, site_of, sources_of

_AROUND = 2  # steps shown before and after a difference


@dataclass(frozen=True)
class Around:
    """One neuron around its first difference, both sides; neuron: index within the population's shape.

    steps: from 0; *_spikes, *_input (the sum of weights that arrives), *_v (potentials after the steps) at these.
    backend_v: as it returned them, else None; rule_v: by the core's rule on what arrives at the backend's neuron.
    """

    sample: int
    step: int
    neuron: tuple[int, ...]
    steps: tuple[int, ...]
    core_spikes: tuple[int, ...]
    backend_spikes: tuple[int, ...]
    core_input: tuple[int, ...]
    backend_input: tuple[int, ...]
    core_v: tuple[int, ...]
    rule_v: tuple[int, ...]
    backend_v: tuple[int, ...] | None


@dataclass(frozen=True)
class Origin:
    """A population that differs although its inputs are the backend's own.

    mismatches: of its spikes and potentials from the core's rule, in n_samples looked at; explanations: the rules that
    give every spike of the backend; if none does, the nearest ones. is_complete: whether all
    rules, and all single weights, were tried.
    """

    population: str
    mismatches: int
    n_samples: int
    first: Around
    explanations: tuple[Explanation, ...]
    is_complete: bool

    @property
    def exact(self) -> tuple[Explanation, ...]:
        """The rules that explain everything."""
        return tuple(e for e in self.explanations if e.explained == 1)

    @property
    def sentence(self) -> str:
        """What is known of it, without its name."""
        so_far = "" if self.is_complete else " (and not everything could be tried)"
        by_rule: dict[str, list[Explanation]] = {}
        for e in self.exact:
            by_rule.setdefault(e.rule, []).append(e)
        told = [f"{es[0]}{f' (or {len(es) - 1} like it)' if len(es) > 1 else ''}" for es in by_rule.values()]
        if len(told) == 1:
            return f"it {told[0]}{so_far}"
        if told:
            return f"several rules explain it: it {'; or it '.join(told)}{so_far}"
        nearest = f"; nearest: {self.explanations[0]}" if self.explanations else ""
        return f"no known rule explains it{nearest}{so_far}"


@dataclass(frozen=True)
class Divergence:
    """Where the differences come from.

    origins: populations that compute differently by themselves, in topological order; inherited: those that differ
    only because their inputs do; missing: not returned, or of another shape; untold: those behind a missing one;
    core_wrong: those in which the backend follows the chip's rule, and what it is compared with does not.
    """

    origins: tuple[Origin, ...]
    inherited: tuple[str, ...]
    missing: tuple[str, ...]
    untold: tuple[str, ...]
    core_wrong: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One line."""
        parts = [f"{_names(self.missing)}: not returned, or in another shape"] if self.missing else []
        shared = self._shared
        if shared is not None:
            by_themselves = f"{_names([o.population for o in self.origins])} by themselves"
            parts.append(f"{by_themselves}, and one rule explains them all: it {shared}")
        else:
            parts += [f"{_names([o.population])} by itself: {o.sentence}" for o in self.origins]
        if self.core_wrong:
            parts.append(
                f"{_names(self.core_wrong)}, and it is the core's side that breaks the chip's rule (chip/oracle.py), "
                f"not the backend's: a bug, or a rule that changed since; please report it"
            )
        if self.inherited:
            parts.append(f"{_names(self.inherited)} only because of what arrives there")
        return "; ".join(parts)

    @property
    def _shared(self) -> Explanation | None:
        """The only rule that explains each of several origins, as the first one has it."""
        rules = [{e.rule for e in origin.exact} for origin in self.origins]
        common = set.intersection(*rules) if len(rules) > 1 else set()
        if len(common) != 1:
            return None
        return next(e for e in self.origins[0].exact if e.rule in common)

    def as_json(self) -> dict[str, Any]:
        """Plain data for report.json."""
        return {"verdict": self.verdict, **asdict(self)}


def diagnose(
    network: IntNetwork, inputs: IntInputs, core: Trace, backend: Trace, *, seconds: float = 60.0
) -> Divergence | None:
    """What makes a backend's trace differ from the core's; None where nothing does.

    core: with the spikes of all populations and the potentials of the readouts. seconds: when to stop looking; what was
    found by then is returned. Within it come at least one sample of each population that differs.
    """
    began = time.monotonic()
    deadline, half = began + seconds, began + seconds / 2  # half of it for where, at most
    given = sources_of(network, backend.spikes, inputs)
    missing = [p.name for p in network.populations if _is_missing(p, core, backend)]
    untold: list[str] = []
    inherited: list[str] = []
    core_wrong: list[str] = []
    found: list[tuple[IntPopulation, Observed, Samples]] = []
    for p in network.populations:
        if p.role == "input" or p.name in missing:
            continue
        behind = {j.pre for j in network.incoming[p.name]}
        answer = Observed(backend.spikes[p.name], backend.potentials[p.name] if p.role == "readout" else None)
        differs = _differs(answer, core, p)
        if behind & set(missing):
            untold += [p.name] if differs.any() else []
            continue
        other_inputs = np.zeros(inputs.n_samples, bool)
        for name in behind & set(core.spikes):
            other_inputs |= _any(np.not_equal(given[name], core.spikes[name]))
        samples = np.flatnonzero(differs | other_inputs)
        wrong = _wrong_samples(network, p, given, inputs, answer, samples, differs & ~other_inputs, half)
        if len(wrong):
            found.append((p, answer, wrong))
        elif (differs & ~other_inputs).any():
            core_wrong.append(p.name)
        elif differs.any():
            inherited.append(p.name)
    if not (found or missing or untold or inherited or core_wrong):
        return None
    origins = []
    for k, (p, answer, wrong) in enumerate(found):
        share = (deadline - time.monotonic()) / (len(found) - k)
        origins.append(_origin(network, inputs, core, given, p, answer, wrong, time.monotonic() + share))
    return Divergence(tuple(origins), tuple(inherited), tuple(missing), tuple(untold), tuple(core_wrong))


def backend_row(name: str, comparison: Comparison, job: Job, core: Trace, backend: Trace) -> dict[str, Any]:
    """What report.json says of a backend: what was compared, and where it differs, the diagnosis under `divergence`."""
    found = None
    if comparison.mismatches:
        job.on_message("looking for what makes the backend differ")
        found = diagnose(job.network, job.inputs, core, backend)
    return {"name": name, **comparison.as_json(), "divergence": None if found is None else found.as_json()}


def _names(names: Sequence[str]) -> str:
    """`population 'a' differs`, `populations 'a' and 'b' differ`; of many the first three."""
    if len(names) == 1:
        return f"population '{names[0]}' differs"
    shown = [f"'{n}'" for n in names[:3]] + ([f"{len(names) - 3} more"] if len(names) > 3 else [])
    return f"populations {', '.join(shown[:-1])} and {shown[-1]} differ"


def _any(x: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each sample."""
    return np.asarray(x.reshape(len(x), -1).any(1))


def _is_missing(p: IntPopulation, core: Trace, backend: Trace) -> bool:
    if p.role == "input":
        return False
    spikes, v = backend.spikes.get(p.name), backend.potentials.get(p.name)
    if spikes is None or spikes.shape != core.spikes[p.name].shape:
        return True
    return p.role == "readout" and (v is None or v.shape != spikes.shape)


def _differs(answer: Observed, core: Trace, p: IntPopulation) -> NDArray[np.bool_]:
    found = _any(np.not_equal(answer.spikes, core.spikes[p.name]))
    return found if answer.potentials is None else found | _any(answer.potentials != core.potentials[p.name])


def _wrong_samples(
    network: IntNetwork,
    p: IntPopulation,
    given: Mapping[str, Spikes],
    inputs: IntInputs,
    answer: Observed,
    samples: NDArray[np.intp],
    known: NDArray[np.bool_],
    deadline: float,
) -> Samples:
    """Samples in which the core's rule on the backend's inputs does not give the backend's answer.

    known: [S] those of which that is clear, as the inputs are the core's: if it holds of the first of them.
    """

    def is_wrong(s: int) -> bool:
        here = np.array([s])
        return bool(wrong_at(site_of(network, p, given, inputs, here), answer.part(here)).any())

    clear = [int(s) for s in samples if known[s]]
    wrong = clear if clear and is_wrong(clear[0]) else []  # else the core itself does not follow its rule
    for n, s in enumerate(int(s) for s in samples if s not in wrong):
        if (n or wrong) and time.monotonic() > deadline:
            break
        if is_wrong(s):
            wrong.append(s)
    return np.array(sorted(wrong), np.intp)


def _origin(
    network: IntNetwork,
    inputs: IntInputs,
    core: Trace,
    given: Mapping[str, Spikes],
    p: IntPopulation,
    answer: Observed,
    wrong: Samples,
    deadline: float,
) -> Origin:
    def site_at(samples: Samples) -> Site:
        return site_of(network, p, given, inputs, samples)

    here = wrong[:1]
    ours = site_of(network, p, sources_of(network, core.spikes, inputs), inputs, here)
    first = _around(ours, site_at(here), answer.part(here), int(here[0]))
    found = explain(site_at, answer, wrong, deadline)
    return Origin(p.name, found.n_wrong, found.n_samples, first, found.explanations, found.is_complete)


def _around(ours: Site, theirs: Site, answer: Observed, sample: int) -> Around:
    """The first neuron at which the core's rule on the backend's inputs does not give what the backend gave."""
    at = tuple(int(i) for i in np.argwhere(wrong_at(theirs, answer))[0])
    step, neuron = at[1], at[2:]
    steps = tuple(range(max(0, step - _AROUND), min(theirs.n_steps, step + _AROUND + 1)))

    def values(x: NDArray[Any]) -> tuple[int, ...]:
        return tuple(int(v) for v in x[0][(slice(steps[0], steps[-1] + 1), *neuron)])

    core_spikes, core_v = ours.run()
    return Around(
        sample=sample,
        step=step,
        neuron=neuron,
        steps=steps,
        core_spikes=values(core_spikes),
        backend_spikes=values(answer.spikes),
        core_input=values(ours.total),
        backend_input=values(theirs.total),
        core_v=values(core_v),
        rule_v=values(theirs.run()[1]),
        backend_v=None if answer.potentials is None else values(answer.potentials),
    )
