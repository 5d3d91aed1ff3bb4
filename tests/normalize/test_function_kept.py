"""Whatever the scale rule: rates without clipping, times their scales, are the ANN's own activations and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs
from neuroport.normalize.convert import convert
from neuroport.normalize.prepare import spiking_network
from neuroport.normalize.scales import Normalized
from neuroport.snn.heads import read_out
from neuroport.snn.network import Gate
from neuroport.snn.rates import forward_rates
from tests.normalize.nets import Images, recipe
from tests.snn.graphs import IMAGE, NETS, Net, Sketch, assert_close, draw

RULES: dict[str, dict[str, Any]] = {
    "activation": {"percentile": 95},
    "weights": {},
    "diehl": {"percentile": 99},
    "mmse": {"steps": 4, "v_init": 0.5},
    "balance": {"steps": 4},
    "none": {"threshold": 4.0},
}
IMAGES: Images = np.random.default_rng(5).random((6, *IMAGE), np.float32)


def pooled(w: Sketch, x: str) -> str:
    """Maxima and means over populations that fire, one behind the other."""
    a = w.relu(w.layer(x, 4, name="conv1"))
    a = w.at("maximum").max_pool(a, (3, 3), (2, 2), (1, 1))
    b = w.relu(w.layer(a, 6, name="conv2"))
    b = w.at("mean").avg_pool(b, (2, 2), (2, 2), (0, 0))
    c = w.relu(w.layer(b, 5, 1, name="conv3"))
    return w.dense(w.at("last").max_pool(c, (2, 2), (1, 1), (0, 0)), 4, name="fc")


def silenced(w: Sketch, x: str) -> str:
    """Channels that never fire on images that are not negative, in a layer of others, before and behind a sum."""
    weight = np.abs(w.weight(4, IMAGE[0], 1, 1))
    weight[1::2] *= -1
    a = w.at("conv1").conv(x, weight, None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    a = w.relu(a)
    b = w.relu(w.add(w.layer(a, 4, name="conv2"), a))
    return w.dense(b, 3, name="fc")


CASES: dict[str, tuple[Net, dict[str, Any]]] = {
    "residual": (NETS["residual"], {}),
    "padded_shortcut": (NETS["padded_shortcut"], {}),
    "feature_pyramid": (NETS["feature_pyramid"], {}),
    "leaky": (NETS["leaky"], {}),
    "clamped": (NETS["clamped"], {"ceiling": "measured"}),
    "pooled": (pooled, {"max_pool": "expand", "pool": "fold"}),
    "pooled, spiking": (pooled, {"max_pool": "expand", "pool": "spiking"}),
    "pooled, gated": (pooled, {"max_pool": "gated", "pool": "fold"}),
    "pooled, gated, spiking": (pooled, {"max_pool": "gated", "pool": "spiking"}),
    "on and off": (NETS["residual"], {"input": "rate"}),
    "silenced": (silenced, {}),
    "counted": (NETS["residual"], {"readout": "count"}),
}


def assert_function_kept(graph: AnnGraph, found: Normalized, before: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    """Every population's rate times its scale is its activation; every head then says what the graph says."""
    activations: dict[str, torch.Tensor] = {}
    for name, rate in forward_rates(found.network, x, clip=False):
        scale = torch.from_numpy(found.scales[name]).reshape(-1, *[1] * (rate.ndim - 2))
        activations[name] = rate * scale
        assert_close(activations[name], before[name])
    for head, expected in zip(found.network.outputs, run_outputs(graph, x), strict=True):
        assert_close(read_out(head, activations[head.population]).reshape(expected.shape), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("case", CASES)
def test_rates_times_scales_are_the_activations(rule: str, granularity: str, case: str) -> None:
    net, options = CASES[case]
    graph = draw(net)
    images = 2 * IMAGES - 1 if case == "on and off" else IMAGES
    chosen = recipe(scale=rule, granularity=granularity, **RULES[rule], **options)
    found = convert(graph, images, chosen)
    before = dict(forward_rates(spiking_network(graph, images, chosen), torch.from_numpy(images).double(), clip=False))
    assert_function_kept(graph, found, before, torch.from_numpy(images).double())
    hidden = [p for p in found.network.populations if p.role == "hidden"]
    differ = [p.name for p in hidden if len(set(found.scales[p.name].tolist())) > 1]
    assert bool(differ) == (granularity == "channel" and rule != "none")
    assert any(isinstance(p.neuron, Gate) for p in hidden) == (options.get("max_pool") == "gated")


@pytest.mark.parametrize("rule", RULES)
def test_a_scale_per_layer_is_one_number_and_silent_channels_count_by_channel_only(rule: str) -> None:
    layer, channel = (
        convert(draw(silenced), IMAGES, recipe(scale=rule, granularity=g, **RULES[rule])) for g in ("layer", "channel")
    )
    assert {len(set(scale.tolist())) for scale in layer.scales.values()} == {1}
    assert (layer.n_silent_channels["conv1"], channel.n_silent_channels["conv1"]) == (0, 2)
