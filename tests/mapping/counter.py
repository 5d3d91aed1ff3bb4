"""What a core holds, counted neuron by neuron and weight by weight from expanded matrices: slow and obvious.

Written from the datasheet's formulas, not from neuroport.mapping: nothing of it but the data classes is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntSparse, IntWindow, as_sparse
from neuroport.mapping.network import Core, Partition, Tile
from neuroport.snn.operators import ConvGeometry

WORD, HEADER, GROUP = 64, 10, 64
WEIGHT_BITS, INDEX_BITS = (1, 2, 3, 4, 5, 6, 8), (0, 6, 7, 8, 9, 10, 11, 12)


def axon_bits(n: int, each: int) -> int:
    """Of n synapses in groups, each group rounded up to words."""
    bits = 0
    while n > 0:
        bits += (min(n, GROUP) * each + HEADER + WORD - 1) // WORD * WORD
        n -= GROUP
    return bits


def index_bits(last: int) -> int:
    """The narrowest index that reaches compartment `last`."""
    return min(b for b in INDEX_BITS if 2**b > last)


def image(p: IntPopulation) -> tuple[int, int, int]:
    """[C, H, W] of a population of one to three axes."""
    if len(p.shape) == 1:
        return (p.shape[0], 1, 1)
    return (p.shape[0], 1, p.shape[1]) if len(p.shape) == 2 else (p.shape[0], p.shape[1], p.shape[2])


def neurons(network: IntNetwork, tile: Tile) -> list[int]:
    """Numbers of a tile's neurons, one after the other."""
    shape = network.by_name[tile.population].shape
    if len(tile.box) == 1:
        return list(range(*tile.box[0]))
    return [
        n
        for n in range(int(np.prod(shape)))
        if all(a <= x < b for x, (a, b) in zip(np.unravel_index(n, shape), tile.box, strict=True))
    ]


