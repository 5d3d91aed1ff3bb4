"""pytest's plugin: collects `*.golden.h5`, and the fixture `neuroport_golden`.

pytest loads it at start-up wherever neuroport is installed, so it imports pytest and nothing else until a recording is
there; then neuroport's own modules, inside the test. A file of that suffix that begins as plain HDF5 is another
program's and left alone (a recording begins with its format, see validation/golden.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from neuroport.errors import GoldenError, NeuroportError

if TYPE_CHECKING:
    from neuroport.chip.inputs import IntInputs
    from neuroport.chip.network import IntNetwork
    from neuroport.chip.target import Target
    from neuroport.validation.recorded import Recorded

_SUFFIX = ".golden.h5"
_PLAIN_HDF5 = b"\x89HDF"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --golden-backend and --golden-record."""
    group = parser.getgroup("neuroport", "golden recordings of neuroport")
    group.addoption(
        "--golden-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run golden recordings on this backend too, once for each; cpu is the oracle",
    )
    group.addoption(
        "--golden-record",
        action="store_true",
        help="neuroport_golden.check writes recordings that are not there yet; those that are stay as they are",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Every recording is a file of tests: the core, and each --golden-backend."""
    if not file_path.name.endswith(_SUFFIX) or _is_foreign(file_path):
        return None
    found: pytest.Collector = GoldenFile.from_parent(parent, path=file_path)
    return found


def _is_foreign(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(len(_PLAIN_HDF5)) == _PLAIN_HDF5
    except OSError:
        return False  # the test will say why


class GoldenFile(pytest.File):
    """A recording."""

    def collect(self) -> Iterable[pytest.Item]:
        """One test for the core, and one for each backend asked for."""
        for name in ("core", *self.config.getoption("--golden-backend")):
            yield GoldenItem.from_parent(self, name=name)


class GoldenItem(pytest.Item):
    """A recording run again by the core or by one backend."""

    def runtest(self) -> None:
        """Fail with the first difference, or with what is wrong with the file."""
        _check(self.path, self.name)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What stands above a failure."""
        return self.path, None, f"{self.path.name}: {self.name}"


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """The test fails with neuroport's message alone, not with the errors it was raised from as well."""
    try:
        yield
    except NeuroportError as error:
        failure = pytest.fail.Exception(str(error), pytrace=False)
        raise failure from None


def _check(path: Path, runner: str) -> None:
    from neuroport.validation.golden import read_golden
    from neuroport.validation.rerun import CORE, Reruns

    with _failing():
        recorded = read_golden(path).recorded
        rerun = Reruns().core(recorded) if runner == CORE else Reruns().backend(recorded, runner)
    if not rerun.is_equal:
        pytest.fail(f"{path.name}: {rerun}", pytrace=False)


class GoldenChecker:
    """What the fixture `neuroport_golden` gives: call it with a recording, or `check` a network of yours against one.

    Paths are relative to the folder of the test file.
    """

    def __init__(self, folder: Path, backends: tuple[str, ...], *, is_recording: bool) -> None:
        self._folder, self._runners, self._is_recording = folder, ("core", *backends), is_recording

    def __call__(self, path: str | Path) -> None:
        """Run a recording again on the core and each --golden-backend; the test fails at the first differing bit."""
        for runner in self._runners:
            _check(self._folder / path, runner)

    def check(self, network: IntNetwork, inputs: IntInputs, path: str | Path, *, target: Target | None = None) -> None:
        """The same, after comparing a network and inputs that the test has just made with the recorded ones.

        Where there is no such recording, `pytest --golden-record` writes it, and the test fails without that option.
        target: the datasheet for backends, to be recorded; needed where its name is not one of neuroport's own.
        """
        from neuroport.chip.digest import first_change
        from neuroport.validation.golden import read_golden, record_run

        place = self._folder / path
        with _failing():
            if not place.exists():
                self._refuse_missing(place)
                _record(place, record_run(network, inputs, target))
            golden = read_golden(place).recorded
        change = first_change(golden.network, network) or _changed_inputs(golden.inputs, inputs)
        if change:
            pytest.fail(f"{place.name}: not what was recorded: {change}", pytrace=False)
        self(path)

    def _refuse_missing(self, place: Path) -> None:
        if not self._is_recording:
            pytest.fail(
                f"there is no recording '{place}'; run this test once with --golden-record, and keep the file under "
                f"version control",
                pytrace=False,
            )


def _record(place: Path, recorded: Recorded) -> None:
    """Write a recording, unless another process (pytest-xdist) does so in this moment; then that one counts."""
    from neuroport.validation.golden import write_golden

    try:
        write_golden(place, recorded)
    except GoldenError:
        if not place.exists():
            raise


def _changed_inputs(before: IntInputs, now: IntInputs) -> str:
    import numpy as np

    if (before.n_samples, before.n_steps) != (now.n_samples, now.n_steps):
        return (
            f"inputs: {before.n_samples} samples of {before.n_steps} steps before, {now.n_samples} of {now.n_steps} now"
        )
    if (before.spikes is None) != (now.spikes is None) or before.currents.keys() != now.currents.keys():
        return "inputs: spikes on one side, currents on the other, or of other populations"
    if before.spikes is not None and not np.array_equal(before.spikes, cast(Any, now.spikes)):
        return "inputs: other spikes"
    for name, current in before.currents.items():
        if not np.array_equal(current, now.currents[name]):
            return f"inputs: other currents of '{name}'"
    return ""


@pytest.fixture
def neuroport_golden(request: pytest.FixtureRequest) -> GoldenChecker:
    """A checker: call it with a recording, or give its `check` a network, its inputs and a recording."""
    config = request.config
    return GoldenChecker(
        request.path.parent,
        tuple(config.getoption("--golden-backend")),
        is_recording=bool(config.getoption("--golden-record")),
    )
