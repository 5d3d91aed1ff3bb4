"""The documented keys of report.json are those that deployments write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neuroport.backends.base import Bounded, Job, Mapped
from neuroport.backends.cpu import CpuBackend
from neuroport.chip.trace import Trace
from neuroport.cli import app
from neuroport.errors import ToolchainError
from neuroport.validation.report import SCHEMA
from neuroport.validation.schema import KEYS, documented
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions

HONEST = CpuBackend.run


def flipped(backend: CpuBackend, job: Job) -> Trace:
    """One spike and one output are others."""
    trace = HONEST(backend, job)
    trace.potentials["fc2"][0, 5] += 1
    trace.spikes["conv2"][0, 5, 3, 2, 1] ^= 1
    return trace


def failed(backend: CpuBackend, job: Job) -> Trace:
    raise ToolchainError("it hung")


def paths(node: Any, lead: str = "") -> Iterator[str]:
    """Every number, text, null and empty list or table of a report by its path.

    A name with a dot in it stays one part: those of layers are `*` of the documentation.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, f"{lead}.{key.replace('.', '_')}" if lead else key)
    elif isinstance(node, list):
        for value in node:
            yield from paths(value, f"{lead}[]")
        if not node:
            yield f"{lead}[]"
    else:
        yield lead


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Deployments that between them write every key: a loss, a choice of neurons, a difference, a failure."""
    place, found = tmp_path_factory.mktemp("made"), []
    common = {"backend": "cpu", "samples": 1, "steps": 8, "eval_samples": 20}
    chosen = [
        ("loihi1", {"blame": True, "mean": (0.1,), "std": (0.5,)}, HONEST),
        ("spinnaker1", {}, HONEST),
        ("loihi-sim", {"recipe": "reset-zero-rate"}, flipped),
        ("cpu", {}, failed),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for target, more, run in chosen:
            patch.setattr(CpuBackend, "run", run)
            out: Path = place / target
            try:
                deploy(DeployOptions(target=target, out=out, **{**common, **more}))
            except ToolchainError:
                assert run is failed
            found.append(json.loads((out / "report.json").read_text()))
    return found


def test_the_documented_keys_are_those_written(reports: list[dict[str, Any]]) -> None:
    written = {path for report in reports for path in paths(report)}
    assert all(report["schema"] == SCHEMA for report in reports)
    unknown = sorted(path for path in written if documented(path) is None)
    assert unknown == []
    missing = KEYS.keys() - {documented(path) for path in written}
    # of backends that map by a vendor's tool, or round otherwise: their own tests run them
    elsewhere = {key for key in KEYS if key.startswith(("backend.bounded", "backend.mapping"))}
    # nothing is damaged in these
    assert missing == elsewhere | {"insight.faults.*[]"}, sorted(missing)


def test_keys_of_other_backends_are_documented() -> None:
    rounded = Bounded(1, 0, None, 2.0)
    mapped = Mapped("it fits", 1, 0, None, {"cores": 1}).as_json()
    names = [f"backend.bounded.{name}" for name in vars(rounded)] + [f"backend.mapping.{name}" for name in mapped]
    assert all(documented(name) for name in names)


def test_they_are_shown() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0, result.output
    assert SCHEMA in result.output
    for key, meaning in KEYS.items():
        assert f"{key}: {meaning}\n" in result.output
