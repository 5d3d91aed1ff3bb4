"""Biases calibrated in the integers of a coarse chip, against rates counted again here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroport.chip import recalibrate as module
from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.quantize import Quantized, quantize
from neuroport.chip.recalibrate import Recalibrated, recalibrate
from neuroport.chip.target import Target, WeightRange
from neuroport.errors import DataError, DoesNotFitError
from neuroport.normalize.convert import convert
from neuroport.normalize.correct import samples_of
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import Neuron
from neuroport.snn.simulate import simulate
from tests.chip.float_networks import one_layer
from tests.chip.networks import target
from tests.normalize.nets import Images, recipe
from tests.snn.graphs import Sketch, draw

STEPS = 16
IMAGES: Images = np.random.default_rng(0).random((60, 2, 6, 6), np.float32)
Rates = dict[str, NDArray[np.float64]]


def coarse(name: str = "cpu") -> Target:
    """The packaged chip with weights of -3 to 3: two bits and a sign."""
    sheet = target(name)
    ends = {"mixed": (-3, 3), "excitatory": (0, 3), "inhibitory": (-3, 0)}
    ranges = {kind: WeightRange(minimum=low, maximum=high, step=1) for kind, (low, high) in ends.items()}
    weights = sheet.arithmetic.weights.model_copy(update=ranges)
    return sheet.model_copy(update={"arithmetic": sheet.arithmetic.model_copy(update={"weights": weights})})


COARSE = coarse()


def net(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(x, 6, name="a"))
    return w.dense(w.relu(w.layer(a, 6, name="b")), 4, name="fc")


def gated(w: Sketch, x: str) -> str:
    a = w.at("pool").max_pool(w.relu(w.layer(x, 6, name="a")), (2, 2), (2, 2), (0, 0))
    return w.dense(w.relu(w.layer(a, 6, 1, name="b")), 4, name="fc")


@cache
def made(kind: str = "current", shape: Any = net, chip: Target | None = None) -> tuple[Normalized, Quantized]:
    """The float network and the one it was rounded to."""
    options: dict[str, Any] = {
        "current": {},
        "rate": {"input": "rate"},
        "poisson": {"input": "poisson"},
        "events": {},
        "count": {"readout": "count"},
        "clamp": {"clamp": 2},
        "zero": {"reset": "zero", "v_init": 0},
        "gated": {"max_pool": "gated"},
    }[kind]
    chosen = recipe(**({"v_init": 0.5, "steps": STEPS} | options))
    normalized = convert(draw(shape, (2, 6, 6)), IMAGES, chosen, events=kind == "events")
    return normalized, rounded(normalized, chip or COARSE)


def rounded(normalized: Normalized, chip: Target = COARSE) -> Quantized:
    return quantize(normalized.network, chip, STEPS, images=IMAGES, input_range=normalized.input_range)


def deviations(floats: Normalized, found: Normalized, quantized: Quantized, images: Images = IMAGES) -> Rates:
    """Mean rate of every channel in the simulation of `floats`, less that of the core, in spikes per step it runs."""
    samples = samples_of(floats.network, images, STEPS)
    expected = simulate(floats.network, samples, STEPS).counts
    inputs = encode_inputs(found.network, quantized.network, samples, STEPS)
    core = run_core(quantized.network, inputs, record="counts").counts
    rates: Rates = {}
    for p in floats.network.populations:
        if p.role == "input" or not isinstance(p.neuron, Neuron) or not p.neuron.fires:
            continue
        n = len(images) * (p.n_neurons // p.shape[0]) * (STEPS - p.clamp_until)
        rates[p.name] = np.array(
            [(float(expected[p.name][:, c].sum()) - float(core[p.name][:, c].sum())) / n for c in range(p.shape[0])]
        )
    return rates


def output_error(floats: Normalized, found: Normalized, quantized: Quantized) -> float:
    """Of the one output: root mean square of the core's deviation from the simulation, relative to the simulation."""
    samples = samples_of(floats.network, IMAGES, STEPS)
    expected = simulate(floats.network, samples, STEPS).readout
    run = run_core(quantized.network, encode_inputs(found.network, quantized.network, samples, STEPS))
    (head,) = quantized.network.heads
    unit = quantized.network.by_name[head.population].unit if head.read == "membrane" else 1
    return float(np.linalg.norm(run.readout / unit - expected) / np.linalg.norm(expected))


def rms(rates: Rates) -> float:
    return float(np.sqrt(np.mean([x * x for values in rates.values() for x in values])))


KINDS = {
    "current": ["a", "b"],
    "rate": ["a", "b"],
    "poisson": ["a", "b"],
    "events": ["a", "b"],
    "count": ["a", "b", "fc"],
    "clamp": ["a", "b"],
    "zero": ["a", "b"],
}


@pytest.mark.parametrize("kind", [*KINDS, "gated"])
def test_errors_are_those_of_the_core_and_the_best_output_is_handed_back(kind: str) -> None:
    """Counts are whole numbers and divided in float64: 1e-12."""
    normalized, quantized = made(kind, gated if kind == "gated" else net)
    found = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS)
    first = deviations(normalized, normalized, quantized)
    assert list(first) == KINDS.get(kind, ["a", "b"])
    assert found.rate_errors[0] == pytest.approx(rms(first), rel=1e-12)
    assert min(found.rate_errors) < 0.8 * found.rate_errors[0]
    assert 2 <= len(found.rate_errors) <= 4
    after = deviations(normalized, found.normalized, found.quantized)
    best = int(np.argmin(found.output_errors))
    assert rms(after) == pytest.approx(found.rate_errors[best], rel=1e-12)
    assert output_error(normalized, normalized, quantized) == pytest.approx(found.output_errors[0], rel=1e-9)
    assert output_error(normalized, found.normalized, found.quantized) == pytest.approx(
        min(found.output_errors), rel=1e-9
    )
    again = rounded(found.normalized)  # what is handed back belongs together
    for p, q in zip(again.network.populations, found.quantized.network.populations, strict=True):
        np.testing.assert_array_equal(p.bias_mantissa, q.bias_mantissa)
        assert p.unit == q.unit


