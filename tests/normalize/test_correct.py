"""Corrections on spikes: sizes, offsets and gains by hand, and what they do for random networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs
from neuroport.normalize import correct
from neuroport.normalize.convert import convert
from neuroport.normalize.correct import Sizes, corrected, find_change, reset_gain, samples_of, spike_size, spread
from neuroport.normalize.scales import Normalized
from neuroport.snn.encode import rate_spikes
from neuroport.snn.network import Gate
from neuroport.snn.operators import Conv2d, Dense
from neuroport.snn.rates import forward_rates
from neuroport.snn.simulate import simulate
from neuroport.validation.outputs import Reading
from tests.normalize.nets import Images, recipe
from tests.snn.graphs import Sketch, draw

BIAS, RESET = {"kind": "bias", "samples": 200}, {"kind": "hard-reset", "samples": 200}
IMAGE = (2, 6, 6)


def array(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def pictures(n: int, seed: int, shape: tuple[int, ...] = IMAGE) -> Images:
    return np.random.default_rng(seed).random((n, *shape), np.float32)


CALIBRATION, HELD_OUT = pictures(200, 0), pictures(150, 1)

# --- the size of a spike

# two samples of three channels; mean products 3/4, 1/4, 0 and mean squares 5/8, 1/2, 0, of the layer 1/3 and 3/8
RATE = torch.tensor([[0.5, 1.0, 0.0], [1.0, 0.0, 0.0]])
TARGET = torch.tensor([[1.0, 0.5, 1.0], [1.0, 0.0, 0.0]])


def test_a_size_is_the_slope_of_targets_on_rates_drawn_to_that_of_the_layer() -> None:
    """(x y + p X Y) / (x x + p X X), p = 1/50; a channel that never fires has 1/3 / (3/8) = 8/9. The rest is 1e-15."""
    prior = 0.02
    expected = [(3 / 4 + prior / 3) / (5 / 8 + prior * 3 / 8), (1 / 4 + prior / 3) / (1 / 2 + prior * 3 / 8), 8 / 9]
    np.testing.assert_allclose(spike_size(RATE, TARGET, "channel"), expected, rtol=1e-14)
    np.testing.assert_allclose(spike_size(RATE, TARGET, "layer"), [8 / 9] * 3, rtol=1e-14)
    np.testing.assert_array_equal(spike_size(RATE, TARGET, "none"), [1, 1, 1])


def test_places_count_as_samples() -> None:
    """The two samples as two places of one: [1, 3, 2, 1]."""
    rate, target = (x.T.reshape(1, 3, 2, 1) for x in (RATE, TARGET))
    expected = spike_size(RATE, TARGET, "channel")
    np.testing.assert_array_equal(spike_size(rate, target, "channel"), expected)


@pytest.mark.parametrize(("rate", "target"), [(0 * RATE, TARGET), (RATE, 0 * TARGET), (RATE, TARGET.flip(0) * 0)])
@pytest.mark.parametrize("sizes", ["channel", "layer"])
def test_a_layer_that_tells_nothing_has_spikes_of_size_1(rate: Any, target: Any, sizes: Sizes) -> None:
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(spike_size(rate, target, sizes), [1, 1, 1])


# --- the search for offsets


class Scripted:
    """Rates that were written down for each round; remembers the offsets it was asked for."""

    def __init__(self, *rounds: Any) -> None:
        self.rounds, self.asked = [torch.tensor(x) for x in rounds], list[NDArray[np.float64]]()

    def __call__(self, offset: NDArray[np.float64]) -> torch.Tensor:
        self.asked.append(offset.copy())
        return self.rounds[len(self.asked) - 1]


@pytest.mark.parametrize(("rounds", "offset"), [(0, 0), (1, 1 / 4), (3, 7 / 16)])
def test_each_round_adds_a_part_of_what_is_missing(rounds: int, offset: float) -> None:
    """Rates 0 and 1/2 plus the offset, targets 1/2 and 1: 1/2 is missing, then 1/4, 1/8, 1/16 at rate 1/2.

    The gain is handed on.
    """
    base, target = torch.tensor([[0.0], [0.5]]), torch.tensor([[0.5], [1.0]])
    found = find_change(lambda b: base + torch.tensor(b, dtype=torch.float32), target, array(3), rounds, 0.5, "none")
    assert (found.offset.tolist(), found.gain.tolist(), found.size.tolist()) == ([offset], [3], [1])


def test_what_is_missing_is_divided_by_the_size_of_a_spike() -> None:
    """Rates 1/4 and 1/2, targets 3/4 and 1: size 11/5 with any prior of the only channel.

    0.875 - 0.375 * 2.2 = 0.05 is missing, of which 0.8 / 2.2 is added. In floats of 24 bits, hence 1e-6 of 1.
    """
    trial = Scripted([[0.25], [0.5]], [[0.25], [0.5]])
    found = find_change(trial, torch.tensor([[0.75], [1.0]]), array(1), 1, 0.8, "channel")
    assert trial.asked[0].tolist() == [0]
    assert trial.asked[1] == pytest.approx(0.8 * 0.05 / 2.2, abs=1e-6)
    assert found.size == pytest.approx(2.2, rel=1e-14)
    assert found.offset.tolist() == [0]  # the second round is no nearer: the first stays


def test_every_channel_keeps_its_own_best_round() -> None:
    """Targets 1/2. Channel 0 is nearest in the second round, 1 in the third, 2 at the start, 3 never moves."""
    trial = Scripted([[0.0, 0.0, 0.5, 0.25]], [[0.375, 0.25, 0.25, 0.25]], [[1.0, 0.625, 0.75, 0.25]])
    found = find_change(trial, torch.full((1, 4), 0.5), np.ones(4), 2, 0.5, "none")
    assert trial.asked[1].tolist() == [0.25, 0.25, 0, 0.125]
    assert trial.asked[2].tolist() == [0.3125, 0.375, 0.125, 0.25]
    assert found.offset.tolist() == [0.25, 0.375, 0, 0]


@pytest.mark.parametrize("sizes", ["channel", "layer", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_means_are_never_further_from_their_targets_than_without_a_change(seed: int, sizes: Sizes) -> None:
    """Responses of channels from wrong (-1) over weak to so strong (6) that steps overshoot, clipped as rates are."""
    rng = np.random.default_rng(seed)
    base, target = torch.from_numpy(rng.random((40, 6)) * 0.6), torch.from_numpy(rng.random((40, 6)))
    slope = torch.tensor([-1.0, 0.1, 0.5, 1.0, 2.0, 6.0])

    def trial(offset: NDArray[np.float64]) -> torch.Tensor:
        return (base + slope * torch.from_numpy(offset)).clamp(0, 1)

    def missing(change: Any) -> NDArray[np.float64]:
        return np.abs((target - trial(change.offset) * torch.from_numpy(change.size)).mean(0).numpy())

    before, after = (find_change(trial, target, np.ones(6), rounds, 0.8, sizes) for rounds in (0, 6))
    assert (missing(after) <= missing(before) + 1e-12).all()
    # a slope that is fitted again gives part of what a step brings back
    assert missing(after)[3] < (0.1 if sizes == "none" else 0.5) * missing(before)[3]
    assert before.offset.tolist() == [0] * 6
    if sizes != "channel":
        assert len(set(after.size)) == 1


# --- the gain of neurons that reset to zero


def test_gains_fall_with_the_root_of_the_steps_and_with_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """sqrt(24 / T) * 0.4^(depth - 1/2), between 1/4 and 3/2."""
    for name, value in (("_FULL_GAIN_STEPS", 24), ("_GAIN_RATIO", 0.4), ("_SMALLEST_GAIN", 0.25)):
        monkeypatch.setattr(correct, name, value)
    monkeypatch.setattr(correct, "_LARGEST_GAIN", 1.5)
    assert [reset_gain(n, 0.5) for n in (24, 96, 384, 3000)] == [1, 0.5, 0.25, 0.25]
    assert reset_gain(24, 0.0) == 1.5  # 1 / sqrt(0.4) = 1.58
    assert reset_gain(24, 1.0) == pytest.approx(0.4**0.5, rel=1e-15)
    assert reset_gain(54, 0.0) == pytest.approx((2 / 3) / 0.4**0.5, rel=1e-15)
    assert reset_gain(54, 0.75) == pytest.approx((2 / 3) * 0.4**0.25, rel=1e-15)


# --- samples


def test_samples_are_taken_evenly() -> None:
    images = np.arange(10, dtype=np.float32)[:, None]
    assert [spread(images, n)[:, 0].tolist() for n in (4, 2, 1)] == [[0, 3, 6, 9], [0, 9], [0]]
    np.testing.assert_array_equal(spread(images, 100), images)


# --- whole networks


def small(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(x, 6, name="a"))
    return w.dense(w.relu(w.layer(a, 6, name="b")), 4, name="fc")


def deep(w: Sketch, x: str) -> str:
    for k in range(5):
        x = w.relu(w.layer(x, 8, name=f"c{k}"))
    return w.dense(x, 4, name="fc")


def pooled(w: Sketch, x: str) -> str:
    a = w.relu(w.layer(x, 6, name="a"))
    gate = w.at("gate").max_pool(a, (2, 2), (2, 2), (0, 0))
    return w.dense(w.relu(w.layer(gate, 4, 1, name="b")), 3, name="fc")


def made(graph: AnnGraph, *corrections: Any, images: Images = CALIBRATION, **options: Any) -> Normalized:
    """With corrections, of their own recipe (channel-wise, half-charged) unless said otherwise."""
    options = {"granularity": "channel", "v_init": 0.5, "steps": 6} | options
    events = options.pop("events", False)
    return convert(graph, images, recipe(corrections=corrections, **options), events=events)


def readout_error(graph: AnnGraph, normalized: Normalized, images: Images, n_steps: int) -> float:
    """Root mean square of what the float simulation answers, less the ANN, relative to the ANN."""
    shown = samples_of(normalized.network, images, n_steps)
    found = Reading(normalized, n_steps).float_run(simulate(normalized.network, shown, n_steps), 0).scores
    exact = run_outputs(graph, torch.from_numpy(images).double())[0].numpy()
    return float(np.sqrt(np.square(found - exact).mean() / np.square(exact).mean()))


def missing_means(plain: Normalized, found: Normalized, images: Images, n_steps: int) -> dict[str, NDArray[np.float64]]:
    """|mean clipped activation - mean rate x size| of each channel, both in the units of `plain`."""
    counts = simulate(found.network, images, n_steps).counts
    missing = {}
    for name, target in forward_rates(plain.network, torch.from_numpy(images), clip=True):
        p = plain.network.by_name[name]
        if p.role == "hidden":
            rate = counts[name].swapaxes(0, 1).reshape(p.shape[0], -1).mean(1) / (n_steps - p.clamp_until)
            mean = target.swapaxes(0, 1).reshape(p.shape[0], -1).mean(1, dtype=torch.float64).numpy()
            missing[name] = np.abs(mean - rate * found.scales[name] / plain.scales[name])
    return missing


def test_without_corrections_nothing_is_made_anew() -> None:
    plain = made(draw(small, IMAGE))
    assert corrected(plain, CALIBRATION, recipe(), 6) is plain
    assert plain.uncorrected is None
    assert plain.exact is plain


@pytest.mark.parametrize("seed", range(3))
def test_biases_bring_means_to_the_clipped_activations_and_the_readout_to_the_ann(seed: int) -> None:
    """Neurons that start uncharged fire half a spike too few. The simulator finds what calibration aimed at.

    No channel of the first layer is further off than it was; of later ones, whose input moved too, the mean is nearer.
    """
    graph = draw(small, IMAGE, seed=seed)
    options: dict[str, Any] = {"v_init": 0.0, "steps": 6, "granularity": "layer"}
    plain, found = made(graph, **options), made(graph, BIAS, **options)
    before, after = (missing_means(plain, n, CALIBRATION, 6) for n in (plain, found))
    assert (after["a"] <= before["a"] + 1e-7).all()  # 24 bits; nothing before it has moved
    for name, value in after.items():
        assert value.mean() < 0.5 * before[name].mean(), name
    assert readout_error(graph, found, HELD_OUT, 6) < 0.8 * readout_error(graph, plain, HELD_OUT, 6)


@pytest.mark.parametrize("seed", range(3))
def test_neurons_reset_to_zero_lose_half_as_much(seed: int) -> None:
    graph = draw(deep, IMAGE, seed=seed)
    options: dict[str, Any] = {"reset": "zero", "v_init": 0.0, "clamp": 1, "percentile": 99.9, "steps": 64}
    plain, found = made(graph, **options), made(graph, RESET, **options)
    assert readout_error(graph, found, HELD_OUT, 64) <= 0.5 * readout_error(graph, plain, HELD_OUT, 64)


def test_the_gain_of_each_depth_is_in_the_weights_and_the_size_of_the_spikes_behind_them() -> None:
    """W' = W gain(post) size(pre), b' = b gain + offset; the readout's gain is 1. Products of floats: 1e-12."""
    graph = draw(small, IMAGE)
    plain, found = (made(graph, *c, reset="zero", v_init=0.0, steps=40) for c in ((), (RESET,)))
    depth = {"a": 1 / 3, "b": 2 / 3, "fc": 1.0}
    size = {n: found.scales[n] / plain.scales[n] for n in found.scales}
    np.testing.assert_array_equal(size["fc"], np.ones(4))
    assert (size["input"] == 1).all()
    for j, k in zip(plain.network.projections, found.network.projections, strict=True):
        old, new = j.operator, k.operator
        assert isinstance(old, Conv2d | Dense) and isinstance(new, Conv2d | Dense)
        gain = 1.0 if j.post == "fc" else reset_gain(40, depth[j.post])
        sizes = np.repeat(size[j.pre], 36) if isinstance(old, Dense) else size[j.pre][:, None, None]
        np.testing.assert_allclose(new.weight, old.weight * gain * sizes, rtol=1e-12)
    assert len(np.unique(size["a"])) > 1


