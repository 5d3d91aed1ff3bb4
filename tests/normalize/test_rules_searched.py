"""Scales found by looking for a minimum: least squared error of the rates, and balanced thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.normalize import rules
from neuroport.normalize.convert import convert
from neuroport.normalize.prepare import spiking_network
from neuroport.normalize.scales import normalize
from tests.normalize.nets import RESIDUAL_IMAGES, Images, dense, recipe, residual_by_hand

# Activations 2, 1, 1, 1, 1 of one neuron.
PEAK = np.array([[1.0], [0.5], [0.5], [0.5], [0.5]], np.float32)
DOUBLED = dense(([[2.0]], [0.0]), ([[1.0]], [0.0]))
# Activations 1, 2, 3, 4 of one neuron.
STAIRS = np.array([[0.25], [0.5], [0.75], [1.0]], np.float32)


def scale_of(name: str, graph: AnnGraph, images: Images, **options: Any) -> list[float]:
    return normalized(graph, images, **options)[name]


def normalized(graph: AnnGraph, images: Images, **options: Any) -> dict[str, list[float]]:
    """Scales; unlike in `convert` the output may still be clamped at the last step."""
    chosen = recipe(**options)
    found = normalize(spiking_network(graph, images, chosen), images, chosen)
    return {name: value.tolist() for name, value in found.scales.items()}


# --- mmse (Li 2021)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"steps": 1, "v_init": 0.5}, 1.2),
        ({"steps": 1, "v_init": 0.0}, 1.0),
        ({"steps": 3, "v_init": 0.5, "input": "rate", "clamp": 2}, 1.2),
        ({"steps": 2, "v_init": 0.5}, 2.0),
    ],
)
def test_least_squared_error_by_hand(options: dict[str, Any], scale: float) -> None:
    """Of 1 1/2 1/2 1/2 1/2 times 2.

    One step, half-charged: every activation from lambda / 2 on is lambda, and (1 - lambda)^2 + 4 (1/2 - lambda)^2 is
    least at the mean, 0.6. Uncharged only those from lambda on are: the sum falls up to 1/2 and is above 1 beyond.
    Three steps, two of them clamped, are one. In two steps lambda = 1 makes no error.
    """
    assert scale_of("l0", DOUBLED, PEAK, scale="mmse", **options) == pytest.approx([scale], rel=1e-12)


def squared_error(a: NDArray[np.float64], scale: float, n_steps: int, v_init: float) -> float:
    """The formula as it stands, for one scale."""
    total = 0.0
    for value in a:
        n = min(n_steps, max(0, int(np.floor(value * n_steps / scale + v_init))))
        total += float((value - scale / n_steps * n) ** 2)
    return total


@pytest.mark.parametrize("n_steps", [1, 3, 8, 24])
@pytest.mark.parametrize("v_init", [0.0, 0.5])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_least_squared_error_by_brute_force(n_steps: int, v_init: float, granularity: str) -> None:
    """Activations that lie on the histogram's 4096 steps, so that its rounding changes none of them."""
    rng = np.random.default_rng(n_steps)
    values = np.floor(4096 * rng.exponential(0.15, (60, 2)).clip(0, 1)) / 4096
    values[7], peaks = 1.0, np.array([0.5, 3.0]) if granularity == "channel" else np.ones(2)
    graph = dense((np.diag(peaks), [0.0, 0.0]), ([[1.0, 1.0]], [0.0]))
    options = {"scale": "mmse", "granularity": granularity, "v_init": v_init, "steps": n_steps}
    found = scale_of("l0", graph, values.astype(np.float32), **options)
    groups = (values * peaks).T if granularity == "channel" else (values * peaks).reshape(1, -1)
    best = []
    for a in groups:
        grid = [a.max() * k / 100 for k in range(100, 0, -1)]
        best.append(min(grid, key=lambda scale: squared_error(a, scale, n_steps, v_init)))
    assert found == pytest.approx(np.broadcast_to(best, 2), rel=1e-12)
    assert min(best) < 0.99 * a.max() or n_steps == 24


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(1).random((100, 3), np.float32)
    graph = dense((np.eye(3) * [1, 2, 3], [0, 0.25, -1]), (np.ones((1, 3)), [0.0]))
    for rule in ("mmse", "balance"):
        options = {"scale": rule, "granularity": "channel", "steps": 3}
        whole = scale_of("l0", graph, images, **options)
        monkeypatch.setattr(rules, "BATCH", 7)
        # the order of float64 sums of 100 numbers
        assert scale_of("l0", graph, images[::-1].copy(), **options) == pytest.approx(whole, rel=1e-13)
        monkeypatch.undo()


