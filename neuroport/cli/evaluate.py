"""The command `evaluate`: accuracy on a whole test set, on one machine or a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import EngineFlags, LocalWorkers, OutputFlags, SourceFlags, reporting
from neuroport.errors import EngineError


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle of `neuroport deploy`, or a model as deploy takes it; digits if left out."),
    ] = None,
    *,
    source: SourceFlags,
    target: Annotated[str | None, typer.Option(help="Of a model: a chip; loihi-sim if left out.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Of a model: the target's if left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of a model: the recipe's if left out.", min=1)] = None,
    backend: Annotated[str | None, typer.Option(help="What answers instead of the core.")] = None,
    samples: Annotated[int, typer.Option("--eval", help="Test samples; 0 for all.", min=0)] = 0,
    engine: EngineFlags,
    workers: LocalWorkers = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json.", show_default=False)] = None,
    output: OutputFlags,
) -> None:
    """Show a whole test set to a network in a chip's integers: accuracy with its confidence interval."""
    with reporting():
        from neuroport.verbs.evaluate import EvaluateOptions
        from neuroport.verbs.evaluate import evaluate as run

        options = EvaluateOptions(
            **source.of(model),
            target=target,
            recipe=recipe,
            steps=steps,
            backend=backend,
            samples=samples or None,
            **vars(engine),
            workers=workers,
            out=out,
        )
        with output.progress() as progress:
            result = run(options, progress)
        output.show(result.report, lambda: sys.stdout.write(f"{result}\n"))
        if result.evaluation.failed:
            n = sum(len(shard.numbers) for shard in result.evaluation.failed)
            raise EngineError(f"{n} of {len(result.evaluation.classes):,} samples could not be evaluated")
