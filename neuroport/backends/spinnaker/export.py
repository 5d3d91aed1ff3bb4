"""The integer network as a directory for SpiNNaker's users: one PyNN script, lists of connections, stimulus, README.

Every synapse is one row of a list (i, j, weight), excitatory and inhibitory ones apart; a bias is a source of one
neuron that fires in every step. An input current is the bias of one sample: a source with one neuron per sample, of
which only that of the sample at work fires. So weights never change between samples, which sPyNNaker could not do, and
no i_offset is needed, which NEST ignores where nothing leaks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.spinnaker.limits import check_exportable
from neuroport.chip.files import new_file, write_bits, write_trace
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntSparse, IntWindow, as_sparse
from neuroport.chip.trace import Trace

EXPORT = "pynn"  # the directory in a bundle, and what worker/main.py reads
SCRIPT = Path(__file__).parent / "worker" / "run.py"
README = Path(__file__).parent / "worker" / "README.md"
V_UNIT = 2.0**-15  # potentials are s16.15
_LOWEST = -65536.0  # where s16.15 ends
_SIGNS = (("excitatory", 1), ("inhibitory", -1))


@dataclass(frozen=True, eq=False)
class Connections:
    """One list: neuron i of `pre` to neuron j of `post`, all weights of the receptor's sign; delay in steps."""

    pre: str
    post: str
    receptor: str
    delay: int
    i: NDArray[np.int32]
    j: NDArray[np.int32]
    weight: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SpikeSource:
    """n neurons that fire `raster` [S, T, n], its first step `first` steps after the input's."""

    name: str
    first: int
    raster: NDArray[np.uint8]


def write_export(folder: Path, network: IntNetwork, inputs: IntInputs, expected: Trace | None = None) -> None:
    """Write the directory; `expected`: spikes of the core, for `run.py --verify`.

    Raises:
        DoesNotFitError: SpiNNaker cannot hold it; layer, value and remedy are named, and nothing is written.
    """
    check_exportable(network, inputs)
    folder.mkdir(exist_ok=True)
    made, a = sources(network, inputs), network.arithmetic
    scale = {"unit": weight_unit(network), "moved": 2.0**-a.input_shift}
    with new_file(folder / "network.h5") as f:
        f.attrs.update(target=network.target, v_unit=V_UNIT)
        for k, s in enumerate(made):
            f.create_group(f"sources/{k}").attrs.update(name=s.name, n=s.raster.shape[2], first=s.first)
        neurons = [p for p in network.populations if p.role != "input"]
        for k, p in enumerate(neurons):
            f.create_group(f"populations/{k}").attrs.update(_attributes(network, p))
        for k, c in enumerate(connections(network, inputs)):
            group = f.create_group(f"projections/{k}")
            group.attrs.update(pre=c.pre, post=c.post, receptor=c.receptor, delay=c.delay, **scale)
            for key in ("i", "j", "weight"):
                group.create_dataset(key, data=getattr(c, key), compression="gzip", compression_opts=1, shuffle=True)
    with new_file(folder / "stimulus.h5") as f:
        f.attrs.update(n_samples=inputs.n_samples, n_steps=inputs.n_steps)
        for k, s in enumerate(made):
            write_bits(f, f"spikes/{k}", s.raster).attrs["name"] = s.name
    if expected is not None:
        names = [p.name for p in neurons]
        readouts = [p.name for p in neurons if p.role == "readout"]
        write_trace(
            folder / "expected.h5",
            {name: expected.spikes[name] for name in names},
            {name: expected.potentials[name] for name in readouts},
        )
    shutil.copyfile(SCRIPT, folder / SCRIPT.name)
    shutil.copyfile(README, folder / README.name)


def exported_in(work_dir: Path, network: IntNetwork, inputs: IntInputs) -> Path:
    """The export in a working directory, written unless it is there already."""
    folder = work_dir / EXPORT
    if not folder.is_dir():
        write_export(folder, network, inputs)
    return folder


def weight_unit(network: IntNetwork) -> float:
    """What a weight of 1 is in PyNN: the scale of sPyNNaker's ring buffers, whose bits lie that far up in s16.15."""
    return 2.0**network.arithmetic.synaptic_shift * V_UNIT


