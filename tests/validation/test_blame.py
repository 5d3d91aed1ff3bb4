"""Faults planted in the digits network are named: by what they cost, and by numbers that rounding does not explain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.core import run_core
from neuroport.chip.inputs import EncodedInputs, encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.validation.blame import Blame, LayerBlame, Regained, find_blame
from neuroport.validation.exact import Bench, all_driven
from neuroport.validation.faults import find_faults
from neuroport.validation.outputs import TestSet
from tests.validation.digits_on_chip import N_STEPS, Made, digits, swapped_axes, with_population, with_projection


def blame_of(made: Made, network: IntNetwork | None = None) -> Blame:
    return find_blame(made.normalized, network or made.network, made.tests, made.reference, N_STEPS)


def test_nothing_is_blamed_where_nothing_is_lost() -> None:
    made = digits()
    found = blame_of(made)
    inputs = EncodedInputs(made.normalized.network, made.network, made.tests.images, N_STEPS)
    core = run_core(made.network, inputs).readout.argmax(1)
    assert found.samples == len(made.tests)
    assert found.accuracy == (core == made.tests.labels).mean()
    assert "no single layer" in found.verdict
    assert {layer.name for layer in found.layers} == {p.name for p in made.network.populations}
    # the float neuron on the same spikes does what the integer one does, but for rounding
    assert all(abs(layer.causes["rounding"].error) < 0.01 for layer in found.layers if layer.causes)
    assert find_faults(made.normalized, made.network) == {}


def test_progress_counts_samples() -> None:
    made, told = digits(60), list[tuple[int, int]]()
    find_blame(
        made.normalized, made.network, made.tests, made.reference, N_STEPS, on_progress=lambda *n: told.append(n)
    )
    n_total = 60 * (1 + 4 + 2 * 4)  # as it is, each layer exactly, and two more runs of each
    assert told == [(n, n_total) for n in range(60, n_total + 1, 60)]


def test_a_clipped_layer_is_named_by_its_cause() -> None:
    found = blame_of(digits(clip="conv1"))
    worst = found.layers[0]
    assert (worst.name, worst.cause) == ("conv1", "clipping")
    assert found.verdict.startswith("'conv1' costs ")
    assert "by clipping: try a higher percentile" in found.verdict
    assert worst.causes["clipping"].accuracy > 0.8 * worst.regained.accuracy > 0.04


def test_swapped_axes_of_a_kernel_are_named() -> None:
    made = digits()
    wrong = swapped_axes(made.network, "conv2")
    found = blame_of(made, wrong)
    assert (found.layers[0].name, found.layers[0].cause) == ("conv2", "rounding")
    assert found.is_certain(found.layers[0])
    (phrase,) = find_faults(made.normalized, wrong)["conv2"]
    assert "are not the float ones rounded" in phrase


def test_a_dropped_bias_is_named() -> None:
    made = digits()
    wrong = with_population(made.network, "fc1", lambda p: replace(p, bias_mantissa=np.zeros_like(p.bias_mantissa)))
    (phrase,) = find_faults(made.normalized, wrong)["fc1"]
    assert "biases are up to" in phrase


def test_one_weight_bit_is_named() -> None:
    made = digits()
    before = made.network.incoming["fc1"][0].synapse.mantissa
    flipped = before.copy()
    flipped[7, 11] ^= 8
    wrong = with_projection(made.network, "fc1", lambda j: replace(j, synapse=replace(j.synapse, mantissa=flipped)))
    (phrase,) = find_faults(made.normalized, wrong)["fc1"]
    assert phrase.startswith("1 of ")
    assert f"[7, 11]: {flipped[7, 11]}, should be " in phrase


def test_a_weight_at_the_end_of_its_format_is_named() -> None:
    """Only a float weight that lies beyond the end is held there."""
    made = digits()
    before = made.network.incoming["fc1"][0].synapse.mantissa
    changed = before.copy()
    small = tuple(int(i[0]) for i in np.nonzero(np.abs(before) < 9))
    changed[small] = made.network.arithmetic.weights.mixed.maximum
    wrong = with_projection(made.network, "fc1", lambda j: replace(j, synapse=replace(j.synapse, mantissa=changed)))
    (phrase,) = find_faults(made.normalized, wrong)["fc1"]
    assert f"{list(small)}: {changed[small]}, should be " in phrase


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"threshold_mantissa": 1}, "the threshold mantissa is 1, v_th is "),
        ({"reset": "zero"}, "it resets by 'zero', the float neuron by 'subtract'"),
        ({"clamp_until": 3}, "it starts at step 3, the float neuron at 0"),
        ({"v_init_int": 12345}, "v_th, the float neuron at "),
    ],
)
def test_a_changed_neuron_is_named(changes: dict[str, object], phrase: str) -> None:
    made = digits()
    wrong = with_population(made.network, "conv1", lambda p: replace(p, **changes))
    assert any(phrase in found for found in find_faults(made.normalized, wrong)["conv1"])


def test_a_threshold_off_by_one_is_named() -> None:
    made = digits()
    wrong = with_population(made.network, "conv2", lambda p: replace(p, threshold_mantissa=p.threshold_mantissa + 1))
    due = made.network.by_name["conv2"].threshold_mantissa
    assert find_faults(made.normalized, wrong) == {"conv2": [f"the threshold mantissa is {due + 1}, v_th is {due}"]}


def test_a_missing_projection_is_named() -> None:
    made = digits()
    wrong = replace(made.network, projections=tuple(j for j in made.network.projections if j.post != "conv2"))
    assert find_faults(made.normalized, wrong)["conv2"] == ["0 projections arrive, 1 should"]


@pytest.mark.parametrize(
    ("recipe", "target"),
    [
        ("reset-zero-rate", "loihi1"),
        ("extended", "loihi-sim"),
        ("hard-reset", "loihi1"),
        ("hard-reset-unclamped", "spinnaker1/if-trunc-delta"),
        ("hard-reset-unclamped", "spinnaker1/if-curr-delta"),
        ("robust", "spinnaker2"),
        ("robust", "cpu"),
    ],
)
def test_other_codes_and_neurons(recipe: str, target: str) -> None:
    name, _, neuron = target.partition("/")
    made = digits(100, target=name, recipe=recipe, neuron=neuron or None)
    found = blame_of(made)
    assert find_faults(made.normalized, made.network) == {}
    assert found.accuracy > 0.9
    assert all(abs(layer.causes["rounding"].error) < 0.1 for layer in found.layers if layer.causes)


@pytest.mark.parametrize("neuron", ["if-trunc-delta", "if-curr-delta"])
def test_a_chip_whose_biases_are_weights(neuron: str) -> None:
    """SpiNNaker's input currents come in the steps of its weights; what is exchanged does not."""
    made = digits(60, "spinnaker1", "hard-reset-unclamped", neuron=neuron)
    found = blame_of(made)
    inputs = EncodedInputs(made.normalized.network, made.network, made.tests.images, N_STEPS)
    core = run_core(made.network, inputs).readout.argmax(1)
    assert found.accuracy == (core == made.tests.labels).mean()
    assert all(abs(layer.causes["rounding"].error) < 0.1 for layer in found.layers if layer.causes)


