"""Integer networks, inputs and traces as HDF5 files: what lies in a bundle and what a vendor's worker reads.

Layout (a worker needs h5py and numpy only): `populations/<k>` and `projections/<k>` in topological order, `heads/<k>`,
scalars as attributes, arrays as datasets; a projection's `kind` says which synapses it has; spikes bit-packed along
the neuron axis (numpy.packbits) as [S, T, ceil(N / 8)]. A `Place` is a file, or a group of one that is open: a golden
recording (validation/golden.py) holds all three.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import MaxPool2d
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntDense,
    IntSparse,
    IntSynapse,
    IntWindow,
)
from neuroport.chip.target import Arithmetic
from neuroport.chip.trace import Trace
from neuroport.errors import BundleError
from neuroport.snn.operators import ConvGeometry

Place: TypeAlias = "Path | h5py.Group"

_POPULATION_SCALARS = (
    "name",
    "role",
    "threshold_mantissa",
    "bias_exponent",
    "v_init_int",
    "reset",
    "decay",
    "clamp_until",
    "driven",
    "unit",
    "gate",
)
# What h5py and numpy raise on a file that is cut short, or on a group where a dataset should be.
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError)
_GEOMETRY = ("in_shape", "out_shape", "kernel", "stride", "padding", "dilation")
KINDS: dict[type[Any], str] = {
    IntDense: "dense",
    IntConv2d: "conv",
    IntConvTranspose2d: "conv_transpose",
    IntSparse: "sparse",
    IntWindow: "window",
}


def write_network(path: Place, network: IntNetwork) -> None:
    """Write the integer network to a new file."""
    with new_file(path) as f:
        f.attrs.update(target=network.target, arithmetic=network.arithmetic.model_dump_json())
        for k, head in enumerate(network.heads):
            f.create_group(f"heads/{k}").attrs.update(population=head.population, read=head.read)
        for k, p in enumerate(network.populations):
            group = f.create_group(f"populations/{k}")
            group.attrs.update({key: getattr(p, key) for key in _POPULATION_SCALARS})
            group.attrs.update(shape=p.shape, depth=network.depth[p.name])
            if p.current_decay is not None:
                group.attrs["current_decay"] = p.current_decay
            group.create_dataset("bias_mantissa", data=p.bias_mantissa, compression="gzip")
        for k, j in enumerate(network.projections):
            group = f.create_group(f"projections/{k}")
            group.attrs.update(pre=j.pre, post=j.post, exponent=j.exponent, kind=KINDS[type(j.synapse)])
            _write_synapse(group, j.synapse)


def _write_synapse(group: h5py.Group, synapse: IntSynapse) -> None:
    if isinstance(synapse, IntWindow):
        op = synapse.op
        group.attrs.update(in_shape=synapse.in_shape, out_shape=synapse.out_shape, ceil_mode=op.ceil_mode)
        group.attrs.update(kernel=op.kernel, stride=op.stride, padding=op.padding, dilation=op.dilation)
        return
    group.create_dataset("mantissa", data=synapse.mantissa, compression="gzip")
    if isinstance(synapse, IntSparse):
        group.create_dataset("columns", data=synapse.columns, compression="gzip")
        group.create_dataset("row_start", data=synapse.row_start, compression="gzip")
    elif isinstance(synapse, IntConv2d | IntConvTranspose2d):
        group.attrs.update({key: getattr(synapse.geometry, key) for key in _GEOMETRY}, groups=synapse.geometry.groups)


def read_network(path: Place) -> IntNetwork:
    """Read an integer network; every range is checked again.

    Raises:
        BundleError: not such a file, or one that is cut short. DoesNotFitError: a number out of range.
    """
    try:
        with _opened(path) as f:
            arithmetic = Arithmetic.model_validate_json(f.attrs["arithmetic"])
            populations = tuple(_population(f["populations"][str(k)]) for k in range(len(f["populations"])))
            projections = tuple(_projection(f["projections"][str(k)]) for k in range(len(f.get("projections", ()))))
            target, heads = str(f.attrs["target"]), _heads(f, populations)
    except _DAMAGE as error:
        raise BundleError(
            f"'{path}' is not an integer network of neuroport, or is damaged: {error}; give the network.h5 of a "
            f"bundle, or make it again with `neuroport deploy`"
        ) from error
    return IntNetwork(target, arithmetic, populations, projections, heads)


def _heads(f: h5py.File, populations: tuple[IntPopulation, ...]) -> tuple[IntHead, ...]:
    if "heads" in f:
        groups = [f["heads"][str(k)] for k in range(len(f["heads"]))]
        return tuple(IntHead(str(g.attrs["population"]), cast(Any, str(g.attrs["read"]))) for g in groups)
    last = [p.name for p in populations if p.role == "readout"][-1:]  # a file of neuroport 0.1: one output
    return tuple(IntHead(name, cast(Any, str(f.attrs["readout"]))) for name in last)


def _population(group: h5py.Group) -> IntPopulation:
    a = group.attrs
    return IntPopulation(
        name=str(a["name"]),
        shape=tuple(int(n) for n in a["shape"]),
        role=cast(Any, str(a["role"])),
        threshold_mantissa=int(a["threshold_mantissa"]),
        bias_mantissa=group["bias_mantissa"][()],
        bias_exponent=int(a["bias_exponent"]),
        v_init_int=int(a["v_init_int"]),
        reset=cast(Any, str(a["reset"])),
        decay=int(a["decay"]),
        clamp_until=int(a["clamp_until"]),
        driven=bool(a["driven"]),
        unit=int(a["unit"]),
        gate=bool(a.get("gate", False)),
        current_decay=int(a["current_decay"]) if "current_decay" in a else None,
    )


def _projection(group: h5py.Group) -> IntProjection:
    a = group.attrs
    return IntProjection(str(a["pre"]), str(a["post"]), _synapse(group), int(a["exponent"]))


def _synapse(group: h5py.Group) -> IntSynapse:
    a = group.attrs
    kind = str(a.get("kind", "conv" if "stride" in a else "dense"))  # files of neuroport 0.1 have no kind
    places = {key: tuple(int(n) for n in a[key]) for key in _GEOMETRY if key in a}
    if kind == "window":
        in_shape, out_shape = places.pop("in_shape"), places.pop("out_shape")
        return IntWindow(MaxPool2d(**cast(Any, places), ceil_mode=bool(a["ceil_mode"])), in_shape, out_shape)
    mantissa = group["mantissa"][()]
    if kind == "sparse":
        return IntSparse(mantissa, group["columns"][()], group["row_start"][()])
    if kind == "dense":
        return IntDense(mantissa)
    if kind not in ("conv", "conv_transpose"):
        raise ValueError(f"it has synapses of a kind '{kind}'")
    geometry = ConvGeometry(**cast(Any, places), groups=int(a["groups"]))
    return IntConv2d(mantissa, geometry) if kind == "conv" else IntConvTranspose2d(mantissa, geometry)


def write_inputs(path: Place, inputs: IntInputs) -> None:
    """Write the inputs of all samples to a new file."""
    with new_file(path) as f:
        f.attrs.update(n_samples=inputs.n_samples, n_steps=inputs.n_steps)
        if inputs.spikes is not None:
            write_bits(f, "spikes", inputs.spikes)
        for k, (name, mantissa) in enumerate(inputs.currents.items()):
            dataset = f.create_dataset(f"currents/{k}", data=mantissa, compression="gzip")
            dataset.attrs["name"] = name


def read_inputs(path: Place) -> IntInputs:
    """Read inputs.

    Raises:
        BundleError: not such a file, or one that is cut short.
    """
    try:
        with _opened(path) as f:
            spikes = _read_bits(f["spikes"]) if "spikes" in f else None
            currents = {str(d.attrs["name"]): d[()] for d in f["currents"].values()} if "currents" in f else {}
            return IntInputs(int(f.attrs["n_samples"]), int(f.attrs["n_steps"]), spikes, currents)
    except _DAMAGE as error:
        raise BundleError(
            f"'{path}' is not an input file of neuroport, or is damaged: {error}; give the inputs.h5 of a bundle, or "
            f"make it again with `neuroport deploy`"
        ) from error


def write_trace(path: Place, spikes: Mapping[str, NDArray[np.uint8]], potentials: Mapping[str, NDArray[Any]]) -> None:
    """Write spikes, and potentials where there are any, of each population to a new file."""
    with new_file(path) as f:
        for k, (name, raster) in enumerate(spikes.items()):
            write_bits(f, f"spikes/{k}", raster).attrs["name"] = name
        for k, (name, v) in enumerate(potentials.items()):
            f.create_dataset(f"potentials/{k}", data=v, compression="gzip").attrs["name"] = name


def read_trace(path: Place) -> Trace:
    """Read spikes and potentials.

    Raises:
        BundleError: not such a file, or one that is cut short.
    """
    try:
        with _opened(path) as f:
            spikes = {str(d.attrs["name"]): _read_bits(d) for d in f["spikes"].values()}
            potentials = {str(d.attrs["name"]): d[()].astype(np.int64) for d in f.get("potentials", {}).values()}
            return Trace(spikes, potentials)
    except _DAMAGE as error:
        raise BundleError(
            f"'{path}' is not a spike file of neuroport, or is damaged: {error}; give the core.h5 or backend.h5 of a "
            f"bundle, or make it again with `neuroport deploy`"
        ) from error


@contextmanager
def _opened(path: Place) -> Iterator[h5py.Group]:
    if isinstance(path, h5py.Group):
        yield path
        return
    with h5py.File(path, "r") as f:
        yield f


@contextmanager
def new_file(path: Place) -> Iterator[h5py.Group]:
    """A new HDF5 file, made in memory: on a full disk the HDF5 library itself would crash."""
    if isinstance(path, h5py.Group):
        yield path
        return
    content = io.BytesIO()
    with h5py.File(content, "w") as f:
        yield f
    path.write_bytes(content.getbuffer())


def write_bits(f: h5py.File, name: str, raster: NDArray[np.uint8]) -> h5py.Dataset:
    """Write spikes [S, T, ...], packed along the neurons."""
    flat = raster.reshape(*raster.shape[:2], -1)
    dataset = f.create_dataset(name, data=np.packbits(flat, axis=-1), compression="gzip")
    dataset.attrs["shape"] = raster.shape[2:]
    return dataset


def _read_bits(dataset: h5py.Dataset) -> NDArray[np.uint8]:
    packed, shape = dataset[()], tuple(int(n) for n in dataset.attrs["shape"])
    n = int(np.prod(shape))
    bits = np.unpackbits(packed, axis=-1, count=n)
    return bits.reshape(*packed.shape[:2], *shape)
