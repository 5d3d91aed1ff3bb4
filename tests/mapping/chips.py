"""Loihi 1 with other numbers, for tests of mapping."""

from __future__ import annotations

from typing import Any

from neuroport.chip.target import Arithmetic, Target
from tests.chip.networks import target


def chip(arithmetic: Arithmetic | None = None, **geometry: Any) -> Target:
    """Loihi 1 with this arithmetic and these limits."""
    sheet = target("loihi1").model_dump(exclude={"sources", "toolchain"})
    sheet["geometry"] |= geometry
    if arithmetic is not None:
        sheet["arithmetic"] = arithmetic.model_dump()
    return Target.model_validate(sheet)
