"""Profiles against the same numbers computed at once."""

from __future__ import annotations

import numpy as np
import torch

from neuroport.chip.core import run_core
from neuroport.chip.inputs import EncodedInputs
from neuroport.snn.rates import forward_rates
from neuroport.validation.profile import N_BINS, _Sums, profiles
from tests.validation.digits_on_chip import N_STEPS, digits


def test_profiles_are_those_of_all_samples_together() -> None:
    made = digits(250)
    found = {p.name: p for p in profiles(made.normalized, made.network, made.tests, N_STEPS)}
    assert list(found) == ["conv1", "conv2", "fc1"]
    inputs = EncodedInputs(made.normalized.network, made.network, made.tests.images, N_STEPS)
    counts = run_core(made.network, inputs, record="counts").counts
    images = torch.from_numpy(made.tests.images)
    for name, value in forward_rates(made.normalized.network, images, clip=False):
        if name not in found:
            continue
        p, a, r = found[name], value.double().numpy().reshape(-1), counts[name].reshape(-1) / N_STEPS
        assert np.isclose(p.relative_error, np.linalg.norm(r - a) / np.linalg.norm(a), rtol=1e-9)
        assert np.isclose(p.correlation, np.corrcoef(a, r)[0, 1], rtol=1e-9)
        assert p.clipped == (a > 1).mean()
        assert p.saturated == (r == 1).mean()
        due = a * N_STEPS >= 0.5
        assert p.silenced == (due & (r == 0)).sum() / due.sum()
        assert sum(p.rates) == sum(p.activations) == len(a)
        assert p.rates[0] == (r < 1 / N_BINS).sum()
        assert p.activations[-1] == (a >= 1 - 1 / N_BINS).sum()
        assert len(p.points) == 300


def test_a_clipped_layer_shows_in_its_profile() -> None:
    usual, clipped = (
        {p.name: p for p in profiles(made.normalized, made.network, made.tests, N_STEPS)}
        for made in (digits(), digits(clip="fc1"))
    )
    assert clipped["fc1"].clipped > 0.05 > usual["fc1"].clipped
    assert clipped["fc1"].relative_error > 5 * usual["fc1"].relative_error
    assert clipped["conv2"].relative_error == usual["conv2"].relative_error


def test_constant_and_silent_populations() -> None:
    """Tenths are not exact: their sums over many samples must not look like a spread."""
    for activation, count in ((0.1, 1), (0.3, 3)):
        sums = _Sums(10)
        for _ in range(5):
            sums.add(np.full((100, 300), activation), np.full((100, 300), count, np.int32))
        assert sums.profile("constant").correlation == 0.0
    fires_by_itself = _Sums(10)
    fires_by_itself.add(np.zeros((2, 3)), np.ones((2, 3), np.int32))
    found = fires_by_itself.profile("silent")
    assert (found.relative_error, found.correlation, found.silenced) == (None, 0.0, 0.0)
