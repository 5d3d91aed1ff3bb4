"""The command `search`: the best conversions of a network for a chip."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import ImageSize, numbers, reporting
from neuroport.errors import UsageError

_INTERRUPTED = 130
_Model = Annotated[
    str | None,
    typer.Argument(help="A .pt2 or .onnx file, or package.module:callable; the embedded digits network if left out."),
]
_Data = Annotated[
    Path | None,
    typer.Option(help=".npz, HDF5, a folder of images, or package.module:callable.", show_default=False),
]


def add_search(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def search(
        model: _Model = None,
        target: Annotated[str, typer.Option(help="A name of `neuroport targets`, or a YAML file.")] = "loihi-sim",
        data: _Data = None,
        objective: Annotated[
            str, typer.Option(help="Of accuracy, steps, energy, cores: what the frontier is of.")
        ] = "accuracy,steps",
        trials: Annotated[int, typer.Option(help="Finished trials, those of earlier runs counted.", min=1)] = 100,
        budget: Annotated[str, typer.Option(help="Time for all: 90s, 30m, 1h30m.")] = "30m",
        min_accuracy: Annotated[
            float | None, typer.Option(help="In percent; 10 points below the ANN if left out.", show_default=False)
        ] = None,
        max_steps: Annotated[int | None, typer.Option(help="The most steps; the recipe's if left out.", min=1)] = None,
        max_cores: Annotated[int | None, typer.Option(help="The most cores.", min=1)] = None,
        recipe: Annotated[
            str | None, typer.Option(help="What is not searched, and to beat; the target's default if left out.")
        ] = None,
        storage: Annotated[
            str | None, typer.Option(help="SQLite file or Optuna URL; OUT.sqlite3 if left out. It goes on there.")
        ] = None,
        samples: Annotated[int, typer.Option(help="Test samples that trials are judged on.", min=1)] = 1000,
        evaluate: Annotated[
            int, typer.Option("--eval", help="Other test samples, for the result; 0 for all others.", min=0)
        ] = 1000,
        scheduler: Annotated[
            str, typer.Option(help="none: threads; local: processes; or a Dask scheduler's address.")
        ] = "none",
        workers: Annotated[
            int | None, typer.Option(help="Of local: processes; by processors and memory if left out.", min=1)
        ] = None,
        shared: Annotated[
            Path | None, typer.Option(help="Folder that the scheduler's workers see.", show_default=False)
        ] = None,
        scale: Annotated[float | None, typer.Option(help="Factor on the images; 1/255 for uint8 if left out.")] = None,
        mean: Annotated[str, typer.Option(help="Subtracted after --scale: one number, or one per channel.")] = "",
        std: Annotated[str, typer.Option(help="Divides after --mean: one number, or one per channel.")] = "",
        image_size: ImageSize = None,
        weights: Annotated[Path | None, typer.Option(help="State dict for package.module:callable.")] = None,
        out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-TARGET-search.")] = None,
        seed: Annotated[int, typer.Option(help="Chooses samples and trials.", min=0)] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print search.json to standard output.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    ) -> None:
        """Search recipes for the best trade of accuracy against steps, energy and cores; goes on where it stopped."""
        with reporting():
            from neuroport.progress import Silent
            from neuroport.terminal import TerminalProgress
            from neuroport.terminal.search import show_search
            from neuroport.verbs.search.options import SearchOptions, parse_budget, parse_objectives
            from neuroport.verbs.search.run import search as run

            options = SearchOptions(
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
                objectives=parse_objectives(objective),
                trials=trials,
                budget_s=parse_budget(budget),
                storage=storage,
                samples=samples,
                eval_samples=evaluate or None,
                max_steps=max_steps,
                min_accuracy=_fraction(min_accuracy),
                max_cores=max_cores,
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
                show_search(result)
            if result.is_interrupted:
                raise SystemExit(_INTERRUPTED)


def _fraction(percent: float | None) -> float | None:
    if percent is not None and not 1 < percent <= 100:
        raise UsageError(f"--min-accuracy {percent:g} is in percent, above 1 and at most 100; give 98.5 for 98.5 %")
    return None if percent is None else percent / 100
