"""The backend `spinnaker-virtual`: sPyNNaker maps the export onto a virtual machine, without hardware.

It partitions, places, routes and makes all data that it would load, and loads nothing: no spikes come back. The weights
and delays are read out of that data and compared with the export, integer by integer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuroport.backends.base import Job, Mapped
from neuroport.backends.spinnaker.backend import environment_of, run_script, versions_of
from neuroport.backends.spinnaker.export import EXPORT, exported_in, write_export
from neuroport.backends.spinnaker.limits import check_exportable
from neuroport.backends.spinnaker.predict import TOLERANCE, Prediction, predict
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import DoesNotFitError, WorkerError

_CONFIG = """[Machine]
version = {version}
virtual_board = True
machine_name = None
[Mode]
mode = Production
[Reports]
default_report_file_path = {folder}
[Logging]
instantiate = False
"""
_CHIPS_PER_BOARD = 48
_PACKAGES = ("sPyNNaker", "PyNN", "numpy")
_NO_ROOM = ("Pacman", "Minimisation", "SpinnMachine")  # how names of sPyNNaker's exceptions for want of room begin


class SpinnakerVirtual:
    """Maps onto boards of 48 chips (SpiNN-5), as many as sPyNNaker wants."""

    name = "spinnaker-virtual"
    summary = "sPyNNaker's mapper on a virtual machine (no spikes)"
    board_version = 5

    def check(self, job: Job) -> None:
        """Refuse what the export cannot express.

        Raises:
            DoesNotFitError: layer, value and remedy are named.
        """
        check_exportable(job.network, job.inputs)

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make the environment on first use, check it on every other."""
        return versions_of(target, _PACKAGES, on_message)

    def write_export(self, folder: Path, job: Job, core: Trace) -> None:
        """The directory `pynn` of a bundle."""
        write_export(folder / EXPORT, job.network, job.inputs, core)

    def map(self, job: Job) -> Mapped:
        """Cores, chips and memory as sPyNNaker assigns them; differences of what it would load from the export.

        Raises:
            DoesNotFitError: no room on the machine. ToolchainError: no environment, or sPyNNaker failed.
        """
        python, _ = environment_of(job.target, job.on_message)
        prediction = predict(job.network, job.inputs, job.target)
        exported_in(job.work_dir, job.network, job.inputs)
        home = virtual_home(job.work_dir, self.board_version)
        try:
            try:
                run_script(python, job, ["map", "0"], {"HOME": str(home)})
            except WorkerError:
                # Its count of boards leaves no room for what cannot be divided: some cores must share a chip.
                full = re.search(r"Graph requires (\d+) Chips", _reason(job.work_dir))
                if full is None:
                    raise
                (job.work_dir / "error.json").unlink()
                n_boards = -(-int(full[1]) // _CHIPS_PER_BOARD) + 1
                job.on_message(f"sPyNNaker found no room on {n_boards - 1} boards of its own choice; one more")
                run_script(python, job, ["map", str(n_boards)], {"HOME": str(home)})
        except WorkerError as error:
            reason = _reason(job.work_dir)
            if reason.startswith(_NO_ROOM):
                raise DoesNotFitError(
                    f"the network does not fit on SpiNNaker: sPyNNaker's mapper says {reason}; use a smaller "
                    f"network, or a larger machine"
                ) from error
            raise
        found = json.loads((job.work_dir / "mapping.json").read_text(encoding="utf-8"))
        machine = job.target.geometry.machine
        return _mapped(found, prediction, machine.router_entries_per_chip if machine else None)


def virtual_home(work_dir: Path, board_version: int) -> Path:
    """A home directory with settings for a virtual machine, where sPyNNaker reads them and nowhere else."""
    home = work_dir / "home"
    home.mkdir(exist_ok=True)
    text = _CONFIG.format(version=board_version, folder=work_dir)
    (home / ".spynnaker.cfg").write_text(text, encoding="utf-8")
    return home


def _mapped(found: dict[str, Any], prediction: Prediction, limit: int | None) -> Mapped:
    """limit: entries of a chip's router."""
    m = found["machine"]
    sdram = sum(core["sdram_bytes"] for p in found["populations"] for core in p["cores"])
    used = {"cores": m["cores_used"], "chips": m["chips_used"], "SDRAM bytes": sdram}
    compared = prediction.compared(used, found["steps"])
    summary = (
        f"sPyNNaker places {m['cores_used']:,} cores on {m['chips_used']:,} of {m['chips']:,} chips, with "
        f"{sdram / 1e6:,.1f} MB of SDRAM (predicted: {prediction.n_cores:,}, {prediction.n_chips:,} and "
        f"{prediction.sdram_bytes(found['steps']) / 1e6:,.1f}); {found['connections']:,} weights and delays read back, "
        f"{found['differences']:,} differ from the export"
    )
    warnings = [
        f"sPyNNaker uses {row['used']:,} {row['what']}, predicted were {row['predicted']:,} ({row['difference']:+.0%})"
        for row in compared
        if abs(row["difference"]) > TOLERANCE
    ]
    if limit is not None and m["router_entries"] > limit:
        warnings.append(
            f"a chip's router would take {m['router_entries']:,} entries and has {limit:,}: sPyNNaker has to compress "
            f"them when it loads the network, and may fail"
        )
    report = {
        "machine": m,
        "sdram_bytes": sdram,
        "predicted": compared,
        "populations": found["populations"],
    }
    return Mapped(summary, found["connections"], found["differences"], found["first_difference"], report, warnings)


def _reason(work_dir: Path) -> str:
    try:
        return str(json.loads((work_dir / "error.json").read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError):
        return ""
