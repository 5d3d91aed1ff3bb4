"""The wheel carries the package and its data, and nothing else; constraints.txt pins what pyproject.toml asks for."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ("README.md", "digits.npz", "digits.pt2")
# The digits are the largest thing inside; source files stay far below.
MAX_SOURCE_BYTES = 60_000
MAX_WHEEL_BYTES = 1_000_000
MACHINE_FOLDER = re.compile(rb"/(?:home|root|tmp|work|Users)/\w")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name and content of every file in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("neuroport-*.whl")
    assert path.stat().st_size < MAX_WHEEL_BYTES
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.mark.parametrize("kind", ["targets", "calibration"])
def test_every_yaml_file_is_inside(wheel: dict[str, bytes], kind: str) -> None:
    expected = {f"neuroport/_data/{kind}/{path.name}": path.read_bytes() for path in (ROOT / kind).glob("*.yaml")}
    assert expected
    assert {name: data for name, data in wheel.items() if name.startswith(f"neuroport/_data/{kind}/")} == expected


def test_the_embedded_example_is_inside(wheel: dict[str, bytes]) -> None:
    expected = {f"neuroport/_data/digits/{name}": (ROOT / "examples/digits" / name).read_bytes() for name in DIGITS}
    assert {name: data for name, data in wheel.items() if name.startswith("neuroport/_data/digits/")} == expected


def test_every_source_file_is_inside(wheel: dict[str, bytes]) -> None:
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "neuroport").rglob("*.py")}
    assert source <= wheel.keys()
    assert "neuroport/py.typed" in wheel


def test_nothing_else_is_inside(wheel: dict[str, bytes]) -> None:
    outside = [name for name in wheel if not re.match(r"neuroport/|neuroport-[^/]+\.dist-info/", name)]
    unwanted = [name for name in wheel if "__pycache__" in name or name.endswith((".pyc", ".log", ".h5"))]
    big = {
        name: len(data)
        for name, data in wheel.items()
        if len(data) > MAX_SOURCE_BYTES and not name.startswith("neuroport/_data/digits/")
    }
    assert (outside, unwanted, big) == ([], [], {})


def test_the_network_names_no_folder_of_the_machine_it_was_made_on(wheel: dict[str, bytes]) -> None:
    """torch.export keeps the path of every source line it traced; train.py makes them relative."""
    with zipfile.ZipFile(io.BytesIO(wheel["neuroport/_data/digits/digits.pt2"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(b"train.py" in data for data in members.values())
    found = {name: match[0] for name, data in members.items() if (match := MACHINE_FOLDER.search(data))}
    assert found == {}


def test_the_metadata_names_licence_command_and_python(wheel: dict[str, bytes]) -> None:
    (info,) = {name.split("/")[0] for name in wheel if ".dist-info/" in name}
    metadata = wheel[f"{info}/METADATA"].decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert b"neuroport = neuroport.cli:main" in wheel[f"{info}/entry_points.txt"]
    assert b"[pytest11]\nneuroport = neuroport.pytest_plugin" in wheel[f"{info}/entry_points.txt"]
    assert wheel[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_constraints_pin_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, _, version in (p.partition("==") for p in lines if "==" in p)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    unmet = [str(r) for r in wanted if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert [str(r) for r in wanted if canonicalize_name(r.name) not in pins] == []
    assert unmet == []
    assert not any("+" in version for version in pins.values()), "a local version tag cannot be installed elsewhere"
