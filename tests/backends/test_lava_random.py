"""A thousand random small networks on Lava, forty side by side in one population each, so that a run has few processes.

Networks of one block share the numbers Lava has once per process (threshold, decay, exponents); weights and biases are
their own. Blocks differ in everything else: synapses, reset, initial potential, clamp, delays, spikes or currents.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.loihi.graded_backend import GradedLavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntSparse, IntWeights
from neuroport.snn.operators import conv_geometry
from tests.backends.lava_networks import TARGET, source

RUNS, BLOCKS, SIDE_BY_SIDE = 5, 5, 40
N_SAMPLES, N_STEPS = 2, 16
KINDS = ("dense", "sparse", "conv", "skip", "driven")

pytestmark = pytest.mark.lava


def weights(rng, shape):
    """Of one sign or even, anywhere in the eight bits; some at their ends."""
    low, high, step = [(-128, 128, 2), (0, 256, 1), (-255, 1, 1)][rng.integers(3)]
    m = step * rng.integers(low, high, shape)
    if rng.random() < 0.3:
        m = np.where(rng.random(shape) < 0.5, m, rng.choice([step * low, step * (high - 1)], shape))
    return m.astype(np.int32)


def block_diagonal(rng, n_in, n_out):
    """[40 n_out, 40 n_in] with a network's own weights on each block; never all 0."""
    own = weights(rng, (SIDE_BY_SIDE, n_out, n_in))
    own[0, 0, 0] = own.flat[np.abs(own).argmax()] or 2
    full = np.zeros((SIDE_BY_SIDE, n_out, SIDE_BY_SIDE, n_in), np.int32)
    full[np.arange(SIDE_BY_SIDE), :, np.arange(SIDE_BY_SIDE)] = own
    return full.reshape(SIDE_BY_SIDE * n_out, SIDE_BY_SIDE * n_in)


def as_sparse(m):
    rows, columns = np.nonzero(m)
    return IntSparse(m[rows, columns], columns, np.searchsorted(rows, np.arange(len(m) + 1)))


def synapse(rng, kind, n_in, n_out) -> IntWeights:
    """From 40 networks of n_in neurons to n_out each; images are n pixels of 40 channels."""
    if kind == "conv":
        size = (n_in - n_out) + 1  # a valid convolution in one dimension
        m = weights(rng, (SIDE_BY_SIDE, 1, 1, size))
        m[0, 0, 0, 0] = m[0, 0, 0, 0] or 2
        shape = (SIDE_BY_SIDE, 1, n_in)
        return IntConv2d(m, conv_geometry(shape, m.shape, (1, 1), (0, 0), (1, 1), SIDE_BY_SIDE))
    m = block_diagonal(rng, n_in, n_out)
    return as_sparse(m) if kind == "sparse" else IntDense(m)


def population(rng, name, n, *, driven=False, role="hidden") -> IntPopulation:
    """40 networks of n neurons, anywhere in the ranges; channels are networks."""
    shape = (SIDE_BY_SIDE, 1, n)
    exponent = int(rng.integers(0, 8))
    threshold = int(2 ** rng.uniform(0, 17)) if rng.random() < 0.2 else int(2 ** rng.uniform(5, 11))
    plain = rng.random() < 0.4
    return IntPopulation(
        name=name,
        shape=shape,
        role=role,
        threshold_mantissa=min(threshold, 131071),
        bias_mantissa=np.zeros(shape, np.int32) if driven else rng.integers(-400, 401, shape).astype(np.int32),
        bias_exponent=exponent,
        v_init_int=0 if plain else int(rng.integers(-(2**15), 2**15)),
        reset="zero" if plain or rng.random() < 0.3 else "subtract",
        decay=int(rng.choice([0, 0, 1, 300, 4095])),
        clamp_until=0 if plain else int(rng.integers(0, 6)),
        driven=driven,
        unit=64,
    )


def block(rng, k, kind):
    """Two to three populations behind the source (or driven), and their projections."""
    sizes = [6, *sorted(rng.integers(1, 6, 2), reverse=True)]
    names = ["input", f"{k}a", f"{k}b"]
    driven = kind == "driven"
    made = [population(rng, f"{k}a", int(sizes[1]), driven=driven), population(rng, f"{k}b", int(sizes[2]))]
    of = {"skip": "dense", "driven": "dense"}.get(kind, kind)
    projections = []
    steps = pairwise(list(zip(names, map(int, sizes), strict=True))[driven:])
    for (pre, n_in), (post, n_out) in steps:
        projections.append(IntProjection(pre, post, synapse(rng, of, n_in, n_out), int(rng.integers(0, 2))))
    if kind == "skip":  # a longer way round: the short one is delayed
        made.append(population(rng, f"{k}c", int(sizes[2])))
        projections.append(IntProjection(f"{k}b", f"{k}c", synapse(rng, "dense", int(sizes[2]), int(sizes[2]))))
        projections.append(IntProjection(f"{k}a", f"{k}c", synapse(rng, "sparse", int(sizes[1]), int(sizes[2]))))
    return made, projections


def random_run(seed):
    """One Lava run: five blocks of forty networks, and their inputs."""
    rng = np.random.default_rng(seed)
    populations, projections = [source((SIDE_BY_SIDE, 1, 6))], []
    for k, kind in enumerate(KINDS):
        made, joined = block(rng, k, kind)
        populations += made
        projections += joined
    last = populations[-1]
    populations[-1] = IntPopulation(**{**vars(last), "role": "readout"})
    network = IntNetwork(
        "loihi-sim", TARGET.arithmetic, tuple(populations), tuple(projections), (IntHead(last.name, "membrane"),)
    )
    raster = (rng.random((N_SAMPLES, N_STEPS, SIDE_BY_SIDE, 1, 6)) < 0.4).astype(np.uint8)
    currents = {
        p.name: rng.integers(-4096, 4096, (N_SAMPLES, *p.shape)).astype(np.int32) for p in populations if p.driven
    }
    return network, IntInputs(N_SAMPLES, N_STEPS, raster, currents)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_thousand_random_networks(lava, tmp_path, seed):
    assert RUNS * BLOCKS * SIDE_BY_SIDE == 1000 and len(KINDS) == BLOCKS
    network, inputs = random_run(seed)
    assert_equal_on(LavaBackend(), Job(TARGET, network, inputs, tmp_path))


def test_forty_with_graded_input_beside_the_others(lava, tmp_path):
    network, inputs = random_run(RUNS)
    populations = [replace(p, bias_exponent=7) if p.driven else p for p in network.populations]
    assert_equal_on(
        GradedLavaBackend(), Job(TARGET, replace(network, populations=tuple(populations)), inputs, tmp_path)
    )


def assert_equal_on(backend, job):
    network, inputs = job.network, job.inputs
    backend.check(job)
    trace = backend.run(job)
    core = run_core(network, inputs, record="spikes").trace
    fired = 0
    for p in network.populations[1:]:
        np.testing.assert_array_equal(trace.spikes[p.name], core.spikes[p.name], err_msg=p.name)
        fired += int(core.spikes[p.name].sum())
    for name, v in trace.potentials.items():
        np.testing.assert_array_equal(v, core.potentials[name], err_msg=name)
    assert fired > 2000
