"""The commands for files of other tools: `export` writes one, `load` reads one and verifies it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroport.cli.shared import OutputFlags, reporting
from neuroport.errors import UsageError


def export(
    source: Annotated[
        Path, typer.Argument(help="A bundle made by `neuroport deploy`, or its network.h5; of nir also its float.h5.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, replaced if it is there; of pynn a new folder.")],
    to: Annotated[
        str,
        typer.Option("--to", help="Format: netx (HDF5 of Intel's lava-dl), nir, or pynn (a script for SpiNNaker)."),
    ] = "netx",
) -> None:
    """Write a deployed network as a file of another tool; what the format cannot hold is refused."""
    with reporting():
        from neuroport.verbs.exchange import export_netx
        from neuroport.verbs.exchange_nir import export_bundle_nir
        from neuroport.verbs.exports import export_pynn

        _check_format(to)
        if to == "nir":
            written = export_bundle_nir(source, out)
            sys.stdout.write(
                f"{written.out}: {written.n_layers} layers of neurons, {written.numbers}; it takes {written.entry}\n"
                f"resets, units, the test at the threshold and the rest are in its metadata under 'neuroport'\n"
            )
            return
        if to == "pynn":
            n_samples = export_pynn(source, out)
            sys.stdout.write(f"{out}: {n_samples} samples; run it by python run.py nest --verify, see README.md\n")
            return
        made = export_netx(source, out)
        sys.stdout.write(
            f"{made.out}: {made.n_layers} layers of neurons\n"
            f"lava-dl loads it by net = {made.call}, and takes {made.entry}\n"
        )


def load(
    network: Annotated[Path, typer.Argument(help="A .net file of SLAYER or lava-dl.")],
    *,
    target: Annotated[
        str, typer.Option(help="Whose ranges it must fit, to be mapped there: loihi-sim, loihi1, loihi2.")
    ] = "loihi-sim",
    data: Annotated[
        Path | None, typer.Option(help=".npz with spikes [S,T,...], currents [S,...] or x [S,...]; y if you like.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="netx: the file through lava-dl; lava: as neuroport builds it; cpu.")
    ] = "netx",
    steps: Annotated[int | None, typer.Option(help="Steps per sample of input currents.", min=1)] = None,
    samples: Annotated[int | None, typer.Option(help="The first so many; all if left out.", min=1)] = None,
    input_shape: Annotated[str, typer.Option(help="C,H,W of the input where the file does not say it.")] = "",
    workers: Annotated[int | None, typer.Option(help="Simulator processes that share the samples.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="A bundle: network.h5, spikes of both sides, report.")] = None,
    output: OutputFlags,
) -> None:
    """Read a network trained with SLAYER; with data, run it on Lava and compare every spike with the core."""
    with reporting():
        from neuroport.terminal.files import show_verified
        from neuroport.validation.divergence_text import divergence_text
        from neuroport.verbs.exchange import verify_netx

        with output.progress() as progress:
            result = verify_netx(
                network,
                progress,
                input_shape=_shape(input_shape),
                target=target,
                data=data,
                backend=backend,
                n_steps=steps,
                n_samples=samples,
                workers=workers,
                out=out,
            )
        output.show(result.report, lambda: show_verified(result))
        if not result.is_equal and result.comparison is not None:
            sys.stderr.write(f"the backend differs from the core: {result.comparison.first_mismatch}\n")
            sys.stderr.write(f"{divergence_text(result.report['backend']['divergence'])}\n")
            raise SystemExit(1)


def _check_format(name: str) -> None:
    if name not in ("netx", "nir", "pynn"):
        raise UsageError(f"--to '{name}' is not known; netx, nir and pynn are")


def _shape(text: str) -> tuple[int, ...] | None:
    try:
        shape = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"--input-shape '{text}' is not a list of whole numbers; give C,H,W: 2,34,34") from error
    if any(n < 1 for n in shape):
        raise UsageError(f"--input-shape '{text}' holds numbers below 1; give C,H,W: 2,34,34")
    return shape or None
