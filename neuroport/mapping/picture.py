"""The chips' meshes as an SVG picture: a box for each core, coloured and numbered by the layer it holds.

Of thousands of cores those of a layer on a chip are one shape with one number, so that a browser opens the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from neuroport.mapping.mapped import Mapped
from neuroport.mapping.network import Core, Site

# Okabe and Ito's palette, told apart by colour-blind readers too, then lighter, then darker, then again; the number
# says which layer it is.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
_SHADES = ((255, 0.0), (255, 0.55), (0, 0.45))  # of each row of colours: to white or to black, and how far
_CELL, _GAP, _MARGIN, _HEAD = 22, 5, 16, 20
_LEGEND_WIDTH, _LEGEND_LINE, _TOP = 300, 20, 64
_WIDEST = 1600  # of the legend
_BOXES = 4096  # cores up to which each has a box of its own


def draw_mesh(mapped: Mapped, title: str) -> str:
    """The picture as SVG text."""
    part, floor = mapped.partition, mapped.placement.floor
    numbers = {p.name: k for k, p in enumerate((p for p in part.network.populations if part.cores_of[p.name]), 1)}
    inner = max(1, math.isqrt(floor.cores_per_router - 1) + 1)  # cores of a router stand in rows of so many
    router = (inner * _CELL + _GAP, -(-floor.cores_per_router // inner) * _CELL + _GAP)
    chip = (floor.mesh[0] * router[0] + 2 * _MARGIN, floor.mesh[1] * router[1] + _HEAD + 2 * _MARGIN)
    chips = sorted({site.chip for site in mapped.mapped.sites})
    corner = floor.chip_places[chips].min(0)
    places = {k: ((floor.chip_places[k] - corner) * chip).tolist() for k in chips}
    wide = max(x for x, _ in places.values()) + chip[0]
    high = max(y for _, y in places.values()) + chip[1]
    columns = max(1, min(_WIDEST, max(wide, 2 * _LEGEND_WIDTH)) // _LEGEND_WIDTH)
    lines = -(-len(numbers) // columns)
    width, height = max(wide, columns * _LEGEND_WIDTH) + 2 * _MARGIN, high + _TOP + lines * _LEGEND_LINE + 3 * _MARGIN
    words = _words(mapped)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(words)} Each box is a core; its number and colour say which layer it holds.</desc>',
        f'<defs><path id="free-cores" d="{_free(mapped, router, inner)}" fill="#fff" stroke="#ccc"/></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="28" font-size="17" font-weight="600" fill="#111">{escape(title)}</text>',
        f'<text x="{_MARGIN}" y="50" font-size="13" fill="#444">{escape(words)}</text>',
    ]
    on_chip: dict[int, list[tuple[Core, Site]]] = {k: [] for k in chips}
    for core, site in zip(part.cores, mapped.mapped.sites, strict=True):
        on_chip[site.chip].append((core, site))
    for k in chips:
        x, y = places[k][0] + _MARGIN, places[k][1] + _TOP
        parts.append(
            f'<g transform="translate({x} {y})"><rect x="4" y="4" width="{chip[0] - 8}" height="{chip[1] - 8}" rx="6" '
            f'fill="#fafafa" stroke="#bbb"/><text x="{_MARGIN}" y="22" font-size="12" fill="#444">chip {k}</text>'
            f'<use href="#free-cores"/>'
        )
        here = [(core, *_corner(site, mapped, router, inner)) for core, site in on_chip[k]]
        if len(part.cores) > _BOXES:
            parts += _areas(here, numbers)
        else:
            parts += [
                _box(core, x, y, f"chip {k}, core {site.core}", numbers)
                for (core, x, y), (_, site) in zip(here, on_chip[k], strict=True)
            ]
        parts.append("</g>")
    parts += _legend(mapped, numbers, columns, high + _TOP + 2 * _MARGIN)
    return "\n".join([*parts, "</svg>", ""])


def _words(mapped: Mapped) -> str:
    n, chips = mapped.n_cores, mapped.n_chips
    boards = " or ".join(f"{count} x {name}" for name, count in mapped.boards.items())
    return (
        f"{n:,} core{'s' * (n != 1)} on {chips:,} chip{'s' * (chips != 1)} of {mapped.partition.target.name}"
        f"{f' (boards: {boards})' if boards else ''}."
    )


def _free(mapped: Mapped, router: tuple[int, int], inner: int) -> str:
    """The outline of every router with its cores: what no layer uses stays empty."""
    floor = mapped.placement.floor
    width, height = inner * _CELL, -(-floor.cores_per_router // inner) * _CELL
    return "".join(
        f"M{_MARGIN + x * router[0]} {_MARGIN + _HEAD + y * router[1]}h{width}v{height}h-{width}z"
        for x in range(floor.mesh[0])
        for y in range(floor.mesh[1])
    )


def _corner(site: Site, mapped: Mapped, router: tuple[int, int], inner: int) -> tuple[int, int]:
    row, column = divmod(site.core % mapped.placement.floor.cores_per_router, inner)
    return _MARGIN + site.x * router[0] + column * _CELL, _MARGIN + _HEAD + site.y * router[1] + row * _CELL


def _areas(here: Sequence[tuple[Core, int, int]], numbers: dict[str, int]) -> Iterator[str]:
    """The cores of each layer on a chip, numbered once."""
    corners: dict[str, list[tuple[int, int]]] = {}
    for core, x, y in here:
        corners.setdefault(core.tiles[0].population, []).append((x, y))
    side = _CELL - 2
    for name, found in corners.items():
        fill, (x, y) = _colour(numbers[name]), found[0]
        boxes = "".join(f"M{x + 1} {y + 1}h{side}v{side}h-{side}z" for x, y in found)
        title = escape(f"{name}: {len(found):,} core{'s' * (len(found) != 1)} here")
        yield (
            f'<g><title>{title}</title><path d="{boxes}" fill="{fill}"/>{_number(x, y, str(numbers[name]), fill)}</g>'
        )


def _box(core: Core, x: int, y: int, place: str, numbers: dict[str, int]) -> str:
    """One core: its colour, its number, and a title with the details."""
    layers = list(dict.fromkeys(tile.population for tile in core.tiles))
    first = numbers[layers[0]]
    fill = _colour(first)
    use = core.uses[core.binding]
    share = f", {core.binding} {use.used:,} of {use.limit:,}" if use.limit else ""
    neurons = ", ".join(
        f"{name}: {sum(t.n_neurons for t in core.tiles if t.population == name):,} neurons" for name in layers
    )
    label = f"{first}{'+' * (len(layers) > 1)}"
    return (
        f"<g><title>{escape(f'{place}: {neurons}{share}')}</title>"
        f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" fill="{fill}"/>'
        f"{_number(x, y, label, fill)}</g>"
    )


def _number(x: int, y: int, label: str, fill: str) -> str:
    return (
        f'<text x="{x + _CELL / 2:g}" y="{y + _CELL / 2 + 3.5:g}" font-size="{10 if len(label) < 3 else 8}" '
        f'text-anchor="middle" fill="{_ink(fill)}">{label}</text>'
    )


def _legend(mapped: Mapped, numbers: dict[str, int], columns: int, top: int) -> Iterator[str]:
    lines = -(-len(numbers) // columns)
    for k, (name, number) in enumerate(numbers.items()):
        x, y = _MARGIN + k // lines * _LEGEND_WIDTH, top + k % lines * _LEGEND_LINE
        n, fill = len(mapped.partition.cores_of[name]), _colour(number)
        short = name if len(name) <= 28 else f"{name[:27]}…"
        yield (
            f'<g><title>{escape(name)}</title><rect x="{x}" y="{y - 13}" width="24" height="16" fill="{fill}"/>'
            f'<text x="{x + 12}" y="{y - 1}" font-size="10" text-anchor="middle" fill="{_ink(fill)}">{number}</text>'
            f'<text x="{x + 32}" y="{y}" font-size="12" fill="#111">{escape(short)}: {n:,} core{"s" * (n != 1)}</text>'
            f"</g>"
        )
    more = any(len({tile.population for tile in core.tiles}) > 1 for core in mapped.partition.cores)
    if more and mapped.n_cores <= _BOXES:
        yield (
            f'<text x="{_MARGIN}" y="{top + lines * _LEGEND_LINE}" font-size="12" fill="#444">'
            f"+: further layers on the same core; point at a box to see them</text>"
        )


def _colour(number: int) -> str:
    row, k = divmod(number - 1, len(_COLOURS))
    end, part = _SHADES[row % len(_SHADES)]
    channels = (int(_COLOURS[k][i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (end - c) * part):02X}" for c in channels)


def _ink(fill: str) -> str:
    """Black or white, whichever stands out more from a colour (WCAG 2.1, relative luminance)."""
    channels = [int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#fff"
