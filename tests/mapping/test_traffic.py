"""Spike messages between cores, against a count spike by spike and synapse by synapse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from neuroport.chip.core import run_core
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntWindow, as_sparse
from neuroport.mapping.activity import Activity, fan_out, measure
from neuroport.mapping.network import Partition
from neuroport.mapping.reach import inputs_of, neurons_of
from neuroport.mapping.traffic import Traffic, spike_traffic
from tests.chip.networks import TARGETS, cases, dense, network_of, networks, population, source, target, variant
from tests.mapping.layouts import by_hand


def activity_of(network: IntNetwork, seed: int) -> Activity:
    rng = np.random.default_rng(seed)
    totals = {p.name: rng.integers(0, 4, p.shape) for p in network.populations}
    return Activity(2, 5, totals, {p.name: 0.0 for p in network.populations}, 1)


def held(j: IntProjection, n_in: int) -> np.ndarray:
    """[n_out, n_in]: which neurons have a synapse; of kernels every tap, whatever its weight."""
    s = j.synapse
    if isinstance(s, IntWindow):
        eye = torch.eye(n_in).reshape(n_in, *s.in_shape)
        return (
            F.max_pool2d(eye, s.op.kernel, s.op.stride, s.op.padding, s.op.dilation, s.op.ceil_mode)
            .reshape(n_in, -1)
            .numpy()
            .T.astype(bool)
        )
    if isinstance(s, IntConv2d | IntConvTranspose2d):
        s = replace(s, mantissa=np.ones_like(s.mantissa))
    flat = as_sparse(s)
    shape = (len(flat.row_start) - 1, n_in)
    return csr_array((flat.mantissa != 0, flat.columns, flat.row_start), shape=shape).toarray()


def slow_messages(cut: Partition, activity: Activity) -> tuple[dict[tuple[int, int], float], dict[int, float]]:
    """Neuron by neuron: to which cores its spikes go."""
    network, found, outside = cut.network, {}, {}
    home = {}
    for k, core in enumerate(cut.cores):
        for tile in core.tiles:
            home |= {(tile.population, n): k for n in neurons_of(tile, network.by_name[tile.population].shape).tolist()}
    readers = [
        (k, j.pre, inputs_of(network, j, tile))
        for k, core in enumerate(cut.cores)
        for tile in core.tiles
        for j in network.incoming[tile.population]
    ]
    for p in network.populations:
        own = p.role != "input" and network.compartments_of(p) > 1
        for n, rate in enumerate(activity.rates(p.name).tolist()):
            cores = [*{k for k, pre, mask in readers if pre == p.name and mask[n]}, *([home[p.name, n]] if own else [])]
            for core in cores if rate else ():
                if p.role == "input":
                    outside[core] = outside.get(core, 0.0) + rate
                else:
                    pair = (home[p.name, n], core)
                    found[pair] = found.get(pair, 0.0) + rate
    return found, outside


def pairs_of(traffic: Traffic) -> list[tuple[int, int]]:
    return list(zip(traffic.sources.tolist(), traffic.destinations.tolist(), strict=True))


def halves(network: IntNetwork, seed: int) -> Partition:
    """Each population in two tiles along its last axis that is long enough, on random cores of four."""
    rng = np.random.default_rng(seed)
    cores: list[list] = [[] for _ in range(4)]
    for p in network.populations:
        if p.role != "input":
            box = [(0, n) for n in p.shape]
            axis = int(rng.integers(len(box)))
            cut = int(rng.integers(box[axis][1] + 1))
            for ends in ((0, cut), (cut, p.shape[axis])):
                if ends[0] < ends[1]:
                    part = tuple(ends if k == axis else whole for k, whole in enumerate(box))
                    cores[int(rng.integers(4))].append((p.name, part))
    return by_hand(network, [tiles for tiles in cores if tiles])


@cases(40)
@given(case=networks([target(name).arithmetic for name in TARGETS]), seed=st.integers(0, 99))
def test_messages_of_random_networks(case, seed):
    network = case[0]
    cut, activity = halves(network, seed), activity_of(network, seed)
    traffic = spike_traffic(cut, activity)
    expected, outside = slow_messages(cut, activity)
    assert dict(zip(pairs_of(traffic), traffic.messages.tolist(), strict=True)) == pytest.approx(expected)
    assert {k: n for k, n in enumerate(traffic.from_outside.tolist()) if n} == pytest.approx(outside)


def test_a_spike_goes_once_to_a_core_with_many_synapses():
    """Four neurons, a dense layer of six on two cores, the last neuron read by nobody on the second core."""
    weights = np.full((6, 4), 2)
    weights[3:, 3] = 0
    network = network_of(
        variant("loihi1"),
        [source((1,)), population("a", (4,), role="hidden"), population("b", (6,))],
        [dense([[2]] * 4, "input", "a"), dense(weights, "a", "b")],
    )
    cut = by_hand(network, [[("a", ((0, 4),)), ("b", ((0, 3),))], [("b", ((3, 6),))]])
    totals = {"input": np.array([10]), "a": np.array([2, 0, 4, 6]), "b": np.zeros(6, np.int64)}
    traffic = spike_traffic(cut, Activity(2, 8, totals, {}, 1))
    assert traffic.sources.tolist() == [0, 0]
    assert traffic.destinations.tolist() == [0, 1]
    assert traffic.messages.tolist() == [6.0, 3.0]
    assert traffic.from_outside.tolist() == [5.0, 0.0]


def test_two_compartments_send_the_threshold_to_themselves():
    network = network_of(
        variant("loihi1"),
        [source((1,)), population("a", (2,), role="hidden", reset="subtract"), population("b", (1,))],
        [dense([[2], [2]], "input", "a"), dense([[2, 2]], "a", "b")],
    )
    cut = by_hand(network, [[("a", ((0, 2),))], [("b", ((0, 1),))]])
    totals = {"input": np.array([1]), "a": np.array([3, 4]), "b": np.array([0])}
    traffic = spike_traffic(cut, Activity(1, 8, totals, {}, 1))
    assert pairs_of(traffic) == [(0, 0), (0, 1)]
    assert traffic.messages.tolist() == [7.0, 7.0]


def test_without_spikes_each_neuron_counts_once():
    network = network_of(
        variant("loihi1"),
        [source((1,)), population("a", (3,), role="hidden"), population("b", (1,))],
        [dense([[2]] * 3, "input", "a"), dense([[2, 2, 2]], "a", "b")],
    )
    traffic = spike_traffic(by_hand(network, [[("a", ((0, 3),))], [("b", ((0, 1),))]]), None)
    assert traffic.messages.tolist() == [3.0]


@cases(40)
@given(case=networks([target(name).arithmetic for name in TARGETS]))
def test_fan_out_and_idle_neurons_of_random_networks(case):
    network, inputs = case
    run = run_core(network, inputs, record="all")
    activity = measure(network, inputs)
    assert activity.idle_samples == min(inputs.n_samples, 8)
    assert {name: n.tolist() for name, n in activity.totals.items()} == {
        name: n.tolist() for name, n in run.totals.items()
    }
    for j in network.projections:
        n_in = network.by_name[j.pre].n_neurons
        if not isinstance(j.synapse, IntWindow):
            assert fan_out(j.synapse, n_in).tolist() == held(j, n_in).sum(0).tolist()
    for p in network.populations:
        if p.role == "input":
            continue
        shape = (inputs.n_samples, inputs.n_steps, p.n_neurons)
        now = np.zeros(shape, bool)
        steady = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
        now |= steady.reshape(len(steady), 1, -1) != 0
        for j in network.incoming[p.name]:
            spikes = run.trace.spikes[j.pre].reshape(*shape[:2], -1).astype(int)
            now |= spikes @ held(j, spikes.shape[2]).T.astype(int) > 0
        assert activity.idle[p.name] == pytest.approx(1 - now.mean())
