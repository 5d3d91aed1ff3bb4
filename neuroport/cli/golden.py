"""The commands that hold a run against what was recorded: `golden record`, `golden check`, `validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroport.cli.shared import Json, print_json, reporting, shown_progress
from neuroport.errors import NeuroportError, UsageError

if TYPE_CHECKING:
    from neuroport.validation.rerun import Rerun

_Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", help="Run it there too, once for each; cpu is the oracle (int64 numpy).", show_default=False
    ),
]
_Workers = Annotated[int | None, typer.Option(help="Simulator processes that share the samples.", min=1)]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and differences.")]


def record(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by `neuroport deploy`.")],
    out: Annotated[Path, typer.Option(help="The file to write: NAME.golden.h5.")],
    samples: Annotated[
        int | None, typer.Option(help="The first so many, to keep it small; all if left out.", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a recording that is there already.")] = False,
) -> None:
    """Write network, inputs and every spike of a bundle's run into one small file."""
    with reporting():
        from neuroport.validation.golden import record_golden

        made = record_golden(bundle, out, n_samples=samples, force=force)
        if not made.rerun.is_equal:
            sys.stderr.write(f"nothing recorded: {made.rerun}\n")
            raise SystemExit(1)
        sys.stdout.write(f"{out}: {made.n_bytes:,} bytes, network {made.network_hash[:16]}\n{made.rerun}\n")


def check(
    files: Annotated[list[Path], typer.Argument(help="Recordings: NAME.golden.h5 ...")],
    backend: _Backends = None,
    workers: _Workers = None,
    as_json: Json = False,
    quiet: _Quiet = False,
) -> None:
    """Run recordings again; exit code 1 where a bit differs, every file reported."""
    with reporting():
        from neuroport.validation.golden import check_golden
        from neuroport.validation.rerun import Reruns

        rows: list[dict[str, Any]] = []
        codes: list[int] = []
        with shown_progress(quiet=quiet) as progress:
            again = Reruns(progress.stage, progress.samples, workers)
            for file in files:
                progress.stage(str(file))
                try:
                    reruns = check_golden(file, backend or (), again)
                except NeuroportError as error:  # the others are still reported
                    sys.stderr.write(f"error: {error}\n")
                    rows.append({"file": str(file), "error": str(error)})
                    codes.append(error.exit_code)
                    continue
                rows.append({"file": str(file), "reruns": [rerun.as_json() for rerun in reruns]})
                codes.append(_show(f"{file}: ", reruns, is_silent=as_json or quiet))
        if as_json:
            print_json(rows)
        _leave(codes)


def validate(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by `neuroport deploy`, here or elsewhere.")],
    data: Annotated[
        Path | None, typer.Option(help="New samples instead of its own: .npz, as for deploy.", show_default=False)
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Factor on the images; the bundle's if left out.")] = None,
    evaluate: Annotated[int, typer.Option("--eval", help="New samples for accuracy; 0 for all.", min=0)] = 0,
    samples: Annotated[int | None, typer.Option(help="New samples to each backend; 20 if left out.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Chooses among new samples.", min=0)] = 0,
    backend: _Backends = None,
    workers: _Workers = None,
    as_json: Json = False,
    quiet: _Quiet = False,
) -> None:
    """Verify a bundle's checksums, run its own inputs again, and compare every spike with what it holds.

    With --data: its accuracy on new samples, and each backend beside the core on some of them.
    """
    with reporting():
        from neuroport.verbs.loading import Source
        from neuroport.verbs.new_samples import Evaluated, evaluate_bundle
        from neuroport.verbs.recheck import Validated
        from neuroport.verbs.recheck import validate as run

        if data is None and (scale is not None or evaluate or samples or seed):
            raise UsageError(
                "--scale, --eval, --samples and --seed are of new samples; give them with --data, or leave them out"
            )
        result: Validated | Evaluated
        with shown_progress(quiet=quiet) as progress:
            if data is None:
                result = run(bundle, progress, backends=backend or (), workers=workers)
            else:
                result = evaluate_bundle(
                    bundle,
                    Source(data=data, scale=scale, seed=seed),
                    progress,
                    n_samples=evaluate or None,
                    backends=backend or (),
                    n_backend=samples or 20,
                    workers=workers,
                )
        if not (as_json or quiet):
            sys.stdout.write(f"{bundle}: every file as it was written\n")
            if isinstance(result, Evaluated):
                sys.stdout.write(f"{result}\n")
        code = _show("", result.reruns, is_silent=as_json or quiet)
        if as_json:
            print_json(result.report)
        _leave([code])


def _show(lead: str, reruns: tuple[Rerun, ...], *, is_silent: bool) -> int:
    """Say what is equal and, always, what differs; 1 if anything does."""
    for rerun in reruns:
        if not rerun.is_equal:
            sys.stderr.write(f"{lead}{rerun}\n")
        elif not is_silent:
            sys.stdout.write(f"{lead}{rerun}\n")
    return 0 if all(rerun.is_equal for rerun in reruns) else 1


def _leave(codes: list[int]) -> None:
    """1 if a bit differs anywhere, else the code of the first error."""
    if found := [code for code in codes if code]:
        raise SystemExit(1 if 1 in found else found[0])
