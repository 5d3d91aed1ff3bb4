"""Networks trained with SLAYER: a file of lava-dl's netx as an integer network, exactly what netx would run.

What netx would change or ignore without a word is refused by layer: weights that 8 bits do not hold, delays of
convolutions, refractory periods, exponents, graded spikes. Source: lava-dl 0.6.0, lava/lib/dl/netx/hdf5.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from neuroport.backends.loihi.netx_file import Group, read_groups, shape_problem
from neuroport.backends.loihi.netx_weights import dense_problem, kernel_problem
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntSynapse
from neuroport.chip.target import Arithmetic, Target, load_target
from neuroport.errors import DoesNotFitError, UsageError
from neuroport.snn.operators import Image, Shape, conv_geometry

TARGETS = ("loihi-sim", "loihi1", "loihi2")  # that compute as Lava does
_NEVER = 131071  # the largest threshold of 17 bits: potentials end 63 above it
_FULL = 4096
_UNUSED = {  # what netx reads nowhere, and where it may be what it is without it
    "refDelay": (1, "a refractory period"),
    "wgtExp": (0, "a weight exponent"),
    "weight_exp": (0, "a weight exponent"),
    "gradedSpike": (0, "graded spikes"),
    "messageBits": (0, "graded spikes"),
}


@dataclass(frozen=True, eq=False)
class NetxNetwork:
    """A file that was read.

    network: in the target's arithmetic, which is Lava's; notes: what a user should know of it; transform: (weight,
    bias) of the input layer's neurons, whose current is weight * x + bias, cut to a whole number; None behind a source
    of spikes; never: layers whose threshold nothing reaches in the file. Ours, the chip's largest, is reached at the
    very end of the potential.
    """

    network: IntNetwork
    notes: tuple[str, ...]
    transform: tuple[int, int] | None
    never: tuple[str, ...]


def read_netx(path: str | Path, *, input_shape: Shape | None = None, target: str = "loihi-sim") -> NetxNetwork:
    """The network of a .net file: input, dense, conv and flatten layers of CUBA neurons.

    Args:
        path: as SLAYER's export_hdf5 and neuroport write it.
        input_shape: [C, H, W] of the input where the file does not say it.
        target: whose ranges it must fit: one of TARGETS.

    Raises:
        ModelFileError: no such file, or no file of netx. UnsupportedOperatorError: a layer of another kind, or one that
        netx would run differently from what the file says. DoesNotFitError: a number outside the chip's range.
        UsageError: an input_shape that cannot be, another target.
    """
    if target not in TARGETS:
        raise UsageError(f"--target '{target}' cannot hold a file of netx; {', '.join(TARGETS)} can")
    problem = "" if input_shape is None else shape_problem(tuple(input_shape))
    if input_shape is not None and problem:
        raise UsageError(f"--input-shape {list(input_shape)}: {problem}; give C,H,W: 2,34,34")
    return _Reader(read_groups(Path(path)), input_shape, load_target(target)).run()


class _Reader:
    """Reads layer by layer. `image`: [C, H, W] of the neurons before, None where they are flat."""

    def __init__(self, groups: list[Group], input_shape: Shape | None, target: Target) -> None:
        self.target = target
        self.groups, self.image = groups, None if input_shape is None else _image(input_shape)
        self.given = input_shape
        self.populations: list[IntPopulation] = []
        self.projections: list[IntProjection] = []
        self.notes: list[str] = []
        self.never: list[str] = []
        self.transform: tuple[int, int] | None = None
        self.flatten_next = False

    def run(self) -> NetxNetwork:
        for k, group in enumerate(self.groups):
            kind = group.text("type")
            if kind == "input":
                self._input(k, group)
            elif kind == "flatten":
                self.flatten_next = True
            elif kind == "conv":
                self._conv(group)
            elif kind == "dense":
                self._dense(group)
            else:
                group.refuse(
                    "is of another kind than input, dense, conv and flatten, which is all that netx runs of CUBA "
                    "networks without recurrence",
                    "leave it out of the file, or deploy the network from PyTorch",
                )
        if not self.projections:
            self.groups[-1].refuse("ends a file without dense or conv layers", "check the file")
        return self._finished()

    def _finished(self) -> NetxNetwork:
        last = self.populations[-1]
        never = last.threshold_mantissa >= _NEVER
        self.populations[-1] = replace(last, role="readout")
        arithmetic = self.target.arithmetic
        if any(_is_odd(j.synapse) for j in self.projections):
            arithmetic = _with_odd_weights(arithmetic)
            self.notes.append(
                "mixed signs with odd weights of 7 bits: Loihi holds them doubled, under exponent -1; `neuroport map` "
                "takes even ones only"
            )
        heads = (IntHead(last.name, "membrane" if never else "count"),)
        network = IntNetwork(self.target.name, arithmetic, tuple(self.populations), tuple(self.projections), heads)
        return NetxNetwork(network, tuple(self.notes), self.transform, tuple(self.never))

    def _input(self, k: int, group: Group) -> None:
        if k:
            group.refuse("is an input behind other layers, netx would start a second network there", "check the file")
        shape = group.shape() if "shape" in group else self.given
        if shape is None:
            group.refuse("has no shape, its neurons cannot be counted", "give it with --input-shape C,H,W")
        if self.given is not None and math.prod(self.given) != math.prod(shape):
            group.refuse(f"has shape {list(shape)}, --input-shape says {list(self.given)}", "leave --input-shape out")
        self.image = _image(shape)
        if "neuron" not in group:
            self.populations.append(_source(shape))
            return
        self.transform = (
            group.number("weight") if "weight" in group else 64,  # netx's own defaults (hdf5.py l.279-287)
            group.number("bias") if "bias" in group else 0,
        )
        zeros = np.zeros(shape, np.int32)
        made = self._population(group, shape, zeros, driven=True)
        if made.current_decay != _FULL:
            self.notes.append(
                f"layer '{group.name}' has current decay {made.current_decay}: its input is added to the potential as "
                f"a bias, which is how lava-dl feeds it; in SLAYER it passes through the current first"
            )
        self.populations.append(made)

    def _conv(self, group: Group) -> None:
        if self.flatten_next:
            group.refuse("follows a flatten layer, which netx would apply behind it", "remove the flatten layer")
        if not self.populations:
            if self.image is None:
                group.refuse(
                    "is the first layer, netx needs the shape of the image before it", "give --input-shape C,H,W"
                )
            self.populations.append(_source(self.image))
        if self.image is None:
            group.refuse("reads a flat layer, netx needs an image there", "check the file")
        if "groups" in group.values and np.ndim(group.values["groups"]) != 0:
            group.refuse("has its groups in an array, at which netx fails", "write them as a scalar")
        weight = group.whole("weight")
        if weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER's axis of time
            weight = weight[..., 0]
        stride, padding, dilation = (group.pair(key) for key in ("stride", "padding", "dilation"))
        n_groups = group.number("groups")
        fits = weight.ndim == 4 and weight.size and n_groups > 0 and weight.shape[1] * n_groups == self.image[0]
        if not fits or weight.shape[0] % n_groups:
            group.refuse(
                f"has weights {list(weight.shape)} in {n_groups} groups, which do not fit an image of "
                f"{list(self.image)}",
                "check the file",
            )
        if min(*stride, *dilation) < 1 or min(padding) < 0:
            found = f"stride {list(stride)}, dilation {list(dilation)} and padding {list(padding)}"
            group.refuse(f"has {found}, netx needs 1 or more, padding 0 or more", "check the file")
        _check(group, kernel_problem(weight))
        kernel = (weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3])
        geometry = conv_geometry(self.image, kernel, stride, padding, dilation, n_groups)
        if group.shape() != geometry.out_shape:
            group.refuse(
                f"says its shape is {list(group.shape())}, its kernel makes {list(geometry.out_shape)}",
                "check the file",
            )
        bias = self._bias(group, geometry.out_shape)
        self._add(group, IntConv2d(weight.astype(np.int32), geometry), geometry.out_shape, bias)
        self.image = geometry.out_shape

    def _dense(self, group: Group) -> None:
        n_out = math.prod(group.shape())
        weight = group.whole("weight") if "weight/real" not in group.values else np.zeros((0, 0, 0), np.int64)
        if weight.ndim == 1 and weight.size % n_out == 0:
            weight = weight.reshape(n_out, -1)
        if weight.ndim != 2 or len(weight) != n_out or not weight.size:
            group.refuse(f"has weights {list(weight.shape)} for {n_out} neurons", "check the file")
        if not self.populations:
            shape = self.given if self.given is not None else (weight.shape[1],)
            self.populations.append(_source(shape))
        before = self.populations[-1]
        behind_neurons = before.role != "input"
        is_flat = self.image is None or not behind_neurons
        if behind_neurons and self.flatten_next == is_flat:
            found = "flattened already" if is_flat else f"an image of {list(before.shape)} that nothing flattens"
            group.refuse(f"reads {found}, where netx fails", "put one flatten layer between an image and a dense layer")
        if before.n_neurons != weight.shape[1]:
            do = "check the file" if behind_neurons or self.given is None else "check the file, or --input-shape"
            group.refuse(f"reads {weight.shape[1]} neurons of the {before.n_neurons} before it", do)
        _check(group, dense_problem(weight))
        self.flatten_next, self.image = False, None
        self._add(group, IntDense(weight.astype(np.int32)), (n_out,), self._bias(group, (n_out,)))

    def _add(self, group: Group, synapse: IntSynapse, shape: Shape, bias: Any) -> None:
        if "delay" in group and group.whole("delay").any():
            group.refuse(
                f"delays its inputs by up to {group.whole('delay').max()} steps, neuroport's networks have no delays "
                f"of single synapses",
                "train it without (SLAYER: delay=False)",
            )
        before = self.populations[-1].name
        self.populations.append(self._population(group, shape, bias, driven=False))
        self.projections.append(IntProjection(before, group.name, synapse))

    def _bias(self, group: Group, shape: Shape) -> Any:
        """[*shape]; netx's are of one per channel, or of one per neuron in [W, H, C] (blocks/process.py l.57-71)."""
        if "bias" not in group:
            return np.zeros(shape, np.int32)
        bias = group.whole("bias")
        if bias.shape == tuple(reversed(shape)):
            return bias.T.astype(np.int32)
        if bias.shape != shape[:1]:
            group.refuse(f"has biases of shape {list(bias.shape)} for neurons {list(shape)}", "check the file")
        return np.broadcast_to(bias.reshape(-1, *[1] * (len(shape) - 1)), shape).astype(np.int32)

    def _population(self, group: Group, shape: Shape, bias: Any, *, driven: bool) -> IntPopulation:
        """netx makes a dense layer without neurons one that accumulates (hdf5.py l.348-358)."""
        values = {"iDecay": 0, "vDecay": _FULL, "vThMant": _NEVER}
        if "neuron" in group:
            kind = group.text("neuron/type")
            if kind not in ("CUBA", "LOIHI"):
                group.refuse(f"has {kind} neurons, CUBA (or LOIHI) neurons are read", "train it with slayer.block.cuba")
            values = {key: group.number(f"neuron/{key}") for key in values}
            self._check_unused(group)
        elif group.text("type") != "dense":
            group.refuse("has no neurons, at which netx fails", "export it with its neurons")
        else:
            self.notes.append(
                f"layer '{group.name}' has no neurons: as netx does, it sums its currents and never fires"
            )
            self.never.append(group.name)
        threshold = values["vThMant"]
        if threshold > _NEVER:
            self.notes.append(
                f"layer '{group.name}': threshold {threshold} is beyond Loihi's 17 bits and never reached; held as "
                f"{_NEVER}, the largest"
            )
            self.never.append(group.name)
            threshold = _NEVER
        return IntPopulation(
            name=group.name,
            shape=shape,
            role="hidden",
            threshold_mantissa=threshold,
            bias_mantissa=bias,
            bias_exponent=6,
            v_init_int=0,
            reset="zero",
            decay=values["vDecay"],
            clamp_until=0,
            driven=driven,
            unit=threshold << 6,
            current_decay=values["iDecay"],
        )

    @staticmethod
    def _check_unused(group: Group) -> None:
        for key, (neutral, meaning) in _UNUSED.items():
            if f"neuron/{key}" in group.values and group.number(f"neuron/{key}") != neutral:
                group.refuse(
                    f"has {key} {group.number(f'neuron/{key}')}, {meaning}, which netx ignores without a word",
                    f"export it with {key} {neutral}",
                )


def _source(shape: Shape) -> IntPopulation:
    return IntPopulation("input", shape, "input", 1, np.zeros(shape, np.int32), 0, 0, "zero", 0, 0, False, 1)


def _image(shape: Shape) -> Image | None:
    return cast(Image, tuple(shape)) if len(shape) == 3 else None


def _check(group: Group, problem: str) -> None:
    if problem:
        raise DoesNotFitError(f"layer '{group.name}': {problem}")


def _is_odd(synapse: IntSynapse) -> bool:
    m = synapse.mantissa if isinstance(synapse, IntDense | IntConv2d) else np.zeros(1, np.int32)
    return bool(m.min() < 0 < m.max() and (m % 2).any())


def _with_odd_weights(a: Arithmetic) -> Arithmetic:
    """Every mixed weight; which of them Loihi holds was checked."""
    mixed = a.weights.mixed.model_copy(update={"step": 1})
    return a.model_copy(update={"weights": a.weights.model_copy(update={"mixed": mixed})})
