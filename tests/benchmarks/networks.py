"""The benchmark's networks: seeded weights, thresholds for about 8 % firing, and their inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from neuroport.chip.core import run_core
from neuroport.chip.files import read_inputs, read_network
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense, IntSynapse
from neuroport.chip.target import load_target
from neuroport.snn.operators import conv_geometry
from tests.benchmarks.workers.core import spike_totals

RATE = 0.08
_BISECTIONS = 9  # of 17 bits of threshold: to 2.5 %
_LARGE = 50_000  # neurons of which one sample is enough to find thresholds
_WEIGHT_MAX = 126


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its inputs."""

    name: str
    network: IntNetwork
    inputs: IntInputs


def mlp(n_samples: int = 100, n_steps: int = 100, sizes: Sequence[int] = (784, 1200, 1200, 10)) -> Case:
    """Dense layers that reset to zero, on random spikes."""
    return dense_chain("mlp", n_samples, n_steps, sizes, RATE)


def dense_chain(
    name: str, n_samples: int, n_steps: int, sizes: Sequence[int], rate: float, *, input_rate: float = 0.1
) -> Case:
    """Dense layers of these sizes that reset to zero and fire at the rate."""
    rng = np.random.default_rng(1)
    populations = [_population("input", (sizes[0],), role="input")]
    projections = []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        populations.append(_population(f"dense{k + 1}", (n_out,), reset="zero"))
        projections.append(IntProjection(populations[-2].name, populations[-1].name, _dense(rng, n_in, n_out)))
    spikes = (rng.random((n_samples, n_steps, sizes[0])) < input_rate).astype(np.uint8)
    return calibrated(name, populations, projections, IntInputs(n_samples, n_steps, spikes, {}), rate)


def cnn(n_samples: int = 100, n_steps: int = 100, side: int = 28, channels: tuple[int, int] = (12, 64)) -> Case:
    """12c5-2s-64c5-2s-10 with pools that spike and reset by subtraction, on random spikes."""
    rng = np.random.default_rng(2)
    populations = [_population("input", (1, side, side), role="input")]
    projections = []

    def add(name: str, synapse: IntSynapse, shape: tuple[int, ...]) -> None:
        projections.append(IntProjection(populations[-1].name, name, synapse))
        populations.append(_population(name, shape))

    for k, c_out in enumerate(channels):
        before = populations[-1].shape
        conv = _conv(rng, before, (c_out, before[0], 5, 5))
        add(f"conv{k + 1}", conv, conv.geometry.out_shape)
        pool = _depthwise(conv.geometry.out_shape, 2, 64)
        add(f"pool{k + 1}", pool, pool.geometry.out_shape)
    add("dense", _dense(rng, populations[-1].n_neurons, 10), (10,))
    spikes = (rng.random((n_samples, n_steps, 1, side, side)) < 0.1).astype(np.uint8)
    return calibrated("cnn", populations, projections, IntInputs(n_samples, n_steps, spikes, {}))


def resnet20(n_samples: int = 16, n_steps: int = 64, side: int = 32, width: int = 16, n_blocks: int = 3) -> Case:
    """CIFAR's ResNet-20 with random weights: constant input currents, residual sums as two projections."""
    rng = np.random.default_rng(3)
    shape: tuple[int, ...] = (width, side, side)
    populations = [_population("conv1", shape, driven=True)]
    projections = []

    def add(name: str, shape: tuple[int, ...], *incoming: tuple[str, IntSynapse, int]) -> None:
        populations.append(_population(name, shape))
        projections.extend(IntProjection(pre, name, synapse, exponent) for pre, synapse, exponent in incoming)

    for stage in range(3):
        for block in range(n_blocks):
            before = populations[-1]
            stride, c_out = (2, 2 * before.shape[0]) if stage and not block else (1, before.shape[0])
            first = _conv(rng, before.shape, (c_out, before.shape[0], 3, 3), stride, 1)
            shape, name = first.geometry.out_shape, f"block{stage + 1}.{block + 1}"
            add(f"{name}.conv1", shape, (before.name, first, 0))
            skip = (
                _conv(rng, before.shape, (c_out, before.shape[0], 1, 1), stride)
                if stride == 2
                else _depthwise(shape, 1, _WEIGHT_MAX)
            )
            second = _conv(rng, shape, (c_out, c_out, 3, 3), 1, 1)
            add(name, shape, (f"{name}.conv1", second, 0), (before.name, skip, 1))
    # the mean over the image is linear: it is part of the dense weights, as quantize() has it
    weight = np.repeat(_weights(rng, (10, shape[0]), sd=8), math.prod(shape[1:]), axis=1)
    add("dense", (10,), (populations[-1].name, IntDense(weight), 0))
    images = torch.from_numpy(rng.normal(0, 1, (n_samples, 3, side, side)))
    stem = torch.from_numpy(rng.normal(0, 1, (width, 3, 3, 3)))
    currents = np.rint(F.conv2d(images, stem, padding=1).numpy() * 50).clip(-4096, 4095).astype(np.int32)
    return calibrated("resnet20", populations, projections, IntInputs(n_samples, n_steps, None, {"conv1": currents}))


