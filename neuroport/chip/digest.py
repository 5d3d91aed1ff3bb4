"""The hash of an integer network: equal exactly where every integer, shape, name and rule of the arithmetic is.

It does not depend on the machine, the types of arrays, or the file a network lies in. It is the SHA-256 of a JSON text
(UTF-8, keys sorted, no spaces) of `as_document`, so that another program can compute it too:

- an object is {field: value}; a field that has a default and is at it is left out, in the datasheet's arithmetic too: a
  rule that is added later, with today's behaviour as its default, leaves the hash of today's networks as it is;
- an array is {"shape": [...], "sha256": hex digest of its values as little-endian int64 in C order};
- synapses say their `kind` as the files do. A dense and a sparse matrix of the same weights are two networks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from neuroport.chip.files import KINDS
from neuroport.chip.network import IntNetwork


def network_hash(network: IntNetwork) -> str:
    """64 hex digits that name the network; see the head of this file."""
    text = json.dumps(as_document(network), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def as_document(value: Any) -> Any:
    """The network, or a part of it, as what JSON holds; arrays by shape and digest."""
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value, "<i8").tobytes()
        return {"shape": list(value.shape), "sha256": hashlib.sha256(content).hexdigest()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: getattr(value, f.name) for f in fields(value)}
        kept = {f.name: found[f.name] for f in fields(value) if f.default is MISSING or found[f.name] != f.default}
        kind = {"kind": KINDS[type(value)]} if type(value) in KINDS else {}
        return {name: as_document(item) for name, item in kept.items()} | kind
    if isinstance(value, tuple):
        return [as_document(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def first_change(before: IntNetwork, after: IntNetwork) -> str:
    """Where the second network first differs from the first one, and how; empty where the hashes are equal."""
    return _first_change(as_document(before), as_document(after), "")


def _first_change(before: Any, after: Any, place: str) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        if before.keys() == after.keys() == {"shape", "sha256"}:
            same_shape = before["shape"] == after["shape"]
            found = f"{before['shape']} before, {after['shape']} now" if not same_shape else "other values"
            return "" if before == after else f"{place}: {found}"
        pairs = [(f"{place}.{k}" if place else k, before.get(k), after.get(k)) for k in (before | after)]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        names = [x.get("name", k) if isinstance(x, dict) else k for k, x in enumerate(before)]
        pairs = [(f"{place}[{name}]", x, y) for name, x, y in zip(names, before, after, strict=True)]
    else:
        return "" if before == after else f"{place}: {_short(before)} before, {_short(after)} now"
    return next((found for name, x, y in pairs if (found := _first_change(x, y, name))), "")


def _short(value: Any) -> str:
    if value is None:
        return "the default"
    if isinstance(value, list):
        return f"{len(value)} of them"
    return f"'{value['name']}'" if isinstance(value, dict) and "name" in value else str(value)
