"""What `neuroport search` can be told, and what it refuses before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from neuroport.chip.target import Target
from neuroport.errors import UsageError
from neuroport.mapping.floor import unsaid
from neuroport.verbs.loading import Source

OBJECTIVES = ("accuracy", "steps", "energy", "cores")
MAXIMIZED = "accuracy"  # the others are minimized
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_MOST_S = 30 * 24 * 3600.0


@dataclass(frozen=True)
class SearchOptions(Source):
    """What `neuroport search` can be told; model, data and seed: see Source.

    target, recipe: names or YAML files; the recipe says what is not searched (input, readout, pools) and is the one to
    beat; None is the target's default. objectives: some of OBJECTIVES, `accuracy` among them. trials: finished ones,
    those of earlier runs with the same storage counted. budget_s: seconds for all, the last measurements included.
    storage: an Optuna storage URL or a path of an SQLite file; None for <out>.sqlite3. samples: of the test part that
    trials are judged on; eval_samples: others of it, on which only the result is measured, None for all others; where
    there are too few for both, each gets half. max_steps: the end of the range of steps, None for the recipe's.
    min_accuracy: a fraction, None for 0.1 below the ANN. scheduler, workers, shared: see open_engine.
    out: directory, None for neuroport-out/<model>-<target>-search.
    """

    target: str | Path = "loihi-sim"
    recipe: str | Path | None = None
    objectives: tuple[str, ...] = ("accuracy", "steps")
    trials: int = 100
    budget_s: float = 1800.0
    storage: str | Path | None = None
    samples: int = 1000
    eval_samples: int | None = 1000
    max_steps: int | None = None
    min_accuracy: float | None = None
    max_cores: int | None = None
    scheduler: str = "none"
    workers: int | None = None
    shared: Path | None = None
    out: Path | None = None


def parse_budget(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        UsageError: another format, nothing, or more than 30 days.
    """
    found = _BUDGET.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total <= _MOST_S:
        raise UsageError(f"--budget '{text}' is no time up to 30 days; give it as 90s, 30m, 2h or 1h30m")
    return total


def parse_objectives(text: str) -> tuple[str, ...]:
    """The objectives of a list with commas, in the order of OBJECTIVES.

    Raises:
        UsageError: one that is unknown, one twice, or no accuracy.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    for name in given:
        if name not in OBJECTIVES:
            raise UsageError(f"--objective '{name}' is not known; choose from {','.join(OBJECTIVES)}")
        if given.count(name) > 1:
            raise UsageError(f"--objective names '{name}' twice; name each once")
    if MAXIMIZED not in given:
        raise UsageError(
            f"--objective '{text}' has no accuracy: without it a network that fires nothing is the best; add accuracy"
        )
    return tuple(name for name in OBJECTIVES if name in given)


def check_options(options: SearchOptions) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UsageError: which flag, what it was, what is allowed.
    """
    counts = {
        "--trials": options.trials,
        "--samples": options.samples,
        "--eval": options.eval_samples,
        "--max-steps": options.max_steps,
        "--max-cores": options.max_cores,
    }
    for flag, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, got {value}")
    if options.min_accuracy is not None and not 0 < options.min_accuracy <= 1:
        raise UsageError(f"--min-accuracy must be above 0 and at most 100 percent, got {100 * options.min_accuracy:g}")


def check_target(options: SearchOptions, target: Target) -> None:
    """Refuse objectives and constraints that the datasheet has no numbers for.

    Raises:
        UsageError: the flag, the target, what it lacks.
    """
    wants_cores = "cores" in options.objectives or options.max_cores is not None
    missing = unsaid(target.geometry)
    for is_wanted, flag in ((wants_cores, "cores"), ("energy" in options.objectives, "energy")):
        if is_wanted and missing:
            raise UsageError(
                f"target '{target.name}': its datasheet does not say {missing}, so {flag} cannot be counted; leave "
                f"{flag} out of --objective (and --max-cores), or search for a chip with a geometry (loihi1)"
            )
    known = [key for key, value in target.energy if key.startswith("energy_per") and value is not None]
    has_power = target.energy.step_duration_s is not None and target.energy.power_per_core_W is not None
    if "energy" in options.objectives and not known and not has_power:
        raise UsageError(
            f"target '{target.name}': its datasheet knows no energies; leave energy out of --objective, or search for "
            f"a chip whose energies are known (loihi1)"
        )
