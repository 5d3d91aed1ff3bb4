"""Every way to compute gives the oracle's bits: sums over events, matrix products, torch on a device."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from neuroport.chip.core import dense, run_core, selftest
from neuroport.chip.core import run as core
from neuroport.chip.core.layout import layout_of
from neuroport.chip.inputs import IntInputs
from neuroport.chip.oracle import run_oracle
from neuroport.errors import SelfTestError, UsageError
from tests.chip.networks import (
    arithmetics,
    network_of,
    networks,
    population,
    source,
    spikes_of,
    target,
    with_arithmetic,
)
from tests.chip.networks import dense as dense_projection
from tests.chip.test_core import assert_core_is_oracle

ARITHMETICS = arithmetics()
ALL_TYPES = [  # int64 sums are never held in narrow potentials
    (*types, narrow) for types in selftest._EXTREMES for narrow in (True, False) if not (narrow and "int64" in types)
]


def assert_is_oracle(network, inputs, **options):
    """The run, once it has been compared with the oracle."""
    assert_core_is_oracle(network, inputs, **options)
    return run_core(network, inputs, n_threads=1, **options)


@given(networks(ARITHMETICS))
@settings(max_examples=100)
def test_matrix_products_equal_the_oracle(case):
    assert_is_oracle(*case, synapses="dense")


@given(networks(ARITHMETICS))
@settings(max_examples=100)
def test_torch_equals_the_oracle(case):
    assert_is_oracle(*case, device="cpu:0")


@pytest.mark.parametrize("split", ["joint", "split"])
@pytest.mark.parametrize("floor", [None, -5])
@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_torch_equals_the_oracle_where_registers_are_too_narrow(split, floor, overflow):
    rng = np.random.default_rng(3)
    a = target("cpu").arithmetic
    weights = rng.integers(-127, 128, (30, 40))
    neurons = population(shape=(30,), threshold_mantissa=3, reset="subtract", decay=9, clamp_until=2)
    network = network_of(a, [source((40,)), neurons], [dense_projection(weights)], readout="membrane")
    register = {"bits": 12, "overflow": overflow}
    changed = a.model_dump() | {"accumulators": split, "membrane_floor": floor, "accumulator_bits": 10}
    changed |= {"current": {"bits": 14, "overflow": overflow}, "membrane": register}
    narrow = with_arithmetic(network, type(a).model_validate(changed))
    inputs = IntInputs(3, 20, (rng.random((3, 20, 40)) < 0.6).astype(np.uint8), {})
    run = assert_is_oracle(narrow, inputs, device="cpu:0")
    assert run.overflows["out"] > 50


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_the_path_is_chosen_by_density(density):
    if not dense.is_exact_in_bytes():
        pytest.skip("this processor has no exact products of bytes")
    rng = np.random.default_rng(0)
    weights = 2 * rng.integers(-60, 60, (70, 100))
    network = network_of(
        target("loihi-sim").arithmetic,
        [source((100,)), population(shape=(70,), threshold_mantissa=500)],
        [dense_projection(weights)],
    )
    inputs = IntInputs(4, 30, (rng.random((4, 30, 100)) < density).astype(np.uint8), {})
    run = assert_is_oracle(network, inputs, synapses="auto")
    path = run.paths["out"]
    assert path.dense == (1.0 if density > 0.5 else 0.0)
    assert path.density == inputs.spikes.mean()
    assert (path.accumulator, path.membrane) == (16, 32)
    assert path.bound == max(np.maximum(weights, 0).sum(1).max(), -np.minimum(weights, 0).sum(1).min())


def test_products_of_bytes_are_not_used_where_they_are_wrong(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.float() @ b.float()).to(torch.int32).clamp(-32768, 32767))
    assert not dense.is_exact_in_bytes.__wrapped__()


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError])
def test_products_of_bytes_may_be_missing(monkeypatch, error):
    def missing(a, b):
        raise error("no such operator")

    monkeypatch.setattr(torch, "_int_mm", missing)
    assert not dense.is_exact_in_bytes.__wrapped__()


def test_rounded_products_are_found_out(monkeypatch):
    exact = torch.nn.functional.conv2d

    def rounded(x, weight, **options):
        return exact(x.bfloat16().to(x.dtype), weight.bfloat16().to(weight.dtype), **options)

    assert dense.is_exact_in_floats.__wrapped__()
    monkeypatch.setattr(torch.nn.functional, "conv2d", rounded)
    assert not dense.is_exact_in_floats.__wrapped__()


def test_inexact_floats_are_refused_on_a_device(monkeypatch):
    monkeypatch.setattr(core, "is_exact_in_floats", lambda device: False)
    network = network_of(target("cpu").arithmetic, [source(), population()], [dense_projection([[1]])])
    with pytest.raises(SelfTestError, match="'cpu:0' give no exact integers; use device='cpu'"):
        run_core(network, spikes_of([[1]]), device="cpu:0")


@pytest.mark.parametrize("device", ["cuda:77", "abacus"])
def test_a_device_that_is_not_there(device):
    network = network_of(target("cpu").arithmetic, [source(), population()], [dense_projection([[1]])])
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used: .*; use device='cpu'"):
        run_core(network, spikes_of([[1]]), device=device)


@pytest.mark.parametrize("api", ["of all", "of each"])
def test_settings_of_torch_come_back(api):
    """Torch has an older setting of the precision for all, and a newer one for each; both may be in use."""
    code = f"""
