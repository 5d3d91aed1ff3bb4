"""A target datasheet as checked data: ranges, arithmetic, backends and the toolchain that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from neuroport.chip.sources import SECTIONS, Sheet, Source, leaves, unsourced, wrong_entry
from neuroport.datasheets import load_document
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
    """Bias in membrane units = mantissa << exponent; one exponent per population."""

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
    each held at the accumulator's end before they are subtracted ('split'). membrane_floor: potentials end there.
    two_compartments: resets that take a second compartment per neuron: one integrates and never fires; the other reads
    its potential, fires, and takes the threshold back through a synapse in the next step, so that the threshold counts
    among the weights that arrive. gated_max_pool: whether a population can pass on the spikes of one of its inputs
    (snn/gate.py).
    """

    weights: WeightSheet
    accumulator_bits: Bits
    accumulators: Literal["joint", "split"] = "joint"
    synaptic_shift: Annotated[int, Field(ge=0, le=16)]
    current: Register
    membrane: Register
    membrane_floor: int | None = None
    threshold: Threshold
    bias: Bias
    decay_bits: Annotated[int, Field(ge=1, le=16)]
    resets: Annotated[tuple[Literal["zero", "subtract"], ...], Field(strict=False, min_length=1)]
    two_compartments: Annotated[tuple[Literal["zero", "subtract"], ...], Field(strict=False)] = ()
    v_init: bool
    gated_max_pool: bool = False

    @property
    def accumulator_limit(self) -> int:
        """Largest |sum of weights| an accumulator holds."""
        return (1 << (self.accumulator_bits - 1)) - 1

    @property
    def synaptic_limit(self) -> int:
        """Largest |sum of weights| of one step that neither the accumulator nor the current register loses."""
        return min(self.accumulator_limit, self.current.limit >> self.synaptic_shift)


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
    mesh: Annotated[tuple[Count, Count], Field(strict=False)] | None = None
    cores_per_router: Count | None = None
    chip_grid: Literal["mesh", "hexagonal"] | None = None


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
    references: what the short names in them stand for.
    """

    name: str
    summary: str
    backends: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    default_recipe: str
    arithmetic: Arithmetic
    geometry: Geometry = Geometry()
    energy: Energy = Energy()
    references: Mapping[str, str] = {}
    sources: Mapping[str, Source] = {}
    toolchain: ToolchainSheet | None = None

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if problem := wrong_entry(self.sources, self.values):
            raise ValueError(problem)
        return self

    @property
    def values(self) -> dict[str, Any]:
        """Everything that can have a source, by dotted key."""
        return {key: value for name in SECTIONS for key, value in leaves(getattr(self, name), name)}

    @property
    def unsourced(self) -> list[str]:
        """Keys of numbers that nothing says the source of."""
        return unsourced(self.sources, self.values)

    def __hash__(self) -> int:
        """By name and arithmetic: tables of sources and boards have no hash of their own."""
        return hash((self.name, self.arithmetic))


def load_target(name: str | Path) -> Target:
    """The datasheet of that name, or in that YAML file.

    Raises:
        DatasheetError: unknown name, unknown or doubled key, a value out of range.
    """
    return load_document("targets", name, Target)
