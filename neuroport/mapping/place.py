"""Cores onto sites: spike messages times hops made small by simulated annealing, beside two plain orders.

The plain orders are those of nengo-loihi (hardware/allocators.py): greedy fills chip after chip, round robin deals the
cores out to the chips in turn. Annealing starts from the better of them and its result is kept only where it is better
still, so it is never worse than either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.compiled import compiled
from neuroport.mapping.floor import Floor
from neuroport.mapping.network import MappedNetwork, Partition
from neuroport.mapping.traffic import Traffic

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_MOVES_PER_CORE = 4000
_MOST_WORK, _PER_MOVE = 1.5e9, 60  # neighbours looked at, and what a move costs besides: about ten seconds
_COOLING = 1e-3  # the last temperature, of the first
_TRIALS = 256  # moves that the first temperature is taken from


@dataclass(frozen=True, eq=False)
class Placement:
    """A site for each core, and messages x hops of one inference: of this placement, and of all that were tried.

    sites: [n_cores] indices into the floor.
    """

    floor: Floor
    sites: Ints
    hops: Mapping[str, float]
    chosen: str

    def mapped(self, partition: Partition) -> MappedNetwork:
        """The partition with the sites."""
        return MappedNetwork(partition, tuple(self.floor.site(int(k)) for k in self.sites))


def place(traffic: Traffic, floor: Floor, *, seed: int = 0) -> Placement:
    """The placement with the fewest messages x hops of three: greedy, round robin, annealed from the better of both.

    The same traffic, floor and seed give the same placement.
    """
    tried = {"greedy": np.arange(traffic.n_cores), "round robin": _round_robin(traffic.n_cores, floor)}
    start = min(tried.values(), key=lambda sites: message_hops(traffic, floor, sites))
    tried["annealed"] = _anneal(traffic, floor, start, seed)
    hops = {name: message_hops(traffic, floor, sites) for name, sites in tried.items()}
    chosen = min(("annealed", "greedy", "round robin"), key=lambda name: hops[name])
    return Placement(floor, tried[chosen], hops, chosen)


def message_hops(traffic: Traffic, floor: Floor, sites: Ints) -> float:
    """Messages times hops of one inference."""
    return sum(traffic.along(sites, floor.hops))


def _round_robin(n_cores: int, floor: Floor) -> Ints:
    n_chips = len(floor.chip_places)
    turn, chip = np.divmod(np.arange(n_cores), n_chips)
    return np.asarray(chip * floor.cores_per_chip + turn)


def _anneal(traffic: Traffic, floor: Floor, start: Ints, seed: int) -> Ints:
    """Sites after annealing; `start` where nothing can move."""
    n = traffic.n_cores
    both = _both_ways(traffic)
    if not both.nnz or len(floor.places) < 2:
        return start
    degree = both.nnz / n
    n_moves = int(min(_MOVES_PER_CORE * n, _MOST_WORK / (2 * degree + _PER_MOVE)))
    places = floor.places - floor.places.min(0)
    router_at = np.full(places.max(0) + 1, -1, np.int64)
    router_at[places[:, 0], places[:, 1]] = np.arange(len(places))
    sites = start.astype(np.int64).copy()
    _exchange(
        sites,
        both.indptr.astype(np.int64),
        both.indices,
        both.data,
        places,
        router_at,
        floor.cores_per_router,
        floor.is_hexagonal,
        n_moves,
        seed,
    )
    return sites


def _both_ways(traffic: Traffic) -> csr_array:
    """Messages between each two cores, whichever sends them."""
    n, between = traffic.n_cores, traffic.sources != traffic.destinations
    starts = np.concatenate([[0], np.cumsum(np.bincount(traffic.sources[between], minlength=n))])
    one_way = csr_array((traffic.messages[between], traffic.destinations[between], starts), shape=(n, n))
    both = (one_way + one_way.T).tocsr()
    both.sort_indices()
    return both


@compiled
def _distance(dx: int, dy: int, is_hexagonal: bool) -> int:
    """Hops over dx columns and dy rows."""
    if is_hexagonal and (dx > 0) == (dy > 0):
        return max(abs(dx), abs(dy))
    return abs(dx) + abs(dy)


@compiled
def _gain(
    core: int,
    other: int,
    router: int,
    target: int,
    sites: Ints,
    starts: Ints,
    partners: Ints,
    messages: Floats,
    places: Ints,
    per_router: int,
    is_hexagonal: bool,
) -> float:
    """By how much messages x hops of a core grow as it goes from a router to another; not counting those to `other`."""
    total = 0.0
    for k in range(starts[core], starts[core + 1]):
        partner = partners[k]
        if partner != other:
            at = sites[partner] // per_router
            x, y = places[at, 0], places[at, 1]
            after = _distance(places[target, 0] - x, places[target, 1] - y, is_hexagonal)
            before = _distance(places[router, 0] - x, places[router, 1] - y, is_hexagonal)
            total += messages[k] * (after - before)
    return total


@compiled
def _near(place: Ints, reach: int, router_at: Ints) -> int:
    """A random router at most `reach` columns and rows away, -1 where there is none."""
    x = place[0] + np.random.randint(-reach, reach + 1)
    y = place[1] + np.random.randint(-reach, reach + 1)
    if x < 0 or y < 0 or x >= router_at.shape[0] or y >= router_at.shape[1]:
        return -1
    return int(router_at[x, y])


@compiled
def _exchange(
    sites: Ints,
    starts: Ints,
    partners: Ints,
    messages: Floats,
    places: Ints,
    router_at: Ints,
    per_router: int,
    is_hexagonal: bool,
    n_moves: int,
    seed: int,
) -> None:
    """Move cores to free sites or swap two, ever colder; half of the moves lead to a partner's neighbourhood."""
    np.random.seed(seed)
    n = len(sites)
    core_at = np.full(len(places) * per_router, -1, np.int64)
    for core in range(n):
        core_at[sites[core]] = core
    widest = max(router_at.shape)
    heat, n_tried = 0.0, 0
    for move in range(-_TRIALS, n_moves):
        left = 1.0 - max(move, 0) / n_moves
        core = np.random.randint(n)
        if starts[core] == starts[core + 1]:
            continue
        router = sites[core] // per_router
        if np.random.random() < 0.5:
            partner = partners[np.random.randint(starts[core], starts[core + 1])]
            target = _near(places[sites[partner] // per_router], 1, router_at)
        else:
            target = _near(places[router], max(1, int(widest * left * left)), router_at)
        if target < 0 or target == router:
            continue
        site = target * per_router + np.random.randint(per_router)
        other = core_at[site]
        gain = _gain(core, other, router, target, sites, starts, partners, messages, places, per_router, is_hexagonal)
        if other >= 0:
            gain += _gain(
                other, core, target, router, sites, starts, partners, messages, places, per_router, is_hexagonal
            )
        if move < 0:  # only looked at: the first temperature
            heat += abs(gain)
            n_tried += 1
            continue
        temperature = 0.3 * heat / max(n_tried, 1) * _COOLING ** (1.0 - left)
        if gain < 0 or (temperature > 0 and np.random.random() < np.exp(-gain / temperature)):
            core_at[sites[core]], core_at[site] = other, core
            if other >= 0:
                sites[other] = sites[core]
            sites[core] = site
