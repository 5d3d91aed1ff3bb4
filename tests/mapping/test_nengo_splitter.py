"""Never more cores than nengo-loihi's own splitter, where what it makes is valid, and on one core the same use of it.

It is run here, not quoted.
"""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense
from neuroport.interpreters import child_environment
from neuroport.mapping.network import Partition
from neuroport.mapping.partition import partition
from neuroport.snn.operators import conv_geometry
from neuroport.toolchains import Toolchain
from tests.chip.networks import network_of, population, source, target
from tests.oracles.fixtures import oracle_toolchain

__all__ = ["oracle_toolchain"]

_WORKER = Path(__file__).parents[1] / "oracles" / "workers" / "nengo_split.py"


def dense(*sizes: int) -> list[dict[str, Any]]:
    return [{"dense": [n_in, n_out]} for n_in, n_out in pairwise(sizes)]


def conv(c: int, n: int, filters: int, kernel: int = 3, stride: int = 1, padding: str = "same") -> dict[str, Any]:
    return {"conv": [c, n, n], "filters": filters, "kernel": kernel, "stride": stride, "padding": padding}


NETWORKS: dict[str, list[dict[str, Any]]] = {
    "dense 784-2000-1200-10": dense(784, 2000, 1200, 10),
    "wide 4000-200": dense(4000, 200),
    "conv 8 of 16x16 to 16": [conv(8, 16, 16)],
    "conv 4 of 28x28 to 16, valid": [conv(4, 28, 16, padding="valid")],
    "conv 1 of 28x28 to 6 to 24, stride 2, dense": [
        conv(1, 28, 6, stride=2, padding="valid"),
        conv(6, 13, 24, padding="valid"),
        *dense(24 * 121, 10),
    ],
    "conv 64 of 16x16 to 128": [conv(64, 16, 128)],
}

# Each on one core, so that what it takes of the core can be compared; no pixel is left unread.
ONE_CORE: dict[str, list[dict[str, Any]]] = {
    "dense 100-65": dense(100, 65),
    "dense 57-1000": dense(57, 1000),
    "conv 7 of 11x11 to 5": [conv(7, 11, 5)],
    "conv 2 of 10x10 to 2, 5x5": [conv(2, 10, 2, kernel=5)],
    "conv 5 of 11x11 to 4, 5x5, stride 2": [conv(5, 11, 4, kernel=5, stride=2, padding="valid")],
    "conv 3 of 11x11 to 2, stride 2": [conv(3, 11, 2, stride=2, padding="valid")],
}


def ours(layers: list[dict[str, Any]]) -> IntNetwork:
    """The same layers in integers; weights of 8 bits, none 0."""
    first = layers[0]
    pops = [source((first["dense"][0],) if "dense" in first else tuple(first["conv"]))]
    projections = []
    for k, layer in enumerate(layers):
        if "dense" in layer:
            shape: tuple[int, ...] = (layer["dense"][1],)
            synapse: Any = IntDense(_weights(layer["dense"][1], layer["dense"][0]))
        else:
            kernel = (layer["filters"], layer["conv"][0], layer["kernel"], layer["kernel"])
            pad = layer["kernel"] // 2 if layer["padding"] == "same" else 0
            geometry = conv_geometry(layer["conv"], kernel, (layer["stride"],) * 2, (pad, pad), (1, 1), 1)
            shape, synapse = geometry.out_shape, IntConv2d(_weights(*kernel), geometry)
        projections.append(IntProjection(pops[-1].name, f"l{k}", synapse))
        pops.append(population(f"l{k}", shape, role="hidden" if k < len(layers) - 1 else "readout"))
    return network_of(target("loihi1").arithmetic, pops, projections)


def _weights(*shape: int) -> np.ndarray:
    found = np.full(shape, 2, np.int32)
    found.flat[0] = -2
    return found


@pytest.fixture(scope="module")
def theirs(oracle_toolchain: Toolchain) -> dict[str, list[dict[str, Any]]]:
    done = subprocess.run(
        [str(oracle_toolchain.python), str(_WORKER)],
        input=json.dumps([*NETWORKS.values(), *ONE_CORE.values()]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=child_environment({"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER "))
    return dict(zip([*NETWORKS, *ONE_CORE], json.loads(answer.removeprefix("ANSWER ")), strict=True))


def counts(found: Partition) -> list[int]:
    return [len(found.cores_of[p.name]) for p in found.network.populations if p.role != "input"]


@pytest.mark.parametrize("name", NETWORKS)
def test_never_more_cores(name: str, theirs: dict[str, list[dict[str, Any]]]) -> None:
    found = partition(ours(NETWORKS[name]), target("loihi1"))
    assert len(found.cores) <= sum(row["cores"] for row in theirs[name]), theirs[name]


@pytest.mark.parametrize("name", ONE_CORE)
def test_the_same_use_of_a_core(name: str, theirs: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = theirs[name]
    (core,) = partition(ours(ONE_CORE[name]), target("loihi1")).cores
    assert row["cores"] == 1
    used = {what: core.uses[what].used for what in ("compartments", "input axons", "synapse bits")}
    assert list(used.values()) == [row["fullest"][what] for what in ("compartments", "in-axons", "synapses")]
