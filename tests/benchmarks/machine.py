"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from neuroport.version import __version__


def describe() -> dict[str, Any]:
    """Processor, memory, versions, and how busy it is."""
    return {
        "cpu": _cpu(),
        "n_cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"neuroport": __version__, **{name: _version(name) for name in ("numpy", "numba", "torch")}},
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in info.read_text().splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or "unknown processor"
    family = "".join(f", {key} {found[key]}" for key in ("cpu family", "model") if key in found)
    flags = [flag for flag in ("avx2", "avx512bw", "avx512_vnni", "amx_int8") if flag in found.get("flags", "").split()]
    return f"{name}{family}{' (' + ' '.join(flags) + ')' if flags else ''}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
