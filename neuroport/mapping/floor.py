"""Where cores can lie: routers on the grid of the whole machine, chip by chip, and how far it is between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.target import Geometry
from neuroport.mapping.network import Site

Ints = NDArray[np.int64]
_SPINN5 = 48
# Chips of a SpiNN-5 board by row: first and last column; and where three boards lie in the 12 x 12 chips of a triad.
# Source: spinn_machine/version/version_5.py (1!7.4.1); the triads' torus is not used.
_SPINN5_ROWS = ((0, 4), (0, 5), (0, 6), (0, 7), (1, 7), (2, 7), (3, 7), (4, 7))
_TRIAD, _TRIAD_SIZE = ((0, 0), (8, 4), (4, 8)), 12
_SPINN5_SMALL = {(1, 1), (1, 3), (3, 1), (3, 3), (3, 5), (5, 2), (5, 4), (5, 6)}  # lack a core; ibid. l.23-32


@dataclass(frozen=True, eq=False)
class Floor:
    """Sites for cores in their numbering on the machine: chip by chip, router by router.

    places: [n_routers, 2] column and row of each router on the grid of the whole machine; chips: [n_routers] the chip
    of each; chip_places: [n_chips, 2] of each chip on the grid of chips; cores_per_router, cores_per_chip: sites of
    each; is_hexagonal: each router has six neighbours, those on the diagonal up right and down left among them.
    """

    places: Ints
    chips: Ints
    chip_places: Ints
    cores_per_router: int
    mesh: tuple[int, int]
    is_hexagonal: bool

    @property
    def n_sites(self) -> int:
        """Sites on all of its chips."""
        return len(self.places) * self.cores_per_router

    @property
    def cores_per_chip(self) -> int:
        """Sites on each chip."""
        return math.prod(self.mesh) * self.cores_per_router

    def site(self, index: int) -> Site:
        """The site of that number."""
        chip, core = divmod(index, self.cores_per_chip)
        x, y = divmod(core // self.cores_per_router, self.mesh[1])
        return Site(chip, core, x, y)

    def hops(self, sources: Ints, destinations: Ints) -> tuple[Ints, Ints, Ints]:
        """Hops from sites to sites: east or west, north or south, and diagonal, each [n] as the sites."""
        step = self.places[destinations // self.cores_per_router] - self.places[sources // self.cores_per_router]
        dx, dy = step[:, 0], step[:, 1]
        if not self.is_hexagonal:
            return np.abs(dx), np.abs(dy), np.zeros_like(dx)
        diagonal = np.where(np.sign(dx) == np.sign(dy), np.minimum(np.abs(dx), np.abs(dy)), 0)
        return np.abs(dx) - diagonal, np.abs(dy) - diagonal, diagonal

    def crossings(self, sources: Ints, destinations: Ints) -> Ints:
        """How often the way from sites to sites leads from one chip to another, [n]."""
        step = np.abs(
            self.chip_places[destinations // self.cores_per_chip] - self.chip_places[sources // self.cores_per_chip]
        )
        if not self.is_hexagonal:
            return np.asarray(step.sum(1))
        return np.asarray(sum(self.hops(sources, destinations)))


def unsaid(geometry: Geometry) -> str:
    """What a datasheet does not say and mapping needs, in words; empty where nothing is missing."""
    holds = geometry.machine is not None or geometry.compartments_per_core is not None
    needed = (
        ("what a core holds (compartments_per_core, or machine)", holds),
        ("how many cores a chip has (cores_per_chip)", geometry.cores_per_chip is not None),
    )
    return " and ".join(words for words, is_known in needed if not is_known)


def floor_of(geometry: Geometry, n_cores: int, most_per_chip: int | None = None) -> Floor:
    """The fewest chips that hold n_cores, laid out.

    On a `mesh` chips form a grid as square as it can be, row by row; routers of a chip are numbered column by column,
    as SANA-FE numbers its tiles (src/arch.cpp l.84). Where the mesh is not known, a chip has one router. most_per_chip:
    cores that a chip's memory holds.
    """
    per_chip = geometry.cores_for_neurons or n_cores
    if most_per_chip is not None:
        per_chip = min(per_chip, most_per_chip)
    n_chips = max(1, -(-n_cores // per_chip))
    mesh, per_router = geometry.mesh or (1, 1), geometry.cores_per_router or per_chip
    if math.prod(mesh) * per_router != per_chip:
        mesh, per_router = (1, 1), per_chip
    is_hexagonal = geometry.chip_grid == "hexagonal"
    chip_places = _hexagonal(n_chips, geometry) if is_hexagonal else _square(n_chips)
    columns, rows = mesh
    inside = np.array([(x, y) for x in range(columns) for y in range(rows)], np.int64)
    places = (chip_places[:, None, :] * np.array(mesh) + inside).reshape(-1, 2)
    chips = np.repeat(np.arange(n_chips), len(inside))
    return Floor(places, chips, chip_places, per_router, mesh, is_hexagonal)


def boards_needed(geometry: Geometry, n_chips: int) -> dict[str, int]:
    """For each kind of board, how many of it hold the chips."""
    return {name: -(-n_chips // size) for name, size in (geometry.boards or {}).items()}


def _square(n_chips: int) -> Ints:
    columns = math.isqrt(n_chips - 1) + 1
    return np.array([(k % columns, k // columns) for k in range(n_chips)], np.int64)


def _hexagonal(n_chips: int, geometry: Geometry) -> Ints:
    """The chips of one SpiNN-5 board after the other, those near its first chip first; small boards are squares."""
    if max((geometry.boards or {}).values(), default=_SPINN5) < _SPINN5:
        return _square(n_chips)
    found = [chip.place for chip in spinn5_chips(-(-n_chips // _SPINN5))]
    return np.array(found[:n_chips], np.int64)


class Spinn5Chip(NamedTuple):
    """A chip of SpiNN-5 boards. place: column and row on the grid of all chips; n_missing: cores that it lacks."""

    place: tuple[int, int]
    board: int
    is_ethernet: bool
    n_missing: int


def spinn5_chips(n_boards: int) -> list[Spinn5Chip]:
    """The chips of so many SpiNN-5 boards, board after board, on each those near its first chip first."""
    own = [(x, y) for y, (first, last) in enumerate(_SPINN5_ROWS) for x in range(first, last + 1)]
    own.sort(key=lambda place: (max(place), place))
    found = []
    for board in range(n_boards):
        triad = _square(-(-n_boards // len(_TRIAD)))[board // len(_TRIAD)].tolist()
        dx, dy = (_TRIAD_SIZE * triad[axis] + _TRIAD[board % len(_TRIAD)][axis] for axis in (0, 1))
        found += [Spinn5Chip((x + dx, y + dy), board, (x, y) == (0, 0), int((x, y) in _SPINN5_SMALL)) for x, y in own]
    return found
