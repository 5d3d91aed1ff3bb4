"""Runs a vendor's worker as a process group of its own and ends it, whatever happens, with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroport.backends.starved import memory_hint, oom_kills
from neuroport.errors import WorkerError

_POLL_S = 0.05
_LEAST_FREE = 1 << 20  # bytes below which a place counts as full
_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "neuroport"


class WorkerCancelledError(WorkerError):
    """The worker was ended before it was done, at the wish of whoever runs it."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds a worker may be silent: until it runs its first sample, and between two samples."""

    start_s: float
    sample_s: float


def new_token() -> str:
    """A name for the shared memory of one run; it tells which process owns it, so that the dead's can be removed."""
    return f"{_PREFIX}_{os.getpid()}_{secrets.token_hex(4)}"


def run_worker(
    command: Sequence[str],
    *,
    token: str,
    work_dir: Path,
    environment: Mapping[str, str],
    deadlines: Deadlines,
    on_progress: Callable[[int], None],
    is_cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Run the command until it ends by itself; its output goes to `worker.log` in work_dir.

    The worker writes `heartbeat.json` ({state, samples}) as it goes, and `error.json` where it fails. On a missed
    deadline, a crash, Ctrl-C or any error here, or once it is cancelled, its whole process group is killed and its
    shared memory freed.

    Raises:
        WorkerError: it failed, was killed, or was silent for too long; with the reason and the end of its log.
        WorkerCancelledError: is_cancelled says so.
    """
    remove_abandoned_memory()
    kills_before = oom_kills()
    log = work_dir / "worker.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=work_dir,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"the worker '{command[0]}' cannot be started: {error}") from error
    try:
        _wait(process, work_dir, deadlines, on_progress, is_cancelled)
        _check_status(process.returncode, work_dir, kills_before)
    finally:
        _end_group(process)
        free_memory(token)


def _wait(
    process: subprocess.Popen[bytes],
    work_dir: Path,
    deadlines: Deadlines,
    on_progress: Callable[[int], None],
    is_cancelled: Callable[[], bool],
) -> None:
    last, samples, since = "", 0, time.monotonic()
    while process.poll() is None:
        if is_cancelled():
            raise WorkerCancelledError("the worker was ended because another one of the same run failed")
        beat = _read(work_dir / "heartbeat.json")
        text = json.dumps(beat, sort_keys=True)
        if text != last:
            last, since = text, time.monotonic()
            if int(beat.get("samples", 0)) > samples:
                samples = int(beat["samples"])
                on_progress(samples)
        allowed = deadlines.sample_s if beat.get("state") == "running" else deadlines.start_s
        if time.monotonic() - since > allowed:
            raise WorkerError(
                f"the worker was silent for {allowed:.0f} s while {beat.get('state', 'starting')} (after {samples} "
                f"samples{_last_progress(work_dir)}) and was ended; run fewer or shorter samples, or look at its "
                f"log{_log_end(work_dir)}"
            )
        time.sleep(_POLL_S)
    on_progress(int(_read(work_dir / "heartbeat.json").get("samples", samples)))


def _check_status(status: int, work_dir: Path, kills_before: int | None) -> None:
    found = _read(work_dir / "error.json")
    if found:
        reason = str(found.get("reason"))
        raise WorkerError(
            f"the worker failed in '{found.get('where')}': {reason}{_last_progress(work_dir)}"
            f"{_what_is_full(reason, work_dir)}{memory_hint(reason, kills_before)}{_log_end(work_dir, found)}"
        )
    if status < 0:
        name = signal.Signals(-status).name
        raise WorkerError(
            f"the worker was killed by {name}{_last_progress(work_dir)}; run it again"
            f"{_what_is_full(name, work_dir)}{memory_hint(name, kills_before)}{_log_end(work_dir)}"
        )
    if status:
        raise WorkerError(f"the worker ended with exit status {status}{_log_end(work_dir)}")


def _last_progress(work_dir: Path) -> str:
    """Which population wrote last, from `populations.json` ({file: name}) and the files."""
    written = []
    for file, name in _read(work_dir / "populations.json").items():
        with contextlib.suppress(OSError):
            written.append(((work_dir / file).stat().st_mtime_ns, str(name)))
    return f", '{max(written)[1]}' being the last population that finished one" if written else ""


def _what_is_full(reason: str, work_dir: Path) -> str:
    """Of a failure for want of room: whether it is the disk or the shared memory.

    Writing to a full /dev/shm kills by SIGBUS; its processes then end with exit status -7.
    """
    if not any(word in reason for word in ("No space left", "SIGBUS", f"exit status -{signal.SIGBUS.value}")):
        return ""
    places = [(_SHARED_MEMORY, "shared memory"), (work_dir, "the disk of the output directory")]
    full = [f"{what} ({place}) is full" for place, what in places if _free(place) < _LEAST_FREE]
    room = [f"{what} ({place}) has {_free(place) >> 20} MB" for place, what in places]
    return f"\n  {'; '.join(full) or 'free now: ' + ', '.join(room)}; make room and run it again"


def _free(place: Path) -> int:
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _log_end(work_dir: Path, error: Mapping[str, Any] | None = None) -> str:
    """The last lines of the traceback or the log, for the message."""
    text = str((error or {}).get("traceback") or "")
    if not text:
        with contextlib.suppress(OSError):
            text = (work_dir / "worker.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-8:]
    return "\n  " + "\n  ".join(lines) if lines else ""


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill every process of the worker's session and wait for the worker itself."""
    while True:
        try:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
            return
        except KeyboardInterrupt:  # a second Ctrl-C must not leave the group alive
            continue
        except subprocess.TimeoutExpired:
            return


def free_memory(token: str) -> None:
    """Remove the shared memory segments of one run."""
    for path in _SHARED_MEMORY.glob(f"{token}_*"):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_abandoned_memory() -> None:
    """Remove segments of neuroport processes that were killed before they could."""
    for path in _SHARED_MEMORY.glob(f"{_PREFIX}_*_*"):
        owner = path.name.split("_")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                path.unlink()
