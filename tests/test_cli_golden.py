"""`golden record`, `golden check` and `validate`: what they say, their exit codes, bundles of other machines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner, Result

import neuroport as nrp
from neuroport.bundle import staged_bundle
from neuroport.chip.files import read_network
from neuroport.cli import app
from neuroport.validation.golden import write_golden
from tests.golden.runs import a_run, with_changed_spike, write_bundle

COMMAND = [sys.executable, "-c", "from neuroport.cli import main; main()"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(nrp.__file__).parents[1])}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `deploy` wrote."""
    place = tmp_path_factory.mktemp("made") / "digits-cpu"
    done = run("deploy", "--target", "cpu", "--samples", 3, "--eval", 5, "--steps", 16, "--out", place, "--quiet")
    assert done.exit_code == 0, done.output
    return place


def test_a_deployed_bundle_is_recorded_and_checked(deployed: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.golden.h5"
    done = run("golden", "record", deployed, "--out", file, "--samples", 2)
    assert done.exit_code == 0, done.output
    network_hash = nrp.network_hash(read_network(deployed / "network.h5"))
    first, second = done.stdout.splitlines()
    assert first == f"{file}: {file.stat().st_size:,} bytes, network {network_hash[:16]}"
    assert re.fullmatch(r"core: 2 samples, [\d,]+ spikes, every bit equal", second)
    done = run("golden", "check", file, "--backend", "cpu")
    assert done.exit_code == 0, done.output
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["core", "cpu"]
    done = run("golden", "check", file, "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    done = run("golden", "record", deployed, "--out", file)
    assert done.exit_code == 2
    assert "is there already, and recordings are written once" in done.output
    assert run("golden", "record", deployed, "--out", file, "--force").exit_code == 0
    assert run("golden", "check", file).stdout.startswith(f"{file}: core: 3 samples, ")


def test_every_file_is_reported(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.golden.h5" for name in ("good", "differs", "damaged", "last")}
    recorded = a_run()
    for name in ("good", "damaged", "last"):
        write_golden(files[name], recorded)
    write_golden(files["differs"], with_changed_spike(recorded, "skip", (0, 9, 4)))
    files["damaged"].write_bytes(files["damaged"].read_bytes()[:3000])
    done = run("golden", "check", *files.values())
    assert done.exit_code == 1
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [str(files["good"]), str(files["last"])]
    assert f"{files['differs']}: core differs from the recording in 1 of" in done.stderr
    assert "population 'skip', neuron [4], sample 0, step 9" in done.stderr
    assert f"error: '{files['damaged']}' was damaged, cut short or edited" in done.stderr
    done = run("golden", "check", files["damaged"], files["good"])
    assert done.exit_code == 2 and str(files["good"]) in done.stdout
    done = run("golden", "check", *files.values(), "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == [str(file) for file in files.values()]
    assert [row.get("reruns", [{}])[0].get("mismatches") for row in rows] == [0, 1, None, 0]
    assert "damaged" in rows[2]["error"]


def test_a_bundle_whose_run_the_core_no_longer_gives(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", with_changed_spike(a_run(), "conv", (0, 3, 1, 2, 2)))
    done = run("golden", "record", bundle, "--out", tmp_path / "n.golden.h5")
    assert done.exit_code == 1
    assert "nothing recorded: core differs from the recording in 1 of" in done.stderr
    assert not (tmp_path / "n.golden.h5").exists()
    done = run("validate", bundle)
    assert done.exit_code == 1
    assert "population 'conv', neuron [1, 2, 2], sample 0, step 3" in done.stderr
    assert "backend.h5 differs" in done.stderr  # the oracle's: not what core.h5 says


def test_validate_a_bundle(deployed: Path) -> None:
    done = run("validate", deployed, "--backend", "cpu")
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert said[0] == f"{deployed}: every file as it was written"
    assert [line.split(": ")[0] for line in said[1:]] == ["core", "cpu", "backend.h5"]
    assert all(line.endswith("every bit equal") for line in said[1:])
    done = run("validate", deployed, "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "neuroport-validation/1"
    assert (report["bundle"], report["samples"], report["steps"]) == ("digits-cpu", 3, 16)
    assert [rerun["mismatches"] for rerun in report["reruns"]] == [0, 0]
    assert run("validate", deployed, "--quiet").output == ""
    assert nrp.validate(deployed).is_equal


def test_a_bundle_of_another_machine(deployed: Path, tmp_path: Path) -> None:
    """Copied to another place, read-only, run from elsewhere with another home: equal; and no file names a folder."""
    copy, home = tmp_path / "usb stick" / "digits", tmp_path / "home"
    shutil.copytree(deployed, copy)
    home.mkdir()
    for path in copy.rglob("*"):
        path.chmod(0o444)
    copy.chmod(0o555)
    environment = ENVIRONMENT | {"HOME": str(home)}
    done = subprocess.run(
        [*COMMAND, "validate", "usb stick/digits"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    copy.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("every bit equal") == 2
    folders = {str(deployed.parent).encode(), str(Path.home()).encode() + b"/", str(Path.cwd()).encode()}
    for path in copy.rglob("*"):
        content = [path.read_bytes(), *_texts(path)]
        assert not any(folder in text for folder in folders for text in content), path.name


def _texts(path: Path) -> list[bytes]:
    """What is compressed, or written as attributes, in a file of HDF5."""
    if path.suffix != ".h5":
        return []
    texts = []
    with h5py.File(path) as f:
        found = [f.attrs]
        f.visititems(lambda _, item: found.append(item.attrs))
        for attributes in found:
            texts += [str(value).encode() for value in attributes.values()]
    return texts


def test_changed_bundles(deployed: Path, tmp_path: Path) -> None:
    """Edited, cut short, with a file gone or added: told by checksum."""
    for name, state in (("network.h5", "was changed"), ("core.h5", "was changed"), ("inputs.h5", "is missing")):
        copy = tmp_path / name
        shutil.copytree(deployed, copy)
        content = (copy / name).read_bytes()
        if state == "is missing":
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content[: len(content) // 2] if name == "core.h5" else content + b"\0")
        done = run("validate", copy)
        assert done.exit_code == 2
        assert f"file '{name}' {state} since it was written" in done.output
    copy = tmp_path / "added"
    shutil.copytree(deployed, copy)
    (copy / "notes.txt").write_text("mine")
    assert "file 'notes.txt' was added since it was written" in run("validate", copy).output
    for place in (tmp_path / "nosuch", tmp_path):
        done = run("validate", place)
        assert done.exit_code == 2 and "is not a bundle of neuroport" in done.output


def test_a_bundle_sealed_again_after_one_weight_was_changed(deployed: Path, tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "b") as stage:
        for path in deployed.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, stage / path.name)
        with h5py.File(stage / "network.h5", "a") as f:
            weights = f["projections/0/mantissa"]
            weights[0] = -weights[0]
    done = run("validate", tmp_path / "b")
    assert done.exit_code == 1
    assert "core differs from the recording in" in done.stderr


def test_a_bundle_without_a_run_or_with_an_unknown_backend(deployed: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", a_run(), inputs=False)
    done = run("validate", bundle)
    assert done.exit_code == 2 and "holds no inputs.h5, so there is no run to repeat" in done.output
    done = run("validate", deployed, "--backend", "nosuch")
    assert done.exit_code == 2 and "unknown backend 'nosuch'" in done.output


@pytest.mark.lava
def test_lava_once_more(lava: object, tmp_path: Path) -> None:
    bundle, file = write_bundle(tmp_path / "b", a_run()), tmp_path / "n.golden.h5"
    assert run("golden", "record", bundle, "--out", file).exit_code == 0
    for done in (run("validate", bundle, "--backend", "lava"), run("golden", "check", file, "--backend", "lava")):
        assert done.exit_code == 0, done.output
        assert re.search(r"lava: 2 samples, [\d,]+ spikes, every bit equal", done.stdout)
