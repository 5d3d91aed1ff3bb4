"""Which known rule gives, in place of the core's, every spike that a backend gave for one population."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from neuroport.validation.isolate import Int64, Site, Spikes
from neuroport.validation.one_weight import MOST, one_weight
from neuroport.validation.rules import NEURON_RULES, Candidate
from neuroport.validation.rules_wiring import PLACE_RULES, WEIGHT_RULES

Samples = NDArray[np.intp]
_NEAREST = 3  # rules told where none explains everything
_NEAR = 0.5  # of the differences: a rule that explains fewer would only mislead
_FIRST = 4  # samples that all rules are tried on
_AT_WORK = 1 << 22  # neuron-steps simulated at a time


@dataclass(frozen=True, eq=False)
class Observed:
    """What a backend gave for one population: spikes [S, T, *shape], and potentials where it is a readout."""

    spikes: Spikes
    potentials: Int64 | None

    def part(self, samples: Samples) -> Observed:
        """Of these samples."""
        return Observed(self.spikes[samples], None if self.potentials is None else self.potentials[samples])


@dataclass(frozen=True)
class Explanation:
    """A rule that the backend may follow, as the end of "it ..."; explained: fraction of the differences it removes."""

    rule: str
    text: str
    cause: str
    explained: float

    def __str__(self) -> str:
        """The text with its cause, and how much it explains where that is not all."""
        part = "" if self.explained == 1 else f", which explains {100 * self.explained:.3g} % of the differences"
        return f"{self.text}{f' ({self.cause})' if self.cause else ''}{part}"


@dataclass(frozen=True)
class Found:
    """n_wrong: neuron-steps at which the core's rule does not give the backend's answer, in n_samples."""

    n_wrong: int
    n_samples: int
    explanations: tuple[Explanation, ...]
    is_complete: bool


def wrong_at(site: Site, observed: Observed) -> NDArray[np.bool_]:
    """[S, T, *shape]: where a population run alone does not give what was observed; steps left open are right."""
    spikes, v = site.run()
    wrong: NDArray[np.bool_] = spikes != observed.spikes
    if observed.potentials is not None:
        wrong |= v != observed.potentials
    if site.n_unknown:
        wrong[:, -site.n_unknown :] = False
    return wrong


def explain(site_at: Callable[[Samples], Site], observed: Observed, wrong: Samples, deadline: float) -> Found:
    """Try every rule on a few of the samples that are wrong, and those that explain them on all samples.

    site_at: the population in some samples; wrong: those in which it differs by itself; deadline: by time.monotonic.
    """
    n_samples = len(observed.spikes)
    size = max(1, _AT_WORK // max(1, observed.spikes[0].size))
    first = wrong[: min(_FIRST, size)]
    site, seen = site_at(first), observed.part(first)
    base = wrong_at(site, seen)
    tried: list[tuple[Candidate, int]] = []
    is_complete = True
    for candidate in chain(_rules(site), _weights(site, seen, base)):
        if tried and time.monotonic() > deadline:
            is_complete = False
            break
        changed = candidate.change(site)
        if base[:, : site.n_steps - changed.n_unknown].any():  # else it would explain by leaving open
            tried.append((candidate, int(wrong_at(changed, seen).sum())))
    is_complete &= sum(c.rule == "one-weight" for c, _ in tried) <= MOST
    kept = [(c, n) for c, n in tried if n == 0]
    near = sorted(((c, n) for c, n in tried if 0 < n < base.sum()), key=lambda pair: pair[1])
    kept += near[:_NEAREST]
    n_base, counts, done = int(base.sum()), [n for _, n in kept], len(first)
    others = np.concatenate([wrong[len(first) :], np.setdiff1d(np.arange(n_samples), wrong)])
    for start in range(0, len(others), size):
        if time.monotonic() > deadline:
            break
        part = others[start : start + size]
        site, seen = site_at(part), observed.part(part)
        n_base += int(wrong_at(site, seen).sum())
        for k, (candidate, _) in enumerate(kept):
            counts[k] += int(wrong_at(candidate.change(site), seen).sum())
        done += len(part)
    return Found(n_base, done, _explanations([c for c, _ in kept], counts, n_base), is_complete)


def _explanations(candidates: Sequence[Candidate], counts: Sequence[int], n_base: int) -> tuple[Explanation, ...]:
    """Those that explain everything; if none does, the nearest few that explain most of it."""
    found = [
        Explanation(c.rule, c.text, c.cause, max(0.0, 1 - n / n_base))
        for c, n in zip(candidates, counts, strict=True)
        if n < n_base
    ]
    exact = [e for e in found if e.explained == 1]
    near = sorted((e for e in found if e.explained >= _NEAR), key=lambda e: -e.explained)
    return tuple(exact or near[:_NEAREST])


def _rules(site: Site) -> Iterator[Candidate]:
    rules = PLACE_RULES if site.population.gate else (*NEURON_RULES, *WEIGHT_RULES, *PLACE_RULES)
    for rule in rules:
        yield from rule(site)


def _weights(site: Site, observed: Observed, wrong: NDArray[np.bool_]) -> Iterator[Candidate]:
    """One more than are worth a name, so that it shows that there are more."""
    if not site.population.gate:
        yield from islice(one_weight(site, observed.spikes, observed.potentials, wrong), MOST + 1)
