"""The one weight that may be wrong: a bit flipped, the sign turned, or nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.oracle import integrate
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWeights, IntWindow, as_sparse
from neuroport.chip.target import Arithmetic
from neuroport.validation.isolate import Int64, Site, Spikes
from neuroport.validation.rules import Candidate

MOST = 64  # candidates that are worth a name
_WITNESSES = 64  # other neurons of a kernel that candidates must leave, or make, as the backend has them
_AT_WORK = 1 << 22  # steps of candidates simulated at a time

_Answer = tuple[Spikes, Int64 | None]  # spikes and potentials [S, T] of one neuron of the backend


@dataclass(frozen=True, eq=False)
class _Wrong:
    """Weights that would explain one neuron: index into the flat mantissa, and the value there instead."""

    index: Int64
    value: Int64


def one_weight(site: Site, spikes: Spikes, potentials: Int64 | None, wrong: NDArray[np.bool_]) -> Iterator[Candidate]:
    """Weights that explain all of the neuron that is wrong most often; those of one neuron, or of a shared kernel.

    Of a kernel, other neurons that it reaches are asked too, those that are wrong first, until few weights are left.
    spikes, potentials: [S, T, *shape] of the backend; wrong: [S, T, *shape].
    """
    flat = wrong.reshape(*wrong.shape[:2], -1)
    n_wrong = flat.sum((0, 1))
    neurons = np.flatnonzero(n_wrong)
    worst = int(n_wrong.argmax())
    v = None if potentials is None else potentials.reshape(flat.shape)

    def answer_of(neuron: int) -> _Answer:
        return spikes.reshape(flat.shape)[..., neuron], None if v is None else v[..., neuron]

    for k, arrival in enumerate(site.arrivals):
        synapse = arrival.projection.synapse
        if isinstance(synapse, IntWindow) or not _is_one_place(synapse, neurons):
            continue
        found = _explaining(site, k, synapse, worst, answer_of(worst))
        for neuron in _witnesses(synapse, worst, n_wrong):
            if len(found.index) <= 1:
                break
            is_right = not n_wrong[neuron]
            found = _confirmed(site, k, synapse, neuron, answer_of(neuron), found, is_right=is_right)
        for index, value in zip(found.index.tolist(), found.value.tolist(), strict=True):
            place = tuple(int(i) for i in np.unravel_index(index, synapse.mantissa.shape))
            old = int(synapse.mantissa[place])
            where = f"{_name(synapse, index, place)} from '{arrival.projection.pre}'"
            text = f"has one weight wrong: {where} is {old}, {value} explains it"
            yield Candidate("one-weight", text, "", partial(_with_weight, k=k, index=index, value=value))


def _is_one_place(synapse: IntWeights, neurons: Int64) -> bool:
    """Whether one weight reaches all these neurons: one row of a matrix, one channel of an image."""
    if not isinstance(synapse, IntConv2d | IntConvTranspose2d):
        return len(neurons) == 1
    _, h, w = synapse.geometry.out_shape
    return len(np.unique(neurons // (h * w))) == 1


def _witnesses(synapse: IntWeights, worst: int, n_wrong: Int64) -> list[int]:
    """Other neurons that the same weights reach, those that are wrong most often first."""
    if not isinstance(synapse, IntConv2d | IntConvTranspose2d):
        return []
    _, h, w = synapse.geometry.out_shape
    first = worst - worst % (h * w)
    order = first + np.argsort(-n_wrong[first : first + h * w], kind="stable")
    return [int(n) for n in order if n != worst][:_WITNESSES]


def _confirmed(
    site: Site, k: int, synapse: IntWeights, neuron: int, answer: _Answer, found: _Wrong, *, is_right: bool
) -> _Wrong:
    """Those of the changes after which another neuron does what the backend's did too.

    is_right: whether it does so as it is; then changes that do not reach it stay.
    """
    index, pre = _fan_in(synapse, neuron)
    order = np.argsort(index)
    reaches = np.isin(found.index, index)  # the neuron may have no inputs at all, in a border
    at = order[np.searchsorted(index, found.index[reaches], sorter=order)]
    good = np.full(len(found.index), is_right)
    old = synapse.mantissa.reshape(-1)[found.index].astype(np.int64)
    good[reaches] = _all_fits(site, k, neuron, answer, pre[at], old[reaches], found.value[reaches])
    return _Wrong(found.index[good], found.value[good])


def _name(synapse: IntWeights, index: int, place: tuple[int, ...]) -> str:
    if isinstance(synapse, IntDense | IntConv2d | IntConvTranspose2d):
        return f"weight {list(place)}"
    row = int(np.searchsorted(synapse.row_start, index, side="right")) - 1
    return f"weight [{row}, {int(synapse.columns[index])}]"


def _with_weight(site: Site, k: int, index: int, value: int) -> Site:
    synapse = site.arrivals[k].projection.synapse
    if isinstance(synapse, IntWindow):
        return site
    mantissa = synapse.mantissa.copy()
    mantissa.reshape(-1)[index] = value
    return site.rewired(k, synapse=replace(synapse, mantissa=mantissa))


def _explaining(site: Site, k: int, synapse: IntWeights, neuron: int, answer: _Answer) -> _Wrong:
    """All single changes in the fan-in of a neuron after which it does what the backend's did."""
    index, pre = _fan_in(synapse, neuron)
    active = np.asarray(site.arrivals[k].spikes.any((0, 1)))[pre]  # what never arrives changes nothing
    index, pre = index[active], pre[active]
    old = synapse.mantissa.reshape(-1)[index].astype(np.int64)
    which, value = _values(old, site.arithmetic)
    good = _all_fits(site, k, neuron, answer, pre[which], old[which], value)
    return _Wrong(index[which[good]], value[good])