def test_the_uncorrected_network_is_kept_and_has_the_anns_activations() -> None:
    """In float64: sums of some hundred products."""
    graph = draw(small, IMAGE)
    found = made(graph, BIAS)
    x = torch.from_numpy(HELD_OUT).double()
    exact = run_outputs(graph, x)[0]

    def answer(n: Normalized) -> torch.Tensor:
        return dict(forward_rates(n.network, x, clip=False))["fc"] * torch.from_numpy(n.scales["fc"])

    assert found.exact is found.uncorrected and found.exact is not found
    assert (answer(found.exact) - exact).abs().max() < 1e-10
    assert (answer(found) - exact).abs().max() > 1e-3
    same = made(graph)
    for name, value in same.scales.items():
        np.testing.assert_array_equal(found.exact.scales[name], value)


def test_spikes_that_are_counted_keep_their_size() -> None:
    graph = draw(small, IMAGE)
    for correction in (BIAS, RESET):
        plain, found = made(graph, readout="count"), made(graph, correction, readout="count")
        np.testing.assert_array_equal(found.scales["fc"], plain.scales["fc"])
        assert (found.network.by_name["fc"].bias != plain.network.by_name["fc"].bias).any()
        assert (found.scales["a"] != plain.scales["a"]).all()
        old, new = (n.network.incoming["fc"][0].operator for n in (plain, found))
        assert isinstance(old, Dense) and isinstance(new, Dense)
        sizes = np.repeat(found.scales["b"] / plain.scales["b"], 36)  # and no gain
        np.testing.assert_allclose(new.weight, old.weight * sizes, rtol=1e-12)


