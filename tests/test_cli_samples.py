"""Which samples go to the backend: by number, in the bundle and in the report; and how many workers share them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from neuroport.chip.files import read_inputs
from neuroport.cli import app
from neuroport.data import load_npz
from neuroport.datasheets import data_dir
from neuroport.verbs.options import DeployOptions

DIGITS = data_dir("digits") / "digits.npz"


def deploy(out: Path, *arguments: object) -> Result:
    command = ["deploy", "--target", "cpu", "--eval", 20, "--steps", 16, "--out", out, *arguments]
    return CliRunner().invoke(app, [str(a) for a in command])


def currents_of(out: Path) -> NDArray[np.int32]:
    (found,) = read_inputs(out / "inputs.h5").currents.values()
    return found


def report_of(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "report.json").read_text())
    return found


def test_samples_by_number_are_those_that_run(tmp_path: Path) -> None:
    """In the order given; each is what it is among others."""
    for name, given in (("a", "598, 3-5,0"), ("b", "4,598")):
        done = deploy(tmp_path / name, "--sample-numbers", given, "--seed", 5)
        assert done.exit_code == 0, done.output
    assert report_of(tmp_path / "a")["sample_numbers"] == [598, 3, 4, 5, 0]
    assert report_of(tmp_path / "b")["sample_numbers"] == [4, 598]
    a, b = (currents_of(tmp_path / name) for name in "ab")
    assert len(a) == 5
    np.testing.assert_array_equal(a[[2, 0]], b)
    assert not np.array_equal(a[0], a[1])
    rungs = report_of(tmp_path / "a")["rungs"]
    assert isinstance(rungs, list)
    assert [rung["samples"] for rung in rungs] == [20] * 5 + [5]


def test_numbers_of_a_seeded_choice_are_reported_and_give_it_again(tmp_path: Path) -> None:
    assert deploy(tmp_path / "a", "--samples", 3).exit_code == 0
    numbers = report_of(tmp_path / "a")["sample_numbers"]
    assert isinstance(numbers, list)
    assert len(set(numbers)) == 3
    assert deploy(tmp_path / "b", "--sample-numbers", ",".join(map(str, numbers))).exit_code == 0
    first, second = (currents_of(tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(first, second)


def test_more_numbers_than_samples_for_accuracy(tmp_path: Path) -> None:
    assert deploy(tmp_path / "a", "--sample-numbers", "10-33").exit_code == 0
    rungs = report_of(tmp_path / "a")["rungs"]
    assert isinstance(rungs, list)
    assert {rung["samples"] for rung in rungs} == {24}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample-numbers", "3,599"], "has no sample 599: its test part holds 599, numbers 0 to 598; choose among"),
        (["--sample-numbers", "3,x"], "'x' is no number and no range; give numbers from 0: 3,17,100-120"),
        (["--sample-numbers", "9-7"], "'9-7' is no number and no range"),
        (["--sample-numbers", "-3"], "'-3' is no number and no range"),
        (["--sample-numbers", "1,,2"], "'' is no number and no range"),
        (["--sample-numbers", "0-99999999"], "'0-99999999' is no number and no range"),
        (["--sample-numbers", "9" * 5000], "is no number and no range; give numbers from 0: 3,17,100-120"),
        (["--sample-numbers", "3,1-4"], "names a sample twice; name each of them once"),
        (["--sample-numbers", "3", "--samples", "2"], "--samples and --sample-numbers both say what goes"),
        (["--workers", "2"], "--workers 2: backend 'cpu' runs in one process, without workers; leave it out"),
    ],
)
def test_wrong_choices(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = deploy(tmp_path / "out", *arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_first_ones_come_before_the_seeded_choice(tmp_path: Path) -> None:
    dataset = load_npz(DIGITS)
    every = dataset.choose("test", None, 0).tolist()
    assert dataset.choose("test", 4, 0, (7, 2)).tolist() == [7, 2, *[k for k in every if k not in (7, 2)][:2]]
    assert dataset.choose("test", 1, 0, (7, 2)).tolist() == [7, 2]
    assert sorted(dataset.choose("test", None, 0, (7, 2))) == sorted(every)
    assert DeployOptions(sample_numbers=(4, 5, 6)).n_backend == 3
