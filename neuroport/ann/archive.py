"""What a `.pt2` archive may hold before torch reads it: torch evaluates more of a file than its tensors.

Seen with torch 2.13: constants named `opaque_obj_...` are unpickled (torch/export/pt2_archive/_package.py), symbolic
sizes are evaluated as Python by sympy.sympify (torch/_export/serde/serialize.py, _parse_sym_expr).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Symbol('s77', positive=True, integer=True), Mul(Integer(2), Symbol('s77', ...)): sizes, nothing that could be called.
_SIZE = re.compile(r"(?:'[a-z]{1,4}\d+'|\b(?:[A-Z][A-Za-z]*|[a-z]+(?==)|[a-z]{1,4}\d+|\d+)\b|[-+*/%<>=!&|~(), ])*")
_UNPICKLED = ("opaque_obj", "custom_obj")


def check_archive(path: Path) -> None:
    """Refuse an archive that holds more than tensors, operators and plain sizes.

    Raises:
        ValueError: a pickled object, or an expression that is no size.
    """
    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        if any(kind in name.lower() for kind in _UNPICKLED):
            raise ValueError(f"'{name}' is a pickled object")
        if name.lower().endswith(".json"):
            for key, value in _entries(json.loads(reader.get_record(name))):
                _check_entry(key, value)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON document with its value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _check_entry(key: str, value: Any) -> None:
    if key == "expr_str" and not (isinstance(value, str) and _SIZE.fullmatch(value)):
        raise ValueError(f"{value!r} is not a size")
    if key == "path_name" and any(kind in str(value).lower() for kind in _UNPICKLED):
        raise ValueError(f"'{value}' is a pickled object")
