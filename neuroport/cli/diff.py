"""The command `diff`: what changed between two bundles. Exit code 0 equal, 1 different, 2 wrong use."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.files import Reporting


def add_diff(app: typer.Typer, reporting: Reporting) -> None:
    """Add the command; `reporting` turns every ending of a command into a message and an exit code."""

    @app.command()
    def diff(
        a: Annotated[Path, typer.Argument(metavar="A", help="A bundle made by `neuroport deploy` or `load --out`.")],
        b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print all changes as JSON.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """Say what changed between two bundles: settings, weights, neurons, spikes, accuracy; exit 1 if any did."""
        with reporting():
            from neuroport.terminal.diff import show_diff
            from neuroport.verbs.bundle_diff import diff_bundles

            found = diff_bundles(a, b)
            if as_json:
                sys.stdout.write(json.dumps(found.as_json(), indent=2, allow_nan=False) + "\n")
            elif not quiet:
                show_diff(found)
            if not found.is_equal:
                raise SystemExit(1)
