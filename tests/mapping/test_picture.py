"""The picture of the mesh: layers that can be told apart."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from neuroport.mapping import picture as drawing
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


def test_of_many_cores_those_of_a_layer_are_one_shape_on_each_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same places in the same colours; drawn with fewer elements."""
    rng = np.random.default_rng(0)
    network = network_of(
        target("loihi1").arithmetic,
        [source((300,)), population("hidden", (3000,), role="hidden"), population("out", (2000,))],
        [
            dense(rng.choice([-2, 2], (3000, 300)), "input", "hidden"),
            dense(rng.choice([-2, 2], (2000, 3000)), "hidden"),
        ],
    )
    mapped = map_to_cores(network, target("loihi1"))
    each = draw_mesh(mapped, "net")
    boxes = re.findall(r'<rect x="(\d+)" y="(\d+)" width="20" height="20" fill="(#\w+)"', each)
    assert len(boxes) == mapped.n_cores
    monkeypatch.setattr(drawing, "_BOXES", mapped.n_cores - 1)
    areas = draw_mesh(mapped, "net")
    shapes = re.findall(r'<path d="((?:M\d+ \d+h20v20h-20z)+)" fill="(#\w+)"', areas)
    together = [(x, y, fill) for d, fill in shapes for x, y in re.findall(r"M(\d+) (\d+)h", d)]
    assert sorted(together) == sorted(boxes)
    said = [int(n) for n in re.findall(r"<title>(?:hidden|out): (\d+) cores? here</title>", areas)]
    assert sum(said) == mapped.n_cores and len(said) == len(shapes) <= 2 * mapped.n_chips
