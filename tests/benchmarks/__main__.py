"""Measure how fast the core is: `make bench`, or `python -m tests.benchmarks`. Writes bench.json, or lava_runs.json."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import lava_runs, machine, networks
from tests.benchmarks.cases import Reference, write_case
from tests.benchmarks.errors import BenchmarkError
from tests.benchmarks.measure import Track, ask_once, measure, ratio
from tests.benchmarks.networks import Case
from tests.benchmarks.paths import PATHS, ROOT, commands, own
from tests.benchmarks.table import as_text

_QUICK = {"mlp": (10, 100), "cnn": (10, 100), "resnet20": (4, 32)}  # samples, steps


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all measured; 1: a path gave other spikes, or its worker failed."""
    options = _options(argv)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.0f} s  {text}\n")

    try:
        if options.lava_runs:
            cases = lava_runs.chains(quick=options.quick)
            report, text = lava_runs.compare_runs(cases, options.rounds, say), lava_runs.as_text
        else:
            report, text = benchmark(options, say), as_text
    except BenchmarkError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    report["duration_s"] = round(time.monotonic() - started, 1)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(text(report) + "\n")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--networks", default=",".join(networks.CASES), help="some of %(default)s")
    parser.add_argument("--paths", default=",".join(PATHS), help="some of %(default)s; `core` is always measured")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each path, in turn (%(default)s)")
    parser.add_argument("--resnet20", type=Path, metavar="BUNDLE", help="a trained network, as `deploy` wrote it")
    parser.add_argument("--lava-runs", action="store_true", help="only neuroport's runs of Lava, against a script's")
    parser.add_argument("--quick", action="store_true", help="few samples, two rounds: does it work?")
    parser.add_argument("--out", type=Path, help="(bench.json, or lava_runs.json, beside the Makefile)")
    options = parser.parse_args(argv)
    options.out = options.out or ROOT / ("lava_runs.json" if options.lava_runs else "bench.json")
    options.networks, options.paths = (tuple(x.split(",")) for x in (options.networks, options.paths))
    for chosen, known in ((options.networks, tuple(networks.CASES)), (options.paths, PATHS)):
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"{', '.join(unknown)} is none of {', '.join(known)}")
    if options.rounds < 1:
        parser.error("at least one round is needed")
    options.paths = tuple(path for path in PATHS if path in ("core", *options.paths))
    if options.quick:
        options.rounds = min(options.rounds, 2)
    return options


def benchmark(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole report."""
    report: dict[str, Any] = {"machine": machine.describe(), "results": [], "left_out": {}}
    say("peaks of the machine")
    report["peaks"] = ask_once(own("peaks", "peaks"))
    for name in options.networks:
        say(f"{name}: building")
        case = _case(name, options)
        results, left_out = measure_case(case, options.paths, options.rounds, say)
        report["results"] += [with_peaks(r, case, report["peaks"]) for r in results]
        report["left_out"][name] = left_out
    say("how the core's cost grows")
    report["scaling"] = ask_once(own("scaling", "scaling", *(["--quick"] if options.quick else [])))
    report["machine"]["load_average_after"] = machine.describe()["load_average"]
    return report


def _case(name: str, options: argparse.Namespace) -> Case:
    if name == "resnet20" and options.resnet20:
        return networks.resnet20_from(options.resnet20)
    return networks.CASES[name](*(_QUICK[name] if options.quick else ()))


def measure_case(
    case: Case, paths: tuple[str, ...], rounds: int, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Results of one network on each path, and why some are missing."""
    reference = Reference(case)
    with tempfile.TemporaryDirectory(prefix="neuroport-bench-") as folder:
        write_case(Path(folder), case)
        started, left_out = commands(paths, Path(folder))
        tracks, refused = measure(started, reference.check, rounds, say)
    by_path = {track.path: track for track in tracks}
    return [_result(track, by_path, reference) for track in tracks], {**left_out, **refused}


def _result(track: Track, by_path: dict[str, Track], reference: Reference) -> dict[str, Any]:
    rate = statistics.median(track.rates)
    spread = {
        f"vs_{other.replace('-', '_')}": ratio(track, by_path.get(other))
        for other in ("lava-maths", "torch-loop", "core")
    }
    return {
        "network": reference.case.name,
        "path": track.path,
        "samples_steps_per_s": rate,
        "synops_per_s": rate * reference.synops(track.n_samples, track.n_steps),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in track.runs),
        **{key: found["median"] if found else None for key, found in spread.items()},
        "spread": spread,
        "threads": track.threads,
        "timed": track.timed.removesuffix("_s"),
        "n_samples": track.n_samples,
        "n_steps": track.n_steps,
        "note": track.note,
        "wall_s": [run["wall_s"] for run in track.runs],
        "cpu_s": [run["cpu_s"] for run in track.runs],
    }


def with_peaks(result: dict[str, Any], case: Case, peaks: dict[str, float]) -> dict[str, Any]:
    """A result with its shares of the machine's peaks, for one-thread paths.

    of_int8_peak: as if every synapse were multiplied in every step, silent ones too. of_copy_bandwidth: one byte of
    weight for each synaptic operation, against copying within the cache.
    """
    if result["threads"] != 1:
        return result
    dense = result["samples_steps_per_s"] * case.network.n_synapses
    return result | {
        "of_int8_peak": dense / peaks["int8_macs_per_s"],
        "of_copy_bandwidth": result["synops_per_s"] / peaks["copy_in_cache_bytes_per_s"],
    }


if __name__ == "__main__":
    sys.exit(main())
