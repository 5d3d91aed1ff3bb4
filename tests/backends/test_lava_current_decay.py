"""Currents that outlast a step, on Lava: its own LIF, and our IF neuron."""

from dataclasses import replace

import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.core import run_core
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import TARGET, conv_net, driven_net

pytestmark = pytest.mark.lava

NEURONS = {
    "lif": {"decay": 100},
    "subtract": {"reset": "subtract", "v_init_int": 9601},
    "clamp": {"reset": "subtract", "v_init_int": 5000, "clamp_until": 5, "decay": 30},
}


@pytest.mark.parametrize("current_decay", [0, 410, 4095])
@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("make", [conv_net, driven_net])
def test_every_spike_and_potential_is_the_core_s(lava, tmp_path, make, kind, current_decay):
    net, inputs = make(3, **NEURONS[kind])
    populations = [p if p.role == "input" else replace(p, current_decay=current_decay) for p in net.populations]
    net = replace(net, populations=tuple(populations))
    core = run_core(net, inputs, record="spikes").trace
    memoryless = run_core(make(3, **NEURONS[kind])[0], inputs, record="spikes").trace
    assert all(core.spikes[p.name].any() for p in populations if p.role == "hidden")
    last = populations[-2].name
    assert current_decay == 4095 or (core.spikes[last] != memoryless.spikes[last]).any()
    result = compare(net, inputs, core, LavaBackend().run(Job(TARGET, net, inputs, tmp_path)))
    assert result.mismatches == 0, result.first_mismatch
