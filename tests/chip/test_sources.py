"""Where a datasheet's numbers come from: complete for the chips we ship, checked for everybody's."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroport.chip.sources import entry_of
from neuroport.chip.target import load_target
from neuroport.cli import app
from neuroport.datasheets import read_text
from neuroport.errors import DatasheetError

CHIPS = ("loihi-sim", "loihi1", "loihi2", "spinnaker1", "spinnaker2")
VENDORS = ("LAVA/", "LAVA-DL/", "SPYN/", "SPINN/", "SPFE/")  # Intel's packages, and the University of Manchester's
ENTRY = '  geometry.delay_max: {status: second-hand, source: "B2L/loihi_synapses.py l.193: 0 to 62"}\n'


@pytest.fixture
def sheet(tmp_path):
    """Writes loihi1's datasheet with one text replaced; the text must be there."""

    def write(old: str, new: str) -> Path:
        text = read_text("targets", "loihi1")
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", CHIPS)
def test_every_number_has_its_source_and_its_mark(name):
    target = load_target(name)
    assert target.unsourced == []
    for key, entry in target.sources.items():
        assert entry.status in ("verified", "second-hand", "unknown"), key
        if entry.status == "verified" and entry.how == "read":
            assert entry.source.startswith(VENDORS), key
        short = entry.source.split("/")[0]
        assert short in target.references or "/" not in entry.source or " " in short, key


def test_absent_numbers_of_a_chip_are_said_to_be_unknown():
    target = load_target("loihi2")
    unknown = [key for key, entry in target.sources.items() if entry.status == "unknown"]
    assert {"geometry.synapse_bits_per_core", "energy"} <= set(unknown)
    assert all(target.values.get(key) is None for key in unknown)


def test_a_number_without_a_source_is_found(sheet):
    assert load_target(sheet(ENTRY, "")).unsourced == ["geometry.delay_max"]
    path = sheet(ENTRY, "")
    path.write_text(path.read_text().replace("  delay_max: 62\n", ""))
    assert load_target(path).unsourced == ["geometry.delay_max"], "an absent number is unknown, which has to be said"


def test_a_group_speaks_for_what_is_in_it():
    sources = load_target("loihi1").sources
    assert entry_of("arithmetic.weights.mixed.minimum", sources) == "arithmetic.weights"
    assert entry_of("arithmetic.weights.exponent_max", sources) == "arithmetic.weights.exponent_max"
    assert entry_of("arithmetic.v_init", sources) is None


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "  geometry.delay_max: {",
            "  geometry.delay_min: {",
            "unknown key 'geometry.delay_min'; name a number",
        ),
        ("  geometry.delay_max: {", "  delay_max: {", "sources: unknown key 'delay_max'"),
        ("  geometry.delay_max: {", "  toolchain.name: {", "sources: unknown key 'toolchain.name'"),
        ("  delay_max: 62\n", "", "'geometry.delay_max' has no value, but a source; give both or neither"),
        (ENTRY, ENTRY.replace("second-hand", "unknown"), "'geometry.delay_max' has the value 62, but status unknown"),
        (ENTRY, ENTRY.replace("second-hand", "verified"), "`how: read` or `how: measured` goes with status verified"),
        (ENTRY, ENTRY.replace("second-hand", "second-hand, how: read"), "goes with status verified, and with no other"),
        (ENTRY, ENTRY.replace("second-hand", "rumour"), "'sources.geometry.delay_max.status' is 'rumour'"),
        (ENTRY, '  geometry.delay_max: {status: second-hand, source: " "}\n', "the source is empty"),
        ("energy_per_synaptic_event_J: 23.6e-12", "energy_per_synaptic_event_J: 23.6", "should be less than 1"),
        ("energy_per_synaptic_event_J: 23.6e-12", "energy_per_synaptic_event_pJ: 23.6", "unknown key"),
    ],
)
def test_wrong_entries_are_refused(sheet, old, new, match):
    with pytest.raises(DatasheetError) as caught:
        load_target(sheet(old, new))
    assert match in str(caught.value)


def test_own_sheets_need_no_sources(tmp_path):
    text = read_text("targets", "loihi1")
    path = tmp_path / "mine.yaml"
    path.write_text(text[: text.index("references:")] + text[text.index("toolchain:") :], encoding="utf-8")
    target = load_target(path)
    assert target.sources == {}
    assert "geometry.delay_max" in target.unsourced
    shown = CliRunner().invoke(app, ["targets", "show", str(path)])
    assert "delay_max: 62" in shown.output


@pytest.mark.parametrize("name", CHIPS)
def test_every_entry_is_shown_with_its_mark(name):
    shown = CliRunner().invoke(app, ["targets", "show", name])
    assert shown.exit_code == 0
    target = load_target(name)
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.output.splitlines() if "│" in line]
    marks = {row[1]: row[3] for row in rows if row[1]}
    for key, entry in target.sources.items():
        section, _, rest = key.partition(".")
        assert marks[rest or section] == entry.mark
    for short in target.references:
        assert f"\n{short}: " in shown.output


def test_a_number_without_a_source_is_shown_as_such(sheet):
    shown = CliRunner().invoke(app, ["targets", "show", str(sheet(ENTRY, ""))])
    line = next(line for line in shown.output.splitlines() if "delay_max" in line)
    assert "62" in line
    assert "no source" in line
