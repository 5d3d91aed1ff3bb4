"""What flows between populations: a sum of linear operators on population outputs, plus a constant.

A linear layer of the ANN makes no population. It is applied to the signal, whose operators are condensed as they
grow, and becomes synapses at the next population.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from neuroport.ann.graph import FloatArray
from neuroport.snn.merge import add, identity, is_zero, merge
from neuroport.snn.operators import Chain, Operator, Part, Scale, Shape, apply


@dataclass(frozen=True, eq=False)
class Term:
    """One population's part in a signal. operator: None for its plain output; is_plain: no weights were applied."""

    pre: str
    operator: Operator | None = None
    is_plain: bool = True


@dataclass(frozen=True, eq=False)
class Signal:
    """sum of the terms + bias. bias: of the signal's shape, or None."""

    shape: Shape
    terms: tuple[Term, ...]
    bias: FloatArray | None = None

    @property
    def population(self) -> str | None:
        """The population whose output this is and nothing else, if so."""
        is_bare = len(self.terms) == 1 and self.terms[0].operator is None and self.bias is None
        return self.terms[0].pre if is_bare else None

    def reshaped(self, shape: Shape) -> Signal:
        """The same numbers in C order under another shape."""
        return replace(self, shape=shape, bias=None if self.bias is None else self.bias.reshape(shape))


def apply_part(signal: Signal, part: Part, shape: Shape, added: FloatArray | None, *, is_plain: bool) -> Signal:
    """The signal behind a linear operator that writes `shape`, plus `added` (broadcasts against it)."""
    terms = tuple(_extended(term, part, is_plain=is_plain) for term in signal.terms)
    bias = None if added is None or not added.any() else np.broadcast_to(added, shape).astype(np.float64)
    if signal.bias is not None:
        carried = apply(part, torch.from_numpy(signal.bias.astype(np.float64))[None])[0].numpy().reshape(shape)
        bias = carried if bias is None else bias + carried
    return Signal(shape, terms, bias)


def _extended(term: Term, part: Part, *, is_plain: bool) -> Term:
    if term.operator is None:
        operator = merge(part)
    else:
        parts = term.operator.parts if isinstance(term.operator, Chain) else (term.operator,)
        operator = merge(Chain((*parts, part)))
    return Term(term.pre, operator, term.is_plain and is_plain)


def add_signals(signals: list[Signal], signs: tuple[int, ...], shape: Shape) -> Signal:
    """Their sum, each with its sign."""
    terms: list[Term] = []
    bias: FloatArray | None = None
    for signal, sign in zip(signals, signs, strict=True):
        signed = signal if sign > 0 else negated(signal)
        terms.extend(signed.terms)
        if signed.bias is not None:
            bias = signed.bias if bias is None else bias + signed.bias
    return Signal(shape, tuple(terms), bias)


def negated(signal: Signal) -> Signal:
    """The signal with the other sign."""
    minus = Scale(np.full((1,) * len(signal.shape), -1.0), signal.shape)
    return apply_part(signal, minus, signal.shape, None, is_plain=False)


def synapses(signal: Signal) -> list[tuple[str, Operator]]:
    """(population, operator) for each projection: terms of one population summed where their structure allows.

    Operators that write nothing but zeros are left out unless nothing else is there.
    """
    by_pre: dict[str, list[Operator]] = {}
    for term in signal.terms:
        by_pre.setdefault(term.pre, []).append(term.operator or identity(signal.shape))
    made = [(pre, op) for pre, operators in by_pre.items() for op in add(operators)]
    alive = [(pre, op) for pre, op in made if not is_zero(op)]
    return alive or made[:1]


def is_nonnegative(signal: Signal) -> bool:
    """Whether the signal surely has no value below 0: plain sums of populations, no weights, no negative bias."""
    return all(term.is_plain for term in signal.terms) and (signal.bias is None or bool((signal.bias >= 0).all()))
