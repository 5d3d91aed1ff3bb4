"""The commands `map`, a network onto the cores of a chip, and `fit`, onto all chips that are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

Reporting = Callable[[], AbstractContextManager[None]]
Numbers = Callable[[str, str], tuple[float, ...]]

_Model = Annotated[
    str | None,
    typer.Argument(
        help="A .pt2 or .onnx file, package.module:callable, a bundle or its network.h5; the embedded digits network "
        "if left out."
    ),
]
_Data = Annotated[
    Path | None, typer.Option(help=".npz with x_train, y_train, x_test, y_test, or x, y.", show_default=False)
]
_Scale = Annotated[float | None, typer.Option(help="Factor on the images; 1/255 for uint8 if left out.")]
_Mean = Annotated[str, typer.Option(help="Subtracted after --scale: one number, or one per channel.")]
_Std = Annotated[str, typer.Option(help="Divides after --mean: one number, or one per channel.")]
_Weights = Annotated[Path | None, typer.Option(help="State dict for package.module:callable.")]
_Recipe = Annotated[str | None, typer.Option(help="Conversion recipe; the target's default if left out.")]
_Steps = Annotated[int | None, typer.Option(help="Steps per sample; the recipe's if left out.", min=1)]
_Samples = Annotated[int, typer.Option(help="Calibration samples whose spikes are counted on the core.", min=1)]
_MaxCores = Annotated[int | None, typer.Option(help="The most cores to use.", min=1)]
_Seed = Annotated[int, typer.Option(help="Chooses samples, and seeds the placement.", min=0)]
_Json = Annotated[bool, typer.Option("--json", help="Print the report to standard output.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def add_commands(app: typer.Typer, reporting: Reporting, numbers: Numbers) -> None:
    """Add the commands; `reporting` turns every ending into a message and an exit code, `numbers` reads lists."""
    _add_map(app, reporting, numbers)
    _add_fit(app, reporting, numbers)


def _add_map(app: typer.Typer, reporting: Reporting, numbers: Numbers) -> None:
    @app.command("map")
    def map_command(
        model: _Model = None,
        target: Annotated[
            str | None, typer.Option(help="A name of `neuroport targets`, or a YAML file; the bundle's, or loihi1.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-TARGET-map if left out.")] = None,
        data: _Data = None,
        scale: _Scale = None,
        mean: _Mean = "",
        std: _Std = "",
        weights: _Weights = None,
        recipe: _Recipe = None,
        steps: _Steps = None,
        samples: _Samples = 32,
        max_cores: _MaxCores = None,
        seed: _Seed = 0,
        as_json: _Json = False,
        quiet: _Quiet = False,
    ) -> None:
        """Lay a network out on a chip's cores: how many, what binds, what an inference costs; no simulator runs."""
        with reporting():
            from neuroport.progress import Silent
            from neuroport.terminal import TerminalProgress
            from neuroport.terminal.mapping import show_map
            from neuroport.verbs.fitting import MapOptions, map_model

            options = MapOptions(
                model=model,
                weights=weights,
                data=data,
                scale=scale,
                mean=numbers(mean, "--mean"),
                std=numbers(std, "--std"),
                seed=seed,
                target=target,
                recipe=recipe,
                steps=steps,
                samples=samples,
                max_cores=max_cores,
                out=out,
            )
            with nullcontext(Silent()) if quiet else TerminalProgress() as progress:
                result = map_model(options, progress)
            if as_json:
                sys.stdout.write(json.dumps(result.report, indent=2) + "\n")
            elif not quiet:
                show_map(result)


def _add_fit(app: typer.Typer, reporting: Reporting, numbers: Numbers) -> None:
    @app.command()
    def fit(
        model: _Model = None,
        data: _Data = None,
        scale: _Scale = None,
        mean: _Mean = "",
        std: _Std = "",
        weights: _Weights = None,
        recipe: _Recipe = None,
        steps: _Steps = None,
        samples: _Samples = 32,
        seed: _Seed = 0,
        as_json: _Json = False,
        quiet: _Quiet = False,
    ) -> None:
        """Compare all targets: does it fit, on how many cores, what binds, what an inference costs, and why not."""
        with reporting():
            from neuroport.progress import Silent
            from neuroport.terminal import TerminalProgress
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
                seed=seed,
                recipe=recipe,
                steps=steps,
                samples=samples,
            )
            with nullcontext(Silent()) if quiet else TerminalProgress() as progress:
                result = run(options, progress)
            if as_json:
                sys.stdout.write(json.dumps(result.report, indent=2) + "\n")
            elif not quiet:
                show_fit(result)
