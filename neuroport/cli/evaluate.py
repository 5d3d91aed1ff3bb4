"""The command `evaluate`: accuracy on a whole test set, on one machine or a cluster."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import ImageSize, numbers, reporting
from neuroport.errors import EngineError


def add_evaluate(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def evaluate(
        model: Annotated[
            str | None,
            typer.Argument(help="A bundle of `neuroport deploy`, or a model as deploy takes it; digits if left out."),
        ] = None,
        data: Annotated[
            Path | None,
            typer.Option(help=".npz, HDF5, a folder of images, or package.module:callable.", show_default=False),
        ] = None,
        scale: Annotated[float | None, typer.Option(help="Factor on the images; 1/255 for uint8 if left out.")] = None,
        mean: Annotated[str, typer.Option(help="Subtracted after --scale: one number, or one per channel.")] = "",
        std: Annotated[str, typer.Option(help="Divides after --mean: one number, or one per channel.")] = "",
        image_size: ImageSize = None,
        weights: Annotated[Path | None, typer.Option(help="State dict for package.module:callable.")] = None,
        target: Annotated[str | None, typer.Option(help="Of a model: a chip; loihi-sim if left out.")] = None,
        recipe: Annotated[str | None, typer.Option(help="Of a model: the target's if left out.")] = None,
        steps: Annotated[int | None, typer.Option(help="Of a model: the recipe's if left out.", min=1)] = None,
        backend: Annotated[str | None, typer.Option(help="What answers instead of the core.")] = None,
        samples: Annotated[int, typer.Option("--eval", help="Test samples; 0 for all.", min=0)] = 0,
        scheduler: Annotated[
            str, typer.Option(help="none: threads; local: processes; or a Dask scheduler's address.")
        ] = "none",
        workers: Annotated[
            int | None, typer.Option(help="Of local: processes; by processors and memory if left out.", min=1)
        ] = None,
        shared: Annotated[
            Path | None, typer.Option(help="Folder that the scheduler's workers see.", show_default=False)
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json.", show_default=False)] = None,
        seed: Annotated[int, typer.Option(help="Chooses calibration and test samples.", min=0)] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json to standard output.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """Show a whole test set to a network in a chip's integers: accuracy with its confidence interval."""
        with reporting():
            from neuroport.progress import Silent
            from neuroport.terminal import TerminalProgress
            from neuroport.verbs.evaluate import EvaluateOptions
            from neuroport.verbs.evaluate import evaluate as run

            options = EvaluateOptions(
                model=model,
                weights=weights,
                data=data,
                scale=scale,
                mean=numbers(mean, "--mean"),
                std=numbers(std, "--std"),
                image_size=image_size,
                seed=seed,
                target=target,
                recipe=recipe,
                steps=steps,
                backend=backend,
                samples=samples or None,
                scheduler=scheduler,
                workers=workers,
                shared=shared,
                out=out,
            )
            with nullcontext(Silent()) if quiet else TerminalProgress() as progress:
                result = run(options, progress)
            if as_json:
                sys.stdout.write(json.dumps(result.report, indent=2) + "\n")
            elif not quiet:
                sys.stdout.write(f"{result}\n")
            if result.evaluation.failed:
                n = sum(len(shard.numbers) for shard in result.evaluation.failed)
                raise EngineError(f"{n} of {len(result.evaluation.classes):,} samples could not be evaluated")
