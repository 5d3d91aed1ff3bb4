"""A full disk, a full shared memory and a read-only output directory are told apart."""

from __future__ import annotations

import json
import os
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from neuroport.backends import supervise
from neuroport.bundle import check_place, staged_bundle
from neuroport.errors import BundleError, WorkerError
from neuroport.interpreters import child_environment

Usage = namedtuple("Usage", "total used free")
BUS = "import os, signal; os.kill(os.getpid(), signal.SIGBUS)"
NO_SPACE = """
import json, pathlib
error = {"where": "conv1", "reason": "OSError: [Errno 28] No space left on device", "traceback": ""}
pathlib.Path("error.json").write_text(json.dumps(error))
"""
ACTOR = NO_SPACE.replace("OSError: [Errno 28] No space left on device", "its process ended with exit status -7")
OTHER = NO_SPACE.replace("OSError: [Errno 28] No space left on device", "ValueError: something else")


def message_of(tmp_path, code, full, monkeypatch):
    def usage(place):
        return Usage(1 << 30, 1 << 20, 0 if str(place).startswith(full) else 512 << 20)

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(WorkerError) as caught:
        supervise.run_worker(
            [sys.executable, "-c", code],
            token=supervise.new_token(),
            work_dir=tmp_path,
            environment=child_environment(),
            deadlines=supervise.Deadlines(30, 30),
            on_progress=lambda _: None,
        )
    return str(caught.value)


@pytest.mark.parametrize("code", [BUS, NO_SPACE, ACTOR])
def test_full_shared_memory(tmp_path, code, monkeypatch):
    message = message_of(tmp_path, code, "/dev/shm", monkeypatch)
    assert "shared memory (/dev/shm) is full; make room and run it again" in message
    assert "disk" not in message


@pytest.mark.parametrize("code", [NO_SPACE, ACTOR])
def test_full_disk(tmp_path, code, monkeypatch):
    message = message_of(tmp_path, code, str(tmp_path), monkeypatch)
    assert f"the disk of the output directory ({tmp_path}) is full; make room and run it again" in message
    assert "shared memory" not in message


def test_room_that_came_back_is_told(tmp_path, monkeypatch):
    message = message_of(tmp_path, NO_SPACE, "/nowhere", monkeypatch)
    assert "free now: shared memory (/dev/shm) has 512 MB, the disk of the output directory" in message


def test_other_failures_say_nothing_of_room(tmp_path, monkeypatch):
    message = message_of(tmp_path, OTHER, "/dev/shm", monkeypatch)
    assert "the worker failed in 'conv1': ValueError: something else" in message
    assert "full" not in message and "free" not in message


def test_the_last_population_that_wrote_is_named(tmp_path, monkeypatch):
    names = {"spikes.0.bin": "conv1", "spikes.1.bin": "conv2", "spikes.2.bin": "out"}
    (tmp_path / "populations.json").write_text(json.dumps(names))
    for k, seconds in enumerate((30, 40)):
        path = tmp_path / f"spikes.{k}.bin"
        path.touch()
        os.utime(path, (seconds, seconds))
    assert ", 'conv2' being the last population that finished one" in message_of(tmp_path, OTHER, "/x", monkeypatch)


def test_a_place_that_cannot_be_made_is_told_by_its_reason():
    said = r"cannot write to '/proc/nothing': .*; choose another --out"
    with pytest.raises(BundleError, match=said), staged_bundle(Path("/proc/nothing/bundle")):
        pass


def test_a_read_only_directory_is_refused_before_anything_runs(tmp_path, monkeypatch):
    """Root may write anywhere, so the answer of the system is made here."""
    monkeypatch.setattr(os, "access", lambda place, how: not (Path(place) == tmp_path and how == os.W_OK))
    with pytest.raises(BundleError, match=f"cannot write to '{tmp_path}': permission denied; choose another --out"):
        check_place(tmp_path / "new" / "bundle")
