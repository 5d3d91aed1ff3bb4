"""The environments of vendor toolchains: real interpreters, a real uv, real processes that are killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import uv

import neuroport
from neuroport import toolchains
from neuroport.errors import ToolchainError, ToolchainMissingError
from neuroport.interpreters import child_environment
from neuroport.toolchains import ToolchainSpec, cache_dir, ensure, status
from tests.processes import is_alive, script, wait_until

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
EMPTY = ToolchainSpec("empty", RUNNING, ())

# A source package that needs no index. Its build backend notes each build, and pauses in the first one.
PROJECT = """
project = {name = "slowpkg", version = "1.0", dependencies = [DEPENDENCIES]}
build-system = {requires = [], build-backend = "backend", backend-path = ["."]}
"""
BACKEND = """
import os, pathlib, time, zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    note = pathlib.Path(__file__).with_name("builds")
    end = time.time() + (0 if note.exists() else PAUSE)
    with note.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while time.time() < end and not note.with_name("go").exists():
        time.sleep(0.02)
    with zipfile.ZipFile(os.path.join(wheel_directory, "slowpkg-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("slowpkg.py", "def main():\\n    print('slowpkg runs')\\n")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\\nName: slowpkg\\nVersion: 1.0\\n",
            "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "entry_points.txt": "[console_scripts]\\nslowpkg = slowpkg:main\\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"slowpkg-1.0.dist-info/{name}", text)
    return "slowpkg-1.0-py3-none-any.whl"
"""
CHILD = """
import signal, sys
from neuroport.toolchains import ToolchainSpec, ensure
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell in the background has it ignored.
print(dict(ensure(ToolchainSpec(*sys.argv[1:3], (sys.argv[3],)), on_progress=print, timeout_s=60).packages))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, not yet there, in a path with a space; and no network."""
    monkeypatch.setenv("NEUROPORT_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    for version in (RUNNING, "3.10"):
        monkeypatch.delenv(f"NEUROPORT_PYTHON_{version.replace('.', '_')}", raising=False)
    return tmp_path / "a cache"


def slow_package(tmp_path: Path, pause_s: float, dependencies: str = "") -> ToolchainSpec:
    """A spec of one package whose installation pauses inside its first build, or until the file `go` is there."""
    (folder := tmp_path / "slowpkg").mkdir()
    (folder / "pyproject.toml").write_text(PROJECT.replace("DEPENDENCIES", dependencies))
    (folder / "backend.py").write_text(BACKEND.replace("PAUSE", str(pause_s)))
    return ToolchainSpec("slow", RUNNING, (f"slowpkg @ {folder.as_uri()}",))


def wait_for_builds(tmp_path: Path) -> list[int]:
    note = tmp_path / "slowpkg" / "builds"
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
    return [int(line) for line in note.read_text().split()]


def start_child(spec: ToolchainSpec) -> subprocess.Popen[str]:
    argv = [sys.executable, "-u", "-c", CHILD, spec.name, spec.python, *spec.requires]
    env = os.environ | {"PYTHONPATH": str(Path(neuroport.__file__).parents[1])}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def in_cache(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("toolchains/*") if path.suffix != ".lock")


def test_cache_dir_follows_the_variables_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    cases = ("~/x", "/z", "x"), ("y", "/z", "y"), ("", f"{tmp_path}/z", "z/neuroport"), ("", "z", ".cache/neuroport")
    for ours, xdg, expected in cases:
        monkeypatch.setenv("NEUROPORT_CACHE", ours)
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        assert cache_dir() == tmp_path / expected
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home")))
    with pytest.raises(ToolchainError, match=r"no home directory.*set NEUROPORT_CACHE"):
        cache_dir()


@pytest.mark.parametrize("bad", [("../x", "3.10"), ("", "3.10"), ("..", "3.10"), ("x", "3"), ("x", "3.1 0")])
def test_a_spec_that_cannot_name_a_directory_is_refused(bad: tuple[str, str]) -> None:
    with pytest.raises(ToolchainError, match=r"a spec allows .*; correct it"):
        ToolchainSpec(*bad, ())


def test_create_then_use_again_then_force(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = status(EMPTY)
    assert (before.state, before.root.parent) == ("not installed", cache / "toolchains")
    assert not cache.exists(), "status makes nothing"
    said: list[str] = []
    made = ensure(EMPTY, on_progress=said.append)
    assert (said[0], said[-1][:27]) == ("toolchain 'empty': making it", "toolchain 'empty': made in ")
    assert (made.root, made.python, made.packages) == (before.root, before.root / "bin" / "python", {})
    assert (status(EMPTY).state, in_cache(cache)) == ("ready", [made.root.name])
    stamp = made.root / "stamp.json"
    written = stamp.stat().st_mtime_ns
    with monkeypatch.context() as patch:  # The second time uv would fail, but nothing is made again.
        patch.setattr(uv, "find_uv_bin", Mock(side_effect=FileNotFoundError("no uv")))
        assert ensure(EMPTY, on_progress=Mock(side_effect=AssertionError("silent when ready"))) == made
    assert stamp.stat().st_mtime_ns == written
    ensure(EMPTY, force=True)
    assert stamp.stat().st_mtime_ns != written
    other = ensure(ToolchainSpec("empty", RUNNING, (), imports=("json",)))
    assert in_cache(cache) == sorted([made.root.name, other.root.name]), "another spec, another environment"


def test_what_is_installed_runs_after_the_rename(tmp_path: Path) -> None:
    """With an unknown dependency, installed without it; and damaged, then made again from an intact copy."""
    needy = slow_package(tmp_path, 0, '"absent"')
    with pytest.raises(ToolchainMissingError, match="absent"):
        ensure(needy)
    spec = ToolchainSpec("slow", RUNNING, (), requires_no_deps=needy.requires, imports=("slowpkg",))
    made = ensure(spec)
    module = next(made.root.glob("lib/*/site-packages/slowpkg.py"))
    assert (made.packages, module.stat().st_nlink) == ({"slowpkg": "1.0"}, 1), "no link into uv's cache"
    os.truncate(module, 0)
    assert "slowpkg.py is not of the size that was installed" in status(spec).detail
    ensure(spec)
    done = subprocess.run([made.root / "bin" / "slowpkg"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "slowpkg runs\n"


def test_the_surroundings_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nrequired-version = ">=999"\n')
    for name in ("sitecustomize.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('leaked')\n")
    monkeypatch.chdir(tmp_path)
    for key in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_SYSTEM_PYTHON"):
        monkeypatch.setenv(key, "1" if key.startswith("UV") else str(tmp_path))
    ensure(ToolchainSpec("clean", RUNNING, (), imports=("json",)))
    env = child_environment({"PYTHONHASHSEED": "0"})
    assert {key for key in env if key.startswith("PYTHON")} == {"PYTHONNOUSERSITE", "PYTHONHASHSEED"}
    assert (env["PATH"], {"VIRTUAL_ENV", "CONDA_PREFIX"} & set(env)) == (os.environ["PATH"], set())


# A file in the environment, its bytes after the damage (None: deleted), and the reason that is given.
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "deleted": ("bin/activate", lambda _: None, r"bin/activate cannot be read \(No such file"),
    "truncated": ("bin/activate", lambda old: old[:3], "bin/activate is not of the size"),
    "no stamp": ("stamp.json", lambda _: None, "stamp.json cannot be read"),
    "garbage": ("stamp.json", lambda _: b"\xff\x00{", "stamp.json is damaged"),
    "deep": ("stamp.json", lambda _: b"[" * 200_000, "stamp.json is damaged"),
    "no files": ("stamp.json", lambda old: old.replace(b'"files"', b'"fils"'), "stamp.json is damaged"),
    "format": ("stamp.json", lambda old: old.replace(b'"format": 1', b'"format": 0'), "another version of neuroport"),
    "spec": ("stamp.json", lambda old: old.replace(b'"name": "empty"', b'"name": "x"'), "or of another spec"),
    "dangling": ("bin/python", lambda _: None, "its interpreter does not start: No such file"),
    "a file": ("", lambda _: b"", "stamp.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_broken_is_made_again(cache: Path, name: str) -> None:
    relative, damage, reason = DAMAGES[name]
    root = ensure(EMPTY).root
    path = root / relative
    content = damage(path.read_bytes() if path.is_file() else b"")
    target = "x" * len(str(path.readlink())) if name == "dangling" else None  # As if the base Python was removed.
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if target is not None:
        path.symlink_to(target)
    elif content is not None:
        path.write_bytes(content)
    found = status(EMPTY)
    assert found.state == "broken"
    assert re.search(reason, found.detail), found.detail
    said: list[str] = []
    ensure(EMPTY, on_progress=said.append)
    assert re.search(f"making it again: .*{reason}", said[0]), said
    assert (status(EMPTY).state, in_cache(cache)) == ("ready", [root.name])


def test_two_processes_at_once_make_it_once(tmp_path: Path, cache: Path) -> None:
    spec = slow_package(tmp_path, 60.0)
    children = [start_child(spec)]
    wait_for_builds(tmp_path)
    with pytest.raises(ToolchainError, match=r"slow-\w+\.lock is still held at the deadline.*; wait for the other"):
        ensure(spec, timeout_s=0.2, on_progress=(say := Mock()))
    say.assert_called_once_with("toolchain 'slow': another process is making it; waiting")
    children.append(start_child(spec))
    assert "waiting" in children[1].stdout.readline()
    (tmp_path / "slowpkg" / "go").touch()
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert all("{'slowpkg': '1.0'}" in out for out, _ in outputs)
    assert (len(wait_for_builds(tmp_path)), len(in_cache(cache))) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_of_creation(tmp_path: Path, cache: Path, number: signal.Signals) -> None:
    spec = slow_package(tmp_path, 60.0)
    child = start_child(spec)
    [build] = wait_for_builds(tmp_path)
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    if number == signal.SIGKILL:  # Nobody was there to tidy up: the next attempt does.
        assert is_alive(build)
        assert ".tmp-" in in_cache(cache)[0]
        status(spec).root.with_suffix(".old-1").mkdir()
    else:
        assert ("KeyboardInterrupt" in err, in_cache(cache)) == (True, [])
        wait_until(lambda: not is_alive(build))
    made = ensure(spec)
    assert (made.packages, in_cache(cache)) == ({"slowpkg": "1.0"}, [made.root.name])
    wait_until(lambda: not is_alive(build))


def test_out_of_time_in_the_middle_of_creation(tmp_path: Path, cache: Path) -> None:
    spec = slow_package(tmp_path, 60.0)
    with pytest.raises(ToolchainMissingError, match=r"'slow': `uv pip install` of slowpkg .* failed \(not finished"):
        ensure(spec, timeout_s=4)
    assert in_cache(cache) == []
    wait_until(lambda: not is_alive(wait_for_builds(tmp_path)[0]))
    assert ensure(spec).packages == {"slowpkg": "1.0"}, "the lock is free again"


NEEDY = ToolchainSpec("needy", RUNNING, ("six==1.16.0",))
ODD = ToolchainSpec("odd", RUNNING, (), imports=("json", "no_such_module"))
FULL = "echo 'error: No space left on device (os error 28)' >&2; exit 2"
TOO_SMALL = "a cache has no space left.*set NEUROPORT_CACHE to a larger disk"
# The spec, what the error says, and what is replaced before; a full disk is imitated, all else is real.
FAILURES: dict[str, tuple[ToolchainSpec, str, tuple[object, str, object] | None]] = {
    "offline": (NEEDY, r"'needy': `uv pip install` of six==1.16.0 failed \(exit code 1\).*network was disabled", None),
    "advice": (NEEDY, "check the network, then retry, or use `--backend cpu`, which needs no toolchain", None),
    "import": (ODD, "test of the imports json, no_such_module failed.*ModuleNotFoundError", None),
    "no python": (ToolchainSpec("x", "3.0", ()), r"no Python 3\.0 that runs was found", None),
    "uv: full": (EMPTY, TOO_SMALL, (uv, "find_uv_bin", lambda: str(script(cache_dir().with_name("uv"), FULL)))),
    "full": (EMPTY, TOO_SMALL, (toolchains, "_write_stamp", Mock(side_effect=OSError(errno.ENOSPC, "full")))),
    "no uv": (EMPTY, "program uv: not found.*; reinstall", (uv, "find_uv_bin", Mock(side_effect=FileNotFoundError()))),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_named_and_leave_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    spec, pattern, replaced = FAILURES[name]
    if replaced is not None:
        monkeypatch.setattr(*replaced)
    with pytest.raises(ToolchainError) as caught:
        ensure(spec)
    assert re.search(pattern, str(caught.value), re.DOTALL), caught.value
    assert isinstance(caught.value, ToolchainMissingError) == (spec is not ODD)
    assert in_cache(cache) == []


def test_what_others_do_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenPipeError):
        ensure(EMPTY, on_progress=Mock(side_effect=BrokenPipeError()))
    with monkeypatch.context() as patch, pytest.raises(ToolchainError, match=r"was just made, but stamp\.json cannot"):
        patch.setattr(toolchains, "_write_stamp", lambda *_: None)
        ensure(EMPTY)
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPORT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolchainMissingError, match=r"file/cache cannot be used, .*; set NEUROPORT_CACHE to one"):
        ensure(EMPTY)


def test_install_from_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one test that needs the network; without it, skipped, but never in CI."""
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.delenv("UV_CACHE_DIR")
    argv = [uv.find_uv_bin(), "pip", "compile", "--quiet", "-"]
    done = subprocess.run(argv, input="six==1.16.0", capture_output=True, text=True, timeout=120, cwd=os.sep)
    if done.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"uv reaches no package index: {done.stderr[-300:]}")
    assert ensure(ToolchainSpec("indexed", RUNNING, ("six==1.16.0",), imports=("six",))).packages == {"six": "1.16.0"}
