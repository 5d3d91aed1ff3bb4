"""What starts the worker of each path, or why a path is left out."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from neuroport.chip.target import load_target
from neuroport.errors import ToolchainMissingError
from neuroport.interpreters import child_environment
from neuroport.toolchains import ensure
from tests.benchmarks.measure import Command

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATHS = ("core", "core-2-threads", "torch-loop", "lava-maths", "lava-runtime", "spikingjelly")
SPIKINGJELLY = "NEUROPORT_BENCH_SPIKINGJELLY"
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}


def own(path: str, module: str, *arguments: str, threads: int = 1) -> Command:
    """A worker in this environment."""
    argv = [sys.executable, "-m", f"tests.benchmarks.workers.{module}", *arguments]
    return Command(path, argv, ROOT, {**os.environ, **_ONE_THREAD}, threads)


def foreign(path: str, python: str | Path, module: str, *arguments: str) -> Command:
    """A worker in another environment, whose packages may include one named `tests`."""
    argv = [str(python), "-m", f"workers.{module}", *arguments]
    environment = child_environment({**_ONE_THREAD, "PYTHONDONTWRITEBYTECODE": "1"})
    return Command(path, argv, HERE, environment)


def commands(paths: tuple[str, ...], case: Path) -> tuple[list[Command], dict[str, str]]:
    """Commands of the paths for a case, and the reasons of those that cannot be started."""
    found: list[Command] = []
    left_out: dict[str, str] = {}
    for path in paths:
        made = _command(path, str(case))
        if isinstance(made, str):
            left_out[path] = made
        else:
            found.append(made)
    return found, left_out


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _command(path: str, case: str) -> Command | str:
    match path:
        case "core":
            return own(path, "core", case, "1")
        case "core-2-threads":
            return own(path, "core", case, "2", threads=2)
        case "torch-loop":
            return own(path, "torch_loop", case)
        case "spikingjelly":
            python = os.environ.get(SPIKINGJELLY)
            if not python:
                return f"{SPIKINGJELLY} names no Python with spikingjelly"
            return foreign(path, python, "spikingjelly_loop", case)
        case _:
            sheet = load_target("loihi-sim").toolchain
            try:
                python = "" if sheet is None else ensure(sheet.spec, on_progress=_say).python
            except ToolchainMissingError as error:
                return f"Lava's environment cannot be made: {error}"
            module, *arguments = (
                ("lava_maths",) if path == "lava-maths" else ("lava_runtime", f"bench{secrets.token_hex(4)}")
            )
            return foreign(path, python, module, case, *arguments)
