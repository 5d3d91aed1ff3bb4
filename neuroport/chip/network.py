"""The integer network: what a chip is programmed with. Nothing in it is a float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from neuroport.chip.synapses import IntArray, IntSynapse, IntWindow, n_synapses, problem, sum_bound
from neuroport.chip.target import Arithmetic
from neuroport.errors import DoesNotFitError, InvalidNetworkError
from neuroport.snn.network import Reset, Role
from neuroport.snn.operators import Shape

Read = Literal["membrane", "count"]


@dataclass(frozen=True, eq=False)
class IntPopulation:
    """Neurons in chip integers.

    threshold = threshold_mantissa << threshold shift; bias = bias_mantissa << bias_exponent, mantissa of the
    population's shape. `driven`: every sample adds its own input current, a bias mantissa under the same exponent.
    `unit`: membrane integers that stand for v_th = 1 of the float network (the only link back to it); of inputs and
    biases it takes unit << input_shift of the arithmetic. `gate`: a
    max-pool gate (snn/gate.py) behind one IntWindow; threshold, bias, decay and clamp mean nothing, its potential is 0.
    decay, current_decay: of 2^decay_bits, what potential and current lose in a step; None: the current loses all.
    """

    name: str
    shape: Shape
    role: Role
    threshold_mantissa: int
    bias_mantissa: IntArray
    bias_exponent: int
    v_init_int: int
    reset: Reset
    decay: int
    clamp_until: int
    driven: bool
    unit: int
    gate: bool = False
    current_decay: int | None = None

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class IntProjection:
    """Synapses of weight mantissa << exponent."""

    pre: str
    post: str
    synapse: IntSynapse
    exponent: int = 0


@dataclass(frozen=True)
class IntHead:
    """One output: a readout population, read by its potential ('membrane') or by its spikes ('count')."""

    population: str
    read: Read


@dataclass(frozen=True, eq=False)
class IntNetwork:
    """Populations in topological order with their projections, the arithmetic they run in, and the outputs.

    A population of role 'input' is a spike source; under current encoding there is none, and the populations that
    read the image are `driven`. `heads`: the class scores first.

    Raises:
        DoesNotFitError: a number is outside a range of the arithmetic; layer, value, limit and chip are named.
        InvalidNetworkError: a projection runs backwards, or its synapses do not have the populations' shapes.
    """

    target: str
    arithmetic: Arithmetic
    populations: tuple[IntPopulation, ...]
    projections: tuple[IntProjection, ...]
    heads: tuple[IntHead, ...]

    def __post_init__(self) -> None:
        """Check shapes and every range of the arithmetic before anything runs: the core's kernels check no bounds."""
        order = {p.name: k for k, p in enumerate(self.populations)}
        if len(order) < len(self.populations):
            raise InvalidNetworkError("two populations of the integer network share a name; is the file damaged?")
        _check_heads(self)
        for projection in self.projections:
            if not order.get(projection.pre, len(order)) < order.get(projection.post, -1):
                raise InvalidNetworkError(f"projection {projection.pre} -> {projection.post} does not run forward")
            _check_shapes(projection, self.by_name[projection.pre], self.by_name[projection.post])
        for population in self.populations:
            (_check_gate if population.gate else _check_population)(population, self)
        for population in self.populations:
            if not population.gate:
                _check_synaptic_sums(population, self)

    @cached_property
    def by_name(self) -> Mapping[str, IntPopulation]:
        """Populations by name."""
        return {p.name: p for p in self.populations}

    @cached_property
    def incoming(self) -> Mapping[str, tuple[IntProjection, ...]]:
        """Projections into each population."""
        return {p.name: tuple(j for j in self.projections if j.post == p.name) for p in self.populations}

    @cached_property
    def depth(self) -> Mapping[str, int]:
        """Projections on the longest path to each population: the steps by which a chip runs behind the core."""
        depth: dict[str, int] = {}
        for p in self.populations:
            depth[p.name] = max((depth[j.pre] + 1 for j in self.incoming[p.name]), default=0)
        return depth

    @property
    def input(self) -> IntPopulation | None:
        """The spike source, None under current encoding."""
        return next((p for p in self.populations if p.role == "input"), None)

    @property
    def output(self) -> IntPopulation:
        """The population the class scores are read from."""
        return self.by_name[self.heads[0].population]

    @property
    def readout(self) -> Read:
        """How the class scores are read: potentials after the last step, or numbers of spikes."""
        return self.heads[0].read

    @property
    def n_neurons(self) -> int:
        """Neurons on the chip (a spike source is none)."""
        return sum(p.n_neurons for p in self.populations if p.role != "input")

    @property
    def n_compartments(self) -> int:
        """Compartments on the chip: two for a neuron whose reset needs a second one."""
        return sum(p.n_neurons * self.compartments_of(p) for p in self.populations if p.role != "input")

    def compartments_of(self, population: IntPopulation) -> int:
        """Compartments of each neuron; one that only accumulates is never reset."""
        reads = {head.population: head.read for head in self.heads}
        is_reset = reads.get(population.name) != "membrane" and not population.gate
        return 2 if is_reset and population.reset in self.arithmetic.two_compartments else 1

    def input_unit(self, population: IntPopulation) -> int:
        """Integers of an input or a bias that stand for v_th = 1 in one step."""
        return population.unit << self.arithmetic.input_shift

    def weight_sum(self, population: str) -> int:
        """The largest |sum| of weights that the spikes of one step can bring a neuron of a population."""
        incoming = self.incoming[population]
        return sum(sum_bound(j.synapse) << j.exponent for j in incoming if not isinstance(j.synapse, IntWindow))

    def floor_of(self, population: IntPopulation) -> int | None:
        """Where a population's potentials end, None where they do not: a readout that never fires may have no floor."""
        a = self.arithmetic
        is_readout = any(h.population == population.name and h.read == "membrane" for h in self.heads)
        return None if is_readout and not a.readout_floor else a.membrane_floor

    @property
    def n_synapses(self) -> int:
        """Synapses on the chip; shared weights count once per use."""
        return sum(n_synapses(j.synapse) for j in self.projections)


