"""The picture of the mesh: layers that can be told apart."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from neuroport.mapping.mapped import map_to_cores
from neuroport.mapping.picture import draw_mesh
from tests.chip.networks import dense, network_of, population, source, target


def test_a_colour_for_each_of_24_layers() -> None:
    names = ["input", *(f"l{k}" for k in range(24))]
    layers = [population(name, (2,), role="hidden") for name in names[1:-1]]
    weights = np.array([[2, -2], [2, 2]])
    network = network_of(
        target("loihi1").arithmetic,
        [source((2,)), *layers, population(names[-1], (2,))],
        [dense(weights, *pair) for pair in pairwise(names)],
    )
    picture = draw_mesh(map_to_cores(network, target("loihi1")), "net")
    legend = re.findall(r'<title>(l\d+)</title><rect [^>]*fill="(#[0-9A-F]{6})"', picture)
    assert [name for name, _ in legend] == names[1:]
    assert len({colour for _, colour in legend}) == 24
