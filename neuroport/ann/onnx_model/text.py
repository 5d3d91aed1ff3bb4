"""What a model file or a library says, as it can stand in an error message."""

from __future__ import annotations

_LONGEST = 300


def plain(text: str) -> str:
    """A name as it can be printed: a file's names may hold control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def reason(error: BaseException) -> str:
    """The first line of an error, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain(lines[0] if lines else type(error).__name__)[:_LONGEST]
