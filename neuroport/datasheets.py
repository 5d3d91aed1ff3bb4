"""Finds, reads and checks the YAML documents of targets/ and calibration/.

In an installed wheel they lie inside the package (`_data/`), in a checkout beside it. YAML is read strictly: a key
that stands twice, or that nobody knows, is an error, and 1e-3 is a number as in YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from neuroport.errors import DatasheetError

Kind = Literal["targets", "calibration", "digits"]
Document = TypeVar("Document", bound=BaseModel)
_WORD = {"targets": "target", "calibration": "recipe"}


def data_dir(kind: Kind) -> Path:
    """The folder of packaged data: inside the installed package, or in the checkout the package lies in."""
    package = Path(str(files("neuroport")))
    packed = package / "_data" / kind
    if packed.is_dir():
        return packed
    checkout = package.parent
    folder = checkout / ("examples/digits" if kind == "digits" else kind)
    if (checkout / "pyproject.toml").is_file() and folder.is_dir():
        return folder
    raise DatasheetError(f"neuroport's own {kind}/ is not there (looked in {packed}); install neuroport again")


def names(kind: Kind) -> list[str]:
    """Names of all packaged documents of a kind, sorted."""
    return sorted(path.stem for path in data_dir(kind).glob("*.yaml"))


def load_document(kind: Kind, name: str | Path, model: type[Document]) -> Document:
    """The document of that name, or in that file, as a checked model.

    Raises:
        DatasheetError: no such document, not YAML, a key twice, an unknown key, a value of the wrong type or range.
    """
    path = _find(kind, name)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        problem = " ".join(str(error).split())
        raise DatasheetError(f"{_WORD[kind]} '{path}' cannot be read: {problem}") from error
    if not isinstance(content, dict):
        raise DatasheetError(f"{_WORD[kind]} '{path}' holds {type(content).__name__}, not keys and values")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DatasheetError(f"{_WORD[kind]} '{path}': {_explain(error)}") from error


def read_text(kind: Kind, name: str | Path) -> str:
    """The document as it stands in its file, comments included."""
    return _find(kind, name).read_text(encoding="utf-8")


def _find(kind: Kind, name: str | Path) -> Path:
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise DatasheetError(f"{_WORD[kind]} file '{path}' does not exist")
        return path
    known = names(kind)
    if text not in known:
        text = next((name for name in known if text in _aliases(kind, name)), text)
    if text not in known:
        raise DatasheetError(
            f"unknown {_WORD[kind]} '{text}'; known: {', '.join(known)}; or give the path of a .yaml file"
        )
    return data_dir(kind) / f"{text}.yaml"


def _aliases(kind: Kind, name: str) -> tuple[str, ...]:
    """Other names of a packaged document."""
    content = yaml.load((data_dir(kind) / f"{name}.yaml").read_text(encoding="utf-8"), Loader=_StrictLoader)
    return tuple(content.get("aliases", ()))


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{where}'")
        elif item["type"] == "missing":
            parts.append(f"key '{where}' is missing")
        elif item["type"] == "value_error":  # of keys that do not go together: the whole of them says nothing
            parts.append((f"'{where}': " if where else "") + str(item["ctx"]["error"]))
        else:
            parts.append(f"'{where}' is {item['input']!r}: {item['msg'][:1].lower()}{item['msg'][1:]}")
    return "; ".join(parts)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads YAML 1.2 floats."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key is no plain value", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
