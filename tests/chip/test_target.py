"""Datasheets: the packaged ones load, and a wrong one is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroport.chip.target import Register, load_target
from neuroport.datasheets import data_dir, names, read_text
from neuroport.errors import DatasheetError
from tests.chip.networks import TARGETS


@pytest.fixture
def sheet(tmp_path):
    """Writes loihi-sim's datasheet with one text replaced; the text must be there."""

    def write(old: str, new: str) -> Path:
        text = read_text("targets", "loihi-sim")
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return write


def refusal(path: str | Path) -> str:
    with pytest.raises(DatasheetError) as caught:
        load_target(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_packaged_targets_are_those_the_tests_know():
    assert tuple(names("targets")) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_packaged_target_loads_under_its_own_name(name):
    target = load_target(name)
    assert target.name == name
    assert "cpu" in target.backends
    assert load_target(data_dir("targets") / f"{name}.yaml") == target


def test_loihi_ranges_are_those_of_facts_loihi():
    for name in ("loihi-sim", "loihi1", "loihi2"):
        a = load_target(name).arithmetic
        ranges = [(w.minimum, w.maximum, w.step) for w in (a.weights.mixed, a.weights.excitatory, a.weights.inhibitory)]
        assert ranges == [(-256, 254, 2), (0, 255, 1), (-255, 0, 1)]
        assert a.threshold.mantissa_max == 2**17 - 1
        assert (a.threshold.compare, a.threshold.shift, a.synaptic_shift) == (">", 6, 6)
        assert (a.current.limit, a.current.overflow) == (2**23 - 1, "wrap")
        assert (a.membrane.limit, a.membrane.overflow) == (2**23 - 1, "saturate")
        assert a.bias.mantissa_max <= 4095
        assert a.bias.mantissa_min >= -4096
        assert a.bias.exponent_max == 7


@pytest.mark.parametrize(("name", "limit"), [("loihi-sim", 2**17 - 1), ("loihi1", 2**15 - 1), ("loihi2", 2**15 - 1)])
def test_synaptic_limit_is_the_narrower_of_accumulator_and_current(name, limit):
    assert load_target(name).arithmetic.synaptic_limit == limit


def test_register_limit():
    assert Register(bits=24, overflow="wrap").limit == 8388607


def test_unknown_name_lists_the_known_ones():
    message = refusal("nosuch")
    assert "'nosuch'" in message
    assert all(name in message for name in TARGETS)


def test_missing_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.yaml")


def test_unknown_key_is_named_with_its_path(sheet):
    assert "unknown key 'arithmetic.weigths'" in refusal(sheet("  weights:", "  weigths: {}\n  weights:"))


def test_key_that_stands_twice(sheet):
    message = refusal(sheet("  decay_bits: 12", "  decay_bits: 12\n  decay_bits: 13"))
    assert "key 'decay_bits' stands twice" in message
    assert "line" in message


def test_missing_key(sheet):
    assert "key 'arithmetic.accumulator_bits' is missing" in refusal(sheet("  accumulator_bits: 18\n", ""))


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ("accumulator_bits: 18", "accumulator_bits: -18", "accumulator_bits", "-18"),
        ("accumulator_bits: 18", "accumulator_bits: 0", "accumulator_bits", "0"),
        ("accumulator_bits: 18", "accumulator_bits: 65", "accumulator_bits", "65"),
        ("decay_bits: 12", "decay_bits: -12", "decay_bits", "-12"),
        ("current: {bits: 24", "current: {bits: -24", "current.bits", "-24"),
        ("membrane: {bits: 24", "membrane: {bits: 7", "membrane.bits", "7"),
        ("maximum: 254, step: 2", "maximum: 254, step: 0", "weights.mixed.step", "0"),
        ("maximum: 254, step: 2", "maximum: 254, step: -2", "weights.mixed.step", "-2"),
        ("mantissa_max: 131071", "mantissa_max: 0", "threshold.mantissa_max", "0"),
        ("mantissa_max: 4095, exponent_max: 7", "mantissa_max: 4095, exponent_max: -1", "bias.exponent_max", "-1"),
        ("cores_per_chip: 128", "cores_per_chip: 0", "geometry.cores_per_chip", "0"),
        ('compare: ">"', "compare: <", "threshold.compare", "'<'"),
        ("overflow: wrap", "overflow: trap", "current.overflow", "'trap'"),
        ("resets: [zero, subtract]", "resets: [half]", "resets.0", "'half'"),
        ("resets: [zero, subtract]", "resets: []", "resets", "[]"),
        ("backends: [lava, cpu]", "backends: []", "backends", "[]"),
        # numbers are taken as they stand
        ("accumulator_bits: 18", 'accumulator_bits: "18"', "accumulator_bits", "'18'"),
        ("accumulator_bits: 18", "accumulator_bits: 18.0", "accumulator_bits", "18.0"),
        ("accumulator_bits: 18", "accumulator_bits: true", "accumulator_bits", "True"),
        ("accumulator_bits: 18", "accumulator_bits: null", "accumulator_bits", "None"),
        ("v_init: true", "v_init: 1", "v_init", "1"),
        ('python: "3.10"', "python: 3.10", "toolchain.python", "3.1"),
    ],
)
def test_value_out_of_range_or_of_the_wrong_type_is_named(sheet, old, new, key, value):
    message = refusal(sheet(old, new))
    assert f"{key}' is {value}:" in message


def test_minimum_above_maximum(sheet):
    assert "minimum 256 is above maximum 254" in refusal(sheet("minimum: -256", "minimum: 256"))


def test_range_that_is_no_multiple_of_its_step(sheet):
    assert "multiples of the step 2" in refusal(sheet("maximum: 254", "maximum: 255"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mesh: [8, 4]", "mesh: [8, 5]", "mesh and cores_per_router make 160 cores, not 128"),
        ("cores_per_router: 4", "cores_per_router: 3", "mesh and cores_per_router make 96 cores, not 128"),
        ("synapse_weight_bits: [0, 1, 2, 3, 4, 5, 6, 8]", "synapse_weight_bits: [0]", "none is above 0"),
    ],
)
def test_cores_that_do_not_agree(tmp_path, old, new, message):
    text = (data_dir("targets") / "loihi1.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "odd.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert message in refusal(path)


def test_a_chip_without_cores_for_neurons(tmp_path):
    text = (data_dir("targets") / "spinnaker1.yaml").read_text(encoding="utf-8")
    path = tmp_path / "odd.yaml"
    path.write_text(text.replace("monitor_cores_per_chip: 1\n", "monitor_cores_per_chip: 17\n"), encoding="utf-8")
    assert "of 18 cores_per_chip the system and what boards lack leave none" in refusal(path)


def test_not_a_mapping(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    assert "holds list" in refusal(path)


@pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe\x00", b"name: !!python/object/apply:os.system [ls]"])
def test_not_yaml(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert "holds NoneType" in refusal(path)


def test_only_the_reference_core_has_gates():
    assert {name for name in TARGETS if load_target(name).arithmetic.gated_max_pool} == {"cpu"}
