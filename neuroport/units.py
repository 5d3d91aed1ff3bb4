"""Quantities as people read them."""

from __future__ import annotations

_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def si(value: float, unit: str) -> str:
    """Three digits, a prefix and the unit: `12.3 µJ`; of nothing `0 J`, below the smallest prefix in it."""
    if not value:
        return f"0 {unit}"
    size, prefix = next(((size, p) for size, p in _PREFIXES if abs(value) >= size), _PREFIXES[-1])
    return f"{value / size:.3g} {prefix}{unit}"