# --- balance (Bu 2025)


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"steps": 1}, 4 / (1 + 3 / 12), 12.4 / (2 + 2 / 12)),
        ({"steps": 2}, 4 / (1 + 3 / 48), 2 * 64 / 17 / (1 + 3 / 48)),
        ({"steps": 3, "clamp": 1, "input": "rate"}, 4 / (1 + 3 / 48), 2 * 64 / 17 / (1 + 3 / 12)),
    ],
)
def test_balanced_thresholds_by_hand(options: dict[str, Any], first: float, second: float) -> None:
    """Activations 1, 2, 3, 4, then twice of what the first threshold leaves of them.

    One step: from theta = 2 on are 2, 3, 4: 9 / (3 + 1/12), from 2.92 on 3 and 4: 7 / (2 + 2/12), from 3.23 on 4 alone:
    4 / (1 + 3/12) = 3.2, which is itself. Then 2, 4, 6, 6.4: 12.4 / (2 + 2/12) = 5.72 has the two above it.
    Two steps: 64/17 = 3.76, then 2, 4, 6, 7.53, of which 6 and 7.53 give 6.6, and 7.53 alone 7.09.
    Of three steps with a clamp of one per level, the first runs two, the second one:
    2, 4, 6, 7.53, of which 6 and 7.53 give 13.5 / (2 + 2/12) = 6.24, and 7.53 alone 6.02, which is above 6.
    """
    graph = dense(([[4.0]], [0.0]), ([[2.0]], [0.0]), ([[1.0]], [0.0]))
    found = normalized(graph, STAIRS, scale="balance", **options)
    assert found["l0"] == pytest.approx([first], rel=1e-6)  # activations are float32
    assert found["l1"] == pytest.approx([second], rel=1e-6)


@pytest.mark.parametrize(
    ("granularity", "expected"), [("layer", [7 / (2 + 6 / 12)] * 2), ("channel", [4 / 1.25, 1 / 1.25])]
)
def test_channels_are_balanced_alone_or_together(granularity: str, expected: list[float]) -> None:
    """1, 2, 3, 4 and 1/4, 1/2, 3/4, 1. Together: 9 / (3 + 5/12) = 2.6, then 7 / (2 + 6/12) = 2.8; zeros count nowhere.

    The third channel fires nowhere: neither its threshold nor those of the others are moved by it.
    """
    graph = dense(([[4.0], [1.0], [-1.0]], [0.0, 0.0, 0.0]), ([[1.0, 1.0, 1.0]], [0.0]))
    found = convert(graph, STAIRS, recipe(scale="balance", steps=1, granularity=granularity))
    assert found.scales["l0"].tolist() == pytest.approx([*expected, max(expected)], rel=1e-6)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_constant_activation_is_its_own_threshold(granularity: str, n: int) -> None:
    """Nothing above it and nothing below: 0 would follow from 'above', the value from 'from there on'."""
    graph = dense(([[3.0], [3.0]], [0.0, 0.0]), ([[1.0, 2.0]], [1.0]), ([[1.0]], [0.0]))
    found = convert(graph, np.full((n, 1), 0.5, np.float32), recipe(scale="balance", granularity=granularity))
    assert (found.scales["l0"].tolist(), found.scales["l1"].tolist()) == ([1.5, 1.5], [5.5])


def test_a_channel_silent_in_the_ann_stays_silent_when_its_inputs_are_cut() -> None:
    """c1 = -b + a1 is 0 everywhere; with b cut to less than a1 it is a little above. Its scale is its layer's."""
    found = convert(residual_by_hand(), RESIDUAL_IMAGES, recipe(scale="balance", granularity="channel", steps=8))
    assert found.scales["c"][1] == found.scales["c"][0] > 4.9
    assert found.n_silent_channels["c"] == 1


# --- readouts that fire


@pytest.mark.parametrize(("rule", "expected"), [("mmse", 1.2), ("balance", 6 / 5)])
def test_sums_below_0_of_a_readout_that_counts_spikes_are_no_rates(rule: str, expected: float) -> None:
    """Scores 2, 1, 1, 1, 1 and as many below 0. Balance, one step: from 1 on are all five, 6 / 5, then 2 alone, 1.5.

    2 / (1 + 4/12) = 1.5 has 2 alone above it.
    """
    graph = dense(([[2.0], [-3.0]], [0.0, 0.0]))
    found = scale_of("l0", graph, PEAK, scale=rule, readout="count", steps=1, v_init=0.5)
    assert found == pytest.approx([expected if rule == "mmse" else 1.5] * 2, rel=1e-6)
