"""Plots, where matplotlib is installed; everything they show is in a CSV or JSON file beside them too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HOW_TO_GET = "plots need matplotlib: pip install 'neuroport[plot]'"

# Okabe and Ito's palette, told apart by colour-blind readers too; then the same colours dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_GREY = "#666666"
_CLOSE = 5  # tolerances that the lower panel shows below the ANN


def draw_curves(
    path: Path,
    curves: Mapping[str, NDArray[np.float64]],
    marks: Mapping[str, int | None],
    *,
    reference: float,
    tolerance: float,
    title: str,
) -> bool:
    """Accuracy over steps as a PNG, whole and close to the ANN's; False, and no file, where matplotlib is missing.

    curves: [T] fractions by name; marks: step at which a curve gets a dot, counted from 1; reference: the ANN's
    accuracy, drawn as a line with a band of `tolerance` below it.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter
    except ImportError:
        return False
    n_steps = max(len(curve) for curve in curves.values())
    figure = Figure(figsize=(8.0, max(6.0, 2.0 + len(curves) / 4)), dpi=160, layout="constrained")
    whole, close = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    lines = {}
    for axes in (whole, close):
        axes.axhspan(reference - tolerance, reference, color=_GREY, alpha=0.18, linewidth=0)
        lines[f"ANN {100 * reference:.2f} %"] = axes.axhline(reference, color=_GREY, linewidth=1)
        for k, (name, curve) in enumerate(curves.items()):
            colour, dashes = _COLOURS[k % len(_COLOURS)], _DASHES[k // len(_COLOURS) % len(_DASHES)]
            (line,) = axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, linestyle=dashes, linewidth=1.6)
            lines[f"{name} {100 * curve[-1]:.2f} %"] = line
            mark = marks[name]
            if mark is not None:
                axes.plot([mark], [curve[mark - 1]], "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("accuracy")
        axes.grid(color=_GREY, alpha=0.2, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    best = max(float(curve.max()) for curve in curves.values())
    close.set_ylim(reference - _CLOSE * tolerance, max(best, reference) + tolerance / 2)
    close.set_xscale("log", base=2)
    close.set_xlim(1, max(n_steps, 2))
    powers = [2**k for k in range(n_steps.bit_length()) if 2**k <= n_steps / 1.3]
    close.xaxis.set_major_locator(FixedLocator([*powers, n_steps]))
    close.xaxis.set_minor_locator(NullLocator())
    close.xaxis.set_major_formatter(ScalarFormatter())
    close.set_xlabel("steps")
    whole.set_title(title, loc="left", fontsize=11, parse_math=False)
    points = "point" if tolerance == 0.01 else "points"
    note = f"close to the ANN; dot: first step from which it stays within {100 * tolerance:g} {points} (grey band)"
    close.set_title(note, loc="left", fontsize=9, color=_GREY)
    legend = whole.legend(
        list(lines.values()),
        list(lines),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        handlelength=2.4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are names, not formulas
    figure.align_ylabels()
    figure.savefig(path, metadata={"Software": None})
    return True
