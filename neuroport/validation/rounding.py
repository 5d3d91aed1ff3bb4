"""Differences of a backend that computes in other numbers than the chip: whether its rounding explains them."""

from __future__ import annotations

from neuroport.backends.base import Bounded, Job, RoundingBackend
from neuroport.chip.trace import Trace
from neuroport.validation.divergence import Comparison


def bounded_by(backend: object, job: Job, comparison: Comparison, trace: Trace) -> Bounded | None:
    """Whether each spike and potential of a run is where the backend's rounding allows it.

    None where nothing differs, and where every bit must be the chip's.
    """
    if not comparison.mismatches or not isinstance(backend, RoundingBackend):
        return None
    return backend.bounded(job, trace)


def is_explained(comparison: Comparison, bounded: Bounded | None) -> bool:
    """Whether nothing differs, or nothing that rounding does not explain."""
    return comparison.mismatches == 0 or (bounded is not None and bounded.outside == 0)


def rounding_line(bounded: Bounded) -> str:
    """One sentence."""
    return (
        f"{bounded.outside:,} of {bounded.compared_values:,} neuron-steps are not explained by rounding (at most "
        f"{bounded.bound:.0f} integers of the potential, by the spikes that each neuron was sent)"
    )
