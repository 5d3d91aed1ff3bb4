"""The way to a Loihi 2 board: what is missing is said; with Intel's extension, Lava is asked for Loihi2HwCfg.

No board and no extension are here: the extension is imitated by modules of its names, and Lava stands for itself.
"""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from neuroport.backends import supervise
from neuroport.backends.base import Job
from neuroport.backends.loihi import backend, hardware
from neuroport.backends.loihi.hardware import VARIABLE, Loihi2Board, find_extension
from neuroport.chip.target import load_target
from neuroport.chip.trace import Trace
from neuroport.cli import app
from neuroport.errors import DoesNotFitError, ToolchainMissingError, UsageError
from neuroport.interpreters import child_environment
from tests.backends.lava_networks import driven_net

WORKER = backend._WORKER.parent
MODULES = ("lava/utils/loihi2_profiler", "nxcore/__init__", "h5py/__init__", "scipy/__init__")


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    for name in (VARIABLE, "SLURM", "NXSDKHOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Makes an interpreter with these modules, and a distribution `lava-loihi`, and names it."""

    def make(*modules):
        site = tmp_path / "site"
        for module in modules:
            path = site / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        info = site / "lava_loihi-0.7.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lava-loihi\nVersion: 0.7.0\n")
        python = tmp_path / "python"
        # without its own packages: h5py and scipy of this environment would be found otherwise
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
        python.chmod(0o755)
        monkeypatch.setenv(VARIABLE, str(python))
        return python

    return make


def refusal():
    with pytest.raises(ToolchainMissingError) as caught:
        find_extension()
    assert caught.value.exit_code == 4
    assert "--backend lava" in str(caught.value)
    return str(caught.value)


def test_nothing_is_named():
    said = refusal()
    assert "needs Intel's extension of Lava for Loihi 2" in said
    assert f"set {VARIABLE}" in said
    assert "Neuromorphic Research Community" in said


def test_no_interpreter_there(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert "does not work (does not start: No such file" in refusal()


def test_no_python_there(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    assert "does not work" in refusal()


def test_the_open_lava_alone_is_not_enough(extension):
    extension("lava/utils/__init__", "lava/__init__", "h5py/__init__", "scipy/__init__")
    said = refusal()
    assert "lacks lava-loihi, Intel's extension of Lava; NxCore" in said
    assert "h5py" not in said


def test_what_the_worker_needs_besides(extension):
    extension(*MODULES[:2])
    assert "lacks h5py (pip install h5py); scipy" in refusal()


def test_no_board(extension):
    extension(*MODULES)
    said = refusal()
    assert "no board" in said
    assert "SLURM=1" in said and "NXSDKHOST" in said


@pytest.mark.parametrize(("name", "value"), [("SLURM", "1"), ("NXSDKHOST", "10.0.0.1")])
def test_extension_and_board(extension, monkeypatch, name, value):
    python = extension(*MODULES)
    monkeypatch.setenv(name, value)
    said = []
    assert Loihi2Board().environment(load_target("loihi2"), said.append)[0] == python
    assert "never compared before" in said[0]
    assert Loihi2Board().prepare(load_target("loihi2"), lambda _: None) == {"lava:lava-loihi": "0.7.0"}


def test_the_worker_is_started_by_that_python_and_told_the_configuration(extension, monkeypatch, tmp_path):
    python = extension(*MODULES)
    monkeypatch.setenv("NXSDKHOST", "10.0.0.1")
    network, inputs = driven_net(1)
    started = []

    def run_worker(command, **options):
        started.append((command, options["environment"]))

    monkeypatch.setattr(backend, "run_worker", run_worker)
    monkeypatch.setattr(backend, "_read_results", lambda job: Trace({}, {}))
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    job = Job(load_target("loihi2"), network, inputs, work_dir)
    Loihi2Board().run(job)
    [(command, environment)] = started
    assert command[0] == str(python)
    assert environment["NEUROPORT_LAVA_RUN_CONFIG"] == "Loihi2HwCfg"
    assert environment["NXSDKHOST"] == "10.0.0.1", "what names the board reaches Lava"


def test_only_loihi_2_has_a_board(tmp_path):
    network, inputs = driven_net(1)
    with pytest.raises(DoesNotFitError, match=r"'loihi1' does not name backend 'loihi2-board'.*use --target loihi2"):
        Loihi2Board().check(Job(load_target("loihi1"), network, inputs, tmp_path))
    Loihi2Board().check(Job(load_target("loihi2"), network, inputs, tmp_path))


def test_a_board_is_not_shared(tmp_path):
    net, inputs = driven_net(5)
    job = Job(load_target("loihi2"), net, inputs, tmp_path, n_workers=2)
    with pytest.raises(UsageError, match="--workers 2: backend 'loihi2-board' takes one, a board is not shared; leave"):
        Loihi2Board().check(job)


def test_a_deployment_without_the_extension_ends_with_4(tmp_path):
    options = ["--target", "loihi2", "--backend", "loihi2-board", "--eval", "20", "--samples", "2"]
    result = CliRunner().invoke(app, ["deploy", *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 4, result.output
    assert VARIABLE in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.lava
@pytest.mark.parametrize(
    ("asked", "made"), [(None, "Loihi2SimCfg"), ("Loihi2SimCfg", "Loihi2SimCfg"), ("Loihi2HwCfg", "Loihi2HwCfg")]
)
def test_the_configuration_that_lava_gets(lava, asked, made):
    code = "from run_config import run_config; c = run_config(); print(type(c).__name__, c.select_tag)"
    extra = {"NEUROPORT_LAVA_RUN_CONFIG": asked} if asked else {}
    done = subprocess.run(
        [lava.python, "-B", "-c", code], cwd=WORKER, env=child_environment(extra), capture_output=True, text=True
    )
    assert done.stdout.split() == [made, "fixed_pt"], done.stderr


@pytest.mark.lava
def test_another_configuration_is_refused(lava):
    env = child_environment({"NEUROPORT_LAVA_RUN_CONFIG": "Loihi3Cfg"})
    code = "from run_config import run_config; run_config()"
    done = subprocess.run([lava.python, "-B", "-c", code], cwd=WORKER, env=env, capture_output=True, text=True)
    assert "is 'Loihi3Cfg', one of Loihi2SimCfg, Loihi2HwCfg is possible" in done.stderr


@pytest.mark.lava
def test_the_open_lava_does_not_run_on_boards_in_silence(lava, tmp_path, monkeypatch):
    """Asked for a board without the extension, Lava fails and says so: no simulated spikes pass for a chip's."""
    network, inputs = driven_net(1)
    monkeypatch.setattr(hardware, "find_extension", lambda: (lava.python, {}))
    with pytest.raises(supervise.WorkerError, match="CLoihiProcessModel"):
        Loihi2Board().run(Job(load_target("loihi2"), network, inputs, tmp_path))
