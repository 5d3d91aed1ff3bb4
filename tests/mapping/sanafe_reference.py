"""Writes sanafe_reference.json: what SANA-FE, a simulator of others, charges for one network, its tiles and its spikes.

    pip install sanafe==2.2.9
    python tests/mapping/sanafe_reference.py loihi.yaml     # arch/loihi.yaml of github.com/SLAM-Lab/SANA-FE, 8951ab0

image 3x6x6 --conv 3x3, padding 1--> 4x6x6 --dense--> 10, on five cores in four tiles of the mesh. All neurons are
SANA-FE's `input` neurons with given spikes, and weights are 0: then it charges for synapses, messages and hops alone.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import product
from pathlib import Path

STEPS = 20
SHAPES = {"image": (3, 6, 6), "conv": (4, 6, 6), "dense": (10,)}
# population, box, tile of the mesh (column by column, four in a column), core in the tile
TILES = [
    ("image", ((0, 3), (0, 3), (0, 6)), 0, 0),
    ("image", ((0, 3), (3, 6), (0, 6)), 7, 1),
    ("conv", ((0, 2), (0, 6), (0, 6)), 7, 3),
    ("conv", ((2, 4), (0, 6), (0, 6)), 18, 2),
    ("dense", ((0, 5),), 18, 2),
    ("dense", ((5, 10),), 31, 0),
]


def synapses() -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Neuron by neuron: what a 3x3 kernel with padding 1 reads, and all to all."""
    found = []
    for c_out, y, x in product(range(4), range(6), range(6)):
        for c, dy, dx in product(range(3), (-1, 0, 1), (-1, 0, 1)):
            if 0 <= y + dy < 6 and 0 <= x + dx < 6:
                found.append((("image", c * 36 + (y + dy) * 6 + x + dx), ("conv", c_out * 36 + y * 6 + x)))
    return found + [(("conv", k), ("dense", n)) for k in range(144) for n in range(10)]


def main() -> None:
    import sanafe  # in an environment of its own

    arch = sanafe.load_arch(sys.argv[1])
    net = sanafe.Network()
    rng = random.Random(0)
    groups, totals = {}, {}
    for name, shape in SHAPES.items():
        n = 1
        for size in shape:
            n *= size
        groups[name] = net.create_neuron_group(name, n, {})
        trains = [[rng.random() < rng.choice((0, 0.1, 0.4)) for _ in range(STEPS)] for _ in range(n)]
        totals[name] = [sum(train) for train in trains]
        for k, train in enumerate(trains):
            groups[name][k].set_attributes(model_attributes={"spikes": train})
    used: dict[tuple[int, int], int] = {}
    for name, box, tile, core in TILES:
        shape = SHAPES[name]
        for place in product(*(range(*ends) for ends in box)):
            k = 0
            for at, size in zip(place, shape, strict=True):
                k = k * size + at
            slot = used.get((tile, core), 0)
            used[tile, core] = slot + 1
            groups[name][k].set_attributes(soma_hw_name=f"loihi_inputs[{slot}]")
            groups[name][k].map_to_core(arch.tiles[tile].cores[core])
    for (pre, k), (post, n) in synapses():
        groups[pre][k].connect_to_neuron(groups[post][n], {"weight": 0.0})
    chip = sanafe.SpikingChip(arch)
    chip.load(net)
    result = chip.sim(STEPS)
    wanted = {key: result[key] for key in ("spikes", "packets_sent")}
    out = {
        "sanafe": "2.2.9",
        "architecture": "arch/loihi.yaml, 8951ab0",
        "steps": STEPS,
        "tiles": [{"population": p, "box": box, "tile": tile, "core": core} for p, box, tile, core in TILES],
        "totals": totals,
        **wanted,
        "energy": dict(result["energy"]),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
