"""Tables of bench.json: `python -m tests.benchmarks.table bench.json` prints them as markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HEADER = (
    "network",
    "path",
    "samples x steps / s",
    "synaptic operations / s",
    "peak MB",
    "x Lava's maths",
    "x torch loop",
)


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for each result."""
    return [
        (
            r["network"],
            r["path"],
            f"{r['samples_steps_per_s']:,.0f}",
            _engineering(r["synops_per_s"]),
            f"{r['peak_rss_mb']:.0f}",
            _spread(r["spread"]["vs_lava_maths"]),
            _spread(r["spread"]["vs_torch_loop"]),
        )
        for r in report["results"]
    ]


def _spread(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "-"
    low, middle, high = (_short(ratio[key]) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _short(x: float) -> str:
    return f"{x:.0f}" if x >= 20 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def _engineering(x: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= unit:
            return f"{x / unit:.3g} {name}"
    return f"{x:.3g}"


def machine_line(report: dict[str, Any]) -> str:
    """The machine in one line."""
    m = report["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    return f"{m['cpu']}, {m['n_cpus']} CPUs, {m['memory_gb']} GB, {m['system']}, Python {m['python']}, {versions}"


def notes(report: dict[str, Any]) -> list[str]:
    """Peaks, growth, and what was left out."""
    p = report["peaks"]
    core = {r["network"]: r for r in report["results"] if r["path"] == "core"}
    found = [
        f"Peaks on one thread: copying {_engineering(p['copy_in_cache_bytes_per_s'])}B/s in cache, "
        f"{_engineering(p['copy_in_memory_bytes_per_s'])}B/s in memory; int8 products "
        f"{_engineering(p['int8_macs_per_s'])}MAC/s.",
        "The core's share of them (of int8: all synapses at every step; of copying in cache: one byte for each "
        "synaptic operation): "
        + "; ".join(f"{n} {r['of_int8_peak']:.0%} and {r['of_copy_bandwidth']:.0%}" for n, r in core.items())
        + ".",
    ]
    base = report["scaling"]["base"]
    growth = [f"{row['axis']} to {_at(row, -1)}: {row['last_doubling']:.2f}" for row in report["scaling"]["axes"]]
    found.append(
        f"The core's CPU time where one axis doubles, weight layout included (two dense layers of {base['neurons']} "
        f"neurons, {base['samples']} samples of {base['steps']} steps, rate {base['rate']}): {', '.join(growth)}."
    )
    found.append(
        "One-thread paths are timed by CPU time, two threads and Lava's runtime by the wall clock; memory is that of "
        "the whole process, of Lava's runtime of all its processes, shared pages counted in each."
    )
    lava = [r for r in report["results"] if r["path"].startswith("lava")]
    found += [f"{r['path']} on {r['network']}: {r['note']}." for r in lava]
    for network, reasons in report["left_out"].items():
        found += [f"{network}, {path}: not measured; {reason}" for path, reason in reasons.items()]
    return found


def _at(row: dict[str, Any], k: int) -> str:
    return f"{row['points'][k][row['axis']]}"


def as_markdown(report: dict[str, Any]) -> str:
    """For the README."""
    lines = [f"| {' | '.join(row)} |" for row in (_HEADER, ("---", "---", *["---:"] * 5), *rows(report))]
    return "\n".join([*lines, "", f"Machine: {machine_line(report)}.", "", *(f"- {note}" for note in notes(report))])


def as_text(report: dict[str, Any]) -> str:
    """For a terminal."""
    table = [_HEADER, *rows(report)]
    widths = [max(len(row[k]) for row in table) for k in range(len(_HEADER))]
    lines = [
        "  ".join(x.ljust(w) if k < 2 else x.rjust(w) for k, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
    return "\n".join([machine_line(report), "", *lines, "", *notes(report)])


def main(argv: Sequence[str]) -> int:
    """Print the file's table."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m tests.benchmarks.table bench.json\n")
        return 2
    sys.stdout.write(as_markdown(json.loads(Path(argv[0]).read_text())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