@pytest.mark.parametrize("kind", ["current", "count"])
def test_biases_grow_by_half_of_what_is_missing_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One round. Membrane readouts, which have no rate, keep their biases; counted ones have their own."""
    monkeypatch.setattr(module, "_ROUNDS", 1)
    monkeypatch.setattr(module, "_RATE", 0.5)
    normalized, quantized = made(kind)
    found = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS)
    assert len(found.rate_errors) == 2 and found.rate_errors[1] < found.rate_errors[0]
    assert found.output_errors[1] < found.output_errors[0]
    missing = deviations(normalized, normalized, quantized)
    for p, q in zip(normalized.network.populations, found.normalized.network.populations, strict=True):
        offset = 0.5 * missing[p.name] if p.name in missing else np.zeros(p.shape[0])
        expected = p.bias + offset.reshape(-1, *[1] * (len(p.shape) - 1))
        np.testing.assert_allclose(q.bias, expected, rtol=0, atol=1e-12)
        assert replace(q, bias=p.bias).shape == p.shape and q.neuron == p.neuron
    assert found.normalized.network.projections is normalized.network.projections
    assert found.normalized.scales is normalized.scales
    if kind == "current":
        np.testing.assert_array_equal(
            found.normalized.network.by_name["fc"].bias, normalized.network.by_name["fc"].bias
        )


def test_a_second_round_starts_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds: the second error is that of the network the first one would have handed back."""
    normalized, quantized = made()
    monkeypatch.setattr(module, "_ROUNDS", 1)
    once = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS)
    monkeypatch.setattr(module, "_ROUNDS", 3)
    found = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS)
    assert found.rate_errors[:2] == once.rate_errors
    assert len(found.rate_errors) == 4


def test_the_first_network_stays_where_no_round_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a hundred times what is missing, with the wrong sign."""
    monkeypatch.setattr(module, "_RATE", -20.0)
    normalized, quantized = made()
    found = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS)
    assert min(found.output_errors) == found.output_errors[0]
    assert found.normalized is normalized
    assert found.quantized is quantized


@pytest.mark.parametrize("encoding", ["rate", "current"])
def test_nothing_changes_where_nothing_is_missing(encoding: Any) -> None:
    """Weights 1 and 1/2 and inputs of quarters are exact: the core fires as the simulation does."""
    network = one_layer([[1.0, 0.0], [0.0, 0.5]], [0.0, 0.25], encoding=encoding, neuron=Neuron("subtract"))
    images = np.random.default_rng(0).integers(0, 3, (20, 2)).astype(np.float32) / 4
    normalized = Normalized(network, {"input": np.ones(2), "out": np.ones(2)}, {}, {}, (0.0, 1.0))
    quantized = quantize(network, target("cpu"), STEPS, images=images, input_range=normalized.input_range)
    found = recalibrate(normalized, quantized, target("cpu"), images, STEPS)
    assert isinstance(found, Recalibrated)
    assert (found.rate_errors, found.output_errors) == ((0.0,), (0.0,))
    assert found.normalized is normalized
    assert found.quantized is quantized


def test_samples_are_chosen_evenly() -> None:
    normalized, quantized = made()
    found = recalibrate(normalized, quantized, COARSE, IMAGES, STEPS, n_samples=5)
    chosen = IMAGES[[0, 15, 30, 44, 59]]  # 59 k / 4 = 14.75, 29.5 (to the even one), 44.25
    assert found.rate_errors[0] == pytest.approx(rms(deviations(normalized, normalized, quantized, chosen)), rel=1e-12)


def test_two_runs_give_the_same_bits() -> None:
    one, two = (recalibrate(*made(), COARSE, IMAGES, STEPS) for _ in range(2))
    assert (one.rate_errors, one.output_errors) == (two.rate_errors, two.output_errors)
    for p, q in zip(one.quantized.network.populations, two.quantized.network.populations, strict=True):
        np.testing.assert_array_equal(p.bias_mantissa, q.bias_mantissa)


# --- wrong use


def test_values_no_rate_can_express_are_refused() -> None:
    with pytest.raises(DataError, match="rate coding needs inputs between 0 and 1"):
        recalibrate(*made("rate"), COARSE, IMAGES + 1, STEPS)


def test_currents_beyond_the_range_they_were_calibrated_on_are_refused() -> None:
    normalized, quantized = made(chip=target("cpu"))
    with pytest.raises(DoesNotFitError, match=r"layer 'a': sample 0 needs an input current of mantissa -?\d+, cpu"):
        recalibrate(normalized, quantized, target("cpu"), IMAGES * 1e12, STEPS)


def test_integer_images_are_refused() -> None:
    with pytest.raises(DataError, match="calibration images are uint8; give them as float32"):
        recalibrate(*made(), COARSE, (IMAGES * 2).astype(np.uint8), STEPS)  # type: ignore[arg-type]
