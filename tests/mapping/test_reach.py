"""Neurons of a tile, and the neurons before it that reach it, against the expanded matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntDense, IntSparse, as_sparse
from neuroport.mapping.network import Tile
from neuroport.mapping.reach import inputs_of, neurons_of, weights_of
from tests.chip.networks import cases, networks, target


def random_tile(draw: Any, network: IntNetwork, name: str) -> Tile:
    """Any box of a population, or any stretch of it in C order."""
    shape = network.by_name[name].shape
    sizes = [int(np.prod(shape))] if draw(st.booleans()) else shape
    ends = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))) for n in sizes]
    return Tile(name, tuple((start, end + 1) for start, end in ends))


def existing(network: IntNetwork, j: IntProjection) -> np.ndarray:
    """[n_post, n_pre]: where a synapse is, neuron by neuron; a kernel's zeros are some."""
    synapse = weights_of(j.synapse)
    if not isinstance(synapse, IntDense | IntSparse):
        synapse = type(synapse)(np.ones_like(synapse.mantissa), synapse.geometry)
    flat = as_sparse(synapse)
    found = np.zeros((network.by_name[j.post].n_neurons, network.by_name[j.pre].n_neurons), bool)
    for row in range(len(found)):
        for k in range(flat.row_start[row], flat.row_start[row + 1]):
            found[row, flat.columns[k]] = flat.mantissa[k] != 0
    return found


@cases(60)
@given(st.data(), networks([target("cpu").arithmetic, target("loihi2").arithmetic]))
def test_inputs_of_any_tile(data: Any, made: Any) -> None:
    network, _ = made
    j = data.draw(st.sampled_from(network.projections))
    tile = random_tile(data.draw, network, j.post)
    shape = network.by_name[j.post].shape
    rows = neurons_of(tile, shape)
    marked = np.zeros(shape, bool)
    (marked.reshape(-1) if len(tile.box) == 1 else marked)[tile.slices] = True
    np.testing.assert_array_equal(rows, np.flatnonzero(marked))
    np.testing.assert_array_equal(inputs_of(network, j, tile), existing(network, j)[rows].any(0))
