"""The study: Optuna's storage, its sampler, and trials that come again in the same order.

Every trial is asked with a sampler whose seed is that of the search and the number of trials finished before, so a
search that was cut and goes on asks what one without a cut asks. Cut trials count as failed, which the sampler ignores.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from neuroport.errors import UsageError
from neuroport.verbs.search.options import MAXIMIZED
from neuroport.verbs.search.space import Chooser

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

_STARTUP = 12  # trials drawn at random or given, before the sampler learns


def optuna_module() -> ModuleType:
    """Optuna, told to be quiet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"`neuroport search` needs Optuna ({error}): pip install 'neuroport[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def storage_url(storage: str | Path) -> str:
    """The URL of a storage: as it is, or that of an SQLite file."""
    text = str(storage)
    return text if "://" in text else f"sqlite:///{Path(text).absolute()}"


def shown_url(url: str) -> str:
    """The URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.split("://", maxsplit=1)[0] + "://..."


@contextmanager
def opened(storage: str | Path, name: str, directions: Sequence[str]) -> Iterator[Study]:
    """The study of that name in a storage, made if it is not there; a file belongs to one search at a time.

    Raises:
        UsageError: no Optuna, a storage that cannot be opened or is in use.
    """
    optuna = optuna_module()
    url = storage_url(storage)
    from sqlalchemy.exc import SQLAlchemyError

    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    with _alone(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                store = optuna.storages.get_storage(url)
                study = optuna.create_study(
                    storage=store, study_name=name, directions=list(directions), load_if_exists=True
                )
        except (SQLAlchemyError, ImportError, ValueError, RuntimeError, OSError) as error:
            raise UsageError(
                f"--storage '{shown_url(url)}' cannot be opened: {_first_line(error)}; give a path for an SQLite file "
                f"in a directory that can be written, or an Optuna URL (postgresql://user:password@host/name) whose "
                f"driver is installed"
            ) from error
        try:
            yield Study(study, optuna)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise UsageError(
                f"--storage '{shown_url(url)}' failed during the search: {_first_line(error)}; finished trials that it "
                f"holds are kept: see that it works, then give the same command"
            ) from error
        finally:
            store.remove_session()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """The only search that uses a file; what a server stores is for its users to keep apart."""
    if path is None:
        yield
        return
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"--storage '{path}' is in use by another search; wait for it, or give this one a file of its own"
        ) from error
    except OSError as error:
        raise UsageError(
            f"--storage '{path}' cannot be opened: {error.strerror or error}; give a path in a directory that can be "
            f"written"
        ) from error
    try:
        yield
    finally:
        lock.release()


def name_of(identity: Mapping[str, Any]) -> str:
    """The study's name, of all that its trials depend on: another network, data or seed is another study."""
    text = json.dumps(identity, sort_keys=True)
    return f"neuroport-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class Study:
    """One search's trials in a storage."""

    def __init__(self, study: optuna.Study, module: Any) -> None:
        self.study, self.optuna = study, module
        self.states = module.trial.TrialState
        self.drop_cut()  # of a process that was killed

    def finished(self) -> list[FrozenTrial]:
        """Trials that ran to their end or were pruned, in their order."""
        return self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE, self.states.PRUNED))

    def complete(self) -> list[FrozenTrial]:
        """Those that ran to their end."""
        return self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE,))

    def ask(self, seed: int, starts: Sequence[Mapping[str, Any]]) -> Trial:
        """The next trial: of the starts while there are some left, then what the sampler chooses."""
        n = len(self.finished())
        own_seed = int(np.random.SeedSequence([seed, n]).generate_state(1)[0])
        with self._quiet():
            self.study.sampler = self.optuna.samplers.TPESampler(
                seed=own_seed, multivariate=True, group=True, n_startup_trials=_STARTUP
            )
            waiting = self.study.get_trials(deepcopy=False, states=(self.states.WAITING,))
            if n < len(starts) and not waiting:
                self.study.enqueue_trial(dict(starts[n]))
            return self.study.ask()

    def end(self, trial: Trial, values: Sequence[float] | None, violations: Mapping[str, float], **facts: Any) -> None:
        """End a trial with its objectives, or without them where it is not worth more.

        violations: by constraint, above 0 where it is not met; facts: kept with the trial, as JSON.
        """
        with self._quiet():
            for name, value in violations.items():
                trial.set_constraint(name, value)
        for name, fact in facts.items():
            trial.set_user_attr(name, fact)
        if values is None:
            self.study.tell(trial, state=self.states.PRUNED)
        else:
            self.study.tell(trial, list(values))

    def drop_cut(self) -> None:
        """Drop trials that were cut: they will be asked again."""
        for left in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self.study.tell(left.number, state=self.states.FAIL)

    def chosen(self, params: Mapping[str, Any]) -> Chooser:
        """What chooses these parameters again."""
        fixed: Chooser = self.optuna.trial.FixedTrial(dict(params))
        return fixed

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without Optuna's word that what it offers may change."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            yield


def directions_of(objectives: Sequence[str]) -> list[str]:
    """Optuna's word for each objective."""
    return ["maximize" if name == MAXIMIZED else "minimize" for name in objectives]
