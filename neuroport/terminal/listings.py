"""What there is: targets and recipes, all of them or one."""

from __future__ import annotations

from rich.table import Column, Table

from neuroport.chip.target import Target, load_target
from neuroport.datasheets import names, read_text
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.terminal.console import open_console
from neuroport.terminal.sources import show_sources
from neuroport.toolchains import status


def show_recipes() -> None:
    """All recipes: which activation becomes a rate of 1, with which neurons, and what they are for."""
    table = Table(Column("recipe", no_wrap=True), Column("scale", no_wrap=True), "neuron", "what it is")
    for name in names("calibration"):
        recipe = load_recipe(name)
        table.add_row(name, _scale_words(recipe), _neuron_words(recipe), recipe.summary)
    open_console().print(table)


def show_recipe(name: str) -> None:
    """The recipe as it stands in its file, sources included, once it has been checked."""
    load_recipe(name)
    text = read_text("calibration", name).rstrip()
    open_console().say(text)


def _scale_words(recipe: Recipe) -> str:
    """What the scale is taken from: `channel 99.9 %`, `layer weights`, `threshold 1`."""
    if recipe.scale == "none":
        return f"threshold {recipe.threshold:g}"
    if recipe.search is not None:
        return f"{recipe.granularity} search"
    return f"{recipe.granularity} {f'{recipe.percentile:g} %' if recipe.scale == 'activation' else recipe.scale}"


def _neuron_words(recipe: Recipe) -> str:
    """Reset, and what is not plain: `subtract, v_init 0.5, clamp 1, poisson`."""
    words: list[str] = [recipe.reset]
    words += [f"v_init {recipe.v_init:g}"] if recipe.v_init else []
    words += [f"leak {recipe.leak:g}"] if recipe.leak != 1 else []
    words += [f"clamp {recipe.clamp:g}"] if recipe.clamp else []
    words += [recipe.input] if recipe.input != "current" else []
    words += [recipe.readout] if recipe.readout != "membrane" else []
    return ", ".join(words)


def show_targets() -> None:
    """All targets with their backends and the state of their toolchains."""
    table = Table("target", "what it is", "backends", "toolchain")
    for name in names("targets"):
        target = load_target(name)
        table.add_row(name, target.summary, ", ".join(target.backends), _toolchain_state(target))
    open_console().print(table)


def show_target(name: str) -> None:
    """A datasheet with the source of each number as tables, or as its file has it, and its toolchain."""
    target = load_target(name)
    console = open_console()
    if target.sources:
        show_sources(target)
    else:
        console.say(read_text("targets", name).rstrip())
    console.say(f"\ntoolchain: {_toolchain_state(target)}")


def _toolchain_state(target: Target) -> str:
    if target.toolchain is None:
        return "none needed"
    found = status(target.toolchain.spec)
    detail = f" ({found.detail})" if found.state == "broken" else ""
    hint = "; made on first use" if found.state == "not installed" else ""
    return f"{target.toolchain.name}: {found.state}{detail}{hint}"
