"""The command line: parse, call a verb, show the result. Heavy imports wait until a command needs them.

Exit codes: 0 all equal; 1 the backend differs from the core, or one bundle from the other; 2 wrong use; 3 the network
cannot be converted or does not fit; 4 a toolchain is missing or failed; 130 interrupted; 143 ended by SIGTERM; 141 the
reader of the output has gone; 70 a bug in neuroport.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import typer

from neuroport.cli import golden, listings
from neuroport.cli.curve import curve
from neuroport.cli.deploy import deploy
from neuroport.cli.diff import diff
from neuroport.cli.evaluate import evaluate
from neuroport.cli.files import export, load
from neuroport.cli.groups import grouped
from neuroport.cli.mapping import fit, map_command
from neuroport.cli.search import search


def main() -> None:
    """Entry point of the `neuroport` command."""
    # torch's threads wait for each other by spinning: beside other work on the machine that costs 30 times the time
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()


_COMMANDS: dict[str, Callable[..., None]] = {
    "deploy": deploy,
    "evaluate": evaluate,
    "validate": golden.validate,
    "diff": diff,
    "curve": curve,
    "search": search,
    "map": map_command,
    "fit": fit,
    "export": export,
    "load": load,
    "schema": listings.schema,
}
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Takes a trained neural network to a neuromorphic chip and proves, spike for spike, what arrived there.",
)
for name, command in _COMMANDS.items():
    app.command(name)(grouped(command))

targets_app = typer.Typer(rich_markup_mode=None, help="Targets: the list, one datasheet, its toolchain.")
targets_app.callback(invoke_without_command=True)(listings.targets)
targets_app.command("show")(listings.targets_show)
targets_app.command("install")(listings.targets_install)
app.add_typer(targets_app, name="targets")

recipes_app = typer.Typer(rich_markup_mode=None, help="Conversion recipes: the list, one of them with its sources.")
recipes_app.callback(invoke_without_command=True)(listings.recipes)
recipes_app.command("show")(listings.recipes_show)
app.add_typer(recipes_app, name="recipes")

golden_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Golden recordings: write one, hold this neuroport against it."
)
golden_app.command("record")(golden.record)
golden_app.command("check")(golden.check)
app.add_typer(golden_app, name="golden")
