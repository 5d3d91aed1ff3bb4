"""Every shipped recipe from a trained network to chip integers: the core does what the float simulation does."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuroport.chip.core import CoreRun, run_core
from neuroport.chip.inputs import IntInputs, encode_inputs
from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.quantize import quantize
from neuroport.chip.target import load_target
from neuroport.datasheets import names
from neuroport.errors import DoesNotFitError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import load_recipe
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.simulate import FloatRun, simulate
from neuroport.snn.sparse import as_matrix, materialize
from neuroport.validation.outputs import Reading
from tests.chip.exact_float import exact_float
from tests.normalize.nets import Images
from tests.snn.graphs import Net, Sketch, draw

RECIPES = names("calibration")
LONGEST = 128  # steps on a chip: in more, potentials of neurons that are only inhibited reach their register's end


def image_net(w: Sketch, x: str) -> str:
    """Convolution, residual block, average pool, linear layer."""
    a = w.relu(w.norm(w.layer(x, 4, name="conv1")))
    b = w.relu(w.add(w.layer(w.relu(w.layer(a, 4, name="conv2")), 4, name="conv3"), a))
    return w.dense(w.avg_pool(b, (2, 2), (2, 2), (0, 0)), 4, name="fc")


def mlp(w: Sketch, x: str) -> str:
    return w.dense(w.relu(w.dense(w.relu(w.dense(x, 16, name="fc1")), 12, name="fc2")), 4, name="fc3")


NETS: dict[str, tuple[Net, tuple[int, ...]]] = {"image_net": (image_net, (2, 6, 6)), "mlp": (mlp, (10,))}


def data(net: str) -> tuple[Images, Images]:
    """(calibration, test) images."""
    rng = np.random.default_rng(17)
    shape = NETS[net][1]
    return rng.random((40, *shape), np.float32), rng.random((6, *shape), np.float32)


@cache
def converted(net: str, recipe: str) -> tuple[Normalized, int]:
    chosen = load_recipe(recipe)
    steps = min(chosen.steps, LONGEST)
    return convert(draw(*NETS[net]), data(net)[0], chosen, steps, seed=3), steps


def on_chip(net: str, recipe: str, target: str) -> tuple[IntNetwork, IntInputs, CoreRun]:
    normalized, steps = converted(net, recipe)
    calibration, test = data(net)
    chip = load_target(target)
    made = quantize(normalized.network, chip, steps, images=calibration, input_range=normalized.input_range).network
    inputs = encode_inputs(normalized.network, made, test, steps)
    return made, inputs, run_core(made, inputs, record="all")


def fits(recipe: str, target: str) -> bool:
    chosen, chip = load_recipe(recipe), load_target(target).arithmetic
    return chosen.reset in chip.resets and (chosen.v_init == 0 or chip.v_init)


CHIPS = [(recipe, target) for recipe in RECIPES for target in ("loihi-sim", "loihi1") if fits(recipe, target)]
REFUSED = [(recipe, "loihi1") for recipe in RECIPES if not fits(recipe, "loihi1")]


def test_loihi1_takes_the_recipes_that_start_at_zero_and_loihi_sim_all() -> None:
    """Reset by subtraction takes it two compartments."""
    zero = {name for name in RECIPES if load_recipe(name).v_init == 0}
    assert {recipe for recipe, target in CHIPS if target == "loihi1"} == zero
    assert {load_recipe(name).reset for name in zero} == {"zero", "subtract"}
    assert zero >= {"hard-reset", "reset-zero", "reset-zero-rate", "direct-copy", "model-based", "data-based"}
    assert {recipe for recipe, target in CHIPS if target == "loihi-sim"} == set(RECIPES)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_simulation_says_something(net: str, recipe: str) -> None:
    """Some neuron of every layer fires, the answer differs from sample to sample, and the encoding is the recipe's."""
    network, chosen = converted(net, recipe)[0].network, load_recipe(recipe)
    run = simulate(network, data(net)[1], chosen.steps)
    for p in network.populations:
        if p.neuron.fires and p.role == "hidden":
            assert run.counts[p.name].any(), p.name
    assert np.isfinite(run.readout).all()
    assert run.readout.std(0).max() > 0
    assert network.encoding == chosen.input
    assert network.output.neuron.fires == (chosen.readout == "count")
    assert {p.neuron.reset for p in network.populations if p.role == "hidden"} == {chosen.reset}  # type: ignore[union-attr]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("recipe", "target"), CHIPS)
