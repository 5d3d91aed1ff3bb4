"""Compiled code is kept by the source it was made of, and nowhere to keep it is no reason to fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
import pytest

from neuroport import compiled as module
from neuroport.interpreters import child_environment

ROOT = Path(__file__).parents[1]
RUN = """
import numpy as np
from neuroport.snn.gate import _estimate
_estimate(np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.int32), 0)
"""


def run(**variables):
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(
        command, env=child_environment(variables), cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "NEUROPORT_CACHE"])
def test_code_is_kept_in_a_folder_named_by_the_source(tmp_path, variable):
    run(**{"NUMBA_CACHE_DIR": "", variable: str(tmp_path)})
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("compiled-")
    assert list(folder.rglob("*_estimate*.nbi"))


def test_a_changed_source_has_another_folder(tmp_path, monkeypatch):
    before = module._folder.__wrapped__(str(tmp_path))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "work.py"))
    assert module._folder.__wrapped__(str(tmp_path)) != before


def test_nowhere_to_keep_it(monkeypatch):
    """A read-only installation without a home: compiled all the same."""

    def refused(*args, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "mkdir", refused)
    module._folder.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    try:
        assert module._folder("") == ""
        assert module.compiled(lambda x: x + 1)(2) == 3
    finally:
        module._folder.cache_clear()
    assert numba.config.CACHE_DIR == ""


def test_numba_that_finds_no_place_is_no_failure(monkeypatch):
    calls = []

    def njit(**options):
        calls.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(module, "njit", njit)
    assert module.compiled(abs) is abs
    assert [options.get("cache", False) for options in calls] == [True, False]
