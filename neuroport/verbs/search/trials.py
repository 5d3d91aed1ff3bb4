"""The trials, one after the other, until there are enough, the time is over, or somebody presses Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.errors import ConversionError, DoesNotFitError, UsageError
from neuroport.progress import Progress
from neuroport.verbs.search.bench import Bench, Step, Value
from neuroport.verbs.search.options import MAXIMIZED
from neuroport.verbs.search.points import Done, Share, frontier, is_hopeless, packed, share_of, unpacked
from neuroport.verbs.search.space import Candidate, Space
from neuroport.verbs.search.study import Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

Ended = Literal["trials", "budget", "interrupted"]


class _Pruned(Exception):  # noqa: N818 - no error: it carries why a trial ends
    """The trial is not worth more."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(reason)
        self.step = step


class _OutOfTime(Exception):  # noqa: N818 - no error
    """The budget ends in the middle of a trial."""


@dataclass(frozen=True, eq=False)
class Found:
    """A point of the frontier: the trial's number, what it chose, and what it was worth on the samples searched on."""

    trial: int
    params: dict[str, Any]
    candidate: Candidate
    share: Share
    costs: dict[str, float]
    digest: str
    energy_notes: dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class Trials:
    """Runs trials of a study.

    ann: [N], which samples searched on the ANN has right; least: accuracy below which nothing counts; deadline: of
    time.monotonic().
    """

    bench: Bench
    space: Space
    study: Study
    objectives: tuple[str, ...]
    ann: NDArray[np.bool_]
    least: float
    max_cores: int | None
    n_held_out: int
    deadline: float
    progress: Progress

    def run(self, n_trials: int, starts: Sequence[dict[str, Any]]) -> Ended:
        """Until n_trials are finished, those of earlier runs counted; a trial that is cut leaves nothing behind."""
        try:
            while (n := len(self.study.finished())) < n_trials:
                if time.monotonic() + self._reserve_s() > self.deadline:
                    return "budget"
                trial = self.study.ask(self.bench.seed, starts)
                said = self._run(trial)
                self.progress.stage(f"trial {n + 1} of {n_trials}: {said}")
        except _OutOfTime:
            self.study.drop_cut()
            return "budget"
        except KeyboardInterrupt:
            self.study.drop_cut()
            if not self.study.complete():
                raise
            return "interrupted"
        return "trials"

    def frontier(self) -> list[Found]:
        """The points that meet the constraints and that no other dominates, on the samples searched on.

        Raises:
            DoesNotFitError: none meets them; the best there is is named. UsageError: no trial came to its end.
        """
        finished, complete = self.study.finished(), self.study.complete()
        if not finished:
            raise UsageError("--budget was over before the first trial; give more time, the search then goes on")
        allowed = [t for t in complete if self._is_allowed(t)]
        if not allowed:
            raise DoesNotFitError(self._nothing(finished))
        points = [self._point(t) for t in allowed]
        return [self._found(allowed[k]) for k in frontier(points)]

    def _run(self, trial: Trial) -> str:
        """Run one trial; what came of it, in a few words."""
        candidate = self.space.choose(trial)
        twin = next((t for t in self.study.finished() if t.params == trial.params), None)
        if twin is not None:
            values = twin.values if twin.values else None
            self.study.end(trial, values, twin.constraints, **{**twin.user_attrs, "rung": "repeated"})
            return f"as trial {twin.number}"
        began, done = time.monotonic(), [_done(t) for t in self.study.complete()]

        reserve_s = self._reserve_s()

        def on_shard() -> None:
            if time.monotonic() + reserve_s > self.deadline:
                raise _OutOfTime

        def on_rung(step: Step) -> None:
            on_shard()
            self._judge(step, done)

        try:
            value = self.bench.value(candidate, on_rung, on_shard)
        except _Pruned as pruned:
            step = pruned.step
            violations = self._violations(step.share, step.costs)
            facts = {"rung": step.rung, "right": step.share.n_right, "samples": step.share.n, "costs": step.costs}
            self.study.end(trial, None, violations, **facts, seconds=time.monotonic() - began)
            return f"{100 * step.share.accuracy:.1f} % at {step.rung}, {pruned}"
        except ConversionError as error:
            self.study.end(trial, None, {"fits": 1.0}, rung="refused", problem=str(error))
            return f"refused: {error}"
        return self._complete(trial, value, time.monotonic() - began)

    def _complete(self, trial: Trial, value: Value, seconds: float) -> str:
        share = share_of(value.is_right)
        point = value.costs | {MAXIMIZED: share.accuracy}
        facts = {
            "rung": "core",
            "right": share.n_right,
            "samples": share.n,
            "is_right": packed(value.is_right),
            "costs": value.costs,
            "digest": value.digest,
            "made_s": value.made_s,
            "core_s": value.core_s,
            "seconds": seconds,
            "energy_notes": value.energy_notes,
        }
        values = [point[name] for name in self.objectives]
        self.study.end(trial, values, self._violations(share, value.costs), **facts)
        shown = ", ".join(f"{name} {cost:.4g}" for name, cost in value.costs.items())
        return f"{100 * share.accuracy:.2f} %, {shown}"

    def _judge(self, step: Step, done: Sequence[Done]) -> None:
        """End a trial that is not worth more.

        Optuna's own pruners compare one objective and refuse studies of several (optuna 5.0.0, trial/_trial.py l.482
        and 539), so the rule is ours: a trial ends where even the upper end of its interval is dominated.
        """
        if self.max_cores is not None and step.costs.get("cores", 0) > self.max_cores:
            raise _Pruned(step, "too many cores")
        costs = {name: step.costs[name] for name in self.objectives if name in step.costs}
        # where a cost is not known yet, a point that looks worse may still be the cheapest
        known = done if len(costs) == len(self.objectives) - 1 else []
        if is_hopeless(step.share, costs, known, self.least, self.ann):
            raise _Pruned(step, "not worth more")

    def _violations(self, share: Share, costs: dict[str, float]) -> dict[str, float]:
        found = {"accuracy": self.least - share.accuracy}
        if self.max_cores is not None and "cores" in costs:
            found["cores"] = costs["cores"] - self.max_cores
        return found

    def _is_allowed(self, trial: FrozenTrial) -> bool:
        facts = trial.user_attrs
        share = Share(facts["right"], facts["samples"])
        return all(v <= 0 for v in self._violations(share, facts["costs"]).values())

    def _point(self, trial: FrozenTrial) -> dict[str, float]:
        return dict(zip(self.objectives, trial.values or (), strict=True))

    def _found(self, trial: FrozenTrial) -> Found:
        facts, candidate = trial.user_attrs, self.space.choose(self.study.chosen(trial.params))
        share = Share(facts["right"], facts["samples"])
        costs, notes = dict(facts["costs"]), dict(facts["energy_notes"])
        return Found(trial.number, dict(trial.params), candidate, share, costs, facts["digest"], notes)

    def _reserve_s(self) -> float:
        """What it will take to make the points of the frontier again and to measure them on the held-out samples."""
        done = [t for t in self.study.complete() if self._is_allowed(t)]
        kept = [done[k].user_attrs for k in frontier([self._point(t) for t in done])]
        return float(sum(f["made_s"] + f["core_s"] * self.n_held_out / f["samples"] for f in kept))

    def _nothing(self, finished: Sequence[FrozenTrial]) -> str:
        seen = [t.user_attrs for t in finished if "right" in t.user_attrs]
        wanted = [f"{100 * self.least:.4g} % accuracy"]
        wanted += [f"{self.max_cores:,} cores at most"] if self.max_cores is not None else []
        text = f"none of {len(finished)} trials has {' and '.join(wanted)} in up to {self.space.steps[1]} steps"
        if not seen:
            problems = [str(t.user_attrs["problem"]) for t in finished if "problem" in t.user_attrs]
            return f"{text}: all were refused, the first because: {problems[0]}"
        best = max(seen, key=lambda f: f["right"] / f["samples"])
        fewest = min((f["costs"]["cores"] for f in seen if "cores" in f["costs"]), default=None)
        least = "" if fewest is None else f", the fewest cores {fewest:,}"
        return (
            f"{text}; the most accurate one has {100 * best['right'] / best['samples']:.2f} % of {best['samples']} "
            f"samples{least}; ask for less (--min-accuracy, --max-steps, --max-cores), or give more --trials"
        )


def _done(trial: FrozenTrial) -> Done:
    facts = trial.user_attrs
    return Done(facts["costs"], unpacked(facts["is_right"], facts["samples"]))
