"""What the commands share: options, how one ends, and how results are shown."""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroport.errors import NeuroportError, UsageError

if TYPE_CHECKING:
    from neuroport.progress import Progress

INTERRUPTED, _BUG, _TERMINATED, _BROKEN_PIPE = 130, 70, 143, 141
_AGAIN_S = 0.02  # until the finalizer has ended

Model = Annotated[
    str | None,
    typer.Argument(help="A .pt2 or .onnx file, or package.module:callable; the embedded digits network if left out."),
]
Steps = Annotated[int | None, typer.Option(help="Steps per sample; the recipe's if left out.", min=1)]
Evaluate = Annotated[int, typer.Option("--eval", help="Test samples for accuracy; 0 for all.", min=0)]
LocalWorkers = Annotated[
    int | None,
    typer.Option("--workers", help="Of local: processes; by processors and memory if left out.", min=1),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report to standard output as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@dataclass(frozen=True)
class SourceFlags:
    """Where weights and samples come from, and which are chosen."""

    data: Annotated[
        Path | None,
        typer.Option(
            help=".npz or HDF5 with x_train, y_train, x_test, y_test, or x, y; image folder; package.module:callable.",
            show_default=False,
        ),
    ] = None
    scale: Annotated[float | None, typer.Option(help="Factor on the images; 1/255 for uint8 if left out.")] = None
    mean: Annotated[
        str, typer.Option(help="Subtracted after --scale: one number, or one per channel: 0.49,0.48,0.45.")
    ] = ""
    std: Annotated[str, typer.Option(help="Divides after --mean: one number, or one per channel.")] = ""
    image_size: Annotated[int | None, typer.Option(help="Side of a folder's images, in pixels.", min=1)] = None
    weights: Annotated[Path | None, typer.Option(help="State dict for package.module:callable.")] = None
    seed: Annotated[int, typer.Option(help="Chooses calibration and test samples, and a search's trials.", min=0)] = 0

    def of(self, model: str | None) -> dict[str, Any]:
        """The fields of a verb's `Source`."""
        return {
            "model": model,
            "weights": self.weights,
            "data": self.data,
            "scale": self.scale,
            "mean": numbers(self.mean, "--mean"),
            "std": numbers(self.std, "--std"),
            "image_size": self.image_size,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class EngineFlags:
    """Who runs the integer core on samples."""

    scheduler: Annotated[
        str, typer.Option(help="Who runs the core: none, threads; local, processes; or a Dask scheduler's address.")
    ] = "none"
    shared: Annotated[
        Path | None, typer.Option(help="Folder that the scheduler's workers see.", show_default=False)
    ] = None


@dataclass(frozen=True)
class OutputFlags:
    """What is printed."""

    as_json: Json = False
    quiet: Quiet = False

    def progress(self) -> AbstractContextManager[Progress]:
        """On the terminal, or none."""
        return shown_progress(quiet=self.quiet)

    def show(self, report: Mapping[str, Any] | Sequence[Mapping[str, Any]], show: Callable[[], object]) -> None:
        """The report as JSON, or `show()`, or nothing."""
        if self.as_json:
            print_json(report)
        elif not self.quiet:
            show()


@contextmanager
def reporting() -> Iterator[None]:
    """Turn every ending of a command into one clear message and its exit code."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    # a shell's background jobs start with Ctrl-C ignored; SIGTERM must run the same clean-up
    before = (
        signal.signal(signal.SIGTERM, terminate),
        signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_once_more, hook)
    try:
        yield
        sys.stdout.flush()
    except NeuroportError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say("interrupted; nothing half-written stays")
        raise SystemExit(INTERRUPTED) from error
    except BrokenPipeError as error:  # `neuroport ... | head`: the reader has gone, what it read is right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from error
    except OSError as error:
        say(f"error: {error}")
        raise SystemExit(UsageError.exit_code) from error
    except Exception as error:
        traceback.print_exc()
        say(f"error: this is a bug in neuroport ({type(error).__name__}); please report it with the lines above")
        raise SystemExit(_BUG) from error
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def _once_more(hook: Callable[[Any], None], dropped: Any) -> None:
    """An interrupt that came while Python ran a finalizer, where it drops exceptions, comes again a little later.

    Dask has the garbage collector call it (distributed/gc.py), which makes such moments frequent.
    """
    number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(dropped.exc_type)
    if number is None:
        hook(dropped)
        return
    timer = threading.Timer(_AGAIN_S, _thread.interrupt_main, (number,))
    timer.daemon = True
    timer.start()


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """The numbers of an option's list."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"{flag} '{text}' is not a list of numbers; give one, or one per channel: 0.5,0.5,0.5"
        ) from error


def shown_progress(*, quiet: bool) -> AbstractContextManager[Progress]:
    """Progress on the terminal, or none."""
    from neuroport.progress import Silent
    from neuroport.terminal.progress import TerminalProgress

    return nullcontext(Silent()) if quiet else TerminalProgress()


def print_json(report: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a report to standard output."""
    sys.stdout.write(json.dumps(report, indent=2, allow_nan=False) + "\n")


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
