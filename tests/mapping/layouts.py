"""Networks on cores by hand, and traffic at random, for tests of traffic, placement and cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuroport.chip.network import IntNetwork
from neuroport.mapping.floor import Floor
from neuroport.mapping.network import Box, Core, Partition, Tile, Use
from neuroport.mapping.place import Placement
from neuroport.mapping.traffic import Traffic
from tests.chip.networks import target


def by_hand(network: IntNetwork, cores: Sequence[Sequence[tuple[str, Box]]], name: str = "loihi1") -> Partition:
    """A partition with these tiles on each core."""
    made = []
    for tiles in cores:
        held = tuple(Tile(population, box) for population, box in tiles)
        made.append(Core(held, {"compartments": Use(sum(tile.n_neurons for tile in held), 1024)}))
    return Partition(network, target(name), tuple(made))


def placed(floor: Floor, sites: Sequence[int]) -> Placement:
    """The cores on these sites."""
    return Placement(floor, np.array(sites, np.int64), {"greedy": 0.0}, "greedy")


def random_traffic(n_cores: int, n_pairs: int, seed: int) -> Traffic:
    """Messages between random cores, each pair once."""
    rng = np.random.default_rng(seed)
    pairs = np.unique(rng.integers(0, n_cores, (n_pairs, 2)), axis=0)
    return Traffic(n_cores, pairs[:, 0], pairs[:, 1], rng.exponential(10.0, len(pairs)), np.zeros(n_cores))