def test_the_core_is_the_float_simulation_of_its_integers_spike_for_spike(net: str, recipe: str, target: str) -> None:
    """Thresholds, clamps, resets, starts and input codes of the recipe are those of the integers, with no tolerance."""
    made, inputs, core = on_chip(net, recipe, target)
    assert not any(core.overflows.values()) and not any(core.floored.values())
    network, shown = exact_float(made, inputs)
    run = simulate(network, shown, inputs.n_steps, dtype=torch.float64)
    for p in made.populations:
        if network.by_name[p.name].neuron.fires:
            np.testing.assert_array_equal(run.counts[p.name], core.counts[p.name], err_msg=p.name)
    np.testing.assert_array_equal(run.readout, core.readout)
    normalized, steps = converted(net, recipe)
    reading = Reading(normalized, steps)
    unit = 1 if made.readout == "count" else made.output.unit
    scaled = FloatRun({}, {made.output.name: run.readout / unit}, {}, {}, made.output.name)
    found = reading.integers(made, core.readouts, core.trace.potentials, 0).scores
    np.testing.assert_allclose(found, reading.float_run(scaled, 0).scores, rtol=1e-14)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("recipe", "target"), [c for c in CHIPS if load_recipe(c[0]).readout == "membrane"])
def test_potentials_of_the_core_are_those_of_the_simulation_up_to_rounding(net: str, recipe: str, target: str) -> None:
    """With n the spikes since the output began, W and b the recipe's, D what the datasheet lets rounding do to W:

    |v_int / unit - v| <= sum of D n_int + |W| |n_int - n|, and for each step half a mantissa of the bias.
    """
    made, _, core = on_chip(net, recipe, target)
    normalized, steps = converted(net, recipe)
    network, output = normalized.network, normalized.network.output
    sources = tuple(j.pre for j in made.incoming[output.name])
    run = simulate(network, data(net)[1], steps, record=sources, dtype=torch.float64)
    bound = (steps - output.clamp_until) * 0.5 * 2.0**made.output.bias_exponent / made.output.unit
    for j in made.incoming[output.name]:
        weight = matrix_of(network, j)
        n_float, n_int = (
            x[:, output.clamp_until :].sum(1, dtype=np.int64).reshape(len(x), -1)
            for x in (run.rasters[j.pre], core.trace.spikes[j.pre])
        )
        bound = bound + n_int @ rounding(weight, j, made).T + np.abs(n_int - n_float) @ np.abs(weight).T
    difference = np.abs(core.readout / made.output.unit - run.readout)
    assert (difference <= bound + 1e-9).all()


def matrix_of(network: SpikingNetwork, j: IntProjection) -> NDArray[np.float64]:
    (operator,) = (k.operator for k in network.incoming[j.post] if k.pre == j.pre)
    found: NDArray[np.float64] = as_matrix(materialize(operator, j.post)).toarray()
    return found


def rounding(weight: NDArray[np.float64], j: IntProjection, made: IntNetwork) -> NDArray[np.float64]:
    """Largest error of each weight: a whole step (pixels of a pool are rounded in turn), or what is beyond the end."""
    a = made.arithmetic
    sheet = a.weights.mixed if weight.min() < 0 < weight.max() else None
    sheet = sheet or (a.weights.excitatory if weight.min() >= 0 else a.weights.inhibitory)
    mantissa = 2.0**j.exponent / (made.by_name[j.post].unit >> a.synaptic_shift)
    beyond = np.maximum(weight - sheet.maximum * mantissa, sheet.minimum * mantissa - weight)
    return np.maximum(sheet.step * mantissa, beyond)


@pytest.mark.parametrize(("recipe", "target"), REFUSED)
def test_a_chip_without_the_neuron_says_so(recipe: str, target: str) -> None:
    message = (
        r"needs an initial potential, loihi1's neuron offers reset zero or subtract and starts at 0; choose another"
    )
    with pytest.raises(DoesNotFitError, match=message):
        on_chip("mlp", recipe, target)
