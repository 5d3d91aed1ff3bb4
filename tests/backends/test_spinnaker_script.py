"""What the exported script says before it runs: a file or a package that is missing is no difference (status 1)."""

import shutil
import subprocess
import sys

import h5py
import pytest

from neuroport.backends.spinnaker.export import write_export
from neuroport.chip.oracle import run_oracle
from neuroport.interpreters import child_environment
from tests.backends.spinnaker_networks import network


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    net, inputs = network()
    folder = tmp_path_factory.mktemp("made") / "pynn"
    write_export(folder, net, inputs, run_oracle(net, inputs))
    return folder


def said(folder, *args, simulator="nest"):
    """By a Python without PyNN, which is asked for last."""
    command = [sys.executable, folder / "run.py", simulator, *args]
    done = subprocess.run(
        command, cwd=folder.parent, env=child_environment({}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def without(folder, name):
    (folder / name).unlink()


def cut(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "name", "match"),
    [
        (without, "network.h5", "network.h5 is not there; take it from the export again"),
        (without, "stimulus.h5", "stimulus.h5 is not there; take it from the export again"),
        (without, "expected.h5", "expected.h5 is not there; leave --verify out, or take it from the export again"),
        (cut, "network.h5", "network.h5 is damaged ("),
    ],
)
def test_files_that_are_missing_or_damaged(made, tmp_path, spoil, name, match):
    folder = shutil.copytree(made, tmp_path / "pynn")
    spoil(folder, name)
    assert match in said(folder, "--verify")


def test_samples_of_ones_own_are_not_compared_with_the_expected(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "pynn")
    with h5py.File(folder / "stimulus.h5", "r+") as f:
        f.attrs["n_steps"] = 7
    assert "expected.h5 is of other samples or steps than stimulus.h5; leave --verify out" in said(folder, "--verify")
    with h5py.File(folder / "stimulus.h5", "r+") as f:
        del f.attrs["n_steps"]
    assert "KeyError" in said(folder, "--verify")


def test_a_place_that_is_a_directory_is_refused_before_the_run(made):
    assert "--out: . is a directory, or there is no directory .; choose another file" in said(made, "--out", ".")


@pytest.mark.parametrize("simulator", ["nest", "brian2", "spiNNaker"])
def test_packages_that_are_missing(made, simulator):
    assert f"{simulator} needs packages that are missing here: pyNN" in said(made, simulator=simulator)
