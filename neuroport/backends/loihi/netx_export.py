"""An integer network as the HDF5 file that lava-dl's netx reads; what netx cannot hold is refused before it is written.

The file is a chain of layers: `layer/0`, `layer/1`, ... (lava-dl 0.6.0, lava/lib/dl/netx/hdf5.py l.566-694). Reset it
between samples with `hdf5.Network(..., reset_interval=n_steps, reset_offset=reset_offset(network))`.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.backends.loihi.backend import computes_as_lava, is_plain
from neuroport.backends.loihi.netx_weights import dense_problem, kernel_problem
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntWindow, as_sparse
from neuroport.errors import DoesNotFitError

EXPONENT = 6  # netx shifts biases as weights: bias_exp is fixed (hdf5.py l.158)
_ALL_DECAYS = 4096  # nothing of a current is left in the next step
_MATRIX = 1 << 24  # weights of a dense layer that stands for another kind of synapse
_OTHERWISE = "use --backend lava, whose processes neuroport builds itself"


@dataclass(frozen=True, eq=False)
class NetxLayer:
    """One group of the file: its scalars and arrays by their path in it."""

    kind: str
    fields: Mapping[str, Any]


def write_netx(path: Path, network: IntNetwork) -> None:
    """Write the network for lava-dl's netx; nothing is written if it is refused.

    Raises:
        DoesNotFitError: what netx cannot hold, or would run differently without a word; layer, value and remedy are
        named.
    """
    layers = netx_layers(network)
    content = io.BytesIO()  # on a full disk the HDF5 library itself would crash
    with h5py.File(content, "w") as f:
        for k, layer in enumerate(layers):
            group = f.create_group(f"layer/{k}")
            group.create_dataset("type", data=np.array([layer.kind], "S10"))  # as SLAYER writes it
            for name, value in layer.fields.items():
                group.create_dataset(name, data=np.bytes_(value) if isinstance(value, str) else value)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(content.getbuffer())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def reset_offset(network: IntNetwork) -> int:
    """netx's reset_offset for samples one behind the other: a source of spikes costs a step, input currents none.

    Its default of 0 would reset a network behind a source of spikes one step early, and mix its samples.
    """
    return 1 if network.input is not None else 0


def netx_layers(network: IntNetwork) -> list[NetxLayer]:
    """The layers of the file.

    Raises:
        DoesNotFitError: see write_netx.
    """
    if not computes_as_lava(network.arithmetic):
        raise DoesNotFitError(
            f"target '{network.target}' computes differently from Lava's fixed-point models, which netx builds; deploy "
            f"to a Loihi target"
        )
    _check_chain(network)
    source, layers, image = network.populations[0], [], None
    if len(network.populations) > 1:
        first = network.incoming[network.populations[1].name][0].synapse
        if isinstance(first, IntConv2d) and is_plain(first):
            image = first.geometry.in_shape
    fields: dict[str, Any] = {"shape": np.array(image or (source.n_neurons,))}
    if source.role != "input":
        _check_neurons(source)
        _check_currents(source)
        fields.update(_neuron(source), weight=1, bias=0)  # an image's value is the current itself
    layers.append(NetxLayer("input", fields))
    for p in network.populations[1:]:
        (j,) = network.incoming[p.name]
        _check_neurons(p)
        if isinstance(j.synapse, IntConv2d) and is_plain(j.synapse) and image == j.synapse.geometry.in_shape:
            layers.append(_conv(j, j.synapse, p))
            image = j.synapse.geometry.out_shape
        else:
            if image is not None and (len(layers) > 1 or source.driven):  # of a bare source netx flattens nothing
                layers.append(NetxLayer("flatten", {"shape": np.array([math.prod(image), 1, 1])}))
            layers.append(_dense(j, p, network.by_name[j.pre].n_neurons))
            image = None
    return layers


def _refuse(name: str, found: str, do: str = _OTHERWISE) -> NoReturn:
    raise DoesNotFitError(f"layer '{name}' {found}; {do}")


def _check_chain(network: IntNetwork) -> None:
    """netx connects each layer to the one before it, and has one output: the last."""
    for k, p in enumerate(network.populations):
        if p.gate:
            _refuse(p.name, "is a max-pool gate, netx has dense and convolutional layers only")
        before, incoming = network.populations[k - 1].name if k else None, network.incoming[p.name]
        if k and (p.role == "input" or p.driven):
            _refuse(p.name, "reads the input, too, netx's layers read the one before them and nothing else")
        if len(incoming) > 1:
            pres = ", ".join(f"'{j.pre}'" for j in incoming)
            _refuse(p.name, f"adds up {len(incoming)} projections ({pres}), netx's layers read the one before them")
        if k and [j.pre for j in incoming] != [before]:
            found = f"reads '{incoming[0].pre}'" if incoming else "reads nothing"
            _refuse(p.name, f"{found}, netx's layers read the one before them, '{before}'")
        if not k and p.role != "input" and not p.driven:
            _refuse(p.name, "reads nothing but its bias, netx's first layer needs an input")
    outputs, last = [head.population for head in network.heads], network.populations[-1].name
    if outputs != [last]:
        others = ", ".join(f"'{name}'" for name in outputs if name != last)
        _refuse(others.strip("'"), f"is an output, a file of netx has one, its last layer '{last}'")


def _check_neurons(p: IntPopulation) -> None:
    if p.reset != "zero":
        _refuse(p.name, f"has reset '{p.reset}', netx's CUBA neuron only resets to zero", "use a recipe that does")
    if p.v_init_int:
        _refuse(p.name, f"starts at a potential of {p.v_init_int}, netx's neurons start at 0", "use another recipe")
    if p.clamp_until:
        _refuse(p.name, f"waits for {p.clamp_until} steps, netx has no clamp", "use a recipe with `clamp: 0`")
    if not 1 <= p.threshold_mantissa <= 131071:
        _refuse(p.name, f"has threshold {p.threshold_mantissa}, vThMant has 17 bits (1 to 131071)", "quantize again")


def check_input_decay(p: IntPopulation) -> None:
    """Refuse input neurons that keep some of their current: it arrives where spikes do, here it is a bias.

    Raises:
        DoesNotFitError: layer and decay are named.
    """
    if p.current_decay not in (None, _ALL_DECAYS):
        _refuse(
            p.name,
            f"has current decay {p.current_decay}, so that what arrives at netx's input neurons would linger, which "
            f"neuroport's input currents do not (they are biases, as in lava-dl's own tests)",
        )


def _check_currents(p: IntPopulation) -> None:
    check_input_decay(p)
    if p.bias_exponent < EXPONENT:
        _refuse(
            p.name,
            f"takes input currents in steps of {1 << p.bias_exponent}, netx's input neurons in steps of 64",
            "deploy it with --via netx, which rounds them so",
        )


def _neuron(p: IntPopulation) -> dict[str, Any]:
    """netx takes 1 from iDecay (hdf5.py l.156), and Lava adds it again."""
    return {
        "neuron/type": "CUBA",
        "neuron/iDecay": _ALL_DECAYS if p.current_decay is None else p.current_decay,
        "neuron/vDecay": p.decay,
        "neuron/vThMant": p.threshold_mantissa,
        "neuron/refDelay": 1,
        "neuron/gradedSpike": False,
    }


def _biases(p: IntPopulation) -> NDArray[np.int64]:
    """In netx's units, of the population's shape."""
    exact = p.bias_mantissa.astype(np.int64) << p.bias_exponent
    odd, rounded = exact[exact % (1 << EXPONENT) != 0], exact >> EXPONENT
    if odd.size:
        _refuse(
            p.name,
            f"has {odd.size:,} biases that are no multiples of 64 (the first is {odd[0]}), netx holds bias << 6",
            "deploy it with --via netx, which rounds them so",
        )
    low, high = int(rounded.min()), int(rounded.max())
    if low < -4096 or high > 4095:
        _refuse(
            p.name,
            f"has biases {low} to {high} in units of 64, Lava's register holds -4096 to 4095",
            "use a smaller scale",
        )
    return rounded


def _weights(j: IntProjection, mantissa: NDArray[np.int32]) -> NDArray[np.int64]:
    return mantissa.astype(np.int64) << j.exponent


def _check_weights(j: IntProjection, problem: str) -> None:
    if problem:
        because = f" (mantissas with exponent {j.exponent}, which netx does not have)" if j.exponent else ""
        raise DoesNotFitError(f"layer '{j.post}': {problem}{because}")


def _dense(j: IntProjection, p: IntPopulation, n_in: int) -> NetxLayer:
    """Any other synapses become a matrix with zeros where there are none: the same sums."""
    if isinstance(j.synapse, IntWindow):
        _refuse(j.post, "reads windows, netx has dense and convolutional layers only")
    if isinstance(j.synapse, IntDense):
        weight = _weights(j, j.synapse.mantissa)
    else:
        if n_in * p.n_neurons > _MATRIX:
            _refuse(
                j.post,
                f"has a pool, or a transposed, cut or reshaped convolution, as a matrix of {n_in:,} x {p.n_neurons:,} "
                f"weights, neuroport writes at most {_MATRIX:,}",
            )
        sparse = as_sparse(j.synapse)
        weight = np.zeros((p.n_neurons, n_in), np.int64)
        rows = np.repeat(np.arange(p.n_neurons), np.diff(sparse.row_start))
        weight[rows, sparse.columns] = _weights(j, sparse.mantissa)
    _check_weights(j, dense_problem(weight))
    bias = _biases(p).reshape(-1)
    fields = {"shape": np.array([p.n_neurons]), "inFeatures": n_in, "outFeatures": p.n_neurons, **_neuron(p)}
    return NetxLayer("dense", {**fields, "weight": weight.astype(np.int32), **_bias(bias)})


def _conv(j: IntProjection, synapse: IntConv2d, p: IntPopulation) -> NetxLayer:
    g, weight = synapse.geometry, _weights(j, synapse.mantissa)
    _check_weights(j, kernel_problem(weight))
    bias = _biases(p).reshape(g.out_shape)
    if (bias == bias[:, :1, :1]).all():
        bias = bias[:, 0, 0]
    fields = {
        "shape": np.array(g.out_shape),
        "inChannels": g.in_shape[0],
        "outChannels": g.out_shape[0],
        "kernelSize": np.array(g.kernel),
        "stride": np.array(g.stride),
        "padding": np.array(g.padding),
        "dilation": np.array(g.dilation),
        "groups": g.groups,  # a scalar: netx fails at an array of one (hdf5.py l.510)
        **_neuron(p),
    }
    # a bias per neuron is read as [W, H, C] (blocks/process.py l.59-61)
    return NetxLayer("conv", {**fields, "weight": weight.astype(np.int32), **_bias(bias.T)})


def _bias(bias: NDArray[np.int64]) -> dict[str, Any]:
    return {"bias": np.ascontiguousarray(bias).astype(np.int32)} if bias.any() else {}
