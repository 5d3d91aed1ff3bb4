"""What SpiNNaker's neurons, as sPyNNaker has them, do not do: refused before anything is written."""

from __future__ import annotations

from neuroport.chip.inputs import IntInputs, check_inputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.errors import DoesNotFitError

NEURONS = ("if-trunc-delta", "if-curr-delta")
_REMEDY = "deploy with --target spinnaker1 and a recipe that resets to zero (hard-reset-unclamped)"


def check_exportable(network: IntNetwork, inputs: IntInputs) -> None:
    """Refuse what the export cannot express exactly.

    Raises:
        DoesNotFitError: layer, value and remedy are named. DataError: inputs of another network.

    Source: sPyNNaker 1!7.4.1, spynnaker/pyNN/models/neuron/builds/__init__.py: none of its neurons resets by
    subtraction or waits; ranges of weights, sums and potentials are those of the datasheet, checked by IntNetwork.
    """
    for p in network.populations:
        if p.role != "input":
            _check_neurons(network, p)
    if network.arithmetic.neuron not in NEURONS:
        raise DoesNotFitError(
            f"target '{network.target}' computes differently from sPyNNaker's neurons ({', '.join(NEURONS)}); {_REMEDY}"
        )
    check_inputs(network, inputs)
    for name, current in inputs.currents.items():
        room = network.arithmetic.synaptic_limit - network.weight_sum(name)
        largest = max(int(current.max(initial=0)), -int(current.min(initial=0)))
        if largest > room:
            raise DoesNotFitError(
                f"layer '{name}': an input current of {largest} beside weights of up to {network.weight_sum(name)}, "
                f"{network.target} adds up {network.arithmetic.synaptic_limit} in a step; scale the samples as in "
                f"training"
            )


def _check_neurons(network: IntNetwork, p: IntPopulation) -> None:
    found = ""
    if p.gate:
        found = "is a max-pool gate, which sPyNNaker has no neuron for; use a recipe with `max_pool: expand`, and"
    elif p.reset != "zero" and not _only_accumulates(network, p):
        found = f"resets by '{p.reset}', sPyNNaker's neurons only to zero;"
    elif (floor := network.floor_of(p)) is not None and p.v_init_int < floor:
        found = f"starts at {p.v_init_int}, below {floor} where its potentials end before its first input arrives;"
    elif p.v_init_int >= p.threshold_mantissa << network.arithmetic.threshold.shift:
        found = f"starts at {p.v_init_int}, at or above its threshold, and fires before its first input arrives;"
    elif p.v_init_int and p.decay:
        found = f"starts at {p.v_init_int} and leaks before its first input arrives, so that it would start below;"
    elif p.clamp_until:
        found = f"waits until step {p.clamp_until} (clamp), sPyNNaker's neurons take what arrives from the first step;"
    elif p.current_decay is not None and p.current_decay < 1 << network.arithmetic.decay_bits:
        found = f"keeps a part of its current (decay {p.current_decay}), a delta synapse keeps none;"
    if found:
        raise DoesNotFitError(f"layer '{p.name}' {found} {_REMEDY}")


def _only_accumulates(network: IntNetwork, p: IntPopulation) -> bool:
    return any(head.population == p.name and head.read == "membrane" for head in network.heads)