class Counter:
    """Counts for one partition of a chip like Loihi 1."""

    def __init__(self, found: Partition) -> None:
        self.found, self.network = found, found.network
        g = found.target.geometry
        self.shared, self.slots, self.base = g.population_axon_neurons, g.population_axon_slots, g.axon_base_max
        self.ids = {j: self._ids(j) for j in self.network.projections}
        self.storage = dict(zip(self.network.projections, found.storages, strict=True))

    def _ids(self, j: IntProjection) -> tuple[np.ndarray, bool]:
        """[n_post, n_pre]: which of the weights a synapse holds, 0 where there is none; whether it is a kernel."""
        n_pre, n_post = self.network.by_name[j.pre].n_neurons, self.network.by_name[j.post].n_neurons
        s: Any = j.synapse
        if isinstance(s, IntWindow):
            g = ConvGeometry(
                s.in_shape, s.out_shape, s.op.kernel, s.op.stride, s.op.padding, s.op.dilation, s.in_shape[0]
            )
            s = IntConv2d(np.ones((s.in_shape[0], 1, *s.op.kernel), np.int32), g)
        pre, post = self.network.by_name[j.pre], self.network.by_name[j.post]
        kernel = not isinstance(s, IntDense | IntSparse)
        if kernel and not (
            s.geometry.out_shape == image(post) and (pre.role == "input" or s.geometry.in_shape == image(pre))
        ):
            kernel = False
        if kernel:
            s = replace(s, mantissa=np.arange(1, s.mantissa.size + 1, dtype=np.int32).reshape(s.mantissa.shape))
        flat = as_sparse(s)
        out = np.zeros((n_post, n_pre), np.int64)
        for row in range(n_post):
            for k in range(flat.row_start[row], flat.row_start[row + 1]):
                out[row, flat.columns[k]] = flat.mantissa[k]
        return out, kernel

    def before(self, j: IntProjection) -> tuple[int, int, int]:
        """The image that channels and pixels before a projection are of."""
        if self.ids[j][1]:
            s: Any = j.synapse
            return s.in_shape if isinstance(s, IntWindow) else s.geometry.in_shape
        return image(self.network.by_name[j.pre])

    def axon_of(self, j: IntProjection, n: int) -> tuple[int, ...]:
        """The input axon by which neuron n before arrives, on every core."""
        if self.storage[j] == "discrete":
            return (n,)
        c, y, x = np.unravel_index(n, self.before(j))
        return (int(c) // (self.shared or 10**9), int(y), int(x))

    def weight_format(self, j: IntProjection) -> tuple[int, str]:
        """Bits of a weight: in steps of 2 at 8 bits where signs are mixed, twice as coarse with each bit less."""
        if isinstance(j.synapse, IntWindow):
            return 0, "gate"
        values = [int(v) for v in np.unique(j.synapse.mantissa)]
        sign = "excitatory" if min(values) >= 0 else "inhibitory" if max(values) <= 0 else "mixed"
        step = 2 if sign == "mixed" else 1
        return min(b for b in WEIGHT_BITS if all(v % (step * 2 ** (8 - b)) == 0 for v in values)), sign

    def delay(self, j: IntProjection) -> int:
        """Steps beyond the first."""
        return self.network.depth[j.post] - self.network.depth[j.pre] - 1

    def stored(self, j: IntProjection, rows: list[int], first: int) -> tuple[int, int, int]:
        """Input axons, bits, and bits of an index (-1: none) of a projection into a tile."""
        ids, kernel = self.ids[j]
        each = self.weight_format(j)[0] + self.delay(j).bit_length()
        part = ids[rows]
        if kernel:
            return self._kernel(j, rows, part, each, first)
        width = index_bits(first + len(rows) - 1)
        by_axon: dict[tuple[int, ...], int] = {}
        for n in range(part.shape[1]):
            by_axon[self.axon_of(j, n)] = max(by_axon.get(self.axon_of(j, n), 0), int((part[:, n] != 0).sum()))
        used = {axon: n for axon, n in by_axon.items() if n}
        if self.storage[j] == "discrete":
            indexed = sum(axon_bits(n, each + width) for n in used.values())
            whole = sum(axon_bits(len(rows), each) for _ in used)
            if first <= self.base and whole < indexed:
                return len(used), whole, -1
            return len(used), indexed, width
        members = [self.axon_of(j, n) for n in range(part.shape[1])]
        return len(used), sum(axon_bits(n * members.count(axon), each + width) for axon, n in used.items()), width

    def _kernel(
        self, j: IntProjection, rows: list[int], part: np.ndarray, each: int, first: int
    ) -> tuple[int, int, int]:
        """Kernels: axons that hold the same weights for the same compartments share them."""
        network, post = self.network, self.network.by_name[j.post]
        c_out, h_out, w_out = image(post)
        places = [np.unravel_index(n, (c_out, h_out, w_out)) for n in rows]
        origin = [min(int(p[axis]) for p in places) for axis in range(3)]
        size = [max(int(p[axis]) for p in places) + 1 - origin[axis] for axis in range(3)]
        plane = size[1] * size[2]
        axons: dict[tuple[int, ...], dict[int, list[tuple[int, int]]]] = {}
        s: Any = j.synapse
        groups = s.in_shape[0] if isinstance(s, IntWindow) else s.geometry.groups
        before = self.before(j)
        n_in, n_out = before[0] // groups, c_out // groups
        touched = {g * n_in + k for p in places for g in [int(p[0]) // n_out] for k in range(n_in)}
        for n in range(part.shape[1]):
            for local in range(len(rows)):
                if part[local, n]:
                    rows_of = axons.setdefault(self.axon_of(j, n), {})
                    rows_of.setdefault(n // (before[1] * before[2]), []).append((local, int(part[local, n])))
        del network
        lists: dict[Any, tuple[int, int]] = {}
        for axon, held in axons.items():
            in_plane = min(local % plane for pairs in held.values() for local, _ in pairs)
            base = in_plane % (self.base + 1)
            moved = {c: tuple((local - base, weight) for local, weight in pairs) for c, pairs in held.items()}
            sharing = [c for c in touched if c // (self.shared or 10**9) == axon[0]]
            longest = max(map(len, moved.values()))
            farthest = max(local for pairs in moved.values() for local, _ in pairs)
            lists[axon[0], tuple(sorted(moved.items()))] = (len(sharing) * longest, farthest)
        if not lists:
            return 0, 0, index_bits(first + (size[0] - 1) * plane)
        width = index_bits(first + max(farthest for _, farthest in lists.values()))
        return len(axons), sum(axon_bits(n, each + width) for n, _ in lists.values()), width

    def uses(self, core: Core) -> dict[str, int]:
        """By resource, what the tiles of a core take of it together."""
        found = dict.fromkeys(("compartments", "input axons", "output axons", "synapse bits", "delay"), 0)
        decays: set[Any] = set()
        thresholds: set[Any] = set()
        formats: set[Any] = set()
        for tile in core.tiles:
            p, rows, first = self.network.by_name[tile.population], neurons(self.network, tile), found["compartments"]
            each = self.network.compartments_of(p)
            found["compartments"] += each * len(rows)
            decays |= {(p.decay, p.current_decay, k) for k in range(each)}
            thresholds |= {p.threshold_mantissa} | ({"never"} if each == 2 else set())
            for j in self.network.incoming[p.name]:
                n_axons, bits, width = self.stored(j, rows, first)
                found["input axons"] += n_axons
                found["synapse bits"] += bits
                found["delay"] = max(found["delay"], self.delay(j))
                formats.add((*self.weight_format(j), j.exponent, self.delay(j), self.storage[j], width))
            found["output axons"] += sum(self.axons_out(tile, rows))
            if each == 2:
                found["input axons"] += len(rows)
                found["output axons"] += len(rows)
                found["synapse bits"] += len(rows) * axon_bits(1, 8 + index_bits(first + len(rows) - 1))
                formats.add("feedback")
        return found | {
            "compartment configurations": len(decays),
            "threshold configurations": len(thresholds),
            "synapse configurations": len(formats),
        }

    def axons_out(self, tile: Tile, rows: list[int]) -> Iterator[int]:
        """Output axons of a tile into each tile behind it."""
        for j in self.network.projections:
            if j.pre != tile.population:
                continue
            slots = 1 if self.storage[j] == "discrete" else self.slots or 1
            for core in self.found.cores:
                for other in core.tiles:
                    if other.population == j.post:
                        yield slots * len(self._reached(j, rows, neurons(self.network, other)))

    def _reached(self, j: IntProjection, rows: list[int], behind: list[int]) -> set[tuple[int, ...]]:
        """Axons of a tile behind that these neurons drive; all that share one have a row of weights in it."""
        part = self.ids[j][0][behind]
        if self.ids[j][1] or self.storage[j] == "discrete":
            return {self.axon_of(j, n) for n in rows if part[:, n].any()}
        used = {self.axon_of(j, n) for n in range(part.shape[1]) if part[:, n].any()}
        return {self.axon_of(j, n) for n in rows} & used
