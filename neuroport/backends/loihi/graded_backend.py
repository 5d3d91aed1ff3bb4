"""The `lava-graded` backend: the same network on Lava, with each sample's input currents sent as graded spikes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import IntWindow, sum_bound
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError


class GradedLavaBackend(LavaBackend):
    """A source sends the current of each neuron in every step, as the payload of a spike through a synapse of weight 1.

    Neurons shift what arrives by 6 bits, as all synaptic input, so payloads are currents in steps of 64; they reach the
    potential in the step in which a bias would, one step later on Lava's clock. Nothing else differs: the integers are
    those of biases, and core and oracle compute them as such. What would make the two differ is refused: a current that
    lingers, and sums beyond the accumulator, which a bias by-passes.
    """

    name = "lava-graded"
    summary = "Intel's Lava simulator, input currents as graded spikes"
    builder = "graded_network"

    def narrowed(self, target: Target) -> Target:
        """The target with currents, and with them biases, in steps of what one unit of payload adds.

        Raises:
            DoesNotFitError: its spikes are binary.
        """
        _payload_bits(target)
        a = target.arithmetic
        bias = a.bias.model_copy(update={"exponent_min": max(a.bias.exponent_min, a.synaptic_shift)})
        return target.model_copy(update={"arithmetic": a.model_copy(update={"bias": bias})})

    def check(self, job: Job) -> None:
        """Refuse currents that no payload carries.

        Raises:
            DoesNotFitError: layer, value, limit and remedy are named.
        """
        bits = _payload_bits(job.target)
        super().check(job)
        if not job.inputs.currents:
            raise DoesNotFitError(
                f"backend '{self.name}' sends input currents as graded spikes, this network has none: its input is "
                f"binary spikes; use a recipe with `input: current`, or --backend lava"
            )
        for name, mantissa in job.inputs.currents.items():
            _check_population(job.network, job.network.by_name[name], mantissa.astype(np.int64), bits)


def _payload_bits(target: Target) -> int:
    bits = target.geometry.spike_payload_bits
    if not bits:
        found = "does not say how many bits a spike carries" if bits is None else "has binary spikes"
        raise DoesNotFitError(
            f"target '{target.name}' {found} (geometry.spike_payload_bits), graded spikes need payloads; use --target "
            f"loihi2, or --backend lava, which takes input currents as biases"
        )
    return bits


def _check_population(network: IntNetwork, p: IntPopulation, mantissa: NDArray[np.int64], bits: int) -> None:
    a, instead = network.arithmetic, "use --backend lava, which takes input currents as biases"
    exact, step = mantissa << p.bias_exponent, 1 << a.synaptic_shift
    if p.current_decay not in (None, 1 << a.decay_bits):
        raise DoesNotFitError(
            f"layer '{p.name}': current decay {p.current_decay}, so that what arrives as graded spikes would linger, "
            f"which a bias does not; {instead}"
        )
    uneven = exact[exact % step != 0]
    if uneven.size:
        raise DoesNotFitError(
            f"layer '{p.name}': input currents such as {uneven[0]}, graded spikes carry multiples "
            f"of {step}; deploy with --backend {GradedLavaBackend.name}, which rounds them so, or {instead}"
        )
    largest, limit = int(np.abs(exact).max(initial=0)) // step, (1 << (bits - 1)) - 1
    if largest > limit:
        raise DoesNotFitError(
            f"layer '{p.name}': an input current needs a payload of {largest}, spikes of {bits} bits carry up to "
            f"{limit}; correct geometry.spike_payload_bits of '{network.target}', or {instead}"
        )
    arriving = sum(
        sum_bound(j.synapse) << j.exponent for j in network.incoming[p.name] if not isinstance(j.synapse, IntWindow)
    )
    if largest + arriving > a.synaptic_limit:
        raise DoesNotFitError(
            f"layer '{p.name}': payloads up to {largest} and weights up to {arriving} can add up in one step, "
            f"{network.target}'s accumulator holds {a.synaptic_limit}; {instead}"
        )
