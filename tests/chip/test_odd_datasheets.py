"""Datasheets a user may write: narrow registers, coarse thresholds, impossible weights."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.quantize import quantize
from neuroport.chip.target import WeightSheet, load_target
from neuroport.errors import DataError, DoesNotFitError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import load_recipe

SIM = load_target("loihi-sim")


def changed(**parts):
    updates = {name: getattr(SIM.arithmetic, name).model_copy(update=update) for name, update in parts.items()}
    return SIM.model_copy(update={"arithmetic": SIM.arithmetic.model_copy(update=updates)})


def converted(module, images, recipe="reset-zero"):
    graph = graph_from_exported(export_module(module.eval(), torch.from_numpy(images[:2])))
    return convert(graph, images, load_recipe(recipe))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    images = np.random.default_rng(0).random((60, 6)).astype(np.float32)
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    return converted(module, images), images


@pytest.mark.parametrize("bits", [14, 16, 20])
def test_thresholds_stay_below_the_end_of_a_narrow_potential(small, bits):
    normalized, images = small
    target = changed(membrane={"bits": bits})
    network = quantize(normalized.network, target, 16, images=images).network
    assert all(p.threshold_mantissa << 6 < target.arithmetic.membrane.limit for p in network.populations)
    run = run_core(network, encode_inputs(normalized.network, network, images, 16))
    assert all(run.totals[p.name].any() for p in network.populations if p.role == "hidden")


@pytest.mark.parametrize("shift", [6, 8, 10])
def test_threshold_is_the_unit_however_coarse(small, shift):
    normalized, images = small
    network = quantize(normalized.network, changed(threshold={"shift": shift}), 16, images=images).network
    for p in network.populations:
        if p.role == "hidden":
            assert p.threshold_mantissa << shift == p.unit


@pytest.mark.parametrize(
    ("kind", "minimum", "maximum"), [("mixed", 0, 254), ("mixed", 0, 0), ("excitatory", 0, 0), ("inhibitory", 0, 0)]
)
def test_weights_without_one_of_the_signs_are_refused(kind, minimum, maximum):
    content = SIM.arithmetic.weights.model_dump()
    content[kind] |= {"minimum": minimum, "maximum": maximum}
    with pytest.raises(ValidationError, match=f"{kind} weights need"):
        WeightSheet.model_validate(content)


def test_lava_refuses_weights_it_cannot_hold(small, tmp_path):
    normalized, images = small
    mixed = SIM.arithmetic.weights.mixed.model_copy(update={"minimum": -2048, "maximum": 2047, "step": 1})
    target = changed(weights={"mixed": mixed})
    network = quantize(normalized.network, target, 8, images=images).network
    inputs = encode_inputs(normalized.network, network, images[:2], 8)
    with pytest.raises(DoesNotFitError, match="Lava holds 8 bits"):
        LavaBackend().check(Job(target, network, inputs, tmp_path))


def test_a_bias_that_cancels_the_current_is_no_reason_to_refuse():
    """Inputs around 0.5 and a large negative bias: only their sum must fit."""
    images = np.random.default_rng(0).uniform(0.45, 0.55, (40, 4)).astype(np.float32)
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[0].bias.fill_(-1.99)
    normalized = converted(module, images)
    network = quantize(normalized.network, SIM, 16, images=images).network
    run = run_core(network, encode_inputs(normalized.network, network, images, 16))
    assert run.totals["0"].any()


@pytest.mark.parametrize("shape", [(8, 4, 4), (1, 16, 8), (32, 2, 2)])
def test_a_population_read_under_another_shape(shape):
    """The mean square input of a weight is that of the channel the convolution reads."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float32)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(shape[0], 3, 2)
            nn.init.ones_(self.first.weight)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)).view(-1, *shape)).flatten(1)

    normalized = converted(Net(), images)
    network = quantize(normalized.network, SIM, 16, images=images).network
    assert run_core(network, encode_inputs(normalized.network, network, images, 16)).totals["first"].any()


def test_integer_images_are_refused(small):
    normalized, images = small
    pixels = (images * 255).astype(np.uint8)
    with pytest.raises(DataError, match="calibration images are uint8; give them as float32"):
        quantize(normalized.network, SIM, 8, images=pixels)
