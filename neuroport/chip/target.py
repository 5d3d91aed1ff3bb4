"""A target datasheet as checked data: ranges, arithmetic, backends and the toolchain that runs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from neuroport.chip.sources import SECTIONS, Sheet, Source, entry_of, leaves, unsourced, wrong_entry
from neuroport.datasheets import load_document
from neuroport.errors import UsageError
from neuroport.toolchains import ToolchainSpec

Bits = Annotated[int, Field(gt=0, le=64)]
Count = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(ge=0)]
Joules = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Watts = Annotated[float, Field(gt=0, lt=1000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, lt=1000, allow_inf_nan=False)]


class WeightRange(Sheet):
    """Weights a synapse can hold: minimum, minimum + step, ... maximum."""

    minimum: int
    maximum: int
    step: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.minimum % self.step or self.maximum % self.step:
            raise ValueError(f"minimum and maximum must be multiples of the step {self.step}")
        return self


class WeightSheet(Sheet):
    """Weight formats by the signs that occur in one projection; value = mantissa << exponent."""

    mixed: WeightRange
    excitatory: WeightRange
    inhibitory: WeightRange
    exponent_max: Annotated[int, Field(ge=0, le=16)]

    @model_validator(mode="after")
    def _both_signs(self) -> Self:
        if not (self.mixed.minimum < 0 < self.mixed.maximum):
            raise ValueError("mixed weights need a negative minimum and a positive maximum")
        if not (self.excitatory.minimum <= 0 < self.excitatory.maximum):
            raise ValueError("excitatory weights need a positive maximum, and 0 among them")
        if not (self.inhibitory.minimum < 0 <= self.inhibitory.maximum):
            raise ValueError("inhibitory weights need a negative minimum, and 0 among them")
        return self


class Register(Sheet):
    """A signed register of the neuron. saturate: to +-(2^(bits-1) - 1); wrap: past the end to the other end."""

    bits: Annotated[int, Field(ge=8, le=40)]
    overflow: Literal["wrap", "saturate"]

    @property
    def limit(self) -> int:
        """Largest magnitude that is neither wrapped nor saturated."""
        return (1 << (self.bits - 1)) - 1


class Threshold(Sheet):
    """Threshold in membrane units = mantissa << shift; the neuron fires where v `compare` threshold."""

    mantissa_max: Count
    shift: Annotated[int, Field(ge=0, le=16)]
    compare: Literal[">", ">="]


class Bias(Sheet):
    """Bias in membrane units = mantissa << exponent; one exponent per population.

    through: 'membrane' adds it there; 'synapses' brings it, and input currents, as weights of a source that fires in
    every step: its integers are those of weights, and it fills the accumulators with them.
    """

    through: Literal["membrane", "synapses"] = "membrane"
    mantissa_min: int
    mantissa_max: Count
    exponent_min: Annotated[int, Field(ge=0, le=16)] = 0
    exponent_max: Annotated[int, Field(ge=0, le=16)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.exponent_min > self.exponent_max:
            raise ValueError(f"exponent_min {self.exponent_min} is above exponent_max {self.exponent_max}")
        return self

    @property
    def limit(self) -> int:
        """Largest magnitude of mantissa << exponent on both signs."""
        return min(-self.mantissa_min, self.mantissa_max) << self.exponent_max


class Arithmetic(Sheet):
    """The integer rules of one chip, as chip/oracle.py executes them.

    accumulators: one sum of all weights that arrive ('joint'), or one of the excitatory and one of the inhibitory ones,
    each held at the accumulator's end before they are subtracted ('split'). membrane_floor: potentials end there, those
    of readouts that never fire only with readout_floor. leak: 'added' leaves of v what decay does not take and adds the
    input; 'closed-form' moves v towards the input by decay of 2^decay_bits of the way, rounded up: the solution of a
    leaky neuron whose input is steady for a step. fixed_decay: the one decay that all neurons have, 0 for none. clamp:
    whether a population can wait for the steps of a recipe's clamp. neuron: the vendor's name of the neuron.
    two_compartments: resets that take a second compartment per neuron: one integrates and never fires; the other reads
    its potential, fires, and takes the threshold back through a synapse in the next step, so that the threshold counts
    among the weights that arrive. gated_max_pool: whether a population can pass on the spikes of one of its inputs
    (snn/gate.py).
    """

    neuron: str | None = None
    weights: WeightSheet
    accumulator_bits: Bits
    accumulators: Literal["joint", "split"] = "joint"
    synaptic_shift: Annotated[int, Field(ge=0, le=16)]
    current: Register
    membrane: Register
    membrane_floor: int | None = None
    readout_floor: bool = True
    threshold: Threshold
    bias: Bias
    leak: Literal["added", "closed-form"] = "added"
    decay_bits: Annotated[int, Field(ge=1, le=16)]
    fixed_decay: Size | None = None
    resets: Annotated[tuple[Literal["zero", "subtract"], ...], Field(strict=False, min_length=1)]
    two_compartments: Annotated[tuple[Literal["zero", "subtract"], ...], Field(strict=False)] = ()
    v_init: bool
    clamp: bool = True
    gated_max_pool: bool = False

    @model_validator(mode="after")
    def _leak_fits(self) -> Self:
        whole, decay = 1 << self.decay_bits, self.fixed_decay
        if decay is not None and decay > whole:
            raise ValueError(f"fixed_decay {decay} is more than {whole}, all of 2^decay_bits")
        if self.leak == "closed-form" and (not decay or decay & (decay - 1)):
            raise ValueError(f"leak: closed-form needs a power of two as fixed_decay, got {decay}")
        if self.input_shift > self.synaptic_shift:
            raise ValueError(
                f"synaptic_shift {self.synaptic_shift} is below {self.input_shift}, so that a weight would move the "
                f"potential by less than one integer"
            )
        return self

    @property
    def input_shift(self) -> int:
        """Input integers are membrane integers << this: where v moves only part of the way, inputs are larger."""
        if self.leak != "closed-form" or not self.fixed_decay:
            return 0
        return self.decay_bits - self.fixed_decay.bit_length() + 1

    @property
    def fixed_leak(self) -> float | None:
        """What a step leaves of a potential, of 1; None where networks choose it."""
        return None if self.fixed_decay is None else 1.0 - self.fixed_decay / (1 << self.decay_bits)

    @property
    def accumulator_limit(self) -> int:
        """Largest |sum of weights| an accumulator holds."""
        return (1 << (self.accumulator_bits - 1)) - 1

    @property
    def synaptic_limit(self) -> int:
        """Largest |sum of weights| of one step that neither the accumulator nor the current register loses."""
        return min(self.accumulator_limit, self.current.limit >> self.synaptic_shift)


class Machine(Sheet):
    """A chip whose cores are processors with memory, all of them run the same program (SpiNNaker).

    monitor_cores_per_chip: of the cores, for the system, before any for support; missing_cores_per_board: that chips of
    a board lack. Sums lie in a core's data memory (dtcm), ring_buffer_entries_per_core at most: neurons times receptors
    times delay slots, each rounded up to a power of two. Synapses lie in the chip's sdram, in rows of those that a
    neuron has on a core, synapses_per_row at most. router_entries_per_chip: of its routing table.
    """

    monitor_cores_per_chip: Size | None = None
    missing_cores_per_board: Mapping[str, Size] | None = None
    neurons_per_core: Count | None = None
    synapses_per_row: Count | None = None
    ring_buffer_entries_per_core: Count | None = None
    dtcm_bytes_per_core: Count | None = None
    itcm_bytes_per_core: Count | None = None
    sdram_bytes_per_chip: Count | None = None
    router_entries_per_chip: Count | None = None
    clock_Hz: Count | None = None  # noqa: N815


class Geometry(Sheet):
    """What one chip holds; used by mapping. None: not known or not limited.

    boards: chips by name of board. A core's synapses lie in words; those of one axon in groups of at most
    synapses_per_group, each of weight, index and delay bits after a header, rounded up to words. A population axon is
    shared by at most population_axon_neurons, takes population_axon_slots output axons, and moves the weights it shares
    with others by a base of at most axon_base_max compartments. Configurations
    (decays of a compartment, thresholds, formats of synapses) are shared by the neurons of a core. delay_max: steps a
    synapse can hold a spike back. spike_payload_bits: 0 where spikes are binary. mesh: columns and rows of routers on
    a chip, each with cores_per_router cores; None: one router per chip. chip_grid: how chips are joined; `mesh`: the
    routers' mesh goes on from chip to chip; `hexagonal`: each chip has six neighbours, boards are those of SpiNN-5.
    machine: of a chip whose cores are processors.
    """

    boards: Mapping[str, Count] | None = None
    cores_per_chip: Count | None = None
    processors_per_chip: Count | None = None
    compartments_per_core: Count | None = None
    input_axons_per_core: Count | None = None
    output_axons_per_core: Count | None = None
    synapse_bits_per_core: Count | None = None
    synapse_word_bits: Count | None = None
    synapse_header_bits: Count | None = None
    synapses_per_group: Count | None = None
    synapse_weight_bits: Annotated[tuple[Size, ...], Field(strict=False, min_length=1)] | None = None
    synapse_index_bits: Annotated[tuple[Size, ...], Field(strict=False, min_length=1)] | None = None
    population_axon_slots: Count | None = None
    population_axon_neurons: Count | None = None
    axon_base_max: Size | None = None
    compartment_configs_per_core: Count | None = None
    threshold_configs_per_core: Count | None = None
    synapse_configs_per_core: Count | None = None
    delay_max: Size | None = None
    spike_payload_bits: Size | None = None
    machine: Machine | None = None
    mesh: Annotated[tuple[Count, Count], Field(strict=False)] | None = None
    cores_per_router: Count | None = None
    chip_grid: Literal["mesh", "hexagonal"] | None = None

    @model_validator(mode="after")
    def _cores_agree(self) -> Self:
        if self.synapse_weight_bits is not None and not any(self.synapse_weight_bits):
            raise ValueError("synapse_weight_bits: none is above 0, so no synapse would have a weight")
        if self.cores_per_chip is None:
            return self
        if self.mesh is not None and self.cores_per_router is not None:
            on_mesh = math.prod(self.mesh) * self.cores_per_router
            if on_mesh != self.cores_per_chip:
                raise ValueError(f"mesh and cores_per_router make {on_mesh:,} cores, not {self.cores_per_chip:,}")
        if self.cores_for_neurons is not None and self.cores_for_neurons < 1:
            raise ValueError(f"of {self.cores_per_chip} cores_per_chip the system and what boards lack leave none")
        return self

    @property
    def cores_for_neurons(self) -> int | None:
        """Cores of any chip that neurons can lie on: not those of the system, nor one that some chips of a board lack.

        None: not known.
        """
        cores, machine = self.cores_per_chip, self.machine
        if cores is None or machine is None:
            return cores
        missing = any((machine.missing_cores_per_board or {}).values())
        return cores - (machine.monitor_cores_per_chip or 0) - missing


class Energy(Sheet):
    """Joules per event, watts of what draws them all the time, seconds of a step; None: not known.

    synaptic event: one weight added for one spike. Neuron update: one compartment in one step, firing or not; idle: one
    that nothing reaches. hop: a spike from one router of the mesh to the next. spike message: sending one to one axon.
    step_duration: where the chip keeps real time; elsewhere a step ends when the last core is done.
    """

    energy_per_synaptic_event_J: Joules | None = None  # noqa: N815 - the symbol of the unit
    energy_per_neuron_update_J: Joules | None = None  # noqa: N815
    energy_per_idle_neuron_update_J: Joules | None = None  # noqa: N815
    energy_per_spike_message_J: Joules | None = None  # noqa: N815
    energy_per_hop_east_west_J: Joules | None = None  # noqa: N815
    energy_per_hop_north_south_J: Joules | None = None  # noqa: N815
    energy_per_hop_diagonal_J: Joules | None = None  # noqa: N815
    power_per_chip_W: Watts | None = None  # noqa: N815
    power_per_core_W: Watts | None = None  # noqa: N815
    step_duration_s: Seconds | None = None


class ToolchainSheet(Sheet):
    """The environment a vendor SDK runs in."""

    name: str
    python: str
    requires: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    requires_no_deps: Annotated[tuple[str, ...], Field(strict=False)] = ()
    imports: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @property
    def spec(self) -> ToolchainSpec:
        """The same for neuroport.toolchains."""
        return ToolchainSpec(self.name, self.python, self.requires, self.requires_no_deps, self.imports)


class Target(Sheet):
    """One chip, or one simulator of it.

    sources: by dotted key ('geometry.cores_per_chip', or 'arithmetic.weights' for all in it), where numbers come from;
    references: what the short names in them stand for. aliases: other names it is found under. neurons: of a chip that
    has several kinds, the arithmetic of each by its name, in the file only what differs from `arithmetic`; that one is
    among them and is the one that is taken where nothing speaks for another.
    """

    name: str
    aliases: Annotated[tuple[str, ...], Field(strict=False)] = ()
    summary: str
    backends: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    default_recipe: str
    arithmetic: Arithmetic
    neurons: Mapping[str, Arithmetic] = {}
    geometry: Geometry = Geometry()
    energy: Energy = Energy()
    references: Mapping[str, str] = {}
    sources: Mapping[str, Source] = {}
    toolchain: ToolchainSheet | None = None

    @model_validator(mode="before")
    @classmethod
    def _neurons_whole(cls, content: Any) -> Any:
        """Each neuron with what it shares with `arithmetic`."""
        if not isinstance(content, dict) or not isinstance(content.get("neurons"), dict):
            return content
        shared = content.get("arithmetic")
        whole = {n: {"neuron": n, **_merged(shared, own)} for n, own in content["neurons"].items()}
        return content | {"neurons": whole}

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if self.neurons and self.neurons.get(str(self.arithmetic.neuron)) != self.arithmetic:
            raise ValueError(f"neurons: '{self.arithmetic.neuron}' of `arithmetic` is not among them, unchanged")
        if wrong := [name for name, a in self.neurons.items() if a.neuron != name]:
            raise ValueError(f"neurons: '{wrong[0]}' calls itself '{self.neurons[wrong[0]].neuron}'")
        if problem := wrong_entry(self.sources, self.values):
            raise ValueError(problem)
        return self

    @property
    def values(self) -> dict[str, Any]:
        """Everything that can have a source, by dotted key."""
        found = {key: value for name in SECTIONS for key, value in leaves(getattr(self, name), name)}
        for name, neuron in self.neurons.items():
            own = leaves(neuron, f"neurons.{name}")
            shared = leaves(self.arithmetic, "")
            found |= {key: value for (key, value), (_, common) in zip(own, shared, strict=True) if value != common}
        return found

    @property
    def unsourced(self) -> list[str]:
        """Keys of numbers that nothing says the source of."""
        return unsourced(self.sources, self.values)

    def with_neuron(self, name: str) -> Target:
        """The same chip with its neuron of that name.

        Raises:
            UsageError: it has none of that name; those it has are named.
        """
        if name not in self.neurons:
            known = f"known: {', '.join(self.neurons)}" if self.neurons else "it has one kind of neuron"
            raise UsageError(f"{self.name} has no neuron '{name}'; {known}; leave --neuron out, or name another one")
        entries = {key: entry_of(key, self.sources) for key in self.values if key.startswith(f"neurons.{name}.")}
        own = {
            f"arithmetic.{key.removeprefix(f'neurons.{name}.')}": self.sources[entry]
            for key, entry in entries.items()
            if entry is not None
        }
        shared = {key: entry for key, entry in self.sources.items() if not key.startswith("neurons.")}
        return self.model_copy(
            update={"arithmetic": self.neurons[name], "neurons": {}, "sources": {**shared, **own}},
        )

    def __hash__(self) -> int:
        """By name and arithmetic: tables of sources and boards have no hash of their own."""
        return hash((self.name, self.arithmetic))


def _merged(shared: Any, own: Any) -> dict[str, Any]:
    """Keys of `own` in the place of those of `shared`, in nested ones too."""
    if not isinstance(shared, dict) or not isinstance(own, dict):
        raise ValueError("`neurons` holds, by name, keys that replace those of `arithmetic`")
    nested = {k: _merged(shared[k], v) for k, v in own.items() if isinstance(shared.get(k), dict)}
    return {**{k: v for k, v in shared.items() if k != "neuron"}, **own, **nested}


def load_target(name: str | Path) -> Target:
    """The datasheet of that name, or in that YAML file.

    Raises:
        DatasheetError: unknown name, unknown or doubled key, a value out of range.
    """
    return load_document("targets", name, Target)
