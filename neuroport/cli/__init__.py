"""The command line: parse, call a verb, show the result. Heavy imports wait until a command needs them.

Exit codes: 0 all equal; 1 the backend differs from the core, or one bundle from the other; 2 wrong use; 3 the network
cannot be converted or does not fit; 4 a toolchain is missing or failed; 130 interrupted; 143 ended by SIGTERM; 141 the
reader of the output has gone; 70 a bug in neuroport.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neuroport.cli.diff import add_diff
from neuroport.cli.evaluate import add_evaluate
from neuroport.cli.files import add_commands
from neuroport.cli.golden import add_golden_commands
from neuroport.cli.mapping import add_commands as add_map_commands
from neuroport.cli.search import add_search
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
    say,
    shown_progress,
)
from neuroport.errors import UsageError
from neuroport.validation.divergence_text import divergence_text

if TYPE_CHECKING:
    from neuroport.verbs.deployment import Deployment

_MOST_NUMBERS = 1 << 20  # of a range: more is a slip

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Takes a trained neural network to a neuromorphic chip and proves, spike for spike, what arrived there.",
)
targets_app = typer.Typer(
    no_args_is_help=False, rich_markup_mode=None, help="Targets: the list, one datasheet, its toolchain."
)
app.add_typer(targets_app, name="targets")
recipes_app = typer.Typer(
    no_args_is_help=False, rich_markup_mode=None, help="Conversion recipes: the list, one of them with its sources."
)
app.add_typer(recipes_app, name="recipes")

# What `deploy` and `curve` are both told.
_Model = Annotated[
    str | None,
    typer.Argument(help="A .pt2 or .onnx file, or package.module:callable; the embedded digits network if left out."),
]
_Deployed = Annotated[
    str | None,
    typer.Argument(help="A .pt2, .onnx or .nir file, or package.module:callable; the digits network if left out."),
]
_Evaluate = Annotated[int, typer.Option("--eval", help="Test samples for accuracy; 0 for all.", min=0)]


def main() -> None:
    """Entry point of the `neuroport` command."""
    # torch's threads wait for each other by spinning: beside other work on the machine that costs 30 times the time
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()


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


@app.command()
def deploy(
    model: _Deployed = None,
    target: Annotated[str, typer.Option(help="Chip or simulator: a name of `neuroport targets`, or a YAML file.")] = (
        "loihi-sim"
    ),
    backend: Annotated[str | None, typer.Option(help="What runs it; the target's first choice if left out.")] = None,
    via: Annotated[
        str | None, typer.Option(help="netx: take the network there as a file of lava-dl's netx, kept in the bundle.")
    ] = None,
    data: Data = None,
    scale: Scale = None,
    mean: Mean = "",
    std: Std = "",
    image_size: ImageSize = None,
    weights: Weights = None,
    recipe: Annotated[str | None, typer.Option(help="Conversion recipe: a name, or a YAML file.")] = None,
    neuron: Annotated[
        str | None, typer.Option(help="Kind of neuron, where a chip has several; the most accurate one if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per sample; the recipe's if left out.", min=1)] = None,
    samples: Annotated[int | None, typer.Option(help="Test samples to the backend; 20 if left out.", min=1)] = None,
    sample_numbers: Annotated[
        str, typer.Option(help="Which test samples instead, by number from 0: 3,17,100-120.", show_default=False)
    ] = "",
    evaluate: _Evaluate = 1000,
    workers: Annotated[
        int | None, typer.Option(help="Simulator processes that share the samples; by processors if left out.", min=1)
    ] = None,
    blame: Annotated[
        bool | None,
        typer.Option(
            "--blame/--no-blame", help="Measure what each layer costs; if the core lost accuracy, if left out."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle directory; neuroport-out/MODEL-TARGET if left out.")] = None,
    reset: Annotated[Literal["zero", "subtract"] | None, typer.Option(help="Of a .nir file: zero if left out.")] = None,
    dt: Annotated[float | None, typer.Option(help="Of a .nir file: seconds per step; 1e-4 if left out.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert, quantize, run on the chip's simulator, and compare every spike."""
    with reporting():
        from neuroport.terminal import show_deployment
        from neuroport.verbs.deployment import deploy as run
        from neuroport.verbs.options import DeployOptions

        options = DeployOptions(
            model=model,
            weights=weights,
            data=data,
            scale=scale,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
            image_size=image_size,
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
            blame=blame,
            out=out,
            reset=reset,
            dt_s=dt,
            seed=seed,
        )
        with shown_progress(quiet=quiet) as progress:
            result = run(options, progress)
        if as_json:
            print_json(result.report)
        elif not quiet:
            show_deployment(result)
        _check_equal(result)


