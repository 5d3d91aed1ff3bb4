"""The backend `spinnaker-board`: the same script on a SpiNNaker board or machine that sPyNNaker is configured for.

Nothing here was ever run on a board. What was tried: the search for the settings, and the script on a virtual board.
"""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from neuroport.backends.base import Job
from neuroport.backends.spinnaker.backend import PynnBackend
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import ToolchainMissingError

# What says which machine, in the section [Machine] of sPyNNaker's settings.
# Source: spinnman 1!7.4.1, spinnman.cfg; https://spinnakermanchester.github.io (PyNNOnSpinnakerInstall).
_MACHINES = ("machine_name", "spalloc_server", "remote_spinnaker_url")
_REMEDY = (
    "write [Machine] with machine_name = ADDRESS and version = 3 or 5 (or spalloc_server, or remote_spinnaker_url) "
    "there; or use --backend spinnaker-nest, which simulates, and spinnaker-virtual, which maps without a board"
)


class SpinnakerBoard(PynnBackend):
    """The exported script with sPyNNaker, with the user's own settings."""

    name = "spinnaker-board"
    summary = "a SpiNNaker board, by the exported PyNN script (never tried on one)"
    simulator = "spiNNaker"
    packages = ("sPyNNaker", "PyNN", "numpy")

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Look for a machine first: without one no environment is made.

        Raises:
            ToolchainMissingError: no settings, or none that name a machine; what is missing and what to do.
        """
        settings = find_settings()
        on_message(f"{settings} names a machine; neuroport's results on one were never compared before")
        return super().prepare(target, on_message)

    def run(self, job: Job) -> Trace:
        """All samples one after the other: a board is not shared."""
        return super().run(replace(job, n_workers=1))

    def variables(self, work_dir: Path) -> Mapping[str, str]:
        """A home of its own, with the user's settings for sPyNNaker."""
        home = work_dir / "home"
        home.mkdir(exist_ok=True)
        shutil.copyfile(find_settings(), home / ".spynnaker.cfg")
        return {"HOME": str(home)}


def find_settings() -> Path:
    """The file of sPyNNaker's settings that names a machine: ./spynnaker.cfg, or ~/.spynnaker.cfg.

    Raises:
        ToolchainMissingError: neither is there, or it names none.
    """
    places = [Path.cwd() / "spynnaker.cfg", Path("~/.spynnaker.cfg").expanduser()]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ToolchainMissingError(
            f"backend 'spinnaker-board' needs sPyNNaker's settings, found neither '{places[0]}' nor '{places[1]}'; "
            f"{_REMEDY}"
        )
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(found, encoding="utf-8")
    except (configparser.Error, UnicodeError) as error:
        raise ToolchainMissingError(f"'{found}' cannot be read: {error}; {_REMEDY}") from error
    machine = dict(settings["Machine"]) if "Machine" in settings else {}
    if machine.get("virtual_board", "False").lower() == "true":
        raise ToolchainMissingError(f"'{found}' asks for a virtual board, which gives no spikes; {_REMEDY}")
    if not any(machine.get(key, "None") not in ("None", "") for key in _MACHINES):
        raise ToolchainMissingError(f"'{found}' names no machine ({', '.join(_MACHINES)}); {_REMEDY}")
    return found