@pytest.mark.parametrize("correction", [BIAS, RESET])
def test_before_a_gate_all_channels_have_one_size_and_the_gate_hands_it_on(correction: Any) -> None:
    """The weights behind the gate grow by the size of the spikes before it, and by their own gain."""
    graph = draw(pooled, IMAGE)
    options: dict[str, Any] = {"max_pool": "gated", "granularity": "layer", "reset": "zero", "steps": 16, "v_init": 0.0}
    plain, found = made(graph, **options), made(graph, correction, **options)
    size = found.scales["a"] / plain.scales["a"]
    assert len(set(size)) == 1 and size[0] != 1
    np.testing.assert_allclose(found.scales["gate"], plain.scales["gate"] * size, rtol=1e-14)
    gain = reset_gain(16, 3 / 4) if correction is RESET else 1.0
    (old,), (new,) = (n.network.incoming["b"] for n in (plain, found))
    assert isinstance(old.operator, Conv2d) and isinstance(new.operator, Conv2d)
    np.testing.assert_allclose(new.operator.weight, old.operator.weight * size[0] * gain, rtol=1e-12)


def test_an_output_that_is_a_gate_is_read_in_the_size_of_the_spikes_it_passes() -> None:
    def net(w: Sketch, x: str) -> str:
        return w.at("gate").max_pool(w.relu(w.layer(x, 6, name="a")), (2, 2), (2, 2), (0, 0))

    options: dict[str, Any] = {"max_pool": "gated", "granularity": "layer", "reset": "zero", "steps": 16}
    plain, found = (made(draw(net, IMAGE), *c, **options) for c in ((), (RESET,)))
    gate = found.network.output
    assert isinstance(gate.neuron, Gate)
    (j,) = found.network.incoming[gate.name]
    ratio = found.scales[j.pre] / plain.scales[j.pre]
    assert (ratio != 1).all()
    np.testing.assert_allclose(found.scales[gate.name] / plain.scales[gate.name], ratio, rtol=1e-14)


