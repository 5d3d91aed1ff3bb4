"""Imports point one way: ann < snn < normalize < chip < mapping < backends < validation < engine < cli, by the source.

The same pass over the files keeps vendor SDKs inside their workers, files short, and home folders out of the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "neuroport"
MAX_LINES = 400
VENDOR_PACKAGES = frozenset({"lava", "pyNN", "spynnaker"})
HOME_FOLDER = re.compile(r"/(?:home|root|Users)/\w|[A-Z]:\\+Users\\")

ROOMS = ("ann", "snn", "normalize", "chip", "mapping", "backends", "validation", "engine")

# Helper modules on the ground floor, each with those of ours that it may import.
GROUND = {
    "errors": frozenset[str](),
    "interrupts": frozenset[str](),
    "progress": frozenset[str](),
    "units": frozenset[str](),
    "version": frozenset[str](),
    "events": frozenset({"arrays", "errors"}),
    "arrays": frozenset({"errors"}),
    "data": frozenset({"arrays", "errors", "events"}),
    "data_sources": frozenset({"arrays", "data", "errors"}),
    "datasheets": frozenset({"errors"}),
    "interpreters": frozenset({"errors"}),
    "toolchains": frozenset({"errors", "interpreters"}),
    "bundle": frozenset({"errors", "interrupts"}),
    "records": frozenset({"errors"}),
    "compiled": frozenset({"errors", "toolchains"}),
}
# A room may import the ground floor, itself and the rooms to its left; the verbs all of them.
EVERYTHING = frozenset(GROUND) | frozenset(ROOMS) | {"verbs"}
ALLOWED = (
    GROUND
    | {room: frozenset(GROUND) | frozenset(ROOMS[:i]) for i, room in enumerate(ROOMS)}
    | {
        "verbs": EVERYTHING,
        "terminal": EVERYTHING,
        "cli": EVERYTHING | {"terminal", "__init__"},
        "__init__": EVERYTHING,
        # pytest loads it by its entry point, nothing of ours does
        "pytest_plugin": frozenset({"chip", "errors", "validation"}),
        "__main__": frozenset({"cli"}),
    }
)


def unit_of(path: Path) -> str:
    """The room or module that a file, relative to the package, belongs to."""
    return path.parts[0].removesuffix(".py")


def imported_modules(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and absolute dotted name of all that a file imports, at any depth; `package` is where the file lies.

    `from a import b` gives a.b, whether b is a module or not. importlib.import_module with a constant counts too.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield node.lineno, tuple(alias.name.split("."))
            case ast.ImportFrom():
                base = package[: len(package) + 1 - node.level] if node.level else ()
                base += tuple(node.module.split(".")) if node.module else ()
                for alias in node.names:
                    yield node.lineno, (*base, alias.name)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield (
                    node.lineno,
                    (*package, *name.lstrip(".").split(".")) if name[0] == "." else tuple(name.split(".")),
                )


def violations(source: str, path: Path) -> list[str]:
    """What a file at `path`, relative to the package, imports and may not."""
    unit = unit_of(path)
    if unit not in ALLOWED:
        return [f"{path}: {unit!r} is not in the table of this test; say there what it may import"]
    found = []
    for line, name in imported_modules(source, ("neuroport", *path.parts[:-1])):
        if name[0] in VENDOR_PACKAGES and "worker" not in path.parts[:-1]:
            found.append(f"{path}:{line}: imports {name[0]} outside a worker folder")
        if name[0] != "neuroport":
            continue
        target = name[1] if len(name) > 1 and name[1] in ALLOWED else "__init__"
        if target != unit and target not in ALLOWED[unit]:
            found.append(f"{path}:{line}: {unit} imports {target}, allowed are {sorted(ALLOWED[unit])}")
    return found


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def test_imports_point_one_way() -> None:
    files = python_files(PACKAGE)
    assert files
    found = [v for path in files for v in violations(path.read_text("utf-8"), path.relative_to(PACKAGE))]
    assert not found, "\n".join(found)


def test_no_file_is_longer_than_one_sitting() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in python_files(PACKAGE, ROOT / "tests", ROOT / "examples")
    }
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_no_file_names_a_home_folder() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
        for path in python_files(PACKAGE)
        for n, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if HOME_FOLDER.search(line)
    ]
    assert not found, "\n".join(found)


# The checks above can fail: each kind of wrong import, seen by the checker.
@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("ann/graph.py", "import neuroport.snn.network", "snn"),
        ("ann/graph.py", "from neuroport.snn.network import Population", "snn"),
        ("ann/graph.py", "from neuroport import cli", "cli"),
        ("ann/graph.py", "import neuroport", "__init__"),
        ("ann/graph.py", "from neuroport import deploy_everything", "__init__"),
        ("snn/build.py", "from ..chip import quantize", "chip"),
        ("snn/build.py", "from .. import validation", "validation"),
        ("snn/build.py", "from .. import __version__", "__init__"),
        ("snn/__init__.py", "from ..normalize.scales import x", "normalize"),
        ("backends/loihi/run.py", "from ...validation import ladder", "validation"),
        ("backends/loihi/worker/main.py", "from ....verbs.deployment import deploy", "verbs"),
        ("chip/core.py", "def f():\n    if True:\n        from ..mapping import place", "mapping"),
        ("chip/core.py", "class A:\n    def f(self):\n        import neuroport.backends.cpu as c", "backends"),
        ("chip/core.py", "if TYPE_CHECKING:\n    from neuroport.validation.ladder import Rung", "validation"),
        ("chip/core.py", "import importlib\nimportlib.import_module('neuroport.cli')", "cli"),
        ("chip/core.py", "try:\n    import os, neuroport.cli\nexcept ImportError:\n    pass", "cli"),
        ("errors.py", "from .ann import graph", "ann"),
        ("errors.py", "from neuroport.data import load", "data"),
        ("toolchains.py", "from neuroport.datasheets import load", "datasheets"),
        ("datasheets.py", "from .bundle import write", "bundle"),
        ("verbs/deployment.py", "from .. import cli", "cli"),
        ("__init__.py", "from .cli import main", "cli"),
    ],
)
def test_an_import_to_the_right_is_found(path: str, source: str, target: str) -> None:
    found = violations(source, Path(path))
    assert len(found) == 1
    assert f"{unit_of(Path(path))} imports {target}, allowed are" in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("snn/build.py", "from ..ann import graph\nfrom ..ann.graph import Node\nfrom . import network\nimport numpy"),
        ("snn/build.py", "from neuroport.snn import network\nfrom neuroport import errors\nimport neuroport.ann"),
        ("validation/ladder.py", "from neuroport.ann import graph\nfrom neuroport.backends.registry import find"),
        ("backends/loihi/run.py", "from .worker import protocol\nfrom ..base import Backend\nfrom ...chip import core"),
        ("toolchains.py", "from .errors import ToolchainError\nfrom neuroport.interpreters import find_python"),
        ("cli.py", "import neuroport\nfrom . import deployment\nfrom .validation import report"),
        ("chip/core.py", "from snn import other\nimport chips\nname = 'import neuroport.cli'"),
    ],
)
def test_an_import_to_the_left_is_allowed(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []


@pytest.mark.parametrize("statement", ["import lava", "from lava.magma.core import run", "import pyNN.nest as sim"])
def test_a_vendor_sdk_is_found_outside_a_worker(statement: str) -> None:
    assert violations(f"def f():\n    {statement}", Path("backends/loihi/run.py"))
    assert violations(statement, Path("backends/loihi/worker.py"))
    assert not violations(statement, Path("backends/loihi/worker/main.py"))
    assert not violations("import lavalamp", Path("backends/loihi/run.py"))


def test_a_module_without_a_place_is_found() -> None:
    assert violations("", Path("extras/anything.py"))
    assert violations("", Path("helpers.py"))


@pytest.mark.parametrize("folder", ["home", "root", "Users"])
def test_a_home_folder_is_found(folder: str) -> None:
    assert HOME_FOLDER.search(f'CACHE = "/{folder}/someone"')
    assert not HOME_FOLDER.search(f"https://example.org/{folder}s/page")
