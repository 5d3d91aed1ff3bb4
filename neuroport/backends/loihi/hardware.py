"""The `loihi2-board` backend: the same network on a Loihi 2 board, through Intel's extension of Lava.

The extension ("lava-loihi", with NxCore) is given to members of Intel's research community only and cannot be
installed from an index. Everything that is known of it is in this file and in worker/run_config.py. Nothing here was
ever run on a board: what was tried is the search for the extension, and that the worker asks for Loihi2HwCfg.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import DoesNotFitError, ToolchainMissingError, UsageError
from neuroport.interpreters import absolute, run_to_end

VARIABLE = "NEUROPORT_LOIHI_PYTHON"  # the interpreter that has the extension
_PROBE_S = 60.0
# By module, as Lava itself looks (lava-nc 0.10.0, lava/utils/loihi.py l.105-126; channel_broker.py l.19), and what our
# worker needs besides.
_MODULES = {
    "lava.utils.loihi2_profiler": "lava-loihi, Intel's extension of Lava",
    "nxcore": "NxCore, the driver that comes with it",
    "h5py": "h5py (pip install h5py)",
    "scipy": "scipy (pip install scipy)",
}
_PROBE = """
import importlib.metadata as metadata, importlib.util as util, json, sys
def has(name):
    try:
        return util.find_spec(name) is not None
    except ImportError:
        return False
versions = {d.metadata["Name"]: d.version for d in metadata.distributions()}
print(json.dumps([[name for name in sys.argv[1:] if not has(name)], versions]))
"""


class Loihi2Board(LavaBackend):
    """Lava with Loihi2HwCfg: it chooses models for neuro-cores where the extension has them.

    Lava's processes of ours (neurons that start afresh for each sample and record themselves, delays) have models for
    the host only; Lava says in its own words if it refuses to mix them (run_configs.py l.470).
    """

    name = "loihi2-board"
    summary = "a Loihi 2 board, through Intel's lava-loihi (never tried on silicon)"
    run_config = "Loihi2HwCfg"
    packages = ("lava-nc", "lava-loihi", "lava-nc-loihi", "nxcore", "numpy")

    def check(self, job: Job) -> None:
        """Refuse other chips, what Lava does not compute, and several workers: a board is not shared.

        Raises:
            DoesNotFitError: the datasheet does not name this backend, or the network uses what Lava lacks.
            UsageError: more than one worker is asked for.
        """
        if job.n_workers not in (None, 1):
            raise UsageError(
                f"--workers {job.n_workers}: backend '{self.name}' takes one, a board is not shared; leave it out"
            )
        if self.name not in job.target.backends:
            raise DoesNotFitError(
                f"target '{job.target.name}' does not name backend '{self.name}', which runs Loihi 2 only; use "
                f"--target loihi2"
            )
        super().check(job)

    def environment(self, target: Target, on_message: Callable[[str], None]) -> tuple[Path, Mapping[str, str]]:
        """The Python that has Intel's extension, where a board can be reached, and its packages' versions.

        Raises:
            ToolchainMissingError: what is missing, and what to do.
        """
        python, versions = find_extension()
        on_message(f"{python} has Intel's extension; its results on a board were never compared before")
        return python, versions

    def run(self, job: Job) -> Trace:
        """All samples in one run: a board is not shared."""
        return super().run(replace(job, n_workers=1))


def find_extension() -> tuple[Path, Mapping[str, str]]:
    """The interpreter with Intel's extension, and the versions of its packages.

    Raises:
        ToolchainMissingError: no interpreter is named, it lacks a module, or no board is named.
    """
    remedy = (
        f"set {VARIABLE} to the Python in which you installed it (members of Intel's Neuromorphic Research Community "
        f"get it from Intel; no index has it), or use --backend lava, which simulates the chip"
    )
    named = os.environ.get(VARIABLE)
    if not named:
        raise ToolchainMissingError(f"backend 'loihi2-board' needs Intel's extension of Lava for Loihi 2; {remedy}")
    python = absolute(named)
    failure, out, err = run_to_end([python, "-B", "-c", _PROBE, *_MODULES], _PROBE_S)
    try:
        if failure is not None:
            raise ValueError(f"{failure} {' '.join(err.split())[-200:]}".strip())
        missing, versions = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError, TypeError) as error:
        why = str(error) or "does not answer like a Python interpreter"
        raise ToolchainMissingError(f"{VARIABLE}: '{python}' does not work ({why}); {remedy}") from error
    if missing:
        lacks = "; ".join(_MODULES[name] for name in missing)
        raise ToolchainMissingError(f"{VARIABLE}: '{python}' lacks {lacks}; install it there, or {remedy}")
    # As lava.utils.loihi.use_slurm_host and use_ethernet_host set them (lava/utils/loihi.py l.26-102).
    if os.environ.get("SLURM") != "1" and not os.environ.get("NXSDKHOST"):
        raise ToolchainMissingError(
            "backend 'loihi2-board' has the extension, but no board: set SLURM=1 (and PARTITION or BOARD) on Intel's "
            "cloud, or NXSDKHOST to the address of the board's host; or use --backend lava, which simulates the chip"
        )
    return python, versions