def test_a_second_correction_starts_from_the_sizes_of_the_first() -> None:
    """Rates times scales are activations after either: the slope found again is 1 but for what the first one left."""
    graph = draw(small, IMAGE)
    options: dict[str, Any] = {"reset": "zero", "v_init": 0.0, "steps": 24}
    once, twice = made(graph, RESET, **options), made(graph, RESET, BIAS, **options)
    assert readout_error(graph, twice, HELD_OUT, 24) < 1.1 * readout_error(graph, once, HELD_OUT, 24)
    plain = made(graph, **options)
    before, after = (missing_means(plain, n, CALIBRATION, 24)["a"].mean() for n in (once, twice))
    assert after < 1.1 * before
    for name, value in plain.scales.items():
        np.testing.assert_array_equal(twice.exact.scales[name], value)


def test_rates_are_those_of_the_steps_a_population_runs() -> None:
    """b runs for 6 of 10 steps; a size fitted to rates per 10 steps would be 5/3 of what it is."""
    graph = draw(small, IMAGE)
    options: dict[str, Any] = {"clamp": 4, "v_init": 0.0, "granularity": "layer", "steps": 10}
    plain, found = made(graph, **options), made(graph, BIAS, **options)
    before, after = (missing_means(plain, n, CALIBRATION, 10)["b"].mean() for n in (plain, found))
    assert found.network.by_name["b"].clamp_until == 4
    assert after < 0.5 * before


