"""An integer network as a NIR graph of integers, and back, bit for bit.

The numbers of a population are its membrane integers >> `exponent`, the largest shift that loses nothing: mantissas as
they are where weights, biases and threshold share a shift. Its input is weights times spikes plus bias, and

    v_threshold = threshold - 1/2 where the chip fires at >=, threshold + 1/2 where it fires at >   (reset to zero)
    v_threshold = threshold                                                       (reset by subtraction)

NIR fires strictly above; the half makes readers that test >= give the same spikes. What a reset subtracts has to be
the threshold itself; there the chip's test is `threshold_rule` in the metadata, and readers that test otherwise differ
where a potential is exactly at the threshold. Source: nir 1.0.8, nir/ir/neuron.py l.127-146.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn, cast

import numpy as np
from scipy.sparse import csr_array

from neuroport.backends.nir.file import DT_S, KEY, VERSION, library
from neuroport.backends.nir.graph import Array, Assembly, Cell, Link, assemble, is_per_channel
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWindow
from neuroport.errors import DoesNotFitError
from neuroport.snn.operators import Conv2d, ConvTranspose2d, Dense, Shape, Sparse, Synapse

SCALARS = tuple(f.name for f in fields(IntPopulation) if f.name not in ("shape", "bias_mantissa"))


def int_graph(network: IntNetwork) -> Any:
    """The NIR graph of an integer network.

    Raises:
        DoesNotFitError: what NIR cannot hold; layer, value and remedy are named.
    """
    for p in network.populations:
        _check(p, network)
    shifts = {p.name: exponent_of(p, network) for p in network.populations}
    cells = [_cell(p, network, shifts[p.name]) for p in network.populations]
    links = [_link(j, network, shifts[j.post]) for j in network.projections]
    made = assemble(cells, links, [head.population for head in network.heads])
    for p in network.populations:
        if _hides_bias(p) or not is_per_channel(p.bias_mantissa, p.shape):
            made.nodes[made.cells[p.name]].metadata = {KEY: {"bias_mantissa": p.bias_mantissa}}
    metadata = {KEY: json.dumps(_described(network, shifts, made), default=np.generic.item)}
    return library().NIRGraph(made.nodes, made.edges, metadata=metadata)


def _described(network: IntNetwork, shifts: Mapping[str, int], made: Assembly) -> dict[str, Any]:
    """All that NIR has no place for."""
    populations = [
        {key: getattr(p, key) for key in SCALARS}
        | {"node": made.cells[p.name], "shape": p.shape, "exponent": shifts[p.name], "depth": network.depth[p.name]}
        for p in network.populations
    ]
    projections = []
    for name, j in zip(made.links, network.projections, strict=True):
        row = {"pre": j.pre, "post": j.post, "node": name, "exponent": j.exponent, "kind": type(j.synapse).__name__}
        if isinstance(j.synapse, IntConv2d | IntConvTranspose2d):
            row["geometry"] = vars(j.synapse.geometry)
        projections.append(row)
    heads = [
        {"population": head.population, "read": head.read, "node": node}
        for head, node in zip(network.heads, made.outputs, strict=True)
    ]
    return {
        "version": VERSION,
        "kind": "integer",
        "target": network.target,
        "arithmetic": network.arithmetic.model_dump(mode="json"),
        "threshold_rule": network.arithmetic.threshold.compare,
        "dt_s": DT_S,
        "populations": populations,
        "projections": projections,
        "heads": heads,
    }


def exponent_of(p: IntPopulation, network: IntNetwork) -> int:
    """By how much the population's membrane integers are shifted right in the file."""
    a = network.arithmetic
    found = [j.exponent + a.synaptic_shift for j in network.incoming[p.name]]
    if p.role != "input" and not _is_integrator(p, network):
        found.append(a.threshold.shift)
    if p.driven or (p.bias_mantissa.any() and not _hides_bias(p)):
        found.append(p.bias_exponent)
    if p.v_init_int:
        found.append((p.v_init_int & -p.v_init_int).bit_length() - 1)
    return min(found, default=0)


def _is_integrator(p: IntPopulation, network: IntNetwork) -> bool:
    """Whether it is read by its potential."""
    return any(head.population == p.name and head.read == "membrane" for head in network.heads)


def _hides_bias(p: IntPopulation) -> bool:
    """Whether it has biases that do nothing: input currents bring their own."""
    return (p.driven or p.role == "input") and bool(p.bias_mantissa.any())


def _refuse(p: IntPopulation, found: str, do: str) -> NoReturn:
    raise DoesNotFitError(f"layer '{p.name}' {found}; {do}")


