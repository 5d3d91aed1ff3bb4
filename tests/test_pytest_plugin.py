"""The pytest plugin in real runs of pytest, loaded as an installed neuroport is: by its entry point."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from neuroport.chip.inputs import IntInputs
from neuroport.pytest_plugin import GoldenChecker
from neuroport.validation import golden
from neuroport.validation.golden import write_golden
from tests.golden.runs import a_run, with_changed_spike

ROOT = Path(__file__).resolve().parents[1]
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pytest11"]
A_NETWORK = """
    from neuroport.chip.target import load_target
    from tests.golden.features import make

    TARGET = load_target("cpu")
    NETWORK, INPUTS = make(TARGET, "currents")
"""

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module", autouse=True)
def _all_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """pytester forgets what was imported since it began, and torch cannot be imported twice: all of it before."""
    write_golden(tmp_path_factory.mktemp("first") / "n.golden.h5", a_run())


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    """An empty project in an environment where this checkout is installed."""
    before = set(sys.modules)
    site = pytester.path / "site"
    information = site / "neuroport_here-0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: neuroport-here\nVersion: 0\n")
    lines = [f"{name} = {place}" for name, place in ENTRY_POINTS.items()]
    (information / "RECORD").write_text("neuroport/__init__.py,,\n")  # pytest rewrites the modules of such packages
    (information / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    (pytester.path / "project").mkdir()
    yield pytester
    assert {
        name for name in set(sys.modules) - before if name.split(".")[0] in ("neuroport", "numba", "torch")
    } == set()


def run(session: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "project", *arguments]
    return session.run(*command, timeout=200)


def place(session: pytest.Pytester, name: str = "net.golden.h5") -> Path:
    return session.path / "project" / name


def write_test(session: pytest.Pytester, body: str, head: str = "") -> None:
    lines = [line.removeprefix("    ") for line in f"{head}{body}".splitlines()]
    (session.path / "project" / "test_own.py").write_text("\n".join(lines) + "\n")


def test_recordings_are_collected_and_run(session: pytest.Pytester) -> None:
    write_golden(place(session), a_run())
    (session.path / "project" / "deep").mkdir()
    write_golden(place(session, "deep/other.golden.h5"), a_run("cpu", "currents"))
    found = run(session, "--golden-backend", "cpu")
    found.assert_outcomes(passed=4)
    found.stdout.fnmatch_lines(["*net.golden.h5::core PASSED*", "*net.golden.h5::cpu PASSED*"])
    run(session, "-k", "core", "--deselect", "project/net.golden.h5").assert_outcomes(passed=1, deselected=1)
    run(session, "-p", "no:neuroport").assert_outcomes()
    run(session, "--ignore-glob=*.golden.h5").assert_outcomes()


def test_a_differing_and_a_damaged_recording_fail_with_their_report(session: pytest.Pytester) -> None:
    write_golden(place(session, "differs.golden.h5"), with_changed_spike(a_run(), "leaky", (1, 7, 2, 3, 1)))
    write_golden(place(session, "cut.golden.h5"), a_run())
    place(session, "cut.golden.h5").write_bytes(place(session, "cut.golden.h5").read_bytes()[:900])
    place(session, "empty.golden.h5").write_bytes(b"")
    found = run(session, "--golden-backend", "nosuch")
    found.assert_outcomes(failed=6)
    found.stdout.fnmatch_lines(
        [
            "*cut.golden.h5: core*",
            "*cut.golden.h5' was damaged, cut short or edited since it was written*",
            "*differs.golden.h5: core differs from the recording in 1 of *",
            "*population 'leaky', neuron [[]2, 3, 1[]], sample 1, step 7: spike is *",
            "*unknown backend 'nosuch'*",
            "*empty.golden.h5' is no golden recording of neuroport, or is damaged: it is empty*",
        ]
    )
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.no_fnmatch_line("*Traceback*")
    found.stdout.no_fnmatch_line("*During handling of*")


def test_another_program_s_files_are_left_alone(session: pytest.Pytester) -> None:
    with h5py.File(place(session, "other.golden.h5"), "w") as f:
        f["x"] = 1
    place(session, "net.h5").write_bytes(b"")
    (session.path / "project" / "folder.golden.h5").mkdir()
    run(session).assert_outcomes()


def test_the_fixture_checks_a_file_beside_the_test(session: pytest.Pytester) -> None:
    (session.path / "project" / "files").mkdir()
    write_golden(place(session, "files/good.golden.h5"), a_run())
    write_golden(place(session, "files/other.golden.h5"), with_changed_spike(a_run(), "conv", (0, 0, 0, 0, 0)))
    write_test(
        session,
        """
    def test_good(neuroport_golden):
        neuroport_golden("files/good.golden.h5")

    def test_other(neuroport_golden):
        neuroport_golden("files/other.golden.h5")

    def test_missing(neuroport_golden):
        neuroport_golden("files/missing.golden.h5")
    """,
    )
    found = run(session, "--ignore=project/files", "--golden-backend=cpu")
    found.assert_outcomes(passed=1, failed=2)
    found.stdout.fnmatch_lines(
        ["*other.golden.h5: core differs from the recording in 1 of*", "*missing.golden.h5' cannot be read: No such*"]
    )


def test_a_network_of_the_user_s_own_is_recorded_once_and_held_against_it(session: pytest.Pytester) -> None:
    body = """
    def test_net(neuroport_golden):
        neuroport_golden.check(NETWORK, INPUTS, "net.golden.h5", target=TARGET)
    """
    write_test(session, body, A_NETWORK)
    found = run(session)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*there is no recording '*net.golden.h5'; run this test once with --golden-record*"])
    assert not place(session).exists()
    run(session, "--golden-record").assert_outcomes(passed=1)
    content = place(session).read_bytes()
    run(session, "--golden-backend=cpu").assert_outcomes(passed=3)  # the file is collected too
    write_test(session, OTHERS, A_NETWORK)
    found = run(session, "--golden-record", "--ignore-glob=*.golden.h5")
    found.assert_outcomes(failed=3)
    found.stdout.fnmatch_lines(
        [
            "*net.golden.h5: not what was recorded: target: cpu before, mychip now*",
            "*net.golden.h5: not what was recorded: projections[[]1[]].synapse.mantissa: other values*",
            "*net.golden.h5: not what was recorded: inputs: other currents of 'pixels'*",
        ]
    )
    assert place(session).read_bytes() == content


OTHERS = """
    from dataclasses import replace

    def test_target(neuroport_golden):
        neuroport_golden.check(replace(NETWORK, target="mychip"), INPUTS, "net.golden.h5")

    def test_weight(neuroport_golden):
        mantissa = NETWORK.projections[1].synapse.mantissa.copy()
        mantissa[-1] -= 1
        changed = replace(NETWORK.projections[1], synapse=replace(NETWORK.projections[1].synapse, mantissa=mantissa))
        projections = (NETWORK.projections[0], changed, *NETWORK.projections[2:])
        neuroport_golden.check(replace(NETWORK, projections=projections), INPUTS, "net.golden.h5")

    def test_inputs(neuroport_golden):
        inputs = replace(INPUTS, currents={"pixels": INPUTS.currents["pixels"] + 1})
        neuroport_golden.check(NETWORK, inputs, "net.golden.h5")
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda inputs: inputs.part(slice(0, 1)), "inputs: 2 samples of 32 steps before, 1 of 32 now"),
        (lambda inputs: replace(inputs, spikes=1 - inputs.spikes), "inputs: other spikes"),
        (lambda inputs: IntInputs(2, 32, None, {"a": inputs.spikes[:, 0]}), "inputs: spikes on one side, currents on"),
    ],
)
def test_what_changed_in_the_inputs(tmp_path: Path, change: Callable[[IntInputs], IntInputs], said: str) -> None:
    """In this process: the fixture's own words."""
    recorded = a_run()
    write_golden(tmp_path / "net.golden.h5", recorded)
    checker = GoldenChecker(tmp_path, (), is_recording=False)
    with pytest.raises(pytest.fail.Exception, match=said):
        checker.check(recorded.network, change(recorded.inputs), "net.golden.h5")


