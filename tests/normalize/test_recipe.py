"""Recipes: the shipped ones, and files of users."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from neuroport.datasheets import data_dir, names
from neuroport.errors import DatasheetError
from neuroport.normalize.recipe import BiasCorrection, L4Adjustment, Recipe, ResetCorrection, load_recipe
from neuroport.snn.build import BuildOptions

MINIMAL = "name: mine\nsummary: what it does\nsource: a paper\n"
SHIPPED = {
    *("max-norm", "robust", "robust-rate", "reset-zero", "reset-zero-rate", "hard-reset", "hard-reset-unclamped"),
    *("direct-copy", "model-based", "data-based", "basic", "channel-wise", "extended", "noise-search", "l4"),
    *("light-calibration", "threshold-balance"),
}


def written(tmp_path: Path, lines: str) -> Recipe:
    (tmp_path / "mine.yaml").write_text(MINIMAL + lines + "\n")
    return load_recipe(tmp_path / "mine.yaml")


def test_every_shipped_recipe_is_read_as_it_stands_and_named_as_its_file() -> None:
    assert set(names("calibration")) >= SHIPPED
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


def test_the_methods_of_diehl() -> None:
    """Dong & He's code: reset to zero, analog input, pools in the weights, outputs that accumulate; three scales."""
    for name, scale in (("direct-copy", "none"), ("model-based", "weights"), ("data-based", "diehl")):
        found = load_recipe(name)
        assert (found.scale, found.granularity, found.threshold) == (scale, "layer", 1.0)
        assert (found.reset, found.v_init, found.input, found.pool, found.readout) == (
            *("zero", 0, "current", "fold", "membrane"),
        )
    assert load_recipe("data-based").percentile == 100


def test_the_methods_of_mueller() -> None:
    """Basic: by layer, uncharged, no clamp. Extended: by channel, half-charged, one step per level (d = 1)."""
    basic, extended, channel = (load_recipe(name) for name in ("basic", "extended", "channel-wise"))
    assert (basic.granularity, basic.percentile, basic.v_init, basic.clamp) == ("layer", 99.9, 0, 0)
    assert (extended.granularity, extended.percentile, extended.v_init, extended.clamp) == ("channel", 99.99, 0.5, 1)
    assert (channel.granularity, channel.v_init, channel.clamp) == ("channel", 0.5, 0)
    assert {r.reset for r in (basic, extended, channel)} == {"subtract"}
    search = load_recipe("noise-search").search
    assert search is not None
    assert (search.samples, search.percentiles[-1]) == (100, 100)
    assert list(search.percentiles) == sorted(set(search.percentiles))


def test_the_methods_of_the_others() -> None:
    assert [c.kind for c in load_recipe("l4").corrections] == ["l4"]
    assert load_recipe("l4").input == "poisson"
    light, balance, hard = (load_recipe(n) for n in ("light-calibration", "threshold-balance", "hard-reset"))
    assert (light.scale, [c.kind for c in light.corrections], light.v_init) == ("mmse", ["bias"], 0.2)
    assert (balance.scale, balance.corrections, balance.granularity) == ("balance", (), "channel")
    assert (hard.reset, hard.v_init, [c.kind for c in hard.corrections]) == ("zero", 0, ["hard-reset"])


@pytest.mark.parametrize("scale", ["activation", "weights", "diehl", "mmse", "balance", "none"])
def test_every_scale_is_read_and_some_look_at_the_percentile(tmp_path: Path, scale: str) -> None:
    found = written(tmp_path, f"scale: {scale}\npercentile: 99")
    assert found.scale == scale
    assert found.reads_percentile == (scale in ("activation", "diehl"))


def test_every_new_key_is_read(tmp_path: Path) -> None:
    found = written(
        tmp_path,
        "scale: none\nthreshold: 20\nclamp: 0.4\ninput: poisson\nreadout: softmax\n"
        "corrections: [{kind: bias, steps: 12, rounds: 2, samples: 7, rate: 0.5}, {kind: l4, alpha: 2}, "
        "{kind: hard-reset, rounds: 1}]",
    )
    assert (found.threshold, found.clamp, found.input, found.readout) == (20, 0.4, "poisson", "softmax")
    bias, l4, hard = found.corrections
    assert isinstance(bias, BiasCorrection) and isinstance(l4, L4Adjustment) and isinstance(hard, ResetCorrection)
    assert (bias.steps, bias.rounds, bias.samples, bias.rate) == (12, 2, 7, 0.5)
    assert (l4.alpha, l4.samples, hard.rounds, hard.steps) == (2, 128, 1, None)
    assert (found.build_options.clamp, found.build_options.encoding) == (0.4, "poisson")
    search = written(tmp_path, "search: {kind: noise, percentiles: [99, 1.5, 100], samples: 30}").search
    assert search is not None
    assert (search.percentiles, search.samples) == ((99, 1.5, 100), 30)


