"""Which chips sPyNNaker's placer takes: populations one after the other, each on chips that are joined.

Source: pacman/operations/placer_algorithms/application_placer.py of SpiNNaker_PACMAN 1!7.4.1, which goes on where a
population began if that chip has room, else begins at the next chip column by column; full chips are not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from neuroport.mapping.floor import spinn5_chips

Chip = tuple[int, int]
_LINKS = ((1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1))
MONITORS = 1  # cores of sPyNNaker's own on each chip, beside the system's; one more where a board's Ethernet is
_MONITOR_BYTES, _ETHERNET_BYTES = 488_476, 965_726  # SDRAM of these, as sPyNNaker 1!7.4.1 counts them


@dataclass(frozen=True)
class Vertex:
    """What is kept together: n_cores, each with sdram_bytes."""

    n_cores: int
    sdram_bytes: int


@dataclass
class _Chips:
    """The chips of a machine while they fill up."""

    cores: dict[Chip, int]
    sdram: dict[Chip, int]
    boards: dict[Chip, int]
    least: int  # SDRAM: with less left a chip counts as full
    full: set[Chip] = field(default_factory=set)
    starts: list[Chip] = field(default_factory=list)


def chips_used(vertices: Sequence[Vertex], *, cores_per_chip: int, sdram_bytes: int) -> int:
    """Chips that hold at least one core of the vertices, which are placed in order.

    cores_per_chip: for programs, of a chip that lacks none; sdram_bytes: of a chip. Every core must fit onto a chip.
    """
    usable_cores, usable_bytes = cores_per_chip - MONITORS, sdram_bytes - _MONITOR_BYTES
    n_boards = -(-_counted(vertices, usable_cores, usable_bytes) // len(spinn5_chips(1)))
    while True:
        chips = _machine(n_boards, cores_per_chip, sdram_bytes)
        places = _place_all(chips, vertices)
        if places is not None:
            return len(places)
        n_boards += 1


def room_for_core(sdram_bytes: int) -> int:
    """SDRAM that a core can have at most, of a chip's."""
    return sdram_bytes - _MONITOR_BYTES


def _counted(vertices: Sequence[Vertex], n_cores: int, n_bytes: int) -> int:
    """Chips that sPyNNaker asks for (pacman/utilities/utility_objs/chip_counter.py)."""
    n_chips = cores = free = 0
    for v in vertices:
        for _ in range(v.n_cores):
            if not cores or free < v.sdram_bytes:
                n_chips, cores, free = n_chips + 1, n_cores, n_bytes
            cores, free = cores - 1, free - v.sdram_bytes
    return n_chips


def _machine(n_boards: int, cores_per_chip: int, sdram_bytes: int) -> _Chips:
    """One board, or a rectangle of groups of three (spinn_machine/version/version_48_chips.py l.96-104)."""
    n_made = 1 if n_boards == 1 else 3 * math.ceil(n_boards / 3)
    cores, sdram, boards = {}, {}, {}
    for chip, board, is_ethernet, n_missing in spinn5_chips(n_made):
        boards[chip] = board
        cores[chip] = cores_per_chip - n_missing - MONITORS - is_ethernet
        sdram[chip] = sdram_bytes - (_ETHERNET_BYTES if is_ethernet else _MONITOR_BYTES)
    usable = sdram_bytes - _MONITOR_BYTES
    return _Chips(cores, sdram, boards, _MONITOR_BYTES + usable // (cores_per_chip - MONITORS))


def _place_all(chips: _Chips, vertices: Sequence[Vertex]) -> set[Chip] | None:
    """Chips in use; None: no room."""
    order, used = iter(sorted(chips.cores)), set[Chip]()
    for v in vertices:
        restored, chips.starts = chips.starts, []
        while True:
            start = next((c for c in _starts(restored, order) if c not in chips.full), None)
            if start is None:
                return None
            chips.starts.append(start)
            found = _spread(chips, start, v)
            if found is not None:
                break
        chips.starts = restored + chips.starts
        for chip, n in found.items():
            chips.cores[chip] -= n
            chips.sdram[chip] -= n * v.sdram_bytes
        used |= found.keys()
    return used


def _starts(restored: list[Chip], order: Iterator[Chip]) -> Iterator[Chip]:
    while restored:
        yield restored.pop(0)
    yield from order


def _spread(chips: _Chips, start: Chip, v: Vertex) -> dict[Chip, int] | None:
    """Cores of a vertex by chip, from `start` on over its neighbours, those on its board first; None: no room."""
    board, tried = chips.boards[start], set()
    near: dict[Chip, None] = {start: None}
    far: dict[Chip, None] = {}
    found: dict[Chip, int] = {}
    left = v.n_cores
    while left:
        if not near and far:
            board = chips.boards[next(iter(far))]
            near = {c: None for c in far if chips.boards[c] == board}
            far = {c: None for c in far if c not in near}
        if not near:
            return None
        chip = next(iter(near))
        del near[chip]
        if not chips.cores[chip] or chips.sdram[chip] < chips.least:
            chips.full.add(chip)
        elif chip not in tried and chips.sdram[chip] >= v.sdram_bytes:
            tried.add(chip)
            n = min(left, chips.cores[chip], chips.sdram[chip] // v.sdram_bytes)
            found[chip], left = n, left - n
            for step in _LINKS:
                to = (chip[0] + step[0], chip[1] + step[1])
                if to in chips.boards and to not in chips.full and to not in tried:
                    (near if chips.boards[to] == board else far)[to] = None
        if chip == start and not found:
            return None
    return found