def test_another_process_may_record_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pytest-xdist: the file appears between the look for it and the writing."""
    recorded = a_run("cpu", "currents")

    def a_moment_late(path: Path, *arguments: object, **options: object) -> int:
        write_golden(path, recorded)
        return write_golden(path, *arguments, **options)

    monkeypatch.setattr(golden, "write_golden", a_moment_late)
    checker = GoldenChecker(tmp_path, (), is_recording=True)
    checker.check(recorded.network, recorded.inputs, "net.golden.h5", target=recorded.sheet)
    assert (tmp_path / "net.golden.h5").is_file()
    with pytest.raises(pytest.fail.Exception, match="is no folder"):
        checker.check(recorded.network, recorded.inputs, "none/net.golden.h5")


def test_pytest_starts_without_torch_and_numba(session: pytest.Pytester) -> None:
    """Other people's tests: the plugin is there, and nothing heavy is imported for them."""
    write_test(
        session,
        """
    import sys

    def test_light(pytestconfig):
        assert pytestconfig.pluginmanager.has_plugin("neuroport")
        heavy = {"torch", "numba", "h5py", "numpy", "scipy", "pydantic", "typer", "neuroport.chip"}
        assert not heavy & set(sys.modules)
    """,
    )
    run(session, "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_neuroport_works_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import neuroport.cli, neuroport.validation.golden"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
