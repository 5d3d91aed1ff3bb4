"""The command `deploy`: the whole way of a network to a chip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neuroport.cli.shared import EngineFlags, Evaluate, OutputFlags, SourceFlags, Steps, reporting, say
from neuroport.errors import UsageError

if TYPE_CHECKING:
    from neuroport.verbs.deployment import Deployment

_MOST_NUMBERS = 1 << 20  # of a range: more is a slip


def deploy(
    model: Annotated[
        str | None,
        typer.Argument(help="A .pt2, .onnx or .nir file, or package.module:callable; the digits network if left out."),
    ] = None,
    *,
    target: Annotated[str, typer.Option(help="Chip or simulator: a name of `neuroport targets`, or a YAML file.")] = (
        "loihi-sim"
    ),
    backend: Annotated[str | None, typer.Option(help="What runs it; the target's first choice if left out.")] = None,
    via: Annotated[
        str | None, typer.Option(help="netx: take the network there as a file of lava-dl's netx, kept in the bundle.")
    ] = None,
    source: SourceFlags,
    recipe: Annotated[str | None, typer.Option(help="Conversion recipe: a name, or a YAML file.")] = None,
    neuron: Annotated[
        str | None, typer.Option(help="Kind of neuron, where a chip has several; the most accurate one if left out.")
    ] = None,
    steps: Steps = None,
    samples: Annotated[int | None, typer.Option(help="Test samples to the backend; 20 if left out.", min=1)] = None,
    sample_numbers: Annotated[
        str, typer.Option(help="Which test samples instead, by number from 0: 3,17,100-120.", show_default=False)
    ] = "",
    evaluate: Evaluate = 1000,
    workers: Annotated[
        int | None, typer.Option(help="Simulator processes that share the samples; by processors if left out.", min=1)
    ] = None,
    engine: EngineFlags,
    blame: Annotated[
        bool | None,
        typer.Option(
            "--blame/--no-blame", help="Measure what each layer costs; if the core lost accuracy, if left out."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle directory; neuroport-out/MODEL-TARGET if left out.")] = None,
    reset: Annotated[Literal["zero", "subtract"] | None, typer.Option(help="Of a .nir file: zero if left out.")] = None,
    dt: Annotated[float | None, typer.Option(help="Of a .nir file: seconds per step; 1e-4 if left out.")] = None,
    output: OutputFlags,
) -> None:
    """Convert, quantize, run on the chip's simulator, and compare every spike."""
    with reporting():
        from neuroport.terminal.deployment import show_deployment
        from neuroport.verbs.deployment import deploy as run
        from neuroport.verbs.options import DeployOptions

        options = DeployOptions(
            **source.of(model),
            target=target,
            backend=backend,
            via=via,
            recipe=recipe,
            neuron=neuron,
            steps=steps,
            samples=samples or DeployOptions.samples,
            sample_numbers=_sample_numbers(sample_numbers, samples),
            eval_samples=evaluate or None,
            workers=workers,
            **vars(engine),
            blame=blame,
            out=out,
            reset=reset,
            dt_s=dt,
        )
        with output.progress() as progress:
            result = run(options, progress)
        output.show(result.report, lambda: show_deployment(result))
        _check_equal(result)


def _sample_numbers(text: str, n_samples: int | None) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.replace(" ", "").split(",") if text else ():
        ends = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", part, re.ASCII)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if first > last or last - first >= _MOST_NUMBERS:
            raise UsageError(
                f"--sample-numbers '{text}': '{part}' is no number and no range; give numbers from 0: 3,17,100-120"
            )
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise UsageError(f"--sample-numbers '{text}' names a sample twice; name each of them once")
    if found and n_samples is not None:
        raise UsageError("--samples and --sample-numbers both say what goes to the backend; leave one of them out")
    return tuple(found)


def _check_equal(result: Deployment) -> None:
    from neuroport.validation.divergence_text import divergence_text

    if result.bounded is not None and result.bounded.outside:
        say(f"the backend differs by more than its rounding: {result.bounded.first_outside}")
    elif result.comparison is not None and result.comparison.mismatches and result.bounded is None:
        found = result.comparison.first_mismatch
        number = "" if found is None else f" (number {result.report['sample_numbers'][found.sample]} of the test part)"
        say(f"the backend differs from the core: {found}{number}")
        say(divergence_text(result.report["backend"]["divergence"]))
    if result.mapped is not None and result.mapped.differences:
        say(f"what would be loaded differs from the export: {result.mapped.first_difference}")
    if not result.is_equal:
        raise SystemExit(1)
