"""A bundle checked again, on this machine or another: its files by checksum, its run by running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroport.chip.digest import network_hash
from neuroport.progress import Progress
from neuroport.validation.recorded import Recorded, read_bundle
from neuroport.validation.report import versions
from neuroport.validation.rerun import Rerun, Reruns

_SCHEMA = "neuroport-validation/1"


@dataclass(frozen=True, eq=False)
class Validated:
    """What a bundle holds, and how what ran compares with it: the core first."""

    place: Path
    recorded: Recorded
    reruns: tuple[Rerun, ...]

    @property
    def is_equal(self) -> bool:
        """Whether no spike and no readout potential differs anywhere."""
        return all(rerun.is_equal for rerun in self.reruns)

    @property
    def report(self) -> dict[str, Any]:
        """Plain data: the bundle's name, the network's hash, every comparison, versions."""
        return {
            "schema": _SCHEMA,
            "bundle": self.place.resolve().name,
            "network_hash": network_hash(self.recorded.network),
            "samples": self.recorded.inputs.n_samples,
            "steps": self.recorded.inputs.n_steps,
            "reruns": [rerun.as_json() for rerun in self.reruns],
            "versions": versions(),
        }


def validate(
    bundle: str | Path, progress: Progress | None = None, *, backends: Sequence[str] = (), workers: int | None = None
) -> Validated:
    """Compare every file of a bundle with its checksum, then run its own inputs again and compare every spike.

    The core's run is compared with core.h5, that of each backend too, and backend.h5 (what the bundle's backend gave
    when it was made) as well, where there is one. Nothing of the bundle is changed.

    Raises:
        BundleError: no bundle, one that was changed or holds no run. DoesNotFitError, InvalidNetworkError, DataError:
        its files do not belong together. UsageError, ToolchainError: see Reruns.run.
    """
    place = Path(bundle)
    again = Reruns(n_workers=workers) if progress is None else Reruns(progress.stage, progress.samples, workers)
    again.on_message(f"checksums of {place}")
    recorded = read_bundle(place)
    reruns = again.run(recorded, backends)
    if recorded.backend is not None:
        reruns = (*reruns, again.kept(recorded, recorded.backend))
    return Validated(place, recorded, reruns)
