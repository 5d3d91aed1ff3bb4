"""The commands `map`, a network onto the cores of a chip, and `fit`, onto all chips that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import (
    Data,
    ImageSize,
    Json,
    Mean,
    Quiet,
    Scale,
    Seed,
    Std,
    Weights,
    numbers,
    print_json,
    reporting,
    shown_progress,
)

_Model = Annotated[
    str | None,
    typer.Argument(
        help="A .pt2 or .onnx file, package.module:callable, a bundle or its network.h5; the embedded digits network "
        "if left out."
    ),
]
_Recipe = Annotated[str | None, typer.Option(help="Conversion recipe; the target's default if left out.")]
_Steps = Annotated[int | None, typer.Option(help="Steps per sample; the recipe's if left out.", min=1)]
_Samples = Annotated[int, typer.Option(help="Calibration samples whose spikes are counted on the core.", min=1)]
_MaxCores = Annotated[int | None, typer.Option(help="The most cores to use.", min=1)]


def add_commands(app: typer.Typer) -> None:
    """Add the commands."""
    _add_map(app)
    _add_fit(app)


def _add_map(app: typer.Typer) -> None:
    @app.command("map")
    def map_command(
        model: _Model = None,
        target: Annotated[
            str | None, typer.Option(help="A name of `neuroport targets`, or a YAML file; the bundle's, or loihi1.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-TARGET-map if left out.")] = None,
        data: Data = None,
        scale: Scale = None,
        mean: Mean = "",
        std: Std = "",
        image_size: ImageSize = None,
        weights: Weights = None,
        recipe: _Recipe = None,
        steps: _Steps = None,
        samples: _Samples = 32,
        max_cores: _MaxCores = None,
        seed: Seed = 0,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        """Lay a network out on a chip's cores: how many, what binds, what an inference costs; no simulator runs."""
        with reporting():
            from neuroport.terminal.mapping import show_map
            from neuroport.verbs.fitting import MapOptions, map_model

            options = MapOptions(
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
                samples=samples,
                max_cores=max_cores,
                out=out,
            )
            with shown_progress(quiet=quiet) as progress:
                result = map_model(options, progress)
            if as_json:
                print_json(result.report)
            elif not quiet:
                show_map(result)


def _add_fit(app: typer.Typer) -> None:
    @app.command()
    def fit(
        model: _Model = None,
        target: Annotated[
            list[str] | None,
            typer.Option(help="A name of `neuroport targets`, or a YAML file; may be repeated; all if left out."),
        ] = None,
        data: Data = None,
        scale: Scale = None,
        mean: Mean = "",
        std: Std = "",
        image_size: ImageSize = None,
        weights: Weights = None,
        recipe: _Recipe = None,
        steps: _Steps = None,
        samples: _Samples = 32,
        seed: Seed = 0,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        """Compare targets: does it fit, on how many cores, what binds, what an inference costs, and why not."""
        with reporting():
            from neuroport.terminal.mapping import show_fit
            from neuroport.verbs.fitting import MapOptions
            from neuroport.verbs.fitting import fit as run

            options = MapOptions(
                model=model,
                weights=weights,
                data=data,
                scale=scale,
                mean=numbers(mean, "--mean"),
                std=numbers(std, "--std"),
                image_size=image_size,
                seed=seed,
                recipe=recipe,
                steps=steps,
                samples=samples,
            )
            with shown_progress(quiet=quiet) as progress:
                result = run(options, progress, targets=target or ())
            if as_json:
                print_json(result.report)
            elif not quiet:
                show_fit(result)
