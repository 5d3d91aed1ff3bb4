"""Placement: never worse than the plain orders, the same for the same seed, and good where the best is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.target import Geometry
from neuroport.mapping.floor import boards_needed, floor_of
from neuroport.mapping.place import message_hops, place
from neuroport.mapping.traffic import Traffic
from tests.chip.networks import cases, network_of, population, source, target
from tests.mapping.layouts import by_hand, random_traffic

LOIHI = target("loihi1").geometry
SMALL = Geometry(cores_per_chip=8, mesh=(2, 2), cores_per_router=2, chip_grid="mesh", compartments_per_core=4)
HEX = Geometry(cores_per_chip=3, chip_grid="hexagonal", boards={"spin5": 48}, compartments_per_core=4)


def slow_hops(traffic: Traffic, geometry: Geometry, sites: list[int]) -> float:
    """Walked step by step on the grid."""
    floor, total = floor_of(geometry, traffic.n_cores), 0.0
    for a, b, n in zip(traffic.sources, traffic.destinations, traffic.messages, strict=True):
        x, y = floor.places[sites[a] // floor.cores_per_router].tolist()
        goal = floor.places[sites[b] // floor.cores_per_router].tolist()
        steps = 0
        while [x, y] != goal:
            dx, dy = int(np.sign(goal[0] - x)), int(np.sign(goal[1] - y))
            if not (floor.is_hexagonal and dx == dy):
                dx, dy = (dx, 0) if dx else (0, dy)
            x, y, steps = x + dx, y + dy, steps + 1
        total += n * steps
    return total


@cases(40)
@given(
    n_cores=st.integers(1, 60),
    density=st.integers(0, 6),
    seed=st.integers(0, 9),
    geometry=st.sampled_from([LOIHI, SMALL, HEX]),
)
def test_never_worse_than_round_robin_and_greedy(n_cores, density, seed, geometry):
    traffic, floor = random_traffic(n_cores, density * n_cores, seed), floor_of(geometry, n_cores)
    found = place(traffic, floor, seed=seed)
    best = found.hops[found.chosen]
    assert set(found.hops) == {"greedy", "round robin", "annealed"}
    assert best <= found.hops["greedy"]
    assert best <= found.hops["round robin"]
    assert best == pytest.approx(slow_hops(traffic, geometry, found.sites.tolist()), rel=1e-9)
    assert len(set(found.sites.tolist())) == n_cores, "a core to itself"
    assert 0 <= found.sites.min() <= found.sites.max() < floor.n_sites


def test_the_same_seed_gives_the_same_placement():
    traffic, floor = random_traffic(200, 900, 3), floor_of(LOIHI, 200)
    one, again, other = (place(traffic, floor, seed=seed) for seed in (5, 5, 6))
    assert one.sites.tolist() == again.sites.tolist()
    assert one.hops == again.hops
    assert one.sites.tolist() != other.sites.tolist()


def test_cores_that_talk_share_a_router():
    """64 cores in 16 groups of four that talk among themselves alone, shuffled: the best is 0 hops."""
    order = np.random.default_rng(0).permutation(64).reshape(16, 4)
    pairs = np.array(sorted((a, b) for group in order for a, b in product(group, group) if a != b))
    traffic = Traffic(64, pairs[:, 0], pairs[:, 1], np.ones(len(pairs)), np.zeros(64))
    found = place(traffic, floor_of(LOIHI, 64))
    assert found.hops["greedy"] > 0
    assert found.hops["annealed"] == 0
    assert found.chosen == "annealed"


def test_a_chain_over_two_chips_is_laid_out_as_a_chain():
    """Groups of two cores in a row, two chips of four routers: neighbours one hop apart is the best there is."""
    n = 16
    sources = np.arange(n - 1)
    traffic = Traffic(n, sources, sources + 1, np.ones(n - 1), np.zeros(n))
    found = place(traffic, floor_of(SMALL, n))
    assert found.hops["annealed"] == 7, "eight routers in a row, one hop each"


def test_no_traffic_and_one_core_stay_where_they_are():
    empty = np.empty(0, np.int64)
    found = place(Traffic(3, empty, empty, np.empty(0), np.zeros(3)), floor_of(LOIHI, 3))
    assert found.sites.tolist() == [0, 1, 2]
    assert found.hops["annealed"] == 0


def test_sites_have_their_place_on_chip_and_mesh():
    floor = floor_of(LOIHI, 300)
    assert len(floor.chip_places) == 3
    assert floor.n_sites == 384
    site = floor.site(2 * 128 + 4 * 9 + 3)  # chip 2, router 9 of columns of four, its last core
    assert (site.chip, site.core, site.x, site.y) == (2, 39, 2, 1)
    assert floor.places[32 + 4].tolist() == [8 + 1, 0], "the mesh goes on at the next chip"
    assert floor.crossings(np.array([0, 0]), np.array([127, 2 * 128])).tolist() == [0, 1]


def test_chips_of_a_spinnaker_board():
    floor = floor_of(HEX, 3 * 48)
    places = {tuple(place) for place in floor.places.tolist()}
    assert len(places) == 48
    assert {(0, 0), (4, 0), (7, 3), (7, 7), (4, 7)} <= places
    assert not {(5, 0), (0, 4), (3, 7)} & places
    three = {tuple(place) for place in floor_of(HEX, 3 * 144).places.tolist()}
    assert len(three) == 144, "three boards do not overlap"
    diagonal, across = floor.hops(np.array([0]), np.array([3 * 47])), floor.site(3 * 47)
    assert across.chip == 47
    assert sum(int(n[0]) for n in diagonal) == 7, "(0, 0) to (7, 7) goes along the diagonal links"


def test_unknown_mesh_is_one_router_per_chip():
    floor = floor_of(target("loihi2").geometry, 200)
    assert len(floor.places) == 2
    assert floor.site(129).chip == 1


def test_boards():
    assert boards_needed(LOIHI, 33) == {"kapoho-bay": 17, "nahuku": 2}
    assert boards_needed(Geometry(), 3) == {}


def test_a_placement_gives_each_core_its_site():
    cut = by_hand(
        network_of(target("loihi1").arithmetic, [source((4,)), population(shape=(4,))]),
        [[("out", ((0, 2),))], [("out", ((2, 4),))]],
    )
    traffic = random_traffic(2, 4, 0)
    found = place(traffic, floor_of(LOIHI, 2))
    mapped = found.mapped(cut)
    assert [site.core for site in mapped.sites] == found.sites.tolist()
    assert mapped.n_chips == 1
    assert message_hops(traffic, found.floor, found.sites) == found.hops[found.chosen]
