"""Finds a Python of the version a vendor SDK needs, and runs programs so that nothing hangs and nothing leaks in."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import uv

from neuroport.errors import ToolchainMissingError

Progress = Callable[[str], None]

# Marks what is started while an environment is made, so that it can be found again if its parent was killed.
OWNER = "NEUROPORT_TOOLCHAIN_BUILD"
_PROBE_TIMEOUT_S = 20.0
_PROBE = "import json, sys; print(json.dumps([sys.implementation.name, sys.version.split()[0], sys.prefix]))"
# Beside PYTHON*: what would make the child, or uv, work on the parent's environment or project instead of its own.
_FOREIGN = {"VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "__PYVENV_LAUNCHER__", OWNER}
_FOREIGN |= {"UV_PROJECT", "UV_WORKING_DIR", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_MANAGED_PYTHON"}


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a toolchain's process: ours, without what would make it see our own packages.

    Removes every PYTHON* variable (they are meant for our interpreter), VIRTUAL_ENV and the like; keeps PATH, proxies,
    certificates and the user's uv settings, but uv puts no Python on the user's PATH; `extra` is set last.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON") and key not in _FOREIGN}
    return {**kept, "PYTHONNOUSERSITE": "1", "UV_PYTHON_INSTALL_BIN": "0", **(extra or {})}


def absolute(path: str) -> Path:
    """The path with ~ resolved where there is a home directory, made absolute."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 (where there is no home, it does not raise)


def run_to_end(argv: Sequence[str | Path], timeout_s: float, owner: Path | None = None) -> tuple[str | None, str, str]:
    """Run a command to its end or to the deadline; return why it failed (None: it did not), its stdout and stderr.

    Whatever happens, none of its process group is left. Output goes to files: a grandchild that keeps a pipe open would
    hang us. The working directory is the root of the file system, where uv finds no project configuration.
    """
    env = child_environment({OWNER: str(owner)} if owner else None)
    failure: str | None = None
    try:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=os.sep, env=env, start_new_session=True
            )
            try:
                if code := process.wait(timeout_s):
                    failure = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            except subprocess.TimeoutExpired:
                failure = f"not finished after {timeout_s:.0f} s"
            finally:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(5)
            out.seek(0)
            err.seek(0)
            return failure, out.read().decode("utf-8", "replace").strip(), err.read().decode("utf-8", "replace").strip()
    except OSError as error:
        return f"does not start: {error.strerror or error}", "", ""


def why_not(python: Path, version: str, prefix: Path | None = None) -> str | None:
    """Return None if this interpreter runs, is CPython of that version, and lives in `prefix`; else the reason."""
    failure, out, err = run_to_end([python, "-I", "-B", "-c", _PROBE], _PROBE_TIMEOUT_S)
    if failure is not None:
        return f"{failure} {' '.join(err.split())[:200]}".strip()
    try:
        implementation, found, found_prefix = map(str, json.loads(out))
    except (ValueError, TypeError):
        return f"does not answer like a Python interpreter ({out[:80]!r})"
    if implementation != "cpython" or not found.startswith(f"{version}."):
        return f"is {implementation} {found}, not CPython {version}"
    if prefix is not None and os.path.realpath(found_prefix) != os.path.realpath(prefix):
        return f"belongs to {found_prefix}, not to this environment"
    return None


def find_python(version: str, *, on_progress: Progress | None = None, timeout_s: float = 600.0) -> Path:
    """Return an interpreter of that version ("3.10"): found, or downloaded by uv (within `timeout_s`) as a last resort.

    Order: NEUROPORT_PYTHON_3_10, the running one, every python3.10 on PATH, pyenv's (newest patch first), uv's, uv's
    download. Each is run before it counts: a pyenv shim may exist and not run.

    Raises ToolchainMissingError if the variable names no such interpreter, or none is found; lists what was tried.
    """
    variable = f"NEUROPORT_PYTHON_{version.replace('.', '_')}"
    if named := os.environ.get(variable):
        if (reason := why_not(absolute(named), version)) is None:
            return absolute(named)
        raise ToolchainMissingError(
            f"variable {variable}: {named!r} {reason}; set it to a Python {version}, or unset it"
        )
    tried = [f"{variable}: not set"]
    for origin, found in _pythons(version, on_progress or (lambda _: None), timeout_s):
        if isinstance(found, str):
            tried.append(f"{origin}: {found}")
        elif reason := why_not(found, version):
            tried.append(f"{origin}: {found} {reason}")
        else:
            return found
    raise ToolchainMissingError(
        f"no Python {version} that runs was found; install Python {version}, or set {variable} to one, or use "
        "--backend cpu or --target cpu, which need no toolchain. Tried:\n    " + "\n    ".join(tried)
    )


def _pythons(version: str, say: Progress, timeout_s: float) -> Iterator[tuple[str, Path | str]]:
    """Give each place and the interpreter in it, not yet run, or why there is no (other) one; the download last."""
    yield "the running interpreter", Path(sys.executable or "")
    program = f"python{version}"
    for place in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        if os.access(python := absolute(place) / program, os.X_OK):
            yield f"{program} on PATH", python
    yield f"{program} on PATH", "no other"
    pyenv = absolute(os.environ.get("PYENV_ROOT") or "~/.pyenv") / "versions"
    matches = [re.fullmatch(rf"{re.escape(version)}\.(\d+)", path.name) for path in pyenv.glob("*")]
    for patch in sorted((int(match[1]) for match in matches if match), reverse=True):
        yield "pyenv", pyenv / f"{version}.{patch}" / "bin" / "python"
    yield "pyenv", f"no other {version}.* in {pyenv}"
    find = ["find", "--python-preference", "only-managed", "--no-python-downloads", "--no-project", "--system", version]
    install = ["install", "--no-progress", version]
    for origin, arguments in (("managed by uv", find), ("download by uv", install), ("downloaded by uv", find)):
        if arguments is install:
            say(f"Python {version} is not on this machine; uv downloads it")
        failure, out, err = run_to_end(
            [uv_program(), "python", *arguments], timeout_s if arguments is install else _PROBE_TIMEOUT_S
        )
        if failure is not None:
            yield origin, f"{failure} ({' '.join(err.split())[-400:]})"
        elif arguments is find:
            yield origin, Path(out)


def uv_program() -> str:
    """Path of the uv program that came with neuroport.

    Raises:
        ToolchainMissingError: it is not there.
    """
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise ToolchainMissingError("program uv: not found, toolchains need it; reinstall the package uv") from error
