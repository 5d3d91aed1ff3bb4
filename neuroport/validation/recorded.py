"""A run that was written down: the integer network, its inputs, and every spike the core gave; read from a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from neuroport.bundle import verify
from neuroport.chip.files import read_inputs, read_network, read_trace
from neuroport.chip.inputs import IntInputs, check_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target, load_target
from neuroport.chip.trace import Trace
from neuroport.datasheets import names
from neuroport.errors import BundleError


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run of the core, and what a backend gave of it, if one did.

    trace: spikes of all populations and potentials of the readouts. sheet: the datasheet it was made for, None where
    none was kept; backend_name: of the one that gave `backend`, as --backend takes it, empty where nothing says it.
    """

    network: IntNetwork
    inputs: IntInputs
    trace: Trace
    backend: Trace | None = None
    sheet: Target | None = None
    backend_name: str = ""

    @property
    def target(self) -> Target:
        """What backends take: this neuroport's own datasheet of that name, else the one kept; the network's arithmetic.

        Raises:
            DatasheetError: there is neither.
        """
        kept = self.sheet if self.sheet is not None and self.sheet.name not in names("targets") else None
        sheet = kept or load_target(self.network.target)
        return sheet.model_copy(update={"arithmetic": self.network.arithmetic})

    def first(self, n_samples: int) -> Recorded:
        """The first samples alone."""
        here = slice(0, n_samples)

        def cut(trace: Trace) -> Trace:
            spikes = {name: x[here] for name, x in trace.spikes.items()}
            return Trace(spikes, {name: v[here] for name, v in trace.potentials.items()})

        backend = None if self.backend is None else cut(self.backend)
        return replace(self, inputs=self.inputs.part(here), trace=cut(self.trace), backend=backend)


def missing(network: IntNetwork, inputs: IntInputs, trace: Trace) -> str:
    """What a record of the core lacks of this network and these inputs, as the end of a sentence; empty if nothing."""
    lead = (inputs.n_samples, inputs.n_steps)
    for p in (p for p in network.populations if p.role != "input"):
        tables = {"spikes": trace.spikes} | ({"potentials": trace.potentials} if p.role == "readout" else {})
        for what, table in tables.items():
            if p.name not in table:
                return f"holds no {what} of population '{p.name}'"
            if table[p.name].shape != (*lead, *p.shape):
                return f"holds {what} {list(table[p.name].shape)} of population '{p.name}', not {[*lead, *p.shape]}"
    return ""


def read_bundle(place: str | Path) -> Recorded:
    """The run that a bundle holds, every file compared with its checksum first.

    Raises:
        BundleError: no bundle, one that was changed, or one without a run. DoesNotFitError, InvalidNetworkError,
        DataError: files that do not belong together.
    """
    place = Path(place)
    verify(place)
    for name in ("network.h5", "inputs.h5", "core.h5"):
        if not (place / name).is_file():
            raise BundleError(
                f"bundle '{place}' holds no {name}, so there is no run to repeat; give one that `neuroport deploy` "
                f"made, or `neuroport load` with --data"
            )
    network, inputs = read_network(place / "network.h5"), read_inputs(place / "inputs.h5")
    check_inputs(network, inputs)
    trace = read_trace(place / "core.h5")
    if found := missing(network, inputs, trace):
        raise BundleError(f"bundle '{place}': core.h5 {found}; it is from another network; deploy again")
    backend = read_trace(place / "backend.h5") if (place / "backend.h5").is_file() else None
    sheet = load_target(place / "target.yaml") if (place / "target.yaml").is_file() else None
    return Recorded(network, inputs, trace, backend, sheet, _backend_name(place))


def _backend_name(place: Path) -> str:
    if not (place / "report.json").is_file():
        return ""
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    return str((report.get("backend") or {}).get("name", ""))
