"""The command `curve`: recipes beside each other, step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import Evaluate, Model, OutputFlags, SourceFlags, reporting


def curve(
    model: Model = None,
    *,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A name or YAML file; give it once for each curve. Default: max-norm and robust."),
    ] = None,
    source: SourceFlags,
    steps: Annotated[int | None, typer.Option(help="Steps per sample; the most of a recipe if left out.", min=1)] = (
        None
    ),
    evaluate: Evaluate = 1000,
    out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-curve if left out.")] = None,
    output: OutputFlags,
) -> None:
    """Compare recipes: accuracy after every step, as CSV, JSON and a plot."""
    with reporting():
        from neuroport.terminal.curve import show_curve
        from neuroport.verbs.curve import CurveOptions
        from neuroport.verbs.curve import curve as run

        options = CurveOptions(**source.of(model), steps=steps, eval_samples=evaluate or None, out=out)
        if recipe:
            options = replace(options, recipes=tuple(recipe))
        with output.progress() as progress:
            result = run(options, progress)
        output.show(result.report, lambda: show_curve(result))
