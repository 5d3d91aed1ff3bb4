"""Recipes: one YAML file per conversion method, checked, with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from neuroport.datasheets import load_document
from neuroport.snn.build import BuildOptions

Count = Annotated[int, Field(gt=0, le=100_000)]
Percentile = Annotated[float, Field(gt=0, le=100)]


class _Sheet(BaseModel):
    """Numbers are taken as they stand, unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BiasCorrection(_Sheet):
    """Per-channel bias and size of a spike, so that rates follow clipped activations (normalize/correct.py).

    steps: simulated, None for the run's own; rounds: biases tried; samples: of the calibration data; rate: fraction of
    what is missing that a round adds. Source: Li et al. 2021, light calibration (the bias).
    """

    kind: Literal["bias"]
    steps: Count | None = None
    rounds: Count = 4
    samples: Count = 128
    rate: Annotated[float, Field(gt=0, le=1)] = 0.8


class ResetCorrection(_Sheet):
    """The same for neurons that lose their overshoot at a reset to zero, with a gain (normalize/correct.py)."""

    kind: Literal["hard-reset"]
    steps: Count | None = None
    rounds: Count = 4
    samples: Count = 128


class L4Adjustment(_Sheet):
    """First-layer weights adjusted to the deviation of their neurons' potentials (normalize/l4.py).

    alpha: smoothing, 0 for the full adjustment. Source: Allred & Roy 2021, eq. 4 to 9.
    """

    kind: Literal["l4"]
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    samples: Count = 128


class NoiseSearch(_Sheet):
    """The percentile chosen by the conversion loss on noise that the ANN itself labels (normalize/search.py).

    samples: noise inputs; steps: those at which the loss is looked at. Source: Mueller et al. 2021b.
    """

    kind: Literal["noise"]
    percentiles: Annotated[tuple[Percentile, ...], Field(strict=False, min_length=2)]
    samples: Count = 100


Correction = Annotated[BiasCorrection | ResetCorrection | L4Adjustment, Field(discriminator="kind")]


class Recipe(_Sheet):
    """What is done to the weights, and with which neurons, for how long, they then run.

    `scale`: activation that becomes a rate of 1 (normalize/rules.py): the `percentile` of the activations; `weights`,
    the largest positive input sum (Diehl's model-based); `diehl`, the larger of largest weight and largest activation
    (data-based); `mmse`, least squared error of the rates in `steps` steps (Li 2021); `balance`, local threshold
    balancing (Bu 2025); `none`, weights as they are under `threshold`. `ceiling`: a trained activation that ends at a
    value (ReLU6, clamp, QCFS) has that value as its threshold, or a measured scale as every other layer. `clamp`: steps
    per level for which a population waits (Mueller 2021). `leak`: what a step leaves of a potential, also of a
    readout's with `leaky_readout`; `floor`: where potentials end, in thresholds; a chip whose neurons have no others
    sets all three. `corrections` follow in their order.
    """

    name: str
    summary: str
    source: str
    scale: Literal["activation", "weights", "diehl", "mmse", "balance", "none"] = "activation"
    percentile: Percentile = 100.0
    granularity: Literal["layer", "channel"] = "layer"
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    search: NoiseSearch | None = None
    calibration_samples: Annotated[int, Field(gt=0)] | None = None
    ceiling: Literal["threshold", "measured"] = "threshold"
    corrections: Annotated[tuple[Correction, ...], Field(strict=False)] = ()
    reset: Literal["zero", "subtract"] = "subtract"
    v_init: Annotated[float, Field(ge=0, lt=1)] = 0.0
    leak: Annotated[float, Field(gt=0, le=1)] = 1.0
    leaky_readout: bool = False
    floor: Annotated[float, Field(le=0, allow_inf_nan=False)] | None = None
    clamp: Annotated[float, Field(ge=0, le=1000)] = 0.0
    input: Literal["current", "rate", "poisson"] = "current"
    readout: Literal["membrane", "count", "softmax"] = "membrane"
    pool: Literal["fold", "spiking"] = "fold"
    max_pool: Literal["expand", "gated", "refuse"] = "expand"
    steps: Count = 64

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold != 1.0 and self.scale != "none":
            raise ValueError("threshold goes with scale: none; every other scale rule sets thresholds of 1")
        if self.search is not None and self.scale != "activation":
            raise ValueError("search chooses a percentile, which goes with scale: activation")
        return self

    @property
    def reads_percentile(self) -> bool:
        """Whether the scale rule looks at the percentile."""
        return self.scale in ("activation", "diehl")

    @property
    def calibrates_biases(self) -> bool:
        """Whether a correction matches mean rates, which is then done once more with the chip's integers."""
        return any(isinstance(c, BiasCorrection | ResetCorrection) for c in self.corrections)

    @property
    def build_options(self) -> BuildOptions:
        """The part of the recipe that shapes the network."""
        return BuildOptions(
            self.reset,
            self.v_init,
            self.leak,
            self.input,
            self.readout,
            self.pool,
            max_pool=self.max_pool,
            clamp=self.clamp,
            floor=self.floor,
            leaky_readout=self.leaky_readout,
        )


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of that name, or in that YAML file.

    Raises:
        DatasheetError: unknown name (the known ones are listed), unknown key, value out of range.
    """
    return load_document("calibration", name, Recipe)
