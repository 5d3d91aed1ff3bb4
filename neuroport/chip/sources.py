"""Where the numbers of a datasheet come from: an entry for each of them, or for a group, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

SECTIONS = ("arithmetic", "geometry", "energy")  # whose numbers have sources
_RULES = ("arithmetic", "neurons")  # where nothing is unknown, and None means that a rule is not there


class Sheet(BaseModel):
    """Numbers are taken as they stand (no "8" for 8), unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Sheet):
    """status: `verified`, second-hand, or unknown, where nobody says a number; how a verified one was.

    verified: read in the vendor's own source, or measured by us. second-hand: all else, however likely. `source`
    begins with a short name of the sheet's `references` where there is one.
    """

    status: Literal["verified", "second-hand", "unknown"]
    how: Literal["read", "measured"] | None = None
    source: str

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.status == "verified") != (self.how is not None):
            raise ValueError("`how: read` or `how: measured` goes with status verified, and with no other")
        if not self.source.strip():
            raise ValueError("the source is empty")
        return self

    @property
    def mark(self) -> str:
        """The status in one or two words."""
        return f"{self.status} ({self.how})" if self.how else self.status


def leaves(sheet: Sheet, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a sheet that is no sheet itself; a part that may be absent is none."""
    for name, field in type(sheet).model_fields.items():
        value = getattr(sheet, name)
        if value is None and any(isinstance(t, type) and issubclass(t, Sheet) for t in get_args(field.annotation)):
            continue
        if isinstance(value, Sheet):
            yield from leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def entry_of(key: str, sources: Mapping[str, Source]) -> str | None:
    """The key of the entry that speaks of a number: its own, or that of the smallest group around it."""
    names = (key.rsplit(".", n)[0] for n in range(key.count(".") + 1))
    return next((name for name in names if name in sources), None)


def wrong_entry(sources: Mapping[str, Source], values: Mapping[str, Any]) -> str | None:
    """What is wrong with the first wrong entry; `values` by the dotted key of each leaf."""
    groups = {key.rsplit(".", n)[0] for key in values for n in range(1, key.count(".") + 1)}
    for key, entry in sources.items():
        if key not in groups and key not in values:
            return f"sources: unknown key '{key}'; name a number as section.key, or a group of numbers"
        if key in values and key.split(".")[0] not in _RULES and (values[key] is None) != (entry.status == "unknown"):
            found = "no value, but a source" if values[key] is None else f"the value {values[key]}, but status unknown"
            return f"sources: '{key}' has {found}; give both or neither"
    return None


def unsourced(sources: Mapping[str, Source], values: Mapping[str, Any]) -> list[str]:
    """Numbers without an entry, and quantities that are absent and not said to be unknown."""
    found = []
    for key, value in values.items():
        entry = entry_of(key, sources)
        is_open = value is None and key.split(".")[0] not in _RULES
        if entry is None:
            if is_open or _is_number(value):
                found.append(key)
        elif _is_number(value) and sources[entry].status == "unknown":
            found.append(key)
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, (tuple, Mapping)):
        return any(map(_is_number, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)