def test_chance_is_not_blamed() -> None:
    """The largest of twenty layers is two standard errors off by chance every third time."""
    layer = LayerBlame("a", Regained(0.02, 0.0), 0.009, 0.02)
    others = tuple(LayerBlame(str(k), Regained(0.0, 0.0), 0.009, 0.5) for k in range(19))
    assert Blame(100, 0.9, (layer,)).is_certain(layer)
    assert not Blame(100, 0.9, (layer, *others)).is_certain(layer)
    assert "'a' costs 2.0 points (standard error 0.9)" in Blame(100, 0.9, (layer,)).verdict
    costlier = LayerBlame("b", Regained(0.03, 0.0), 0.02, 0.1)  # many answers changed, in both directions
    assert "'a' costs 2.0 points" in Blame(100, 0.9, (costlier, replace(layer, chance=0.001))).verdict


def test_few_samples_are_chance() -> None:
    """Three samples that all get right have no spread at all, and prove nothing."""
    made = digits(clip="conv1")
    wrong = run_core(made.network, EncodedInputs(made.normalized.network, made.network, made.tests.images, N_STEPS))
    lost = np.flatnonzero(wrong.readout.argmax(1) != made.tests.labels)
    for n, is_certain in ((1, False), (3, False), (20, True)):
        some = lost[:n]
        tests = TestSet(made.tests.images[some], made.tests.labels[some])
        found = find_blame(made.normalized, made.network, tests, made.reference[some], N_STEPS)
        assert found.accuracy == 0.0 and found.layers[0].name == "conv1"
        assert found.layers[0].regained.accuracy > 0.8
        assert found.is_certain(found.layers[0]) == is_certain
        assert ("no single layer" in found.verdict) != is_certain


def test_values_that_no_register_holds_end_there() -> None:
    """Unclipped rates bring more than spikes can; they must not come round at the other end."""
    made = digits(target="spinnaker1", recipe="hard-reset-unclamped", neuron="if-curr-delta")
    images = made.tests.images[:1]
    inputs = encode_inputs(made.normalized.network, made.network, images, N_STEPS)
    bench = Bench(made.normalized, made.network, all_driven(made.network), inputs, images)
    conv1 = made.normalized.network.by_name["conv1"]
    usual = bench.with_values(conv1, np.full((1, *conv1.shape), 1.0)).totals["conv2"]
    beyond = bench.with_values(conv1, np.full((1, *conv1.shape), 1e6)).totals["conv2"]
    assert (usual == N_STEPS).any()
    assert (beyond[usual == N_STEPS] == N_STEPS).all()