def resnet20_from(bundle: Path) -> Case:
    """A trained network from a bundle that `neuroport deploy` wrote, with its inputs."""
    return Case("resnet20", read_network(bundle / "network.h5"), read_inputs(bundle / "inputs.h5"))


def first(inputs: IntInputs, n_samples: int, n_steps: int) -> IntInputs:
    """The first steps of the first samples."""
    spikes = None if inputs.spikes is None else inputs.spikes[:n_samples, :n_steps]
    return IntInputs(n_samples, n_steps, spikes, {name: x[:n_samples] for name, x in inputs.currents.items()})


def calibrated(
    name: str,
    populations: Sequence[IntPopulation],
    projections: Sequence[IntProjection],
    inputs: IntInputs,
    rate: float = RATE,
) -> Case:
    """The network with thresholds at which each population fires at the rate, from the input on."""
    is_large = sum(p.n_neurons for p in populations) > _LARGE
    sample = first(inputs, 1 if is_large else min(2, inputs.n_samples), inputs.n_steps)
    done: list[IntPopulation] = []
    for p in populations:
        done.append(p if p.role == "input" else _with_threshold(done, p, projections, sample, rate))
    return Case(name, _network([*done[:-1], replace(done[-1], role="readout")], projections), inputs)


def _with_threshold(
    before: Sequence[IntPopulation],
    p: IntPopulation,
    projections: Sequence[IntProjection],
    inputs: IntInputs,
    rate: float,
) -> IntPopulation:
    """The population with the threshold of that rate, found by bisection on the core."""
    low, high = 0.0, math.log2(load_target("loihi-sim").arithmetic.threshold.mantissa_max)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried = replace(p, threshold_mantissa=round(2**middle), role="readout")
        totals = totals_of(_network([*before, tried], projections), inputs)
        found = totals[p.name].sum() / (p.n_neurons * inputs.n_samples * inputs.n_steps)
        low, high = (middle, high) if found > rate else (low, middle)
    return replace(p, threshold_mantissa=round(2**high))


def totals_of(network: IntNetwork, inputs: IntInputs) -> Mapping[str, NDArray[np.int64]]:
    """Spikes per neuron of each population, summed over samples."""
    return spike_totals(run_core(network, inputs, n_threads=1))


def _network(populations: Sequence[IntPopulation], projections: Sequence[IntProjection]) -> IntNetwork:
    """The populations with the projections between them; the last one is the output."""
    names = {p.name for p in populations}
    held = tuple(j for j in projections if j.post in names)
    heads = (IntHead(populations[-1].name, "count"),)
    return IntNetwork("loihi-sim", load_target("loihi-sim").arithmetic, tuple(populations), held, heads)


def _population(
    name: str, shape: tuple[int, ...], *, role: str = "hidden", reset: str = "subtract", driven: bool = False
) -> IntPopulation:
    zeros = np.zeros(shape, np.int32)
    return IntPopulation(name, shape, role, 1, zeros, 6 if driven else 0, 0, reset, 0, 0, driven, 64)  # type: ignore[arg-type]


def _weights(rng: np.random.Generator, shape: tuple[int, ...], sd: float = 40) -> NDArray[np.int32]:
    """Normal weights, even as Loihi holds them where both signs occur."""
    return (2 * np.rint(rng.normal(0, sd / 2, shape))).clip(-_WEIGHT_MAX, _WEIGHT_MAX).astype(np.int32)


def _dense(rng: np.random.Generator, n_in: int, n_out: int) -> IntDense:
    return IntDense(_weights(rng, (n_out, n_in)))


def _conv(
    rng: np.random.Generator, in_shape: tuple[int, ...], shape: tuple[int, ...], stride: int = 1, padding: int = 0
) -> IntConv2d:
    geometry = conv_geometry(in_shape, shape, (stride, stride), (padding, padding), (1, 1), 1)
    return IntConv2d(_weights(rng, shape), geometry)


def _depthwise(in_shape: tuple[int, ...], size: int, weight: int) -> IntConv2d:
    """Sums of size x size neurons of each channel: a pool, or the identity."""
    shape = (in_shape[0], 1, size, size)
    geometry = conv_geometry(in_shape, shape, (size, size), (0, 0), (1, 1), in_shape[0])
    return IntConv2d(np.full(shape, weight, np.int32), geometry)


CASES = {"mlp": mlp, "cnn": cnn, "resnet20": resnet20}