import numpy as np, torch
from tests.chip.networks import *
from neuroport.chip.core import dense, run_core
conv, matmul = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
if {api == "of all"}:
    torch.set_float32_matmul_precision("medium")
else:
    conv.fp32_precision = matmul.fp32_precision = "bf16"
torch.set_num_threads(2)
def held():
    return torch.get_num_threads(), torch.backends.cudnn.enabled, conv.fp32_precision, matmul.fp32_precision
before = held()
with dense.exact_products():
    assert held() == (1, False, "ieee", "ieee"), held()
    with dense.exact_products():
        pass
    assert held() == (1, False, "ieee", "ieee"), held()
assert held() == before and before[3] == "bf16", (held(), before)
one = IntProjection("input", "out", IntDense(np.ones((1, 1), np.int32)))
network = network_of(target("cpu").arithmetic, [source(), population()], [one])
assert run_core(network, spikes_of([[1]]), synapses="dense").totals["out"].tolist() == [1]
assert held() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("path", ["matrix", 7])
def test_unknown_ways_to_compute_are_refused(path):
    network = network_of(target("cpu").arithmetic, [source(), population()], [dense_projection([[1]])])
    with pytest.raises(UsageError, match=f"synapses '{path}' is unknown; use 'auto', 'event' or 'dense'"):
        run_core(network, spikes_of([[1]]), synapses=path)


@pytest.mark.parametrize("types", ALL_TYPES)
def test_the_self_test_uses_the_kernels_it_is_asked_for(types):
    network, inputs = selftest.trial(types)
    for layer in layout_of(network).layers:
        _, is_narrow = layer.biases(inputs)
        assert (layer.synapses.stamps.weight.dtype.name, np.dtype(layer.total_dtype).name, is_narrow) == types
    spikes = run_oracle(network, inputs).spikes
    assert all(0.02 < spikes[p.name].mean() < 0.98 for p in network.populations)
    selftest.check_kernels.__wrapped__(types, core._untested)


def test_the_self_test_covers_every_way_to_add():
    network, _ = selftest.trial(("int8", "int16", True))
    units = {int(u) for layer in layout_of(network).layers for u in layer.synapses.unit}
    assert units == {0, -1, 1, 8, 16, 1032, 1064}


@pytest.mark.parametrize("what", ["spikes", "potentials"])
def test_a_wrong_kernel_is_refused_by_name(what):
    types = ("int8", "int16", True)

    def broken(network, inputs):
        trace = run_oracle(network, inputs)
        wrong = {name: x.copy() for name, x in getattr(trace, what).items()}
        wrong["half"][0, 3, 0] += 1
        return replace(trace, **{what: wrong})

    with pytest.raises(
        SelfTestError, match=r"population 'half' of the self-test \(weights int8, sums int16, potentials in 32"
    ):
        selftest.check_kernels.__wrapped__(types, broken)


def test_every_kernel_is_tried_before_it_is_used(monkeypatch):
    asked = []
    monkeypatch.setattr(core, "check_kernels", lambda types, run: asked.append(types))
    network = network_of(target("cpu").arithmetic, [source(), population()], [dense_projection([[1]])])
    run_core(network, spikes_of([[1]]))
    assert asked == [("int8", "int16", True)]


def test_dense_from_is_out_of_reach_where_products_do_not_help():
    network, _ = selftest.trial(("int64", "int64", False))
    assert all(layer.dense_from == math.inf and not layer.can_be_dense for layer in layout_of(network).layers)
