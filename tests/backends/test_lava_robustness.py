"""Whatever ends a Lava run, it ends within seconds, says why, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from neuroport.backends import supervise
from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.inputs import IntInputs
from neuroport.errors import WorkerError
from neuroport.interpreters import child_environment
from tests.backends.lava_networks import TARGET, driven_net

pytestmark = pytest.mark.lava

ENDS_WITHIN_S = 10.0
WORKER = Path(supervise.__file__).parent / "loihi" / "worker" / "main.py"
CLI = [sys.executable, "-c", "from neuroport.cli import main; main()"]


def beat(folder):
    try:
        return json.loads((folder / "heartbeat.json").read_text())
    except (OSError, ValueError):
        return {}


def wait_until(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def assert_nothing_stays(group, pid=None):
    """No process of the worker's group, no shared memory of the neuroport process that ran it."""

    def is_clean():
        alive = [p for p in psutil.process_iter() if _group(p) == group and p.status() != psutil.STATUS_ZOMBIE]
        return not alive and not list(Path("/dev/shm").glob(f"neuroport_{pid or os.getpid()}_*"))

    wait_until(is_clean, ENDS_WITHIN_S)


def _group(process):
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


def lava_processes(worker):
    """The worker's children in the order they were made: first helpers of multiprocessing, then Lava's processes."""
    return sorted(psutil.Process(worker).children(), key=lambda p: p.pid)


class Run:
    """A long Lava run in a thread, to be disturbed while it runs."""

    def __init__(self, tmp_path, inputs=None):
        net, full = driven_net(5, n_samples=3000)
        self.folder, self.error = tmp_path, None
        self.job = Job(TARGET, net, inputs or full, tmp_path, n_workers=1)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            LavaBackend().run(self.job)
        except WorkerError as error:
            self.error = error

    def running(self):
        """The worker's process id, once samples are done."""
        found = wait_until(lambda: beat(self.folder).get("samples", 0) >= 2 and beat(self.folder))
        return found["pid"]

    def end(self):
        began = time.monotonic()
        self.thread.join(ENDS_WITHIN_S)
        assert not self.thread.is_alive(), f"still running {time.monotonic() - began:.0f} s later"
        return self.error


def test_worker_killed(lava, tmp_path):
    run = Run(tmp_path)
    pid = run.running()
    os.kill(pid, signal.SIGKILL)
    assert "killed by SIGKILL" in str(run.end())
    assert_nothing_stays(pid)


def test_one_of_lavas_processes_killed(lava, tmp_path):
    """Lava itself would wait for it forever."""
    run = Run(tmp_path)
    pid = run.running()
    lava_processes(pid)[-1].kill()
    message = str(run.end())
    assert "the worker failed in" in message and "exit status -9" in message
    assert_nothing_stays(pid)


@pytest.mark.parametrize(("n_given", "error"), [(None, "ValueError"), (4, "IndexError"), (50, "IndexError")])
def test_exception_inside_a_process_with_a_consumer(lava, tmp_path, n_given, error):
    """It raises in the population's process: at step 1 (currents of a wrong shape), or at the first step of a sample
    without currents, after 80 and after 1,000 steps."""
    _, full = driven_net(5, n_samples=3000)
    currents = {name: x[:n_given] if n_given else np.zeros((3000, 5), np.int32) for name, x in full.currents.items()}
    run = Run(tmp_path, IntInputs(full.n_samples, full.n_steps, None, currents))
    pid = wait_until(lambda: beat(tmp_path).get("pid"))
    wait_until(lambda: run.error is not None, 60)
    assert error in str(run.error) and "the worker failed in '" in str(run.error)
    assert "left" in str(run.error) or "right" in str(run.error)
    run.end()
    assert_nothing_stays(pid)


def test_exception_while_it_is_built(lava, tmp_path):
    """A damaged network file is reported with the worker's own traceback."""
    worker = [str(lava.python), str(WORKER), str(tmp_path), token := supervise.new_token(), str(os.getpid())]
    (tmp_path / "network.h5").write_bytes(b"not a network")
    with pytest.raises(WorkerError, match=r"the worker failed in 'worker': OSError"):
        supervise.run_worker(
            worker,
            token=token,
            work_dir=tmp_path,
            environment=child_environment(),
            deadlines=supervise.Deadlines(60, 60),
            on_progress=lambda _: None,
        )


