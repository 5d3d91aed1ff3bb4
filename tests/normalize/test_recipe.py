"""Recipes: the shipped ones, and files of users."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from neuroport.datasheets import data_dir, names
from neuroport.errors import DatasheetError
from neuroport.normalize.recipe import load_recipe
from neuroport.snn.build import BuildOptions

MINIMAL = "name: mine\nsummary: what it does\nsource: a paper\n"


def test_every_shipped_recipe_is_read_as_it_stands_and_named_as_its_file() -> None:
    assert set(names("calibration")) >= {"max-norm", "robust", "reset-zero", "robust-rate", "reset-zero-rate"}
    for name in names("calibration"):
        recipe = load_recipe(name)
        written = yaml.safe_load((data_dir("calibration") / f"{name}.yaml").read_text(encoding="utf-8"))
        assert recipe.name == name
        read = recipe.model_dump(mode="json")
        nested = {"corrections", "search"}
        assert {key: read[key] for key in written if key not in nested} == {
            key: value for key, value in written.items() if key not in nested
        }
        for found, given in zip(read["corrections"], written.get("corrections", []), strict=True):
            assert {key: found[key] for key in given} == given
        assert all(word in recipe.source for word in ("et al.", "section"))


def test_the_methods_of_the_papers() -> None:
    """Rueckauer 2016: maximum and 99.9th percentile; Mueller 2021: a half-charged start needs reset by subtraction."""
    maximum, robust, zero = load_recipe("max-norm"), load_recipe("robust"), load_recipe("reset-zero")
    assert (maximum.percentile, maximum.v_init, maximum.reset) == (100, 0, "subtract")
    assert (robust.percentile, robust.v_init, robust.reset) == (99.9, 0.5, "subtract")
    assert (zero.percentile, zero.v_init, zero.reset) == (99.9, 0, "zero")
    assert (load_recipe("robust-rate").input, load_recipe("robust").input) == ("rate", "current")


def test_the_network_is_built_as_the_recipe_says(tmp_path: Path) -> None:
    text = MINIMAL + "reset: zero\nv_init: 0.25\nleak: 0.5\ninput: rate\nreadout: count\npool: spiking\n"
    (tmp_path / "mine.yaml").write_text(text + "max_pool: gated\n")
    assert load_recipe(tmp_path / "mine.yaml").build_options == BuildOptions(
        reset="zero", v_init=0.25, leak=0.5, encoding="rate", readout="count", pool="spiking", max_pool="gated"
    )
    (tmp_path / "plain.yaml").write_text(MINIMAL)
    plain = load_recipe(tmp_path / "plain.yaml")
    assert plain.build_options == BuildOptions()
    assert (plain.ceiling, plain.percentile, plain.granularity) == ("threshold", 100, "layer")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("percentil: 99", "unknown key 'percentil'"),
        ("percentile: 99\npercentile: 98", "key 'percentile' stands twice"),
        ("percentile: 0", "'percentile' is 0: input should be greater than 0"),
        ("percentile: 100.5", "'percentile' is 100.5: input should be less than or equal to 100"),
        ("percentile: .nan", "'percentile' is nan"),
        ("percentile: high", "'percentile' is 'high': input should be a valid number"),
        ("percentile: '99'", "'percentile' is '99': input should be a valid number"),
        ("v_init: 1", "'v_init' is 1: input should be less than 1"),
        ("v_init: -0.1", "'v_init' is -0.1"),
        ("leak: 0", "'leak' is 0"),
        ("leak: 1.1", "'leak' is 1.1"),
        ("steps: 0", "'steps' is 0"),
        ("steps: 6.5", "'steps' is 6.5"),
        ("steps: true", "'steps' is True"),
        ("steps: 1000000", "'steps' is 1000000"),
        ("calibration_samples: 0", "'calibration_samples' is 0"),
        ("reset: none", "'reset' is 'none': input should be 'zero' or 'subtract'"),
        ("granularity: neuron", "'granularity' is 'neuron'"),
        ("input: spikes", "'input' is 'spikes': input should be 'current', 'rate' or 'poisson'"),
        ("pool: max", "'pool' is 'max'"),
        ("readout: argmax", "'readout' is 'argmax': input should be 'membrane', 'count' or 'softmax'"),
        ("max_pool: max", "'max_pool' is 'max': input should be 'expand', 'gated' or 'refuse'"),
        ("ceiling: none", "'ceiling' is 'none': input should be 'threshold' or 'measured'"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + line + "\n")
    with pytest.raises(DatasheetError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert f"recipe '{path}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_both_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL + "percentile: 9.99e1\nleak: 5e-1\nv_init: 0\nsteps: 12\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.percentile, recipe.leak, recipe.v_init, recipe.steps) == (99.9, 0.5, 0.0, 12)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(DatasheetError, match=r"unknown recipe 'nosuch'; known: .*max-norm.*robust"):
        load_recipe("nosuch")
