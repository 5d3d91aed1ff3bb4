"""What the samples are on the chip: spikes of the input population, or input currents as biases of the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.errors import DataError, DoesNotFitError
from neuroport.snn.encode import encode_spikes
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import apply


@dataclass(frozen=True, eq=False)
class IntInputs:
    """Inputs of S samples in chip integers.

    spikes: [S, T, *shape] uint8 of the spike source, or None; currents: for each driven population bias mantissas
    [S, *shape] int32 that include the population's own bias.
    """

    n_samples: int
    n_steps: int
    spikes: NDArray[np.uint8] | None
    currents: Mapping[str, NDArray[np.int32]]

    def part(self, samples: slice) -> IntInputs:
        """Inputs of these samples alone."""
        spikes = None if self.spikes is None else self.spikes[samples]
        n = len(range(self.n_samples)[samples])
        return IntInputs(n, self.n_steps, spikes, {name: x[samples] for name, x in self.currents.items()})

    def sample(self, s: int) -> IntInputs:
        """Inputs of sample s alone."""
        return self.part(slice(s, s + 1))


@dataclass(frozen=True, eq=False)
class EncodedInputs:
    """Inputs for images [S, ...], or event data [S, T, ...], encoded part by part: no more is held than is at work.

    first_sample: what number the first one has, for messages.
    """

    float_network: SpikingNetwork
    network: IntNetwork
    images: NDArray[np.generic]
    n_steps: int
    first_sample: int = 0

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.images)

    def part(self, samples: slice) -> IntInputs:
        """Inputs of these samples alone."""
        first = self.first_sample + samples.indices(self.n_samples)[0]
        return encode_inputs(self.float_network, self.network, self.images[samples], self.n_steps, first_sample=first)


Inputs = IntInputs | EncodedInputs


def check_inputs(network: IntNetwork, inputs: IntInputs) -> None:
    """Refuse inputs of another network: the core's kernels check no bounds.

    Raises:
        DataError: spikes or currents are missing or of another shape, or spikes are not 0 or 1.
    """
    expected: dict[str, tuple[int, ...]] = {p.name: p.shape for p in network.populations if p.driven}
    found: dict[str, tuple[int, ...]] = {name: x.shape[1:] for name, x in inputs.currents.items()}
    n_samples = {len(x) for x in inputs.currents.values()}
    if network.input is not None:
        expected[network.input.name] = (inputs.n_steps, *network.input.shape)
        if inputs.spikes is not None:
            found[network.input.name] = inputs.spikes.shape[1:]
            n_samples.add(len(inputs.spikes))
    if inputs.spikes is not None:
        low, high = inputs.spikes.min(initial=0), inputs.spikes.max(initial=0)
        if inputs.spikes.dtype.kind not in "bui":
            raise DataError(f"input spikes are {inputs.spikes.dtype}; give them as uint8, 1 for a spike")
        if not 0 <= int(low) <= int(high) <= 1:
            raise DataError(f"input spikes hold values from {low} to {high}; a spike is 1, no spike is 0")
    if found != expected or not n_samples <= {inputs.n_samples} or inputs.n_steps < 1:
        raise DataError(
            f"the network needs {inputs.n_samples} samples of at least one step with inputs {expected}, found "
            f"{sorted(n_samples)} samples of {inputs.n_steps} steps with {found}; encode the inputs for this network"
        )


def encode_inputs(
    float_network: SpikingNetwork,
    network: IntNetwork,
    images: NDArray[np.generic],
    n_steps: int,
    *,
    first_sample: int = 0,
) -> IntInputs:
    """Inputs for images [S, ...], or event data [S, T, ...], the same integers for the core and for every backend.

    first_sample: what number the first one has, for messages.

    Raises:
        DoesNotFitError: an input current is beyond the bias range of the chip, with layer, sample and value.
        DataError: values that no rate can express, or events of another length, shape or value.
    """
    if float_network.encoding != "current":
        return IntInputs(len(images), n_steps, encode_spikes(float_network, images, n_steps), {})
    images = images.reshape(len(images), *float_network.input.shape)
    currents: dict[str, NDArray[np.int32]] = {}
    batch = torch.from_numpy(np.ascontiguousarray(images)).double()
    for population in (p for p in network.populations if p.driven):
        total = torch.as_tensor(float_network.by_name[population.name].bias, dtype=torch.float64)
        for projection in float_network.incoming[population.name]:
            if projection.pre == float_network.input.name:
                total = total + apply(projection.operator, batch).reshape(len(images), *population.shape)
        scaled = total.numpy() * (network.input_unit(population) / (1 << population.bias_exponent))
        currents[population.name] = _checked(np.rint(scaled), population.name, network, first_sample)
    return IntInputs(len(images), n_steps, None, currents)


def _checked(mantissa: NDArray[np.float64], name: str, network: IntNetwork, first_sample: int) -> NDArray[np.int32]:
    sheet = network.arithmetic.bias
    low, high = sheet.mantissa_min, sheet.mantissa_max
    if sheet.through == "synapses":  # beside the weights that arrive
        room = network.arithmetic.synaptic_limit - network.weight_sum(name)
        low, high = max(low, -room), min(high, room)
    outside = (mantissa < low) | (mantissa > high)
    if outside.any():
        sample = int(np.argwhere(outside.reshape(len(mantissa), -1).any(1))[0, 0])
        worst = mantissa[sample].reshape(-1)[np.abs(mantissa[sample]).argmax()]
        raise DoesNotFitError(
            f"layer '{name}': sample {first_sample + sample} needs an input current of mantissa {worst:.0f}, "
            f"{network.target} allows {low} to {high}; its pixels lie outside the range "
            f"of the calibration data; scale both the same way"
        )
    return mantissa.astype(np.int32)
