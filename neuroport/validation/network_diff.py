"""What changed between two integer networks, and between two runs of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntSparse, IntWeights, IntWindow
from neuroport.chip.trace import Trace

Int64 = NDArray[np.int64]
Side = str | int | float | None

_NEURON = {
    "role": "role",
    "shape": "shape",
    "threshold_mantissa": "threshold",
    "bias_exponent": "bias exponent",
    "v_init_int": "initial potential",
    "reset": "reset",
    "decay": "decay of the potential",
    "current_decay": "decay of the current",
    "clamp_until": "clamped until step",
    "driven": "driven by currents",
    "unit": "unit",
    "gate": "max-pool gate",
}
_ENTIRELY = 10.0  # how far words differ, or what only one side has


@dataclass(frozen=True)
class Change:
    """One thing that differs.

    kind: 'settings', 'accuracy', 'network', 'weights', 'neurons', 'spikes' or 'cores'; where: a setting, rung,
    population or projection; a, b: both sides, None where there is no such thing; size: how much it matters among those
    of its kind; note: the difference in words.
    """

    kind: str
    where: str
    what: str
    a: Side
    b: Side
    size: float
    note: str = ""


def apart(x: Side, y: Side) -> float:
    """How far two numbers are apart, in units of the first; words are so entirely."""
    if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
        return _ENTIRELY
    return abs(y - x) / max(abs(x), 1)


def diff_networks(a: IntNetwork, b: IntNetwork) -> Iterator[Change]:
    """Populations and projections added, removed or changed, then weights, then neurons."""
    ours, theirs = projections_of(a), projections_of(b)
    for name in dict.fromkeys([*a.by_name, *b.by_name]):
        p, q = a.by_name.get(name), b.by_name.get(name)
        if p is not None and q is not None:
            yield from _neurons(p, q)
        else:
            note = "added" if p is None else "removed"
            yield Change("network", name, "population", _shape(p), _shape(q), 2, note)
    for key in dict.fromkeys([*ours, *theirs]):
        j, k = ours.get(key), theirs.get(key)
        x, y = (None if i is None else _kind(i) for i in (j, k))
        if x != y and not _ends(j, k) <= a.by_name.keys() & b.by_name.keys():
            continue  # of a population that is named as added or removed
        if x != y:
            note = "added" if x is None else "removed" if y is None else ""
            yield Change("network", key, "synapses", x, y, 1, note)
        elif j is not None and k is not None:
            yield from _weights(key, j, k, a.by_name[j.pre].n_neurons)


def diff_runs(run: str, a: Trace, b: Trace, *, same_inputs: bool) -> Iterator[Change]:
    """Spikes of the populations that both have: one by one where the inputs are the same, else their rates."""
    for name, x in a.spikes.items():
        y = b.spikes.get(name)
        if y is None:
            continue
        n_x, n_y = (int(np.count_nonzero(s)) for s in (x, y))
        if same_inputs and x.shape == y.shape:
            places = np.argwhere(x != y)
            if len(places):
                sample, step, *neuron = places[0].tolist()
                note = f"{len(places):,} differ; first: sample {sample}, step {step}, neuron {neuron}"
                yield Change("spikes", name, f"spikes ({run})", n_x, n_y, len(places) / x.size, note)
        else:
            rates = (round(n_x / max(1, x.size), 6), round(n_y / max(1, y.size), 6))
            if rates[0] != rates[1]:
                yield Change("spikes", name, f"spikes per step ({run})", *rates, abs(rates[1] - rates[0]))


def projections_of(network: IntNetwork) -> Mapping[str, IntProjection]:
    """By what they join; of those that join the same two, the later ones are numbered."""
    found: dict[str, IntProjection] = {}
    for j in network.projections:
        key, n = f"{j.pre} -> {j.post}", 1
        while key in found:
            n += 1
            key = f"{j.pre} -> {j.post} ({n})"
        found[key] = j
    return found


def _ends(*projections: IntProjection | None) -> set[str]:
    return {name for j in projections if j is not None for name in (j.pre, j.post)}


def _shape(p: IntPopulation | None) -> str | None:
    return None if p is None else "x".join(map(str, p.shape))


def _kind(j: IntProjection) -> str:
    """The kind of synapses with all that is not a weight."""
    s = j.synapse
    kind = type(s).__name__.removeprefix("Int").lower()
    if isinstance(s, IntWindow):
        return f"{kind} {s.op.kernel}, stride {s.op.stride}, padding {s.op.padding}, {s.in_shape} to {s.out_shape}"
    if isinstance(s, IntSparse):
        return f"{kind} of {len(s.row_start) - 1} rows"
    g = getattr(s, "geometry", None)
    text = f"{kind} {list(s.mantissa.shape)}"
    if g is None:
        return text
    return f"{text}, stride {g.stride}, padding {g.padding}, dilation {g.dilation}, groups {g.groups}, to {g.out_shape}"


def _weights(key: str, one: IntProjection, two: IntProjection, n_in: int) -> Iterator[Change]:
    """How many weights of the same synapses differ, by value (mantissa << exponent); a, b: those that differ most."""
    x, y = one.synapse, two.synapse
    if isinstance(x, IntWindow) or isinstance(y, IntWindow):
        return
    if one.exponent != two.exponent:
        yield Change("weights", key, "exponent", one.exponent, two.exponent, _ENTIRELY)
    places, before, after = _differing(x, y, (one.exponent, two.exponent), n_in)
    if len(places):
        difference = (after - before).astype(np.float64)
        norm = float(np.linalg.norm(x.mantissa.astype(np.float64))) * 2**one.exponent
        relative = float(np.linalg.norm(difference)) / max(norm, 1)
        k = int(np.abs(difference).argmax())
        note = f"{len(places):,} of {x.mantissa.size:,} differ, by {100 * relative:.3g} % of their norm"
        yield Change("weights", key, f"weight {places[k].tolist()}", int(before[k]), int(after[k]), relative, note)


def _differing(x: IntWeights, y: IntWeights, exponents: tuple[int, int], n_in: int) -> tuple[Int64, Int64, Int64]:
    """Places [n, axes] and both values of the weights that differ, of synapses of one kind."""
    left, right = (s.mantissa.astype(np.int64) << e for s, e in zip((x, y), exponents, strict=True))
    if isinstance(x, IntSparse) and isinstance(y, IntSparse):
        places, (before, after) = _side_by_side(x, left, y, right, n_in)
        changed = np.flatnonzero(before != after)
        return places[changed], before[changed], after[changed]
    places = np.argwhere(left != right)
    at = tuple(places.T)
    return places, left[at], right[at]


def _side_by_side(x: IntSparse, left: Int64, y: IntSparse, right: Int64, n_in: int) -> tuple[Int64, list[Int64]]:
    """Places [n, 2] that either matrix holds, and what each has there."""
    shape = (len(x.row_start) - 1, n_in)
    flat, values = [], []
    for s, v in ((x, left), (y, right)):
        held = csr_array((v, s.columns, s.row_start), shape).tocoo()
        flat.append(held.row.astype(np.int64) * n_in + held.col)
        values.append(held.data)
    places = np.union1d(*flat)
    sides = []
    for f, v in zip(flat, values, strict=True):
        side = np.zeros(len(places), np.int64)
        side[np.searchsorted(places, f)] = v
        sides.append(side)
    return np.stack(np.divmod(places, n_in), 1), sides


def _neurons(p: IntPopulation, q: IntPopulation) -> Iterator[Change]:
    """Thresholds, biases and resets of one population."""
    for field, word in _NEURON.items():
        x, y = _plain(getattr(p, field)), _plain(getattr(q, field))
        if x != y:
            yield Change("neurons", p.name, word, x, y, apart(x, y))
    if p.bias_mantissa.shape != q.bias_mantissa.shape:
        return
    one, two = (n.bias_mantissa.astype(np.int64) << n.bias_exponent for n in (p, q))
    places = np.argwhere(one != two)
    if len(places):
        difference = (two - one).astype(np.float64)
        worst = tuple(int(i) for i in np.unravel_index(int(np.abs(difference).argmax()), one.shape))
        size = float(np.linalg.norm(difference)) / max(float(np.linalg.norm(one.astype(np.float64))), 1)
        note = f"{len(places):,} of {one.size:,} differ, by {100 * size:.3g} % of their norm"
        yield Change("neurons", p.name, f"bias {list(worst)}", int(one[worst]), int(two[worst]), size, note)


def _plain(value: Any) -> Side:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value
