"""Tiles of several populations on one core, where all limits hold: fewer cores, never more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from neuroport.mapping.limits import ADDED, Layer, Limits, Load, total_load
from neuroport.mapping.network import Box

_TRIES = 16  # cores with room for a tile's sums that are looked at closely


@dataclass(frozen=True)
class Placed:
    """The tiles of one core, and what they take of it."""

    tiles: tuple[tuple[str, Box], ...]
    load: Load


def packed(layers: Mapping[str, Layer], limits: Limits, cores: Sequence[Placed]) -> list[Placed]:
    """The same tiles on as many cores or fewer, by first fit, the fullest first.

    Sums that only grow are compared first, for all cores at once; then the load of the tiles together is counted, as
    indices grow with the place on the core.
    """
    known = [name for name in ADDED if limits.of[name]]
    parts = np.array([[c.load.used[name] / (limits.of[name] or 1) for name in known] for c in cores])
    order = np.lexsort((*parts.T, -parts.max(1, initial=0)))
    found: list[tuple[int, Placed]] = []
    filled = np.empty_like(parts)
    start = 0  # cores before it have no room for what takes as much as the last did
    for before, k in zip([-1, *order.tolist()], order.tolist(), strict=False):
        if before < 0 or (parts[before] != parts[k]).any():
            start = 0
        room = start + np.flatnonzero((filled[start : len(found)] + parts[k] <= 1).all(1))[:_TRIES]
        for place in room.tolist():
            first, core = found[place]
            tiles = (*core.tiles, *cores[k].tiles)
            load = total_load(layers, tiles)
            if limits.holds(load):
                found[place] = (min(first, k), Placed(tiles, load))
                filled[place] += parts[k]
                start = place
                break
        else:
            filled[len(found)] = parts[k]
            start = len(found)
            found.append((k, cores[k]))
    return [core for _, core in sorted(found, key=itemgetter(0))]
