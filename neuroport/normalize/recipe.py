"""Recipes: one YAML file per conversion method, checked, with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from neuroport.datasheets import load_document
from neuroport.snn.build import BuildOptions


class Recipe(BaseModel):
    """What is done to the weights, and with which neurons, for how long, they then run.

    `ceiling`: a trained activation that ends at a value (ReLU6, clamp, QCFS) has that value as its threshold, or a
    measured scale as every other layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    summary: str
    source: str
    percentile: Annotated[float, Field(gt=0, le=100)] = 100.0
    granularity: Literal["layer", "channel"] = "layer"
    calibration_samples: Annotated[int, Field(gt=0)] | None = None
    reset: Literal["zero", "subtract"] = "subtract"
    v_init: Annotated[float, Field(ge=0, lt=1)] = 0.0
    leak: Annotated[float, Field(gt=0, le=1)] = 1.0
    input: Literal["current", "rate"] = "current"
    readout: Literal["membrane", "count", "softmax"] = "membrane"
    pool: Literal["fold", "spiking"] = "fold"
    max_pool: Literal["expand", "gated", "refuse"] = "expand"
    ceiling: Literal["threshold", "measured"] = "threshold"
    steps: Annotated[int, Field(gt=0, le=100_000)] = 64

    @property
    def build_options(self) -> BuildOptions:
        """The part of the recipe that shapes the network."""
        return BuildOptions(
            self.reset, self.v_init, self.leak, self.input, self.readout, self.pool, max_pool=self.max_pool
        )


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of that name, or in that YAML file.

    Raises:
        DatasheetError: unknown name (the known ones are listed), unknown key, value out of range.
    """
    return load_document("calibration", name, Recipe)
