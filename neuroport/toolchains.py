"""Environments of their own for vendor SDKs, which pin old Pythons (Lava 0.10 runs on Python 3.10 only).

Each is made on first use, under a lock, and renamed into place when it is whole. A stamp records every installed file
and its size; each use checks it, and what is amiss is made again. In the cache directory:

    toolchains/NAME-HASH/       the environment; HASH follows from the spec, so a changed spec makes a new one
    toolchains/NAME-HASH.lock   held by the one process that makes it; never deleted
    toolchains/NAME-HASH.tmp-*  being made, under the lock (.old-*: being deleted); else left by a killed process
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from neuroport.errors import ToolchainError, ToolchainMissingError
from neuroport.interpreters import OWNER, Progress, absolute, find_python, run_to_end, uv_program, why_not

_FORMAT = 1
_STAMP = "stamp.json"


@dataclass(frozen=True)
class ToolchainSpec:
    """What an environment must hold; the datasheet of a target names it.

    `python` is major and minor ("3.10"); `requires` are installed with their dependencies, then `requires_no_deps`
    without; each of `imports` must import. Raises ToolchainError if `name` cannot be part of a directory name.
    """

    name: str
    python: str
    requires: tuple[str, ...]
    requires_no_deps: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be a directory name or a version."""
        for key, value, form in (("name", self.name, r"\w[\w.-]*"), ("python", self.python, r"\d+\.\d+")):
            if not re.fullmatch(form, value, re.ASCII):
                raise ToolchainError(f"toolchain {self.name!r}: {key} {value!r}, a spec allows {form}; correct it")


@dataclass(frozen=True)
class Toolchain:
    """A ready environment: `python` is the interpreter inside it, `packages` the installed versions by name."""

    spec: ToolchainSpec
    root: Path
    python: Path
    packages: Mapping[str, str]


@dataclass(frozen=True)
class ToolchainStatus:
    """What was found in the cache; `detail` is for the user and says why."""

    state: Literal["ready", "not installed", "broken"]
    detail: str
    root: Path


