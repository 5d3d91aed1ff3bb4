"""The YAML loader: strict where a mistake would be silent, and one line of reason for every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from neuroport import datasheets
from neuroport.datasheets import data_dir, load_document, names, read_text
from neuroport.errors import DatasheetError


class Sheet(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    bits: Annotated[int, Field(gt=0)] = 8
    labels: dict[str, float] = {}


class Document(BaseModel):
    """A document with a nested part."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str
    value: float = 0.0
    sheet: Sheet = Sheet()
    sheets: Annotated[tuple[Sheet, ...], Field(strict=False)] = ()


def load(tmp_path: Path, content: str | bytes, name: str = "mine.yaml") -> Document:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_document("targets", path, Document)


def test_a_document_is_read_with_its_nested_parts(tmp_path: Path) -> None:
    text = "# a comment\nname: mine\nvalue: 2.5\nsheet: {bits: 4, labels: {a: 1.0}}\nsheets:\n- bits: 2\n- {bits: 3}\n"
    for name in ("mine.yaml", "mine.yml"):
        document = load(tmp_path, text, name)
        assert document.name == "mine"
        assert document.sheet == Sheet(bits=4, labels={"a": 1.0})
        assert [sheet.bits for sheet in document.sheets] == [2, 3]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("-1e-12", -1e-12),
        ("+2e5", 2e5),
        ("1.5e3", 1500.0),
        ("1.e2", 100.0),
        (".5e1", 5.0),
        ("1.5e-3", 1.5e-3),
        ("0.25", 0.25),
        ("7", 7.0),
        ("-.inf", -float("inf")),
    ],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    """PyYAML alone reads 1e-3 as a string."""
    found = load(tmp_path, f"name: mine\nvalue: {text}\n").value
    assert isinstance(found, float)
    assert found == value


@pytest.mark.parametrize("text", ["1e", "e5", "1e5.5", "'1e5'", "1 e5", "0x1e5g"])
def test_what_only_looks_like_a_number_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasheetError, match=r"'value' is '.*: input should be a valid number"):
        load(tmp_path, f"name: mine\nvalue: {text}\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name: mine\nvalu: 1\n", "unknown key 'valu'"),
        ("name: mine\nsheet: {bit: 1}\n", "unknown key 'sheet.bit'"),
        ("name: mine\nsheets: [{bits: 1}, {bit: 1}]\n", "unknown key 'sheets.1.bit'"),
        ("name: mine\nvalu: 1\nsheet: {bits: 0}\n", "unknown key 'valu'"),
        ("name: mine\nvalu: 1\nsheet: {bits: 0}\n", "'sheet.bits' is 0: input should be greater than 0"),
        ("name: mine\nname: other\n", "key 'name' stands twice"),
        ("name: mine\nname: mine\n", "key 'name' stands twice"),
        ("name: mine\nsheet: {bits: 1, bits: 2}\n", "key 'bits' stands twice"),
        ("name: mine\nsheet:\n  bits: 1\n  bits: 2\n", "key 'bits' stands twice"),
        ("name: mine\nsheets:\n- bits: 1\n- bits: 1\n  bits: 2\n", "key 'bits' stands twice"),
        ("name: mine\nsheet: {labels: {a: 1.0, b: 2.0, 'a': 3.0}}\n", "key 'a' stands twice"),
        ("name: mine\n'name': mine\n", "line 2"),
        ("name: mine\n? [a, b]\n: 1\n", "a key is no plain value"),
        ("name: mine\nsheet: {bits: -1}\n", "'sheet.bits' is -1: input should be greater than 0"),
        ("name: mine\nsheet: {bits: '8'}\n", "'sheet.bits' is '8': input should be a valid integer"),
        ("name: mine\nsheet: {bits: 8.0}\n", "'sheet.bits' is 8.0: input should be a valid integer"),
        ("name: mine\nsheet: {bits: true}\n", "'sheet.bits' is True: input should be a valid integer"),
        ("name: mine\nsheet: [1, 2]\n", "'sheet' is [1, 2]: input should be a valid dictionary"),
        ("name: 3\n", "'name' is 3: input should be a valid string"),
        ("name:\n", "'name' is None: input should be a valid string"),
        ("value: 1.0\n", "key 'name' is missing"),
        ("- name: mine\n", "holds list, not keys and values"),
        ("just a text\n", "holds str, not keys and values"),
        ("", "holds NoneType, not keys and values"),
        ("# nothing\n", "holds NoneType, not keys and values"),
        ("name: [unclosed\n", "cannot be read: while parsing a flow sequence"),
        ("name: mine\n\tvalue: 1\n", "cannot be read: "),
        ("name: *nowhere\n", "cannot be read: "),
        ("--- {name: mine}\n--- {name: other}\n", "cannot be read: expected a single document"),
        (b"name: \xff\xfe\n", "cannot be read: "),
        (b"PK\x03\x04\x00\x00", "cannot be read: "),
        ("name: !!python/object/apply:os.getcwd []\n", "cannot be read: could not determine a constructor"),
    ],
)
def test_a_bad_document_is_refused_in_one_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(DatasheetError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"target '{tmp_path / 'mine.yaml'}'")
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_equal_keys_of_different_parts_are_no_duplicates(tmp_path: Path) -> None:
    document = load(tmp_path, "name: mine\nsheet: {bits: 1}\nsheets: [{bits: 2}, {bits: 2}]\n")
    assert document.sheet.bits == 1


def test_a_document_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for name in ("absent.yaml", "absent.yml", "folder.yaml"):
        with pytest.raises(DatasheetError, match=f"target file '.*{name}' does not exist"):
            load_document("targets", tmp_path / name, Document)
    with pytest.raises(DatasheetError, match=r"recipe file 'absent.yaml' does not exist"):
        load_document("calibration", "absent.yaml", Document)
    with pytest.raises(DatasheetError, match=r"unknown target 'nosuch'; known: .*loihi-sim.*; or give the path of a"):
        load_document("targets", "nosuch", Document)
    with pytest.raises(DatasheetError, match=r"unknown target '\.\./targets/cpu'"):
        load_document("targets", "../targets/cpu", Document)


def test_packaged_documents_are_listed_and_read_as_they_stand() -> None:
    assert names("targets") == sorted(names("targets"))
    assert set(names("targets")) >= {"cpu", "loihi-sim", "loihi1", "loihi2"}
    assert read_text("calibration", "robust") == (data_dir("calibration") / "robust.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["wheel", "checkout", "neither"])
def test_where_the_packaged_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    package = tmp_path / "neuroport"
    package.mkdir()
    monkeypatch.setattr(datasheets, "files", lambda _: package)
    (tmp_path / "targets").mkdir()
    (tmp_path / "examples" / "digits").mkdir(parents=True)
    if layout == "neither":  # a folder of that name beside the package is not ours without a pyproject.toml
        with pytest.raises(DatasheetError, match=r"neuroport's own targets/ is not there .*install neuroport again"):
            data_dir("targets")
        return
    (tmp_path / "pyproject.toml").touch()
    if layout == "wheel":
        (package / "_data" / "targets").mkdir(parents=True)
        assert data_dir("targets") == package / "_data" / "targets"
    else:
        assert data_dir("targets") == tmp_path / "targets"
    assert data_dir("digits") == tmp_path / "examples" / "digits"
