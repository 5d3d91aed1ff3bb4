"""A worker that ends for want of memory is told from one that somebody killed."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuroport.backends import starved, supervise
from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.starved import memory_hint, oom_kills
from neuroport.errors import WorkerError
from neuroport.interpreters import child_environment
from tests.backends.lava_networks import TARGET, driven_net

GROUPS = "NEUROPORT_TEST_CGROUP"  # a folder of memory control groups in which this test may make one


@pytest.mark.lava
@pytest.mark.parametrize(
    ("limit_mb", "where"), [(290, "worker"), (400, r"worker|runtime service 0 of part 0|\w+ \(0\)")]
)
def test_lava_without_memory(lava, tmp_path, monkeypatch, limit_mb, where):
    """A real limit on the real worker: it ends while it imports Lava, or whichever process of Lava's comes first."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -v {limit_mb << 10}\nexec {lava.python} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(LavaBackend, "environment", lambda *_: (python, {}))
    (tmp_path / "job").mkdir()
    with pytest.raises(WorkerError) as caught:
        LavaBackend().run(Job(TARGET, *driven_net(5), tmp_path / "job", n_workers=1))
    message = str(caught.value)
    assert re.search(f"the worker failed in '({where})'", message)
    assert "it got no more memory: the machine has " in message
    assert "MB available, processes started from here have " in message
    assert "use fewer --workers, or a machine with more" in message
    assert not list(Path("/dev/shm").glob(f"neuroport_{os.getpid()}_*"))


def killed(tmp_path, code):
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


KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.skipif(oom_kills() is None, reason="this kernel does not count kills for want of memory")
def test_a_kill_that_the_kernel_did_not_do(tmp_path):
    message = killed(tmp_path, KILL)
    assert "the worker was killed by SIGKILL; run it again" in message
    assert "not for want of memory: the kernel killed none for it meanwhile, so somebody else ended it" in message


def test_a_kill_where_the_kernel_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("neuroport.backends.supervise.oom_kills", lambda: None)
    assert "the kernel does not say whether for want of memory; if so, use fewer --workers" in killed(tmp_path, KILL)


def test_a_kill_of_one_of_lavas_processes_and_other_reasons():
    before = oom_kills()
    assert memory_hint("its process ended with exit status -9", before)
    for reason in ("ValueError: no", "its process ended with exit status 1", signal.SIGTERM.name, signal.SIGBUS.name):
        assert memory_hint(reason, before) == ""


@pytest.mark.parametrize(
    ("lines", "file", "content"),
    [
        ("0::/user/1\n", "sys/fs/cgroup/user/1/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("4:memory:/a/b\n0::/\n", "sys/fs/cgroup/memory/a/b/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        ("4:cpu,memory:/\n", "sys/fs/cgroup/memory/memory.oom_control", "oom_kill 2\n"),
        ("0::/\n", "proc/vmstat", "nr_free 77\noom_kill 2\n"),  # the root group has no such file
        ("", "proc/vmstat", "oom_kill 2\n"),
    ],
)
def test_where_the_kernel_counts(tmp_path, lines, file, content):
    """As Linux lays the files out, with groups of version 2 and version 1, and without."""
    for path, text in (("proc/self/cgroup", lines), (file, content)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert oom_kills(tmp_path) == 2
    (tmp_path / file).write_text("oom_kill_disable 0\n")
    assert oom_kills(tmp_path) is None


STARVE = f"""
import sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(Path(starved.__file__).parents[2])!r})
from neuroport.backends import supervise
from neuroport.errors import WorkerError
try:
    supervise.run_worker(
        [sys.executable, "-c", "x = [bytearray(1 << 20) for _ in range(4000)]"],
        token=supervise.new_token(), work_dir=Path(tempfile.mkdtemp()), environment=dict(),
        deadlines=supervise.Deadlines(30, 30), on_progress=lambda _: None,
    )
except WorkerError as error:
    print(error)
"""


@pytest.mark.skipif(not os.environ.get(GROUPS), reason=f"{GROUPS} names no folder in which groups may be made")
def test_the_kernels_own_kill(tmp_path):
    """A command in a group of 200 MB, whose worker takes more."""
    group = Path(os.environ[GROUPS]) / f"neuroport-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        limit = next(group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
        limit.write_text(str(200 << 20))
        command = f'echo $$ > {group}/cgroup.procs; exec "$0" -c "$1"'
        done = subprocess.run(["sh", "-c", command, sys.executable, STARVE], capture_output=True, text=True, timeout=60)
        assert "the worker was killed by SIGKILL" in done.stdout, done.stderr
        assert "the kernel killed a process for want of memory meanwhile; use fewer --workers" in done.stdout
    finally:
        group.rmdir()
