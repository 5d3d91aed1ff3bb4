"""The commands `map`, a network onto the cores of a chip, and `fit`, onto all chips that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import OutputFlags, SourceFlags, Steps, reporting

_Model = Annotated[
    str | None,
    typer.Argument(
        help="A .pt2 or .onnx file, package.module:callable, a bundle or its network.h5; the embedded digits network "
        "if left out."
    ),
]
_Recipe = Annotated[str | None, typer.Option(help="Conversion recipe; the target's default if left out.")]
_Samples = Annotated[int, typer.Option(help="Calibration samples whose spikes are counted on the core.", min=1)]


def map_command(
    model: _Model = None,
    *,
    target: Annotated[
        str | None, typer.Option(help="A name of `neuroport targets`, or a YAML file; the bundle's, or loihi1.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-TARGET-map if left out.")] = None,
    source: SourceFlags,
    recipe: _Recipe = None,
    steps: Steps = None,
    samples: _Samples = 32,
    max_cores: Annotated[int | None, typer.Option(help="The most cores to use.", min=1)] = None,
    output: OutputFlags,
) -> None:
    """Lay a network out on a chip's cores: how many, what binds, what an inference costs; no simulator runs."""
    with reporting():
        from neuroport.terminal.mapping import show_map
        from neuroport.verbs.fitting import MapOptions, map_model

        options = MapOptions(
            **source.of(model),
            target=target,
            recipe=recipe,
            steps=steps,
            samples=samples,
            max_cores=max_cores,
            out=out,
        )
        with output.progress() as progress:
            result = map_model(options, progress)
        output.show(result.report, lambda: show_map(result))


def fit(
    model: _Model = None,
    *,
    source: SourceFlags,
    recipe: _Recipe = None,
    steps: Steps = None,
    samples: _Samples = 32,
    output: OutputFlags,
) -> None:
    """Compare all targets: does it fit, on how many cores, what binds, what an inference costs, and why not."""
    with reporting():
        from neuroport.terminal.mapping import show_fit
        from neuroport.verbs.fitting import MapOptions
        from neuroport.verbs.fitting import fit as run

        options = MapOptions(**source.of(model), recipe=recipe, steps=steps, samples=samples)
        with output.progress() as progress:
            result = run(options, progress)
        output.show(result.report, lambda: show_fit(result))