def _fan_in(synapse: IntWeights, neuron: int) -> tuple[Int64, Int64]:
    """Where in the flat mantissa the weights of a neuron lie, and which neurons they come from."""
    m = synapse.mantissa
    match synapse:
        case IntDense():
            pre = np.arange(m.shape[1])
            return neuron * m.shape[1] + pre, pre
        case IntSparse(columns=columns, row_start=row_start):
            index = np.arange(int(row_start[neuron]), int(row_start[neuron + 1]))
            return index, columns[index].astype(np.int64)
    g = synapse.geometry
    channel, y, x = (int(i) for i in np.unravel_index(neuron, g.out_shape))
    if isinstance(synapse, IntConv2d):  # an image of one pixel, cut where this one looks
        padding = (g.padding[0] - y * g.stride[0], g.padding[1] - x * g.stride[1])
    else:
        padding = (g.padding[0] + y, g.padding[1] + x)
    numbered = np.arange(1, m.size + 1, dtype=np.int32).reshape(m.shape)
    pixel = replace(g, out_shape=(g.out_shape[0], 1, 1), padding=padding)
    rows = as_sparse(replace(synapse, mantissa=numbered, geometry=pixel))
    here = slice(int(rows.row_start[channel]), int(rows.row_start[channel + 1]))
    return rows.mantissa[here].astype(np.int64) - 1, rows.columns[here].astype(np.int64)


def _values(old: Int64, a: Arithmetic) -> tuple[Int64, Int64]:
    """Which weight, and what it might be instead."""
    sheets = (a.weights.mixed, a.weights.excitatory, a.weights.inhibitory)
    bits = max(max(-s.minimum - 1, s.maximum).bit_length() for s in sheets) + 1
    span = 1 << bits
    table = [(old & (span - 1)) ^ (1 << b) for b in range(bits)]
    table = [np.where(x >= span // 2, x - span, x) for x in table]  # two's complement
    table += [-old, np.zeros_like(old)]
    which, value = np.tile(np.arange(len(old)), len(table)), np.concatenate(table)
    pairs = np.unique(np.stack([which, value]), axis=1)
    changed = np.flatnonzero(np.not_equal(pairs[1], old[pairs[0]]))
    return pairs[0, changed], pairs[1, changed]


def _all_fits(
    site: Site, k: int, neuron: int, answer: _Answer, pre: Int64, old: Int64, new: Int64
) -> NDArray[np.bool_]:
    """`_fits` of any number of changes, so many at a time."""
    size = max(1, _AT_WORK // max(1, site.n_samples * site.n_steps))
    parts = (slice(n, n + size) for n in range(0, len(new), size))
    fits = [_fits(site, k, neuron, answer, pre[part], old[part], new[part]) for part in parts]
    return np.concatenate(fits) if fits else np.zeros(0, bool)


def _fits(site: Site, k: int, neuron: int, answer: _Answer, pre: Int64, old: Int64, new: Int64) -> NDArray[np.bool_]:
    """[n] for n changes: whether the neuron then does what the backend's did; each change is run as a sample."""
    spikes, potentials = answer
    (s, t), n = spikes.shape, len(pre)
    exponent, a = site.arrivals[k].projection.exponent, site.arithmetic
    x = site.arrivals[k].spikes[..., pre].astype(np.int64)  # [S, T, n]
    sums = [
        sum((arrival.sums[m].reshape(s, t, -1)[..., neuron] for arrival in site.arrivals), np.zeros((s, t), np.int64))
        for m in range(2 if a.accumulators == "split" else 1)
    ]
    if len(sums) > 1:
        more = [np.maximum(new, 0) - np.maximum(old, 0), np.maximum(-new, 0) - np.maximum(-old, 0)]
        held = [
            np.minimum(y[..., None] + x * (d << exponent), a.accumulator_limit) for y, d in zip(sums, more, strict=True)
        ]
        total = held[0] - held[1]
    else:
        total = sums[0][..., None] + x * ((new - old) << exponent)
    shape = (*site.bias.shape[:2], -1)
    bias = np.broadcast_to(site.bias.reshape(shape)[..., neuron], (s, t))[..., None]
    one = replace(site.population, shape=(n,))
    found, v = integrate(a, one, total, bias)
    good: NDArray[np.bool_] = (found == spikes[..., None]).all((0, 1))
    if potentials is not None:
        good &= (v == potentials[..., None]).all((0, 1))
    return good
