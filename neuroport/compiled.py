"""Compiled functions, kept on disk between processes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

from neuroport.errors import ToolchainError
from neuroport.toolchains import cache_dir


def compiled(function: Any) -> Any:
    """The function, compiled at its first call for the types it is called with; it releases the interpreter's lock.

    The code is kept under NUMBA_CACHE_DIR or NEUROPORT_CACHE, in a folder named by the package's source: numba itself
    sees changes of one file only, and would keep what another file has changed. Where nothing can be written, each
    process compiles anew.
    """
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = _folder(before)
        made = njit(nogil=True, cache=bool(numba.config.CACHE_DIR), boundscheck=False)(function)
    except RuntimeError:  # numba finds no place that it may write to
        made = njit(nogil=True, boundscheck=False)(function)
    finally:
        numba.config.CACHE_DIR = before
    return made


@cache
def _folder(chosen: str) -> str:
    """Where compiled code of this source goes, in the folder chosen if any; '' where nothing can be written."""
    digest = hashlib.blake2b(digest_size=8)
    package = Path(__file__).parent
    folders = ("snn", "chip", "chip/core", "mapping")
    for path in sorted(path for folder in folders for path in package.glob(f"{folder}/*.py")):
        digest.update(path.read_bytes())
    try:
        folder = (Path(chosen) if chosen else cache_dir()) / f"compiled-{digest.hexdigest()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ToolchainError):
        return ""
    return str(folder)