def _check(p: IntPopulation, network: IntNetwork) -> None:
    a = network.arithmetic
    if p.role == "input":
        return
    if p.gate:
        _refuse(p, "is a max-pool gate, NIR has no such node", "use a recipe with `max_pool: expand`")
    if p.clamp_until:
        _refuse(p, f"waits for {p.clamp_until} steps, NIR has no clamp", "use a recipe with `clamp: 0`")
    if p.current_decay is not None:
        do = "NIR's CubaLIF would pass its biases through the synapse, too; set current_decay to None"
        _refuse(p, f"keeps its currents (current_decay {p.current_decay})", do)
    if (floor := network.floor_of(p)) is not None:
        do = f"deploy to a target without a floor, or take another format for {network.target}"
        _refuse(p, f"holds its potential at {floor} or above, NIR's potentials have no floor", do)
    if not p.driven and not network.incoming[p.name]:
        _refuse(p, "reads nothing but its bias, NIR's biases belong to weights", "give it an input, or leave it out")
    if _is_integrator(p, network):
        reachable = p.threshold_mantissa < min(a.threshold.mantissa_max, (a.membrane.limit - 1) >> a.threshold.shift)
        if reachable or any(j.pre == p.name for j in network.projections):
            found = f"fires at {p.threshold_mantissa}" if reachable else "sends spikes"
            _refuse(p, f"is read by its potential and {found}, NIR's integrators never fire", "read its spikes")


def _cell(p: IntPopulation, network: IntNetwork, shift: int) -> Cell:
    if p.role == "input":
        return Cell(p.name, p.shape, np.zeros(p.shape, np.int32), None)
    biases = np.zeros(p.shape, np.int64) if p.driven else p.bias_mantissa.astype(np.int64)
    bias = narrow(biases << (p.bias_exponent - shift) if biases.any() else biases)
    return Cell(p.name, p.shape, bias, lambda shape: _neurons(p, network, shift, shape), takes_input=p.driven)


def _neurons(p: IntPopulation, network: IntNetwork, shift: int, shape: Shape) -> Any:
    nir, a = library(), network.arithmetic
    full = 1 << a.decay_bits
    # a leak of Euler's method: v + dt / tau (r I - v), with r = tau / dt where inputs count as they are
    tau = np.full(shape, DT_S * full / p.decay if p.decay else 0.0)
    r = full / p.decay if p.decay and a.leak == "added" else 1.0
    leaky = {"tau": tau, "v_leak": np.zeros(shape)} if p.decay else {}
    if _is_integrator(p, network):
        return (nir.LI if p.decay else nir.I)(r=np.full(shape, r), **leaky)
    threshold = p.threshold_mantissa << (a.threshold.shift - shift)
    v_threshold: Array = narrow(np.full(shape, threshold, np.int64))
    if p.reset == "zero":
        v_threshold = v_threshold + (0.5 if a.threshold.compare == ">" else -0.5)
    fires = {"v_threshold": v_threshold, "v_reset": np.zeros_like(v_threshold)}
    return (nir.LIF if p.decay else nir.IF)(r=np.full(shape, r), **leaky, **fires)


def narrow(values: Array) -> Array:
    """The integers as int32, or int64 where they need it."""
    return values.astype(np.int32) if np.abs(values).max(initial=0) < 1 << 31 else values


def _link(j: IntProjection, network: IntNetwork, shift: int) -> Link:
    pre, post = network.by_name[j.pre].shape, network.by_name[j.post].shape
    by = j.exponent + network.arithmetic.synaptic_shift - shift
    if isinstance(j.synapse, IntWindow):
        raise DoesNotFitError(f"layer '{j.post}' reads windows, NIR has no max-pool; use `max_pool: expand`")
    w = cast(Any, narrow(j.synapse.mantissa.astype(np.int64) << by))
    kept: dict[str, Any] = {"mantissa": j.synapse.mantissa}
    made: Synapse
    match j.synapse:
        case IntDense():
            return Link(j.pre, j.post, Dense(w, pre, post))
        case IntConv2d(_, g):
            made = Conv2d(w, g)
        case IntConvTranspose2d(_, g):
            made = ConvTranspose2d(w, g)
        case IntSparse(_, columns, row_start):
            n_in = network.by_name[j.pre].n_neurons
            made = Sparse(csr_array((w, columns, row_start), (len(row_start) - 1, n_in)), pre, post)
            kept |= {"columns": columns, "row_start": row_start}
    return Link(j.pre, j.post, made, {KEY: kept})
