"""Plots as inline SVG: text and lines take the page's colours, and nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 20, 34
_MOST_TICKS = 6
_LONGEST = 24  # characters of a name beside a bar


@dataclass(frozen=True)
class Line:
    """A curve: its name, its values over x, and its dashes ('' is solid)."""

    name: str
    values: Sequence[float]
    dashes: str = ""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: value and standard error in the axis' unit; kind names a cause; text: at its end."""

    name: str
    value: float
    error: float
    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Point:
    """A point of a plot, its interval from low to high, and a name beside it; kind: a colour of bars."""

    name: str
    x: float
    y: float
    low: float
    high: float
    kind: str = "plain"


class _Frame:
    """The plotting area of a picture, its axes drawn."""

    def __init__(self, title: str, size: tuple[int, int], x: tuple[float, float], y: tuple[float, float]) -> None:
        self.size, self.x, self.y = size, x, (y[0], y[1] if y[1] > y[0] else y[0] + 1)
        self.parts = [
            f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title, quote=True)}">'
            f"<title>{escape(title)}</title>"
        ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies."""
        width, height = self.size[0] - _LEFT - _RIGHT, self.size[1] - _TOP - _BOTTOM
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(_LEFT + right * width, 1), round(_TOP + (1 - up) * height, 1)

    def axes(self, x_label: str, y_label: str, *, percent: bool = False) -> None:
        """Ticks, grid and the names of the axes."""
        for value in _ticks(*self.y):
            left, y = self.at(self.x[0], value)
            right, _ = self.at(self.x[1], value)
            text = f"{100 * value:.4g} %" if percent else _number(value)
            self.parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            self.parts.append(f'<text x="{left - 5}" y="{y + 3.5}" text-anchor="end">{text}</text>')
        for value in _ticks(*self.x, least=1.0):
            x, bottom = self.at(value, self.y[0])
            self.parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{_number(value)}</text>')
        middle, bottom = self.at(sum(self.x) / 2, self.y[0])
        self.parts.append(f'<text x="{middle}" y="{bottom + 29}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            self.parts.append(f'<text x="4" y="11">{escape(y_label)}</text>')

    def path(self, x: Sequence[float], y: Sequence[float], css: str, dashes: str = "") -> None:
        """A curve through points; a single one is a short line."""
        places = [self.at(*pair) for pair in zip(x, y, strict=True)]
        if len(places) == 1:
            places.append((places[0][0] + 8, places[0][1]))
        points = " ".join(f"{a},{b}" for a, b in places)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<polyline class="{css}" points="{points}"{dash}/>')

    def svg(self) -> str:
        """The picture."""
        return "".join([*self.parts, "</svg>"])


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, a few of them, at least `least` apart."""
    wide = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** np.floor(np.log10(wide))
    step = max(least, next(float(k * power) for k in (1, 2, 5, 10) if k * power >= wide))
    first = int(np.ceil(low / step))
    return [k * step for k in range(first, int(np.floor(high / step)) + 1)]