@pytest.mark.parametrize("net", [small, pooled])
def test_a_population_clamped_to_the_end_of_the_calibration_is_left_alone(net: Any) -> None:
    """Levels a 0, b 3, fc 6 of a calibration of 3 steps: a alone is corrected, and a gate over nothing is silent."""
    graph = draw(net, IMAGE)
    options: dict[str, Any] = {"clamp": 3, "max_pool": "gated", "granularity": "layer", "steps": 20}
    plain, found = made(graph, **options), made(graph, BIAS | {"steps": 3}, **options)
    assert (found.scales["a"] != plain.scales["a"]).any()
    np.testing.assert_array_equal(found.scales["b"], plain.scales["b"])
    np.testing.assert_array_equal(found.network.by_name["b"].bias, plain.network.by_name["b"].bias)


def test_a_gate_over_a_population_that_is_clamped_to_the_end_is_silent() -> None:
    """a and b are level 0 and 3; of 3 steps none is left to b, which the gate reads."""

    def net(w: Sketch, x: str) -> str:
        b = w.relu(w.layer(w.relu(w.layer(x, 6, name="a")), 6, name="b"))
        return w.dense(w.at("gate").max_pool(b, (2, 2), (2, 2), (0, 0)), 3, name="fc")

    found = made(draw(net, IMAGE), BIAS | {"steps": 3}, clamp=3, max_pool="gated", granularity="layer", steps=20)
    assert found.network.by_name["b"].clamp_until == 3


@pytest.mark.parametrize("correction", [BIAS, RESET])
def test_two_runs_give_the_same_bits(correction: Any) -> None:
    one, two = (made(draw(small, IMAGE), correction, input="poisson") for _ in range(2))
    for p, q in zip(one.network.populations, two.network.populations, strict=True):
        assert p.bias.tobytes() == q.bias.tobytes()
        assert one.scales[p.name].tobytes() == two.scales[p.name].tobytes()
    for j, k in zip(one.network.projections, two.network.projections, strict=True):
        assert isinstance(j.operator, Conv2d | Dense) and isinstance(k.operator, Conv2d | Dense)
        assert j.operator.weight.tobytes() == k.operator.weight.tobytes()


def test_events_are_calibrated_on_regular_spikes_of_their_rates() -> None:
    graph = draw(small, IMAGE)
    options: dict[str, Any] = {"events": True, "v_init": 0.0, "granularity": "layer", "steps": 8}
    plain, found = made(graph, **options), made(graph, BIAS, **options)
    np.testing.assert_array_equal(samples_of(found.network, CALIBRATION, 8), rate_spikes(CALIBRATION, 8))
    np.testing.assert_array_equal(samples_of(made(graph).network, CALIBRATION, 8), CALIBRATION)
    assert readout_error(graph, found, HELD_OUT, 8) < 0.9 * readout_error(graph, plain, HELD_OUT, 8)
