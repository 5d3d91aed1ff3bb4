"""A float spiking network as a NIR graph.

Ours fires at v_th and above, NIR's strictly above v_threshold, which therefore is the largest float32 below v_th: a
reader gives the same spikes in either precision. What the host does behind the readout is not part of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from neuroport.backends.nir.file import DT_S, KEY, VERSION, library
from neuroport.backends.nir.graph import Assembly, Cell, Link, assemble, is_per_channel
from neuroport.errors import DoesNotFitError
from neuroport.snn.network import Gate, Neuron, Population, SpikingNetwork
from neuroport.snn.operators import Shape
from neuroport.snn.sparse import materialize


def float_graph(network: SpikingNetwork) -> Any:
    """The NIR graph of a float network.

    Raises:
        DoesNotFitError: what NIR cannot hold; layer, value and remedy are named.
    """
    cells = [_cell(p, network) for p in network.populations]
    links = [Link(j.pre, j.post, materialize(j.operator, j.post)) for j in network.projections]
    made = assemble(cells, links, [head.population for head in network.outputs])
    for p in network.populations:
        shape = made.shapes[p.name]
        if p.role != "input" and len(shape) == 3 and not is_per_channel(p.bias, shape):
            # the kernel that stands for it rounds
            made.nodes[made.cells[p.name]].metadata = {KEY: {"bias": p.bias}}
    metadata = {KEY: json.dumps(_described(network, made), default=np.generic.item)}
    return library().NIRGraph(made.nodes, made.edges, metadata=metadata)


def _described(network: SpikingNetwork, made: Assembly) -> Mapping[str, Any]:
    populations = [
        {
            "name": p.name,
            "node": made.cells[p.name],
            "shape": p.shape,
            "role": p.role,
            "neuron": asdict(p.neuron),
            "is_helper": p.is_helper,
            "is_linear": p.is_linear,
        }
        for p in network.populations
    ]
    return {
        "version": VERSION,
        "kind": "float",
        "dt_s": DT_S,
        "encoding": network.encoding,
        "n_signs": network.n_signs,
        "input_scale": network.input_scale.tolist(),
        "seed": network.seed,
        "populations": populations,
        "heads": [{"population": h.population, "node": n} for h, n in zip(network.outputs, made.outputs, strict=True)],
    }


def _cell(p: Population, network: SpikingNetwork) -> Cell:
    if p.role == "input":
        return Cell(p.name, p.shape, np.zeros(p.shape), None)
    neuron = p.neuron
    if isinstance(neuron, Gate):
        raise DoesNotFitError(
            f"layer '{p.name}' is a max-pool gate, NIR has no such node; use a recipe with `max_pool: expand`"
        )
    if p.clamp_until:
        raise DoesNotFitError(
            f"layer '{p.name}' waits for {p.clamp_until} steps, NIR has no clamp; use a recipe with `clamp: 0`"
        )
    if neuron.floor is not None:
        raise DoesNotFitError(
            f"layer '{p.name}' holds its potential at {neuron.floor:g} or above, NIR's potentials have no floor; "
            f"convert for a target without one"
        )
    if not neuron.fires and any(j.pre == p.name for j in network.projections):
        raise DoesNotFitError(
            f"layer '{p.name}' never fires and sends spikes to others, NIR's integrators send their potential; leave "
            f"these projections out"
        )
    return Cell(p.name, p.shape, np.asarray(p.bias), lambda shape: neuron_node(neuron, shape))


def neuron_node(neuron: Neuron, shape: Shape) -> Any:
    """The node of a neuron; a leak of Euler's method, v + dt / tau (r I - v), with r = tau / dt."""
    nir = library()
    if neuron.leak == 1:
        own: dict[str, Any] = {"r": np.ones(shape)}
    else:
        r = np.full(shape, 1 / (1 - neuron.leak))
        own = {"r": r, "tau": DT_S * r, "v_leak": np.zeros(shape)}
    if not neuron.fires:
        return (nir.I if neuron.leak == 1 else nir.LI)(**own)
    v_threshold = np.full(shape, below(neuron.v_th))
    return (nir.IF if neuron.leak == 1 else nir.LIF)(**own, v_threshold=v_threshold, v_reset=np.zeros(shape))


def below(v_th: float) -> float:
    """The largest float32 below a threshold."""
    near = np.float32(v_th)
    return float(near if near < v_th else np.nextafter(near, np.float32(-np.inf)))