def test_silent_worker_meets_its_deadline(lava, tmp_path, monkeypatch):
    """A Lava process that stops answering: no exit, no exception, only silence."""
    monkeypatch.setattr("neuroport.backends.loihi.backend._SAMPLE_S", 2.0)
    run = Run(tmp_path)
    pid = run.running()
    lava_processes(pid)[-1].suspend()
    message = str(run.end())
    assert "silent for" in message and "samples, '" in message
    assert "being the last population that finished one" in message
    assert_nothing_stays(pid)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_command_interrupted(lava, tmp_path, sent):
    """Ctrl-C, an orderly kill, and kill -9 of the command itself while Lava runs."""
    place = tmp_path / "out" / "bundle"
    log = (tmp_path / "log").open("wb")
    arguments = ["deploy", "--samples", "599", "--steps", "128", "--workers", "1", "--out", str(place)]
    command = subprocess.Popen([*CLI, *arguments], stdout=log, stderr=log)
    try:
        stages = wait_until(lambda: list((tmp_path / "out").glob(".bundle.*/scratch")))
        pid = wait_until(lambda: beat(stages[0]).get("samples", 0) >= 1 and beat(stages[0]))["pid"]
        command.send_signal(sent)
        status = command.wait(ENDS_WITHIN_S)
    finally:
        command.kill()
        command.wait()
    assert_nothing_stays(pid, command.pid)
    if sent == signal.SIGKILL:  # staging stays until the next run for this place, which removes it
        assert status == -signal.SIGKILL
        subprocess.run([*CLI, "deploy", "--target", "cpu", "--samples", "1", "--out", str(place)], check=True)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["bundle"]
        return
    assert status == (130 if sent == signal.SIGINT else 143)
    assert list((tmp_path / "out").iterdir()) == []
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    if sent == signal.SIGINT:
        assert "interrupted; nothing half-written stays" in said


def test_command_killed_before_the_worker_has_imported_lava(lava, tmp_path):
    """The worker is told whose it is: a parent that died in its first moment is noticed all the same."""
    place = str(tmp_path / "bundle")
    arguments = ["deploy", "--samples", "599", "--eval", "10", "--workers", "1", "--out", place, "--quiet"]
    command = subprocess.Popen([*CLI, *arguments])
    try:
        worker = wait_until(lambda: [p for p in psutil.Process(command.pid).children() if _is_worker(p)])[0]
    finally:
        command.kill()
        command.wait()
    assert_nothing_stays(worker.pid, command.pid)


def test_command_and_worker_killed_at_once(lava, tmp_path):
    """Nobody is left to end Lava's processes, as when the kernel runs out of memory: they end with the worker."""
    place = tmp_path / "out" / "bundle"
    arguments = ["deploy", "--samples", "599", "--eval", "10", "--workers", "1", "--out", str(place), "--quiet"]
    command = subprocess.Popen([*CLI, *arguments])
    try:
        stages = wait_until(lambda: list((tmp_path / "out").glob(".bundle.*/scratch")))
        worker = wait_until(lambda: beat(stages[0]).get("samples", 0) >= 1 and beat(stages[0]))["pid"]
        command.send_signal(signal.SIGSTOP)  # else it could end the group between the two
        os.kill(worker, signal.SIGKILL)
    finally:
        command.kill()
        command.wait()
    assert_nothing_stays(worker, command.pid)


def _is_worker(process):
    try:
        return any(part.endswith("worker/main.py") for part in process.cmdline())
    except psutil.Error:
        return False


def test_two_runs_at_once(lava, tmp_path):
    net, inputs = driven_net(5, n_samples=20)
    folders = [tmp_path / "a", tmp_path / "b"]
    results = {}

    def one(folder):
        folder.mkdir()
        results[folder] = LavaBackend().run(Job(TARGET, net, inputs, folder))

    threads = [threading.Thread(target=one, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    first, second = (results[folder] for folder in folders)
    assert all(np.array_equal(first.spikes[name], second.spikes[name]) for name in first.spikes)


def test_memory_of_the_dead_is_removed():
    """Segments of a neuroport process that no longer runs go at the next start, those of the living stay."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    orphan = Path(f"/dev/shm/neuroport_{dead.pid}_00000000_x")
    mine = Path(f"/dev/shm/{supervise.new_token()}_x")
    orphan.touch()
    mine.touch()
    try:
        supervise.remove_abandoned_memory()
        assert not orphan.exists()
        assert mine.exists()
    finally:
        orphan.unlink(missing_ok=True)
        mine.unlink(missing_ok=True)
