"""Runs of Lava through neuroport against a script written by hand, in turn, and what a start takes."""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.target import load_target
from neuroport.chip.trace import Trace
from neuroport.toolchains import ensure
from tests.benchmarks import machine
from tests.benchmarks.cases import write_case
from tests.benchmarks.errors import BenchmarkError, UnequalSpikesError
from tests.benchmarks.measure import RUN_S, START_S, Worker
from tests.benchmarks.networks import Case, cnn, first, mlp
from tests.benchmarks.paths import foreign

_TARGET = load_target("loihi-sim")
Say = Callable[[str], None]


def chains(*, quick: bool = False) -> list[Case]:
    """The benchmark's MLP, and its CNN with neurons of Lava's own: they reset to zero."""
    made = [mlp(10, 50), cnn(3, 20)] if quick else [mlp(80, 100), cnn(20, 50)]
    return [made[0], reset_to_zero(made[1])]


def reset_to_zero(case: Case) -> Case:
    """The same case with neurons that reset to zero."""
    populations = tuple(p if p.role == "input" else replace(p, reset="zero") for p in case.network.populations)
    return replace(case, network=replace(case.network, populations=populations))


def compare_runs(cases: Sequence[Case], rounds: int, say: Say) -> dict[str, Any]:
    """The report: each case on both sides, and the start of neuroport's.

    Raises:
        UnequalSpikesError: a side gave other spikes than the core. BenchmarkError: a run failed.
    """
    report: dict[str, Any] = {"machine": machine.describe(), "lava_runs": [], "start_up": _start_up(cases[0], rounds)}
    say(f"start-up: {report['start_up']['median_s']:.1f} s")
    for case in cases:
        expected = run_core(case.network, case.inputs, record="spikes").trace
        runs = []
        for k in range(rounds):
            found = {"script": by_hand(case, expected), "neuroport": _by_neuroport(case, expected)}
            runs.append(found)
            speeds = ", ".join(f"{who} {x['steps_per_s']:.0f}" for who, x in found.items())
            say(f"  {case.name}, round {k + 1} of {rounds}: steps per second: {speeds}")
        report["lava_runs"].append(
            {
                "network": case.name,
                "n_samples": case.inputs.n_samples,
                "n_steps": case.inputs.n_steps,
                "compared_spikes": sum(int(expected.spikes[p.name].sum()) for p in case.network.populations[1:]),
                "running": _ratios(runs, "steps_per_s"),
                "whole": _ratios([{who: {"per_s": 1 / x["whole_s"]} for who, x in r.items()} for r in runs], "per_s"),
                "runs": runs,
            }
        )
    return report


def _ratios(runs: Sequence[dict[str, dict[str, float]]], key: str) -> dict[str, float]:
    """How many times as fast neuroport is as the script next to it."""
    found = [run["neuroport"][key] / run["script"][key] for run in runs]
    return {"min": min(found), "median": statistics.median(found), "max": max(found)}


def by_hand(case: Case, expected: Trace) -> dict[str, float]:
    """A run of the script: seconds from its start to its last step, and steps in a second once it runs."""
    sheet = _TARGET.toolchain
    if sheet is None:
        raise BenchmarkError(f"target '{_TARGET.name}' names no toolchain")
    python = ensure(sheet.spec).python
    with tempfile.TemporaryDirectory(prefix="neuroport-bench-") as folder:
        write_case(Path(folder), case)
        out = Path(folder) / "spikes.npz"
        mark = f"bench{secrets.token_hex(4)}"
        start = time.monotonic()
        worker = Worker(foreign("lava-script", python, "lava_script", folder, mark, str(out)))
        try:
            worker.answer(START_S)
            done = worker.answer(RUN_S)
            whole = time.monotonic() - start
            worker.answer(RUN_S)
        finally:
            worker.stop()
        with np.load(out) as f:
            _check(case, "the script", expected, {name: f[name] for name in f.files})
    return {"whole_s": whole, "steps_per_s": done["steps"] / done["seconds"]}


def _by_neuroport(case: Case, expected: Trace) -> dict[str, float]:
    """The same through neuroport's backend with one worker; the first samples told of count among its start.

    A run so short that they are all told of at once is counted from its start.
    """
    progress: list[tuple[float, int]] = []
    start = time.monotonic()
    trace = _run(case, lambda n: progress.append((time.monotonic(), n)))
    whole = time.monotonic() - start
    _check(case, "neuroport", expected, trace.spikes)
    return {"whole_s": whole, "steps_per_s": steps_per_s(start, progress, case.inputs)}


def steps_per_s(start: float, progress: Sequence[tuple[float, int]], inputs: IntInputs) -> float:
    """Steps in a second between the first of the (time, samples done) of `progress` and the one with all samples."""
    began, n_before = next((seen for seen in progress if seen[1] < inputs.n_samples), (start, 0))
    ended = next(when for when, n_done in progress if n_done == inputs.n_samples)
    return (inputs.n_samples - n_before) * inputs.n_steps / (ended - began)


def _start_up(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds for one step of one sample, all in all: the environment is checked, Lava starts and ends."""
    one = replace(case, inputs=first(case.inputs, 1, 1))
    seconds = []
    for _ in range(rounds):
        start = time.monotonic()
        LavaBackend().prepare(_TARGET, lambda _: None)
        _run(one, lambda _: None)
        seconds.append(time.monotonic() - start)
    return {"network": case.name, "median_s": statistics.median(seconds), "seconds": seconds}


def _run(case: Case, on_progress: Callable[[int], None]) -> Trace:
    with tempfile.TemporaryDirectory(prefix="neuroport-bench-") as folder:
        job = Job(_TARGET, case.network, case.inputs, Path(folder), on_progress=on_progress, n_workers=1)
        return LavaBackend().run(job)


def _check(case: Case, who: str, expected: Trace, found: Mapping[str, NDArray[np.uint8]]) -> None:
    """Every spike of the last samples, as many as there are; of all populations but the input."""
    for p in case.network.populations[1:]:
        name, spikes = p.name, found[p.name]
        want = expected.spikes[name][-len(spikes) :]
        if (spikes.reshape(want.shape) != want).any():
            raise UnequalSpikesError(f"{case.name}: {who} gives other spikes than the core in '{name}'")


def as_text(report: dict[str, Any]) -> str:
    """For a terminal and for the README."""
    lines = [
        "| network | samples x steps | spikes compared | x script, running | x script, from start to end |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in report["lava_runs"]:
        cells = (
            row["network"],
            f"{row['n_samples']} x {row['n_steps']}",
            f"{row['compared_spikes']:,}",
            *(f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in (row["running"], row["whole"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    start = report["start_up"]
    seconds = f"{min(start['seconds']):.1f} to {max(start['seconds']):.1f}"
    return "\n".join([*lines, "", f"Start-up (environment checked, one step of {start['network']}, end): {seconds} s."])