def _check_equal(result: Deployment) -> None:
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


@app.command()
def curve(
    model: _Model = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A name or YAML file; give it once for each curve. Default: max-norm and robust."),
    ] = None,
    data: Data = None,
    scale: Scale = None,
    mean: Mean = "",
    std: Std = "",
    image_size: ImageSize = None,
    weights: Weights = None,
    steps: Annotated[int | None, typer.Option(help="Steps per sample; the most of a recipe if left out.", min=1)] = (
        None
    ),
    evaluate: _Evaluate = 1000,
    out: Annotated[Path | None, typer.Option(help="Directory; neuroport-out/MODEL-curve if left out.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare recipes: accuracy after every step, as CSV, JSON and a plot."""
    with reporting():
        from neuroport.terminal import show_curve
        from neuroport.verbs.curve import CurveOptions
        from neuroport.verbs.curve import curve as run

        options = CurveOptions(
            model=model,
            weights=weights,
            data=data,
            scale=scale,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
            image_size=image_size,
            seed=seed,
            steps=steps,
            eval_samples=evaluate or None,
            out=out,
        )
        if recipe:
            options = replace(options, recipes=tuple(recipe))
        with shown_progress(quiet=quiet) as progress:
            result = run(options, progress)
        if as_json:
            print_json(result.report)
        elif not quiet:
            show_curve(result)


@targets_app.callback(invoke_without_command=True)
def targets(context: typer.Context) -> None:
    """List the targets and what is ready."""
    if context.invoked_subcommand is None:
        with reporting():
            from neuroport.terminal import show_targets

            show_targets()


@targets_app.command("show")
def targets_show(name: Annotated[str, typer.Argument(help="Target name, or a YAML file.")]) -> None:
    """Show one datasheet with its sources, and the state of its toolchain."""
    with reporting():
        from neuroport.terminal import show_target

        show_target(name)


@targets_app.command("install")
def targets_install(
    name: Annotated[str, typer.Argument(help="Target name, or a YAML file.")],
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is ready.")] = False,
) -> None:
    """Make the toolchain of a target ahead of time."""
    with reporting():
        from neuroport.chip.target import load_target
        from neuroport.toolchains import ensure

        sheet = load_target(name).toolchain
        if sheet is None:
            say(f"target '{name}' needs no toolchain")
            return
        made = ensure(sheet.spec, force=force, on_progress=say)
        say(f"ready: {made.root}")


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the recipes."""
    if context.invoked_subcommand is None:
        with reporting():
            from neuroport.terminal import show_recipes

            show_recipes()


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Recipe name, or a YAML file.")]) -> None:
    """Show one recipe with its sources."""
    with reporting():
        from neuroport.terminal import show_recipe

        show_recipe(name)


@app.command()
def schema() -> None:
    """Say what each key of report.json means."""
    with reporting():
        from neuroport.validation.report import SCHEMA
        from neuroport.validation.schema import KEYS

        lines = [
            f"{SCHEMA}: [] is each item of a list, * each name of a table",
            *(f"{k}: {v}" for k, v in KEYS.items()),
        ]
        sys.stdout.write("\n".join(lines) + "\n")


add_commands(app)
add_map_commands(app)
add_evaluate(app)
add_diff(app)
add_golden_commands(app)
add_search(app)