def test_what_is_left_out_is_plain(tmp_path: Path) -> None:
    found = written(tmp_path, "")
    assert (found.scale, found.threshold, found.search, found.corrections) == ("activation", 1, None, ())
    assert (found.clamp, found.input, found.readout, found.steps, found.calibration_samples) == (
        *(0, "current", "membrane", 64, None),
    )


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
        ("scale: max", "'scale' is 'max': input should be 'activation', 'weights', 'diehl', 'mmse', 'balance' or 'no"),
        ("scale: none\nthreshold: 0", "'threshold' is 0: input should be greater than 0"),
        ("scale: none\nthreshold: .inf", "'threshold' is inf: input should be a finite number"),
        ("scale: none\nthreshold: .nan", "'threshold' is nan"),
        ("threshold: 4", ".yaml': threshold goes with scale: none; every other scale rule sets thresholds of 1"),
        ("scale: mmse\nthreshold: 2", ".yaml': threshold goes with scale: none"),
        ("clamp: -0.1", "'clamp' is -0.1: input should be greater than or equal to 0"),
        ("clamp: 1001", "'clamp' is 1001: input should be less than or equal to 1000"),
        ("clamp: .nan", "'clamp' is nan"),
        ("search: 99", "'search' is 99"),
        ("search: {kind: noise}", "key 'search.percentiles' is missing"),
        ("search: {percentiles: [99, 100]}", "key 'search.kind' is missing"),
        ("search: {kind: grid, percentiles: [99, 100]}", "'search.kind' is 'grid': input should be 'noise'"),
        ("search: {kind: noise, percentiles: [99]}", "'search.percentiles' is [99]: tuple should have at least 2"),
        ("search: {kind: noise, percentiles: [0, 99]}", "'search.percentiles.0' is 0: input should be greater than 0"),
        ("search: {kind: noise, percentiles: [9, 101]}", "'search.percentiles.1' is 101"),
        ("search: {kind: noise, percentiles: [9, 99], samples: 0}", "'search.samples' is 0"),
        ("search: {kind: noise, percentiles: [9, 99], sample: 3}", "unknown key 'search.sample'"),
        *(
            (f"scale: {scale}\nsearch: {{kind: noise, percentiles: [9, 99]}}", ".yaml': search chooses a percentile, ")
            for scale in ("weights", "diehl", "mmse", "balance", "none")
        ),
        ("corrections: {kind: l4}", "'corrections' is {'kind': 'l4'}: input should be a valid tuple"),
        ("corrections: [l4]", "'corrections.0' is 'l4'"),
        ("corrections: [{rounds: 3}]", "'corrections.0' is {'rounds': 3}: unable to extract tag using discriminator"),
        ("corrections: [{kind: magic}]", "does not match any of the expected tags: 'bias', 'hard-reset', 'l4'"),
        ("corrections: [{kind: bias}, {kind: l4, rate: 0.5}]", "unknown key 'corrections.1.l4.rate'"),
        ("corrections: [{kind: bias, alpha: 1}]", "unknown key 'corrections.0.bias.alpha'"),
        ("corrections: [{kind: bias, rounds: 0}]", "'corrections.0.bias.rounds' is 0"),
        ("corrections: [{kind: bias, samples: 0}]", "'corrections.0.bias.samples' is 0"),
        ("corrections: [{kind: bias, steps: 2.5}]", "'corrections.0.bias.steps' is 2.5"),
        ("corrections: [{kind: bias, rate: 0}]", "'corrections.0.bias.rate' is 0"),
        ("corrections: [{kind: bias, rate: 1.1}]", "'corrections.0.bias.rate' is 1.1"),
        ("corrections: [{kind: hard-reset, rounds: -1}]", "'corrections.0.hard-reset.rounds' is -1"),
        ("corrections: [{kind: l4, alpha: -1}]", "'corrections.0.l4.alpha' is -1"),
        ("corrections: [{kind: l4, alpha: .inf}]", "'corrections.0.l4.alpha' is inf: input should be a finite number"),
        ("calibration_samples: 2.5", "'calibration_samples' is 2.5"),
        ("seed: 4", "unknown key 'seed'"),
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
