"""Backends by name, and the cpu backend against the core."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given, settings

from neuroport.backends import registry
from neuroport.backends.base import Job
from neuroport.backends.cpu import CpuBackend
from neuroport.backends.registry import backend_names, get_backend, get_runner_and_mapper
from neuroport.chip.core import run_core
from neuroport.datasheets import names
from neuroport.errors import ToolchainError, UsageError
from neuroport.validation.divergence import compare
from tests.chip.networks import arithmetics, networks, target

ARITHMETICS = arithmetics()


def test_unknown_backend_lists_the_known_ones():
    with pytest.raises(UsageError) as caught:
        get_backend("nosuch")
    assert caught.value.exit_code == 2
    assert "unknown backend 'nosuch'; known: cpu, lava" in str(caught.value)


def test_every_backend_a_datasheet_names_exists_under_its_name():
    wanted = {backend for name in names("targets") for backend in target(name).backends}
    assert wanted <= set(backend_names())
    for name in wanted:
        backend = next(b for b in get_runner_and_mapper(name, target("cpu")) if b is not None)
        assert backend.name == name
        assert backend.summary


def announce(monkeypatch, value):
    entry = EntryPoint("mine", value, "neuroport.backends")
    monkeypatch.setattr(registry, "entry_points", lambda group: (entry,) if group == "neuroport.backends" else ())


def test_backend_of_another_distribution(monkeypatch):
    announce(monkeypatch, "neuroport.backends.cpu:CpuBackend")
    assert {"cpu", "lava", "loihi2-board", "mine"} <= set(backend_names())
    assert isinstance(get_backend("mine"), CpuBackend)


def test_backend_of_another_distribution_that_cannot_be_loaded(monkeypatch):
    announce(monkeypatch, "no_such_package.backend:Backend")
    with pytest.raises(ToolchainError, match=r"backend 'mine'.*cannot be loaded.*no_such_package") as caught:
        get_backend("mine")
    assert caught.value.exit_code == 4


@given(networks(ARITHMETICS))
@settings(max_examples=30)
def test_cpu_backend_equals_the_core(tmp_path_factory, case):
    network, inputs = case
    told = []
    job = Job(target("cpu"), network, inputs, tmp_path_factory.mktemp("job"), on_progress=told.append)
    backend = get_backend("cpu")
    backend.check(job)
    assert backend.prepare(job.target, lambda _: None) == {}
    trace, core = backend.run(job), run_core(network, inputs, record="all").trace
    assert told == list(range(1, inputs.n_samples + 1))
    found = compare(network, inputs, core, trace)
    assert (found.mismatches, found.samples) == (0, inputs.n_samples)
    assert trace.spikes.keys() == core.spikes.keys()
    for name, v in core.potentials.items():
        np.testing.assert_array_equal(trace.potentials[name], v)
