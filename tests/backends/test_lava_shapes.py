"""Populations read under another shape than their own, on Lava."""

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.network import IntProjection
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import TARGET, conv, dense, network, population, source, spikes

pytestmark = pytest.mark.lava


def test_flat_to_image_image_to_image_and_dense_to_any_shape(lava, tmp_path):
    rng = np.random.default_rng(2)
    first = conv(rng, (4, 3, 2), 6, (2, 2))  # reads 24 flat neurons, writes (6, 2, 1)
    second = conv(rng, (2, 3, 2), 3, (2, 1))  # reads those as (2, 3, 2)
    populations = [
        source((24,)),
        population(rng, "a", (6, 2, 1)),
        population(rng, "b", (3, 2, 2)),
        population(rng, "c", (2, 4)),
        population(rng, "d", (3,), role="readout", threshold_mantissa=131071),
    ]
    shaped = [
        IntProjection("input", "a", first),
        IntProjection("a", "b", second),
        IntProjection("b", "c", dense(rng, 12, 8)),
        IntProjection("c", "d", dense(rng, 8, 3)),
    ]
    net, inputs = network(populations, shaped), spikes(rng, 2, 20, (24,))
    trace = LavaBackend().run(Job(TARGET, net, inputs, tmp_path))
    core = run_core(net, inputs, record="spikes").trace
    assert all(core.spikes[p.name].any() for p in populations if p.role == "hidden")
    result = compare(net, inputs, core, trace)
    assert result.mismatches == 0, result.first_mismatch