def _check_heads(network: IntNetwork) -> None:
    reads: dict[str, Read] = {}
    for head in network.heads:
        p = network.by_name.get(head.population)
        if p is None or p.role != "readout":
            raise InvalidNetworkError(
                f"output '{head.population}' is not a readout population of the integer network; is the file damaged?"
            )
        if head.read not in ("membrane", "count") or reads.setdefault(p.name, head.read) != head.read:
            raise InvalidNetworkError(
                f"output '{p.name}' is read by '{head.read}'; one of 'membrane' and 'count' is possible, one for all "
                f"outputs of a population"
            )
    if not reads:
        raise InvalidNetworkError("the integer network has no readout population; its answer could not be read")


def _check_shapes(j: IntProjection, pre: IntPopulation, post: IntPopulation) -> None:
    found = problem(j.synapse, pre.n_neurons, post.n_neurons)
    if found or post.role == "input":
        raise InvalidNetworkError(
            f"layer '{post.name}': weights from '{pre.name}' {found or 'end at a spike source'}; is the file from "
            f"another network?"
        )
    if isinstance(j.synapse, IntWindow) != post.gate:
        raise InvalidNetworkError(
            f"layer '{post.name}': {'a gate cannot add weights' if post.gate else 'windows need a gate'} "
            f"(from '{pre.name}'); is the file damaged?"
        )


def _check_gate(p: IntPopulation, network: IntNetwork) -> None:
    if not network.arithmetic.gated_max_pool:
        raise DoesNotFitError(
            f"layer '{p.name}' is a max-pool gate, {network.target}'s neurons cannot choose among their inputs; use a "
            f"recipe with `max_pool: expand`"
        )
    if len(network.incoming[p.name]) != 1 or p.driven or p.role == "input" or p.bias_mantissa.shape != p.shape:
        raise InvalidNetworkError(
            f"gate '{p.name}' reads {len(network.incoming[p.name])} populations; it needs the spikes of exactly one"
        )


