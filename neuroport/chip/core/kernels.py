"""Compiled kernels of the reference core: weight sums of spikes, and the neuron update, over all steps of some samples.

A population's sums and potentials lie in its storage order (layout.py), in blocks of 64 neurons; its spikes are
words of 64 bits. Rows are steps: those of the first sample, then those of the next. Exact by construction: the caller
chooses types that hold every sum of one step (layout.py), intermediate sums may wrap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core.vectors import BY_8, BY_16, BY_32, BY_64, add_vector, n_bits, update_block
from neuroport.chip.core.work import MERGED, POINTS, Events, Neurons, Run, Signed, Spikes, Stamps
from neuroport.compiled import compiled

_ONE, _TWO, _THREE, _FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@compiled
def _add_dense(
    events: Events, first: int, end: int, key: np.uint64, s: Stamps, n: int, total: Signed, lead: int
) -> None:
    """Rows of n weights for events[first:end], eight at a time."""
    at, e = s.weight_at, first
    while e + 8 <= end:
        a, b, c, d = at[events[e] + key], at[events[e + 1] + key], at[events[e + 2] + key], at[events[e + 3] + key]
        e += 4
        f, g, h, j = at[events[e] + key], at[events[e + 1] + key], at[events[e + 2] + key], at[events[e + 3] + key]
        e += 4
        for i in range(0, n, 64):
            add_vector(total, lead + i, s.weight, i, (a, b, c, d, f, g, h, j), BY_64)
    while e + 2 <= end:
        a, b = at[events[e] + key], at[events[e + 1] + key]
        for i in range(0, n, 64):
            add_vector(total, lead + i, s.weight, i, (a, b), BY_64)
        e += 2
    if e < end:
        a = at[events[e] + key]
        for i in range(0, n, 64):
            add_vector(total, lead + i, s.weight, i, (a,), BY_64)


@compiled
def _add_points(events: Events, first: int, end: int, key: np.uint64, s: Stamps, total: Signed) -> None:
    for e in range(np.uint64(first), np.uint64(end)):
        k = events[e] + key
        total[s.place[k]] += s.weight[s.weight_at[k]]


@compiled
def _add_scalars(events: Events, first: int, end: int, key: np.uint64, s: Stamps, total: Signed) -> None:
    for e in range(np.uint64(first), np.uint64(end)):
        k = events[e] + key
        place, kind, a = s.place[k], s.kind[k], s.weight_at[k]
        for r in range(s.first[kind], s.first[kind + _ONE]):
            total[place + s.at[r]] += s.weight[a]
            a += _ONE


@compiled
def _add_vectors(
    events: Events, first: int, end: int, key: np.uint64, s: Stamps, total: Signed, by: tuple[int, ...]
) -> None:
    n = np.uint64(8 * len(by))
    for e in range(np.uint64(first), np.uint64(end)):
        k = events[e] + key
        place, kind, a = s.place[k], s.kind[k], s.weight_at[k]
        for r in range(s.first[kind], s.first[kind + _ONE]):
            add_vector(total, place + s.at[r], s.weight, 0, (a,), by)
            a += n


@compiled
def _add_merged(
    events: Events, first: int, end: int, key: np.uint64, s: Stamps, total: Signed, by: tuple[int, ...]
) -> None:
    """As _add_vectors, of events in the order of pixels: those of one pixel go together, up to four at once.

    Two pixels may stamp from the same place on, but then they are of different kinds.
    """
    e, last = np.uint64(first), np.uint64(end)
    while e < last:
        k = events[e] + key
        place, kind, a = s.place[k], s.kind[k], s.weight_at[k]
        runs = range(s.first[kind], s.first[kind + _ONE])
        fourth, second = events[min(e + _THREE, last - _ONE)] + key, events[min(e + _ONE, last - _ONE)] + key
        if e + _THREE < last and s.place[fourth] == place and s.kind[fourth] == kind:
            b, c, d = s.weight_at[second], s.weight_at[events[e + _TWO] + key], s.weight_at[fourth]
            o = 0
            for r in runs:
                add_vector(total, place + s.at[r], s.weight, o, (a, b, c, d), by)
                o += 8 * len(by)
            e += _FOUR
        elif e + _ONE < last and s.place[second] == place and s.kind[second] == kind:
            b = s.weight_at[second]
            o = 0
            for r in runs:
                add_vector(total, place + s.at[r], s.weight, o, (a, b), by)
                o += 8 * len(by)
            e += _TWO
        else:
            o = 0
            for r in runs:
                add_vector(total, place + s.at[r], s.weight, o, (a,), by)
                o += 8 * len(by)
            e += _ONE


@compiled
def _add_step(row: int, spikes: Spikes, s: Stamps, given: Signed, lead: int, total: Signed) -> None:
    """Everything that arrives in one step."""
    for j in range(spikes.start.shape[0]):
        first, end, key, unit = spikes.start[j, row], spikes.start[j, row + 1], spikes.key[j], spikes.unit[j]
        if unit == MERGED + 64:
            _add_merged(spikes.events, first, end, key, s, total, BY_64)
        elif unit == MERGED + 32:
            _add_merged(spikes.events, first, end, key, s, total, BY_32)
        elif unit == 64:
            _add_vectors(spikes.events, first, end, key, s, total, BY_64)
        elif unit == 32:
            _add_vectors(spikes.events, first, end, key, s, total, BY_32)
        elif unit == 16:
            _add_vectors(spikes.events, first, end, key, s, total, BY_16)
        elif unit == 8:
            _add_vectors(spikes.events, first, end, key, s, total, BY_8)
        elif unit == 1:
            _add_scalars(spikes.events, first, end, key, s, total)
        elif unit == POINTS:
            _add_points(spikes.events, first, end, key, s, total)
        else:
            _add_dense(spikes.events, first, end, key, s, spikes.width[j], total, spikes.at[j])
    if given.shape[0]:
        for k in range(given.shape[1]):
            total[lead + k] += given[row, k]


@compiled
def _record(row: int, v: Signed, run: Run) -> None:
    for j in range(run.watch.shape[0]):
        run.potentials[row, j] = v[run.watch[j]]


@compiled
def run_narrow(
    spikes: Spikes, s: Stamps, given: Signed, total: Signed, p: Neurons, bias: NDArray[np.int32], run: Run
) -> None:
    """All steps of some samples where no current leaves its register and 32 bits hold every potential.

    No leak, or one in closed form by a power of two.

    bias: [samples or 1, n].
    """
    n_words = run.words.shape[1]
    v, flat = np.zeros(64 * n_words, np.int32), bias.reshape(-1)
    shift, limit, fires_at = np.int32(p.shift), np.int32(p.membrane_half - 1), np.int32(p.fires_at)
    reset, kept, floor = np.int32(p.threshold), np.int32(-1 if p.subtract else 0), np.int32(p.floor)
    held, creep = np.int32(-1 if p.creeps else 0), np.int32(p.creep)
    total[:] = 0
    for row in range(run.words.shape[0]):
        if run.stop[0]:
            return
        t, sample = row % p.n_steps, row // p.n_steps
        if t == 0:
            v[:] = p.v_init
        if t < p.clamp_until:
            run.words[row] = 0
        else:
            _add_step(row, spikes, s, given, p.lead, total)
            b = 64 * n_words * sample if bias.shape[0] > 1 else 0
            for q in range(n_words):
                i = 64 * q
                fired, above, below = update_block(
                    total, p.lead + i, v, i, flat, b + i, shift, held, creep, limit, floor, fires_at, reset, kept
                )
                run.words[row, q] = fired & run.valid[q]
                if above | below:
                    run.lost[0] += n_bits(above & run.valid[q])
                    run.lost[1] += n_bits(below & run.valid[q])
        _record(row, v, run)
        if t == p.n_steps - 1 and run.last.shape[0]:
            run.last[sample] = v


@compiled
def run_wide(
    spikes: Spikes, s: Stamps, given: Signed, total: Signed, p: Neurons, bias: NDArray[np.int64], run: Run
) -> None:
    """The same in any arithmetic, in 64 bits."""
    n_words = run.words.shape[1]
    state = np.zeros((2, 64 * n_words), np.int64)  # potentials, currents
    total[:] = 0
    for row in range(run.words.shape[0]):
        if run.stop[0]:
            return
        t, sample = row % p.n_steps, row // p.n_steps
        if t == 0:
            state[0], state[1] = p.v_init, 0
        if t < p.clamp_until:
            run.words[row] = 0
        else:
            _add_step(row, spikes, s, given, p.lead, total)
            b = bias[sample if bias.shape[0] > 1 else 0]
            for q in range(n_words):
                word = np.uint64(0)
                for bit in range(64):
                    if run.valid[q] >> np.uint64(bit) & np.uint64(1):
                        fired = _update_one(total, state, 64 * q + bit, b, p, run.lost)
                        word |= np.uint64(fired) << np.uint64(bit)
                run.words[row, q] = word
            total[:] = 0
        _record(row, state[0], run)
        if t == p.n_steps - 1 and run.last.shape[0]:
            run.last[sample] = state[0]


@compiled
def _limited(x: np.int64, half: int, wraps: bool) -> np.int64:
    """What a register that holds 2^(bits - 1) = half keeps of x; the rule of chip/oracle.py `limit`."""
    if wraps:
        if x > half:
            return np.int64(x - 2 * half)
        return np.int64(x + 2 * half) if x <= -half else np.int64(x)
    if x >= half:
        return np.int64(half - 1)
    return np.int64(1 - half) if x <= -half else np.int64(x)


@compiled
def _left(x: np.int64, keep: int, bits: int) -> np.int64:
    """What a step leaves of x, rounded towards 0."""
    return np.int64((x * keep) >> bits if x >= 0 else -((-x * keep) >> bits))


@compiled
def _update_one(
    total: Signed, state: NDArray[np.int64], k: int, bias: NDArray[np.int64], p: Neurons, lost: NDArray[np.int64]
) -> bool:
    """One neuron, one step: the rule of chip/oracle.py."""
    arriving = np.int64(total[p.lead + k])
    if p.inhibitory:  # excitatory and inhibitory sums, each held at its end
        against = np.int64(total[p.lead + p.inhibitory + k])
        lost[0] += (arriving > p.sum_limit) + (against > p.sum_limit)
        arriving = min(arriving, np.int64(p.sum_limit)) - min(against, np.int64(p.sum_limit))
    exact = arriving << p.shift
    if p.current_keep:
        exact += _left(state[1, k], p.current_keep, p.decay_bits)
    u = state[1, k] = _limited(exact, p.current_half, p.current_wraps)
    lost[0] += u != exact
    x = state[0, k]
    arriving = u + bias[k]
    if p.creeps:  # towards what arrives
        exact = arriving - ((p.keep * (arriving - x)) >> p.decay_bits)
    else:
        exact = (_left(x, p.keep, p.decay_bits) if p.decay else x) + arriving
    x = _limited(exact, p.membrane_half, p.membrane_wraps)
    if x != exact:
        lost[1 if exact < 0 and not p.membrane_wraps else 0] += 1
    x = max(x, p.floor)
    fired = bool(x >= p.fires_at)
    if fired:
        x = x - p.threshold if p.subtract else np.int64(0)
    state[0, k] = x
    return fired