def _attributes(network: IntNetwork, p: IntPopulation) -> dict[str, object]:
    """What the script makes a population of, in PyNN's units."""
    a, floor = network.arithmetic, network.floor_of(p)
    return {
        "name": p.name,
        "n": p.n_neurons,
        "shape": p.shape,
        "depth": network.depth[p.name],
        "v_thresh": (p.threshold_mantissa << a.threshold.shift) * V_UNIT,
        "v_reset": floor * V_UNIT if floor is not None else _LOWEST if a.membrane_floor is not None else 0.0,
        "v_init": p.v_init_int * V_UNIT,
        "neuron": a.neuron,
        "kept": 1.0 if not a.fixed_decay else 1.0 - a.fixed_decay / (1 << a.decay_bits),
        "tau_m": 1.0 if not a.fixed_decay else float((1 << a.decay_bits) // a.fixed_decay),
        "max_expected_summed_weight": 2.0**a.synaptic_shift - V_UNIT,
        "is_readout": p.role == "readout",
    }


def sources(network: IntNetwork, inputs: IntInputs) -> list[SpikeSource]:
    """The input, and what brings biases and input currents."""
    made = []
    if network.input is not None and inputs.spikes is not None:
        made.append(SpikeSource(network.input.name, 0, inputs.spikes.reshape(*inputs.spikes.shape[:2], -1)))
    every = np.ones((inputs.n_samples, inputs.n_steps, 1), np.uint8)
    for p in network.populations:
        if p.driven:
            own = np.eye(inputs.n_samples, dtype=np.uint8)[:, None]
            made.append(SpikeSource(current_of(p), network.depth[p.name] - 1, np.repeat(own, inputs.n_steps, axis=1)))
        elif p.role != "input" and p.bias_mantissa.any():
            made.append(SpikeSource(current_of(p), network.depth[p.name] - 1, every))
    return made


def current_of(p: IntPopulation) -> str:
    """Name of the source that brings a population's biases or input currents."""
    return f"{p.name}:{'current' if p.driven else 'bias'}"


def connections(network: IntNetwork, inputs: IntInputs) -> Iterator[Connections]:
    """All lists, one at a time: those of a large network are not held together."""
    for p in network.populations:
        for projection in network.incoming[p.name]:
            if not isinstance(projection.synapse, IntWindow):
                yield from _expanded(network, projection)
        if p.role == "input":
            continue
        weight = bias_weights(network, inputs, p)
        i, j = np.nonzero(weight)
        yield from _by_sign(current_of(p), p.name, 1, i, j, weight[i, j])


def bias_weights(network: IntNetwork, inputs: IntInputs, p: IntPopulation) -> NDArray[np.int32]:
    """[n_sources, n_neurons]: the weights by which the source of biases or input currents reaches a population."""
    mantissa = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
    weight: NDArray[np.int32] = mantissa.reshape(len(mantissa), -1) << (
        p.bias_exponent - network.arithmetic.synaptic_shift
    )
    return weight


def _expanded(network: IntNetwork, projection: IntProjection) -> Iterator[Connections]:
    """A projection that skips levels takes as many steps as the longest way."""
    sparse: IntSparse = as_sparse(projection.synapse)  # type: ignore[arg-type]
    j = np.repeat(np.arange(len(sparse.row_start) - 1, dtype=np.int32), np.diff(sparse.row_start))
    delay = network.depth[projection.post] - network.depth[projection.pre]
    weight = sparse.mantissa << projection.exponent
    yield from _by_sign(projection.pre, projection.post, delay, sparse.columns, j, weight)


def _by_sign(
    pre: str,
    post: str,
    delay: int,
    i: NDArray[np.signedinteger],
    j: NDArray[np.signedinteger],
    weight: NDArray[np.int32],
) -> Iterator[Connections]:
    """Sorted by i, then j: sPyNNaker 7.4.1 looks for the longest row in a sorted copy, and then divides its own list.

    Out of order, it may find no room for a network that fits, or too little for one that does not.
    Source: spynnaker/pyNN/models/neural_projections/connectors/from_list_connector.py l.273-284.
    """
    order = np.lexsort((j, i))
    for receptor, sign in _SIGNS:
        chosen = order[(weight > 0 if sign > 0 else weight < 0)[order]]
        if len(chosen):
            rows = (np.ascontiguousarray(x[chosen].astype(np.int32)) for x in (i, j, weight))
            yield Connections(pre, post, receptor, delay, *rows)
