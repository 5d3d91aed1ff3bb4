"""The commands that say what there is: `targets`, `recipes`, `schema`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from neuroport.cli.shared import reporting, say


def targets(context: typer.Context) -> None:
    """List the targets and what is ready."""
    if context.invoked_subcommand is None:
        with reporting():
            from neuroport.terminal.listings import show_targets

            show_targets()


def targets_show(name: Annotated[str, typer.Argument(help="Target name, or a YAML file.")]) -> None:
    """Show one datasheet with its sources, and the state of its toolchain."""
    with reporting():
        from neuroport.terminal.listings import show_target

        show_target(name)


def targets_install(
    name: Annotated[str, typer.Argument(help="Target name, or a YAML file.")],
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is ready.")] = False,
) -> None:
    """Make the toolchain of a target ahead of time."""
    with reporting():
        from neuroport.chip.target import load_target
        from neuroport.toolchains import ensure

        sheet = load_target(name).toolchain
        if sheet is None:
            say(f"target '{name}' needs no toolchain")
            return
        made = ensure(sheet.spec, force=force, on_progress=say)
        say(f"ready: {made.root}")


def recipes(context: typer.Context) -> None:
    """List the recipes."""
    if context.invoked_subcommand is None:
        with reporting():
            from neuroport.terminal.listings import show_recipes

            show_recipes()


def recipes_show(name: Annotated[str, typer.Argument(help="Recipe name, or a YAML file.")]) -> None:
    """Show one recipe with its sources."""
    with reporting():
        from neuroport.terminal.listings import show_recipe

        show_recipe(name)


def schema() -> None:
    """Say what each key of report.json means."""
    with reporting():
        from neuroport.validation.report import SCHEMA
        from neuroport.validation.schema import KEYS

        lines = [
            f"{SCHEMA}: [] is each item of a list, * each name of a table",
            *(f"{k}: {v}" for k, v in KEYS.items()),
        ]
        sys.stdout.write("\n".join(lines) + "\n")
