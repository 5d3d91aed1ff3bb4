"""Whether a worker ended for want of memory, as far as the kernel tells."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

_ROOT = Path("/")
# What Python, numpy and the loader say where the system gives no memory: to a process with a limit, or at all.
_WORDS = ("MemoryError", "Cannot allocate memory", "can't start new thread", "failed to map segment", "std::bad_alloc")
_KILLED = (signal.SIGKILL.name, f"exit status -{signal.SIGKILL.value}")
_REMEDY = "use fewer --workers, or a machine with more"


def oom_kills(root: Path = _ROOT) -> int | None:
    """Processes that the kernel has killed for want of memory: in our control group, or else on the whole machine.

    None where the kernel does not count them. It counts them for the group of the one it kills.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst `memory.events`, cgroup-v1/memory.rst `memory.oom_control`.
    """
    for path in (*_group_files(root), root / "proc/vmstat"):
        for line in _lines(path):
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return None


def memory_hint(reason: str, kills_before: int | None) -> str:
    """What to add to the reason of a failure: whether memory was short, and what to do; nothing for other reasons.

    kills_before: oom_kills() when the worker was started.
    """
    if any(word in reason for word in _WORDS):
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        limit = "no limit (ulimit -v)" if soft == resource.RLIM_INFINITY else f"a limit of {soft >> 20} MB (ulimit -v)"
        return (
            f"\n  it got no more memory: the machine has {_available_mb()} MB available, processes started from here "
            f"have {limit}; {_REMEDY}"
        )
    if not any(word in reason for word in _KILLED):
        return ""
    kills = oom_kills()
    if kills is None or kills_before is None:
        return f"\n  the kernel does not say whether for want of memory; if so, {_REMEDY}"
    if kills > kills_before:
        return f"\n  the kernel killed a process for want of memory meanwhile; {_REMEDY}"
    return "\n  not for want of memory: the kernel killed none for it meanwhile, so somebody else ended it"


def _group_files(root: Path) -> list[Path]:
    """The files with the counter of our control group, version 2 and version 1; they need not exist."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.strip().split(":", 2)
        inside = group.lstrip("/")
        if not controllers:
            found.append(root / "sys/fs/cgroup" / inside / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(root / "sys/fs/cgroup/memory" / inside / "memory.oom_control")
    return found


def _available_mb() -> int:
    found = [line.split()[1] for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:")]
    return int(found[0]) >> 10 if found else 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
