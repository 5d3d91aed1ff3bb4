"""Records come back as they were, and a damaged file makes one clear error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_array

from neuroport.errors import BundleError, InvalidNetworkError
from neuroport.records import read_record, write_record
from tests.equal import same


@dataclass(frozen=True, eq=False)
class Leaf:
    size: int
    values: np.ndarray

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InvalidNetworkError("size is below 0")


@dataclass(frozen=True, eq=False)
class Tree:
    name: str
    leaves: tuple[Leaf, ...]
    table: dict[str, float]
    matrix: csr_array
    nothing: None = None


TREE = Tree(
    "a",
    (Leaf(2, np.arange(6.0).reshape(2, 3)), Leaf(1, np.array(7, np.int8))),
    {"x": 0.1, "y": float("inf")},
    csr_array(np.array([[0.0, 2.5], [1.5, 0.0]])),
)


def test_a_record_comes_back_bit_for_bit(tmp_path: Path) -> None:
    write_record(tmp_path / "r.h5", TREE, (Tree, Leaf))
    assert same(read_record(tmp_path / "r.h5", (Tree, Leaf)), TREE)


def test_other_classes_are_not_made(tmp_path: Path) -> None:
    write_record(tmp_path / "r.h5", TREE, (Tree, Leaf))
    with pytest.raises(BundleError, match=r"is damaged: .*Leaf"):
        read_record(tmp_path / "r.h5", (Tree,))
    with pytest.raises(TypeError, match="cannot hold Leaf"):
        write_record(tmp_path / "s.h5", TREE, (Tree,))


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_record(path, TREE, (Tree, Leaf))
    whole = path.read_bytes()
    for content in (b"", b"no hdf5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"'.*r\.h5' is not a network in floats of neuroport, or is damaged"):
            read_record(path, (Tree, Leaf))


@pytest.mark.parametrize(
    "text",
    ['{"is": "builtins.eval", "with": {}}', '{"array": 99}', '{"with": {}}', "[1", "", '{"is": [], "with": 3}'],
)
def test_changed_text_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.h5"
    write_record(path, TREE, (Tree, Leaf))
    with h5py.File(path, "a") as f:
        del f["record"]
        f["record"] = np.frombuffer(text.encode(), np.uint8)
    with pytest.raises(BundleError, match="is damaged"):
        read_record(path, (Tree, Leaf))


def test_what_a_class_refuses_is_damage(tmp_path: Path) -> None:
    leaf = object.__new__(Leaf)
    object.__setattr__(leaf, "size", -1)
    object.__setattr__(leaf, "values", np.zeros(1))
    write_record(tmp_path / "r.h5", leaf, (Leaf,))
    with pytest.raises(BundleError, match="size is below 0"):
        read_record(tmp_path / "r.h5", (Leaf,))


def test_another_format_is_told(tmp_path: Path) -> None:
    write_record(tmp_path / "r.h5", TREE, (Tree, Leaf))
    with h5py.File(tmp_path / "r.h5", "a") as f:
        f.attrs["format"] = "neuroport-record/9"
    with pytest.raises(BundleError, match="its format is neuroport-record/9"):
        read_record(tmp_path / "r.h5", (Tree, Leaf))