def _check_population(p: IntPopulation, network: IntNetwork) -> None:
    a, chip = network.arithmetic, network.target
    if p.bias_mantissa.shape != p.shape:
        raise InvalidNetworkError(
            f"layer '{p.name}': {list(p.bias_mantissa.shape)} biases for {list(p.shape)} neurons; one each is needed"
        )
    if p.role == "input":
        return
    if not 1 <= p.threshold_mantissa <= a.threshold.mantissa_max:
        raise DoesNotFitError(
            f"layer '{p.name}': threshold mantissa {p.threshold_mantissa}, {chip} allows 1 to "
            f"{a.threshold.mantissa_max}; a larger one would never fire; rescale the layer"
        )
    threshold = p.threshold_mantissa << a.threshold.shift
    if threshold >= a.membrane.limit:
        raise DoesNotFitError(
            f"layer '{p.name}': threshold {threshold}, {chip}'s potential ends at {a.membrane.limit}, so it would "
            f"never fire; rescale the layer"
        )
    low, high = int(p.bias_mantissa.min(initial=0)), int(p.bias_mantissa.max(initial=0))
    # a weight has no exponent of its own
    least = a.bias.exponent_min if a.bias.through == "synapses" and (low or high or p.driven) else 0
    outside = low < a.bias.mantissa_min or high > a.bias.mantissa_max
    if outside or not least <= p.bias_exponent <= a.bias.exponent_max:
        raise DoesNotFitError(
            f"layer '{p.name}': bias mantissas {low} to {high} with exponent {p.bias_exponent}, {chip} allows "
            f"{a.bias.mantissa_min} to {a.bias.mantissa_max} with exponent {least} to {a.bias.exponent_max}; "
            f"rescale the layer"
        )
    if abs(p.v_init_int) > a.membrane.limit:
        raise DoesNotFitError(
            f"layer '{p.name}': initial potential {p.v_init_int}, {chip} holds +-{a.membrane.limit}; rescale the layer"
        )
    if p.reset not in a.resets or (p.v_init_int and not a.v_init):
        found = f"reset '{p.reset}'" if p.reset not in a.resets else "an initial potential"
        raise DoesNotFitError(
            f"layer '{p.name}' needs {found}, {chip}'s neuron offers reset {' or '.join(a.resets)}"
            f"{'' if a.v_init else ' and starts at 0'}; choose another recipe or target"
        )
    if p.clamp_until and not a.clamp:
        raise DoesNotFitError(
            f"layer '{p.name}' waits for step {p.clamp_until} (clamp), {chip}'s neurons take what arrives from the "
            f"first step on; use a recipe without clamp (hard-reset-unclamped)"
        )
    if a.fixed_decay is not None and p.decay != a.fixed_decay:
        raise DoesNotFitError(
            f"layer '{p.name}': voltage decay {p.decay}, {chip}'s neuron always has {a.fixed_decay} of "
            f"{1 << a.decay_bits}; use a recipe without a leak of its own"
        )
    if not 0 <= p.decay <= 1 << a.decay_bits:
        raise DoesNotFitError(
            f"layer '{p.name}': voltage decay {p.decay}, {chip} allows 0 to {1 << a.decay_bits}; check the leak"
        )
    if p.current_decay is not None and not 0 <= p.current_decay <= 1 << a.decay_bits:
        raise DoesNotFitError(
            f"layer '{p.name}': current decay {p.current_decay}, {chip} allows 0 to {1 << a.decay_bits}; check the file"
        )


def _check_synaptic_sums(p: IntPopulation, network: IntNetwork) -> None:
    a, chip = network.arithmetic, network.target
    for j in network.incoming[p.name]:
        if isinstance(j.synapse, IntWindow):
            continue
        m = j.synapse.mantissa
        low, high = int(m.min(initial=0)), int(m.max(initial=0))
        sheet = a.weights.excitatory if low >= 0 else a.weights.inhibitory if high <= 0 else a.weights.mixed
        if low < sheet.minimum or high > sheet.maximum or bool((m % sheet.step).any()):
            raise DoesNotFitError(
                f"layer '{p.name}': weights from '{j.pre}' are {low} to {high}, {chip} holds multiples of {sheet.step} "
                f"from {sheet.minimum} to {sheet.maximum}; quantize the layer again"
            )
        if not 0 <= j.exponent <= a.weights.exponent_max:
            raise DoesNotFitError(
                f"layer '{p.name}': weight exponent {j.exponent} from '{j.pre}', {chip} allows 0 to "
                f"{a.weights.exponent_max}; rescale the layer"
            )
        if not m.any():
            raise DoesNotFitError(
                f"layer '{p.name}': all weights from '{j.pre}' are 0 on {chip}, so nothing would arrive; "
                f"check the trained weights, or use a target with more weight bits"
            )
    total = network.weight_sum(p.name)
    if a.bias.through == "synapses":
        total += int(np.abs(p.bias_mantissa.astype(np.int64)).max(initial=0)) << p.bias_exponent >> a.synaptic_shift
    if network.compartments_of(p) > 1:  # the threshold comes back through a synapse
        total += p.threshold_mantissa << a.threshold.shift >> a.synaptic_shift
    if total > a.synaptic_limit:
        raise DoesNotFitError(
            f"layer '{p.name}': one step can add weights up to {total}, {chip}'s accumulator holds "
            f"{a.synaptic_limit} before it overflows; use smaller weights (a smaller threshold) or fewer inputs"
        )
