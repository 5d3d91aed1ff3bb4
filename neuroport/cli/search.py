"""The command `search`: the best conversions of a network for a chip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import INTERRUPTED, EngineFlags, LocalWorkers, Model, OutputFlags, SourceFlags, reporting
from neuroport.errors import UsageError


def search(
    model: Model = None,
    *,
    target: Annotated[str, typer.Option(help="A name of `neuroport targets`, or a YAML file.")] = "loihi-sim",
    source: SourceFlags,
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
    engine: EngineFlags,
    workers: LocalWorkers = None,
    out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-TARGET-search.")] = None,
    output: OutputFlags,
) -> None:
    """Search recipes for the best trade of accuracy against steps, energy and cores; goes on where it stopped."""
    with reporting():
        from neuroport.terminal.search import show_search
        from neuroport.verbs.search.options import SearchOptions, parse_budget, parse_objectives
        from neuroport.verbs.search.run import search as run

        options = SearchOptions(
            **source.of(model),
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
            **vars(engine),
            workers=workers,
            out=out,
        )
        with output.progress() as progress:
            result = run(options, progress)
        output.show(result.report, lambda: show_search(result))
        if result.is_interrupted:
            raise SystemExit(INTERRUPTED)


def _fraction(percent: float | None) -> float | None:
    if percent is not None and not 1 < percent <= 100:
        raise UsageError(f"--min-accuracy {percent:g} is in percent, above 1 and at most 100; give 98.5 for 98.5 %")
    return None if percent is None else percent / 100