def cache_dir() -> Path:
    """Return NEUROPORT_CACHE if set, else XDG_CACHE_HOME/neuroport, else ~/.cache/neuroport; absolute, maybe absent.

    Raises ToolchainError if there is no home directory to put it in.
    """
    if chosen := os.environ.get("NEUROPORT_CACHE"):
        return absolute(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # The XDG specification: a relative path is invalid and ignored.
        return base / "neuroport"
    try:
        return Path.home() / ".cache" / "neuroport"
    except RuntimeError as error:
        raise ToolchainError("cache directory: no home directory, toolchains need one; set NEUROPORT_CACHE") from error


def status(spec: ToolchainSpec) -> ToolchainStatus:
    """Return what the cache holds for this spec: reads only, imports nothing of the SDK, takes no lock."""
    return _inspect(spec)[0]


def _inspect(spec: ToolchainSpec) -> tuple[ToolchainStatus, dict[str, str]]:
    """Check the stamp, every recorded file and the interpreter; return the state and the installed versions."""
    plain = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    root = cache_dir() / "toolchains" / f"{spec.name}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"
    if not os.path.lexists(root):
        missing = "made on first use, or by `neuroport targets install TARGET`"
        return ToolchainStatus("not installed", missing, root), {}
    packages: dict[str, str] = {}
    reason: str | None = None
    try:
        stamp = json.loads((root / _STAMP).read_bytes())
        packages = {str(name): str(version) for name, version in stamp["packages"].items()}
        sizes = stamp["files"].items()
        changed = next((name for name, size in sizes if os.lstat(f"{root}{os.sep}{name}").st_size != size), None)
        if changed is not None:
            reason = f"{changed} is not of the size that was installed"
        if stamp["format"] != _FORMAT or stamp["spec"] != json.loads(plain):
            reason = f"its {_STAMP} is of another version of neuroport or of another spec"
    except OSError as error:
        reason = f"{os.path.relpath(error.filename, root)} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        reason = f"its {_STAMP} is damaged"
    if reason is None and (wrong := why_not(root / "bin" / "python", spec.python, prefix=root)):
        reason = f"its interpreter {wrong}"
    return ToolchainStatus("broken" if reason else "ready", reason or f"{len(packages)} packages", root), packages


def ensure(
    spec: ToolchainSpec, *, force: bool = False, on_progress: Progress | None = None, timeout_s: float = 900.0
) -> Toolchain:
    """Return the ready environment, made or made again where needed (with `force`, even if ready and in use).

    `timeout_s` is for everything together, the wait for another process that makes the same environment included;
    `on_progress` is told, in one line each, what is done and why.

    Raises:
        ToolchainMissingError: no interpreter, no package index, no room in the cache directory, or no time.
        ToolchainError: what was installed does not work, or another process kept the lock too long.
    """
    deadline = time.monotonic() + timeout_s

    def say(text: str) -> None:
        if on_progress is not None:
            on_progress(f"toolchain {spec.name!r}: {text}")

    found, packages = _inspect(spec)
    if force or found.state != "ready":
        try:
            found.root.parent.mkdir(parents=True, exist_ok=True)
            with _lock(spec, found.root, deadline, say):
                found, packages = _inspect(spec)  # Another process may have made it while we waited.
                if force or found.state != "ready":
                    _remake(spec, found, deadline, say)
                    found, packages = _inspect(spec)
        except BrokenPipeError:
            raise  # From on_progress: no file of ours is a pipe.
        except OSError as error:
            raise _cache_error(spec, error.errno, str(error)) from error
    if found.state != "ready":
        why = f"{found.root} was just made, but {found.detail}, only neuroport may write there"
        raise ToolchainError(f"toolchain {spec.name!r}: {why}; set NEUROPORT_CACHE to another directory")
    return Toolchain(spec, found.root, found.root / "bin" / "python", packages)


def _lock(spec: ToolchainSpec, root: Path, deadline: float, say: Progress) -> contextlib.AbstractContextManager[object]:
    """Return the held lock of this environment, waited for until the deadline."""
    lock = FileLock(f"{root}.lock")
    with contextlib.suppress(Timeout):
        return lock.acquire(timeout=0)
    say("another process is making it; waiting")
    with contextlib.suppress(Timeout):
        return lock.acquire(timeout=_left(deadline), poll_interval=0.2)
    why = f"{root}.lock is still held at the deadline, one process at a time may make it"
    raise ToolchainError(f"toolchain {spec.name!r}: {why}; wait for the other process or end it, then retry")


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _remake(spec: ToolchainSpec, found: ToolchainStatus, deadline: float, say: Progress) -> None:
    """Make the environment, under the lock; what was there before stays until the new one is whole."""
    root = found.root
    for left in (*root.parent.glob(f"{root.name}.tmp-*"), *root.parent.glob(f"{root.name}.old-*")):
        _remove(left)
    say("making it again: it was broken, " + found.detail if found.state == "broken" else "making it")
    started = time.monotonic()
    suffix = secrets.token_hex(4)
    new, old = Path(f"{root}.tmp-{suffix}"), Path(f"{root}.old-{suffix}")
    try:
        new.mkdir()
        _fill(spec, new, deadline, say)
        if os.path.lexists(root):
            root.rename(old)
        new.rename(root)
    finally:
        _remove(new)
        _remove(old)
    say(f"made in {time.monotonic() - started:.1f} s")


def _fill(spec: ToolchainSpec, new: Path, deadline: float, say: Progress) -> None:
    """Make the environment in the empty directory `new`, test it, and write its stamp last."""

    def step(failing: str, *argv: str | Path) -> None:
        failure, _, err = run_to_end(argv, _left(deadline), owner=new)
        said = "\n    ".join(["", *err.splitlines()[-15:]])
        if failure and os.strerror(errno.ENOSPC) in err:
            raise _cache_error(spec, errno.ENOSPC, said)
        if failure:
            raise (ToolchainError if argv[0] == inside else ToolchainMissingError)(
                f"toolchain {spec.name!r}: {failing} failed ({failure}), it must succeed; check the network, then "
                f"retry, or use `--backend cpu`, which needs no toolchain. It said:{said or ' nothing'}"
            )

    inside = new / "bin" / "python"
    python = find_python(spec.python, on_progress=say, timeout_s=_left(deadline))
    say(f"creating it with {python}")
    # Relocatable: it is renamed after it is filled, and console scripts name their interpreter.
    step("`uv venv`", uv_program(), "venv", "--no-project", "--relocatable", "--python", python, new)
    for options, requirements in (((), spec.requires), (("--no-deps",), spec.requires_no_deps)):
        if requirements:
            listed = ", ".join(requirements)
            say(f"installing {listed}")
            # Copies: with hard links, a file damaged here would be damaged in the cache of uv too, and come back.
            install = [
                uv_program(),
                "pip",
                "install",
                "--no-progress",
                "--link-mode",
                "copy",
                "--python",
                inside,
                *options,
            ]
            step(f"`uv pip install` of {listed}", *install, "--", *requirements)
    say("testing that it works")
    imports = "\n".join(f"import {name}" for name in spec.imports)
    step(f"the test of the imports {', '.join(spec.imports)}", inside, "-I", "-c", imports)
    _write_stamp(spec, new)


def _write_stamp(spec: ToolchainSpec, new: Path) -> None:
    """Record the spec, the versions, and the size of each file and link but what Python or uv rewrites by itself."""
    site = new / "lib" / f"python{spec.python}" / "site-packages"
    packages = {found.name: found.version for found in importlib.metadata.distributions(path=[str(site)])}
    names = [str(path.relative_to(new)) for path in new.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = [name for name in names if not re.search(r"__pycache__|\.pyc$|^\.lock$", name)]
    sizes = {name: (new / name).lstat().st_size for name in names}
    stamp = {"format": _FORMAT, "spec": dataclasses.asdict(spec), "packages": packages, "files": sizes}
    (new / _STAMP).write_text(json.dumps(stamp, indent=0), encoding="utf-8")


def _remove(path: Path) -> None:
    """Delete what is there, and kill what still works on it: a neuroport that was killed could not end its uv.

    What resists is left for the next attempt under the lock.
    """
    for pause_s in (0.0, 0.1, 0.5):  # A process killed a moment ago may still finish one write.
        if os.path.lexists(path):
            time.sleep(pause_s)
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    if process.environ().get(OWNER) == str(path):
                        process.kill()
            with contextlib.suppress(OSError):
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)


def _cache_error(spec: ToolchainSpec, number: int | None, said: str) -> ToolchainError:
    """Return the error for a cache directory that is full or cannot be used."""
    what = "cannot be used, it must be a writable directory; set NEUROPORT_CACHE to one that is"
    if number in (errno.ENOSPC, errno.EDQUOT):
        what = "has no space left, the environment must fit; free some, or set NEUROPORT_CACHE to a larger disk"
    return ToolchainMissingError(f"toolchain {spec.name!r}: cache directory {cache_dir()} {what}. Reason: {said}")
