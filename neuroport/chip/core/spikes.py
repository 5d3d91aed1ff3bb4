"""Spikes of the core in compiled code: words of 64 neurons, lists of events, rasters, and what gates pass on.

The words of a row (one step of one sample) follow the storage order of the population.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core.vectors import lowest_bit, n_bits, word_of
from neuroport.chip.core.work import Events, Words
from neuroport.compiled import compiled
from neuroport.snn.gate import MAX_SHIFT, ONE_SPIKE_BITS

Counts = NDArray[np.int32]
_ONE, _FOUR = np.uint64(1), np.uint64(4)


@compiled
def pack(raster: NDArray[np.uint8], words: Words) -> None:
    """words [rows, n / 64] of raster [rows, N] in C order."""
    flat, n = raster.reshape(-1), raster.shape[1]
    for row in range(raster.shape[0]):
        for q in range(n // 64):
            words[row, q] = word_of(flat, row * n + 64 * q)
        if n % 64:
            word = np.uint64(0)
            for k in range(n - n % 64, n):
                word |= np.uint64(raster[row, k] != 0) << np.uint64(k & 63)
            words[row, n // 64] = word


@compiled
def unpack(words: Words, place: NDArray[np.int64], raster: NDArray[np.uint8]) -> None:
    """The other way round."""
    for row in range(raster.shape[0]):
        for n in range(raster.shape[1]):
            k = place[n]
            raster[row, n] = words[row, k >> 6] >> np.uint64(k & 63) & np.uint64(1)


@compiled
def spread(words: Words, places: NDArray[np.int8]) -> None:
    """places [rows, n], 0 or 1, of words [rows, n / 64]."""
    for row in range(words.shape[0]):
        for q in range(words.shape[1]):
            word = words[row, q]
            for k in range(64):
                places[row, 64 * q + k] = np.int8(word >> np.uint64(k) & _ONE)


@compiled
def count_rows(words: Words, start: NDArray[np.int64]) -> None:
    """start [rows + 1]: spikes before each row."""
    start[0] = 0
    for row in range(words.shape[0]):
        found = 0
        for q in range(words.shape[1]):
            found += n_bits(words[row, q])
        start[row + 1] = start[row] + found


@compiled
def list_events(words: Words, events: Events) -> None:
    """The places of all spikes, row by row; `events` has room for eight more.

    Most words have at most four spikes: four are written whether there are any or not, so that nothing is guessed.
    """
    e = np.uint64(0)
    for row in range(words.shape[0]):
        for q in range(words.shape[1]):
            word, first = words[row, q], np.uint32(64 * q)
            end = e + np.uint64(n_bits(word))
            for k in range(4):
                events[e + np.uint64(k)] = first + np.uint32(lowest_bit(word))
                word &= word - _ONE
            if end > e + _FOUR:
                for k in range(4, 8):
                    events[e + np.uint64(k)] = first + np.uint32(lowest_bit(word))
                    word &= word - _ONE
                e += _FOUR + _FOUR
                while e < end:
                    events[e] = first + np.uint32(lowest_bit(word))
                    word &= word - _ONE
                    e += _ONE
            e = end


@compiled
def add_up(events: Events, start: NDArray[np.int64], n_steps: int, totals: NDArray[np.int64], counts: Counts) -> None:
    """Add events to totals [n], and to counts [samples, n] unless that is [0, 0]."""
    for e in range(events.shape[0]):
        totals[events[e]] += 1
    if counts.shape[0]:
        for row in range(start.shape[0] - 1):
            of_sample = counts[row // n_steps]
            for e in range(start[row], start[row + 1]):
                of_sample[events[e]] += 1


@compiled
def pass_gate(
    words: Words,
    place: NDArray[np.int64],
    index: NDArray[np.int64],
    out_place: NDArray[np.int64],
    n_steps: int,
    passed: Words,
) -> None:
    """Words passed [rows, n_out / 64] of words [rows, n_in / 64]; the rule of snn/gate.py.

    index [n_out, k]: the inputs of each window in order, -1 for padding; each window has at least one input.
    """
    estimate = np.zeros(place.shape[0], np.int32)
    spikes = np.zeros(place.shape[0], np.int32)
    passed[:] = 0
    for row in range(words.shape[0]):
        t = row % n_steps
        if t == 0:
            estimate[:] = 0
        shift = 0
        while shift < MAX_SHIFT and t >> shift:
            shift += 1
        for k in range(place.shape[0]):
            p = place[k]
            spikes[k] = np.int32(words[row, p >> 6] >> np.uint64(p & 63) & np.uint64(1))
            estimate[k] += ((spikes[k] << ONE_SPIKE_BITS) - estimate[k]) >> shift
        for n in range(index.shape[0]):
            best = -1
            chosen = -1
            for j in range(index.shape[1]):
                k = index[n, j]
                if k >= 0 and estimate[k] > best:
                    best, chosen = estimate[k], k
            if spikes[chosen]:
                p = out_place[n]
                passed[row, p >> 6] |= np.uint64(1) << np.uint64(p & 63)
