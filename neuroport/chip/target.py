"""A target datasheet as checked data: ranges, arithmetic, backends and the toolchain that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from neuroport.datasheets import load_document
from neuroport.toolchains import ToolchainSpec

Bits = Annotated[int, Field(gt=0, le=64)]
Count = Annotated[int, Field(gt=0)]


class _Sheet(BaseModel):
    """Numbers are taken as they stand (no "8" for 8), unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WeightRange(_Sheet):
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


class WeightSheet(_Sheet):
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


class Register(_Sheet):
    """A signed register of the neuron. saturate: to +-(2^(bits-1) - 1); wrap: past the end to the other end."""

    bits: Annotated[int, Field(ge=8, le=40)]
    overflow: Literal["wrap", "saturate"]

    @property
    def limit(self) -> int:
        """Largest magnitude that is neither wrapped nor saturated."""
        return (1 << (self.bits - 1)) - 1


class Threshold(_Sheet):
    """Threshold in membrane units = mantissa << shift; the neuron fires where v `compare` threshold."""

    mantissa_max: Count
    shift: Annotated[int, Field(ge=0, le=16)]
    compare: Literal[">", ">="]


class Bias(_Sheet):
    """Bias in membrane units = mantissa << exponent; one exponent per population."""

    mantissa_min: int
    mantissa_max: Count
    exponent_max: Annotated[int, Field(ge=0, le=16)]

    @property
    def limit(self) -> int:
        """Largest magnitude of mantissa << exponent on both signs."""
        return min(-self.mantissa_min, self.mantissa_max) << self.exponent_max


class Arithmetic(_Sheet):
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


class Geometry(_Sheet):
    """What one chip holds; used by mapping. None: not known or not limited."""

    cores_per_chip: Count | None = None
    compartments_per_core: Count | None = None
    input_axons_per_core: Count | None = None
    output_axons_per_core: Count | None = None
    synapse_bits_per_core: Count | None = None


class ToolchainSheet(_Sheet):
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


class Target(_Sheet):
    """One chip, or one simulator of it."""

    name: str
    summary: str
    backends: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    default_recipe: str
    arithmetic: Arithmetic
    geometry: Geometry = Geometry()
    toolchain: ToolchainSheet | None = None


def load_target(name: str | Path) -> Target:
    """The datasheet of that name, or in that YAML file.

    Raises:
        DatasheetError: unknown name, unknown or doubled key, a value out of range.
    """
    return load_document("targets", name, Target)
