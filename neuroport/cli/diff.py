"""The command `diff`: what changed between two bundles. Exit code 0 equal, 1 different, 2 wrong use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import OutputFlags, reporting


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A bundle made by `neuroport deploy` or `load --out`.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    output: OutputFlags,
) -> None:
    """Say what changed between two bundles: settings, weights, neurons, spikes, accuracy; exit 1 if any did."""
    with reporting():
        from neuroport.terminal.diff import show_diff
        from neuroport.verbs.bundle_diff import diff_bundles

        found = diff_bundles(a, b)
        output.show(found.as_json(), lambda: show_diff(found))
        if not found.is_equal:
            raise SystemExit(1)
