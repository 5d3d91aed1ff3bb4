"""Finding a Python: the order of places, what does not run is passed over, what was tried is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import uv

from neuroport import interpreters
from neuroport.errors import ToolchainMissingError
from neuroport.interpreters import find_python
from tests.processes import is_alive, script, wait_until

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


def answer(version: str, implementation: str = "cpython") -> str:
    """The body of a script that answers the probe like an interpreter of that version."""
    return f"""echo '["{implementation}", "{version}", "/nowhere"]'"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Python: no running interpreter, nothing on PATH, in pyenv or in uv, and no network."""
    for key, folder in (("PATH", "bin"), ("PYENV_ROOT", "pyenv"), ("UV_PYTHON_INSTALL_DIR", "uv-pythons")):
        monkeypatch.setenv(key, str(tmp_path / folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.delenv("NEUROPORT_PYTHON_3_10", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent" / "python"))
    return tmp_path


def test_python_is_looked_for_in_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last place to the first: each new one wins over those before."""
    for name in ("3.10.9", "3.10.13", "3.10.2", "3.10-dev", "3.11.1"):
        script(bare / f"pyenv/versions/{name}/bin/python", answer(name.replace("-dev", ".99")))
    assert find_python("3.10") == bare / "pyenv/versions/3.10.13/bin/python"
    script(bare / "pyenv/versions/3.10.13/bin/python", "exit 1")
    assert find_python("3.10") == bare / "pyenv/versions/3.10.9/bin/python"
    for n, body in enumerate(("exit 127", answer("3.9.1"), "echo hello", answer("3.10.1"), answer("3.10.2"))):
        script(bare / f"bin{n}" / "python3.10", body)
    monkeypatch.setenv("PATH", os.pathsep.join(str(bare / f"bin{n}") for n in range(6)))
    assert find_python("3.10") == bare / "bin3/python3.10"
    assert script(bare / "absent/python", answer("3.10.4")) == find_python("3.10")
    monkeypatch.setenv("NEUROPORT_PYTHON_3_10", str(script(bare / "named", answer("3.10.5"))))
    assert find_python("3.10") == bare / "named"


def test_an_interpreter_managed_by_uv_is_found(bare: Path) -> None:
    base = Path(getattr(sys, "_base_executable", ""))
    assert "belongs to" in (interpreters.why_not(base, RUNNING, prefix=bare) or ""), "and not to an environment"
    argv = [uv.find_uv_bin(), "python", "list", "--only-downloads", "--output-format", "json", f"cpython@{RUNNING}"]
    entry = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)[0]
    key = entry["key"].replace(entry["version"], ".".join(map(str, sys.version_info[:3])))
    managed = script(bare / "uv-pythons" / key / "bin" / f"python{RUNNING}", f"exec '{base}' \"$@\"")
    assert find_python(RUNNING).resolve() in (base.resolve(), managed)


NO_PYTHON_3_10 = {
    None: "does not start: No such file",
    "kill -9 $$": "killed by signal 9",
    answer("3.9.7"): r"is cpython 3\.9\.7, not CPython 3\.10",
    answer("3.100.7"): r"is cpython 3\.100\.7, not CPython 3\.10",
    answer("3.10.7", "pypy"): r"is pypy 3\.10\.7, not CPython 3\.10",
    "echo 5": "does not answer like a Python interpreter",
}


@pytest.mark.parametrize("body", NO_PYTHON_3_10)
def test_a_variable_that_names_no_such_python(bare: Path, monkeypatch: pytest.MonkeyPatch, body: str | None) -> None:
    script(bare / "bin/python3.10", answer("3.10.1"))  # Never taken: the user asked for another one.
    monkeypatch.setenv("NEUROPORT_PYTHON_3_10", str(script(bare / "named", body) if body else bare / "named"))
    pattern = f"NEUROPORT_PYTHON_3_10: .*named' {NO_PYTHON_3_10[body]}.*; set it to a Python 3.10"
    with pytest.raises(ToolchainMissingError, match=pattern):
        find_python("3.10")


@pytest.mark.parametrize("downloads", ["manual", "never"])
def test_nothing_found_lists_what_was_tried(bare: Path, monkeypatch: pytest.MonkeyPatch, downloads: str) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", downloads)
    script(bare / "bin/python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    with pytest.raises(ToolchainMissingError, match=r"install Python 3\.10.*--backend cpu or --target cpu") as caught:
        find_python("3.10", on_progress=(say := Mock()))
    tried = [line.strip().split(": ", 1) for line in str(caught.value).splitlines()[1:]]
    origins = " ".join(origin.split()[0] for origin, _ in tried)
    assert origins == "NEUROPORT_PYTHON_3_10 the python3.10 python3.10 pyenv managed download downloaded"
    assert tried[2][1].endswith("exit code 127 pyenv: python3.10: command not found")
    assert {"manual": "connectivity is disabled", "never": "not allowed"}[downloads] in tried[6][1]
    say.assert_called_once_with("Python 3.10 is not on this machine; uv downloads it")


def test_an_interpreter_that_hangs_or_leaves_a_process_is_ended(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = shutil.which("sleep", path=os.defpath)
    script(bare / "bin0/python3.10", f"exec {sleep} 60")
    script(bare / "bin1/python3.10", f"{sleep} 60 & echo $! > '{bare}/pid'; read line; exit 1")
    monkeypatch.setenv("PATH", os.pathsep.join(str(bare / f"bin{n}") for n in range(3)))
    monkeypatch.setattr(interpreters, "_PROBE_TIMEOUT_S", 1.0)
    started = time.monotonic()
    assert script(bare / "bin2/python3.10", answer("3.10.1")) == find_python("3.10")
    assert time.monotonic() - started < 20
    wait_until(lambda: not is_alive(int((bare / "pid").read_text())))