def _number(value: float) -> str:
    """Short: with k and M for thousands and millions."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def lines(
    title: str, x: Sequence[float], curves: Sequence[Line], labels: tuple[str, str], *, percent: bool = False
) -> str:
    """Curves over x, each named by a legend below, dashes telling them apart; percent: fractions, shown as percent."""
    values = [v for curve in curves for v in curve.values]
    low, high = min(values), max(values)
    room = 0.04 * (high - low or (0.1 if percent else 1))
    y = (max(low - room, 0.0), min(high + room, 1.0)) if percent else (low - room, high + room)
    frame = _Frame(title, (560, 250), (min(x), max(x) if max(x) > min(x) else min(x) + 1), y)
    frame.axes(*labels, percent=percent)
    for k, curve in enumerate(curves):
        frame.path(x, curve.values, f"curve c{k % 6}", curve.dashes)
    return frame.svg() + legend(curves)


def points(title: str, found: Sequence[Point], labels: tuple[str, str], rule: float | None = None) -> str:
    """Points with whiskers, in percent over x, each with its name; rule: a dashed line at a height."""
    x = [p.x for p in found]
    heights = [v for p in found for v in (p.low, p.high)] + ([] if rule is None else [rule])
    low, high = min(heights), max(heights)
    room, wide = 0.04 * (high - low or 1), 0.04 * (max(x) - min(x) or 1)
    frame = _Frame(title, (560, 250), (min(x) - wide, max(x) + wide), (low - room, high + room))
    frame.axes(*labels, percent=True)
    if rule is not None:
        frame.path(frame.x, (rule, rule), "curve c1", "6 3")
    for p in found:
        (at, middle), (_, top), (_, bottom) = (frame.at(p.x, v) for v in (p.y, p.high, p.low))
        frame.parts.append(
            f'<path class="whisker" d="M{at} {top}V{bottom}M{at - 3} {top}h6M{at - 3} {bottom}h6"/>'
            f'<circle class="bar {p.kind}" cx="{at}" cy="{middle}" r="3.5"/>'
            f'<text x="{at + 6}" y="{middle - 5}">{escape(p.name)}</text>'
        )
    return frame.svg()


def legend(curves: Sequence[Line]) -> str:
    """What the curves are, as text with a piece of each."""
    items = []
    for k, curve in enumerate(curves):
        dash = f' stroke-dasharray="{curve.dashes}"' if curve.dashes else ""
        key = f'<svg class="key" viewBox="0 0 30 8" aria-hidden="true"><line class="curve c{k % 6}" x1="0" x2="30" '
        items.append(f'<li>{key}y1="4" y2="4"{dash}/></svg>{escape(curve.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def bars(title: str, rows: Sequence[Bar], *, limits: tuple[float, float]) -> str:
    """Horizontal bars with their standard errors as whiskers, name at the left and numbers at the right."""
    row, width = 24, 560
    height = row * len(rows) + 8
    label_width = 16 + 7 * max(len(_short(bar.name, _LONGEST)) for bar in rows)
    inner = width - label_width - 150
    low, high = min(limits[0], 0.0) if limits[0] <= 0 else limits[0], limits[1]

    def at(value: float) -> float:
        return round(label_width + inner * (min(max(value, low), high) - low) / ((high - low) or 1), 1)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>"
    ]
    zero = at(max(low, 0.0))
    for k, bar in enumerate(rows):
        y, x = 4 + row * k, at(bar.value)
        left, right = at(bar.value - bar.error), at(bar.value + bar.error)
        parts.append(
            f'<text x="{label_width - 8}" y="{y + 15}" text-anchor="end">{escape(_short(bar.name, _LONGEST))}</text>'
            f'<rect class="bar {bar.kind}" x="{min(x, zero)}" y="{y + 3}" width="{max(abs(x - zero), 1):.1f}" '
            f'height="{row - 8}"/>'
            f'<path class="whisker" d="M{left} {y + 11}H{right}M{left} {y + 7}v8M{right} {y + 7}v8"/>'
            f'<text x="{max(right, zero) + 8}" y="{y + 15}">{escape(bar.text)}</text>'
        )
    return "".join([*parts, "</svg>"])


def histograms(
    title: str, one: tuple[str, Sequence[int]], other: tuple[str, Sequence[int]], ends: tuple[float, float]
) -> str:
    """Two histograms over the same bins, counts on a logarithmic scale: one filled, the other a line."""
    width, height, base = 260, 120, 98
    n = len(one[1])
    top = np.log1p(max(*one[1], *other[1], 1))
    high = [[round(base - 84 * float(np.log1p(v)) / top, 1) for v in values] for values in (one[1], other[1])]
    edges = [round(8 + (width - 16) * k / n, 1) for k in range(n + 1)]
    boxes = "".join(f"M{edges[k]} {base}V{high[0][k]}H{edges[k + 1]}V{base}" for k in range(n))
    steps = f"M{edges[0]} {base}" + "".join(f"V{high[1][k]}H{edges[k + 1]}" for k in range(n)) + f"V{base}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}: {escape(one[0])} filled, {escape(other[0])} as a line</title>"
        f'<path class="filled" d="{boxes}"/><path class="outline" d="{steps}"/>'
        f'<text x="8" y="112">{ends[0]:.3g}</text><text x="{width - 8}" y="112" text-anchor="end">{ends[1]:.3g}</text>'
        f"</svg>"
    )


def scatter(title: str, points: Sequence[Sequence[float]]) -> str:
    """Rates against activations from 0 to 1, what lies beyond at the edge; the diagonal is where they should be."""
    dots = "".join(f"M{10 + 100 * min(x, 1.1):.1f} {120 - 100 * min(y, 1.1):.1f}h0" for x, y in points)
    return (
        f'<svg viewBox="0 0 130 135" role="img" aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>'
        f'<path class="grid" d="M10 120L120 10"/><path class="frame" d="M10 10V120H120"/>'
        f'<path class="dots" d="{dots}"/><text x="110" y="132" text-anchor="middle">1</text><text x="0" y="24">1</text>'
        f'<text x="55" y="132" text-anchor="middle">activation</text></svg>'
    )


def raster(title: str, spikes: NDArray[np.uint8], uri: str) -> str:
    """A picture of spikes [T, n] (made by images.py): steps to the right, neurons downwards."""
    t, n = spikes.shape
    return (
        f'<img class="raster" src="{uri}" width="{t}" height="{n}" alt="{escape(title, quote=True)}" '
        f'style="aspect-ratio:{t}/{max(n, t // 6)}">'
    )


def _short(text: str, n: int) -> str:
    """At most n characters: the middle goes."""
    return text if len(text) <= n else f"{text[: n // 2 - 1]}…{text[-(n - n // 2) :]}"
