"""Whatever ends a PyNN run, it ends within seconds, says why, and leaves nothing behind."""

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from neuroport.backends.base import Job
from neuroport.backends.spinnaker import backend
from neuroport.backends.spinnaker.backend import NestBackend
from neuroport.backends.spinnaker.virtual import SpinnakerVirtual
from neuroport.backends.supervise import Deadlines
from neuroport.chip.inputs import IntInputs
from neuroport.errors import WorkerError
from tests.backends.spinnaker_networks import TARGET, network

pytestmark = pytest.mark.spinnaker


def group_of(work_dir):
    """Processes that work in the directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(work_dir) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def endless(folder):
    """A run of more samples than a test waits for."""
    net, _ = network()
    spikes = np.zeros((500, 40, 1, 8, 8), np.uint8)
    return Job(TARGET, net, IntInputs(500, 40, spikes, {}), folder, n_workers=1)


def struck_by(number, folder):
    """What the backend says of a worker that is sent a signal once it works."""
    caught, started = [], time.monotonic()

    def run():
        try:
            NestBackend().run(endless(folder))
        except WorkerError as error:
            caught.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    worker = wait_until(lambda: (folder / "heartbeat.json").is_file() and group_of(folder))[0]
    os.kill(worker.pid, number)
    thread.join(15)
    assert not thread.is_alive(), f"still running {time.monotonic() - started:.0f} s after the start"
    assert not group_of(folder)
    return caught[0]


def test_a_killed_worker(spinnaker, tmp_path):
    assert "the worker was killed by SIGKILL" in struck_by(signal.SIGKILL, tmp_path)


def test_a_silent_worker(spinnaker, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "_deadlines", lambda network, n_steps: Deadlines(3, 3))
    assert "the worker was silent for" in struck_by(signal.SIGSTOP, tmp_path)


def test_a_script_that_fails(spinnaker, tmp_path):
    """A user's change to the script of a directory that is there already, say; the error and its place are told."""
    job = endless(tmp_path)
    backend.exported_in(tmp_path, job.network, job.inputs)
    with (tmp_path / "pynn" / "run.py").open("a") as f:
        f.write("\n\ndef simulate(*given):\n    raise LookupError('no such neuron')\n")
    with pytest.raises(WorkerError, match=r"failed in 'worker': LookupError: no such neuron"):
        NestBackend().run(job)
    assert not group_of(tmp_path)


def test_a_mapper_that_fails(spinnaker, tmp_path):
    """Not for want of room: a WorkerError with sPyNNaker's own words, no claim that the network does not fit."""
    job = endless(tmp_path)
    folder = backend.exported_in(tmp_path, job.network, job.inputs)
    script = (folder / "run.py").read_text()
    (folder / "run.py").write_text(script.replace('tau_refrac": 0.0', 'tau_refrac": 1e9'))
    with pytest.raises(WorkerError, match=r"1000000000\.0"):
        SpinnakerVirtual().map(job)


def test_a_result_that_is_cut_short(spinnaker, tmp_path):
    job = endless(tmp_path)
    (tmp_path / "result.h5").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(WorkerError, match="the worker's result is incomplete"):
        backend.read_result(tmp_path / "result.h5", job)


def test_a_potential_that_no_integer_is(spinnaker, tmp_path):
    net, inputs = network()
    job = Job(TARGET, net, inputs, tmp_path)
    backend.exported_in(tmp_path, net, inputs)
    script = tmp_path / "pynn" / "run.py"
    script.write_text(script.read_text().replace('made.initialize(v=float(p["v_init"]))', "made.initialize(v=0.1)"))
    with pytest.raises(WorkerError, match=r"population '\w+': a potential is .*, the chip's are multiples of 2\^-15"):
        NestBackend().run(job)
