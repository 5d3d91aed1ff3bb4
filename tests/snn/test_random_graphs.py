"""Random graphs of every operator, through the whole conversion: refused by name, or right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from neuroport.ann.graph import AnnGraph, ReLU
from neuroport.ann.interpret import run_outputs
from neuroport.ann.simplify import simplify
from neuroport.errors import ConversionError
from neuroport.normalize.recipe import Recipe
from neuroport.normalize.scales import normalize
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.heads import read_out
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import Synapse
from neuroport.snn.rates import forward_rates
from neuroport.snn.sparse import materialize
from tests.ann.random_graphs import KINDS, graphs
from tests.snn.graphs import samples

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"max_pool": "gated"},
    "relayed": {"max_condensed": 40},
    "spiking pools": {"pool": "spiking"},
    "on and off": {"encoding": "rate", "n_signs": 2, "input_scale": np.array([3.0])},
}


def converted(graph: AnnGraph, options: dict[str, Any]) -> SpikingNetwork | None:
    """The network, or None where the graph is refused by name."""
    try:
        return build_network(simplify(graph), BuildOptions(**options))
    except ConversionError as refusal:
        assert any(word in str(refusal) for word in ("does not depend", "gate passes", "in the middle", "no layer"))
        return None


def assert_outputs(network: SpikingNetwork, graph: AnnGraph, scales: dict[str, Any] | None = None) -> None:
    """Sums of some thousand products over up to ten layers of float64, relative to the largest activation."""
    x = samples(graph)
    found = dict(forward_rates(network, x, clip=False))
    largest = max(float(value.abs().max()) for value in found.values())
    for head, expected in zip(network.outputs, run_outputs(graph, x), strict=True):
        rates = found[head.population]
        if scales is not None:
            rates = rates * torch.from_numpy(scales[head.population]).reshape(-1, *[1] * (rates.ndim - 2))
        value = read_out(head, rates).reshape(expected.shape)
        assert (value - expected).abs().max() <= 1e-10 * max(1.0, largest)


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=150)
@given(graph=graphs())
def test_a_random_graph_is_refused_by_name_or_has_its_own_outputs(name: str, graph: AnnGraph) -> None:
    network = converted(graph, OPTIONS[name])
    assume(network is not None)
    assert network is not None
    assert_outputs(network, graph)
    for j in network.projections:
        if not any(p.neuron.__class__.__name__ == "Gate" for p in (network.by_name[j.post],)):
            assert isinstance(materialize(j.operator, j.post), Synapse)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(graph=graphs(tuple(kind for kind in KINDS if kind != "qcfs")))
def test_normalization_changes_no_output_but_its_unit(granularity: Any, graph: AnnGraph) -> None:
    network = converted(graph, {})
    assume(network is not None and any(isinstance(n.op, ReLU) for n in graph))
    assert network is not None
    recipe = Recipe(name="", summary="", source="", granularity=granularity, ceiling="measured")
    try:
        normalized = normalize(network, samples(graph).float().numpy(), recipe)
    except ConversionError as refusal:
        assert "so it has no scale and would never fire, and the answer hangs on it" in str(refusal)
        return
    assert_outputs(normalized.network, graph, dict(normalized.scales))
