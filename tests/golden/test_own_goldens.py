"""Our own golden recordings: one pair for every datasheet, never changed, and sharp enough to notice a changed rule.

New ones: `python -m tests.golden.record TARGET >> tests/golden/hashes.txt`, and a line in LACKING for what the chip
does not have. Those that are there are never written again: where a datasheet's arithmetic changes on purpose, the old
file and its line are deleted in the same commit, which says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neuroport.chip.core import run_core
from neuroport.chip.files import KINDS as SYNAPSES
from neuroport.chip.network import IntNetwork
from neuroport.chip.oracle import run_oracle
from neuroport.datasheets import names
from neuroport.errors import GoldenError
from neuroport.validation.divergence import compare
from neuroport.validation.golden import SUFFIX, check_golden, read_golden
from tests.golden.features import KINDS
from tests.golden.mutations import mutations
from tests.golden.record import FOLDER, line_of, main, sheets_of

SHEETS = {label: sheet for name in names("targets") for label, sheet in sheets_of(name).items()}
TARGETS = list(SHEETS)
HASHES = (FOLDER / "hashes.txt").read_text("utf-8").splitlines()
ALL = {*SYNAPSES.values(), "zero", "subtract", "leak", "current decay", "clamp", "v_init", "bias", "skip", "exponent"}
ALL |= {"current", "spikes", "count", "membrane"}
# What a chip does not have; everything else is in its recordings.
LACKING = {
    "cpu": set[str](),
    "loihi-sim": {"window"},
    "loihi1": {"window", "v_init"},
    "loihi2": {"window"},
    "spinnaker1.if-curr-delta": {"window", "subtract", "clamp", "exponent"},
    "spinnaker1.if-trunc-delta": {"window", "subtract", "clamp", "exponent", "leak"},
    "spinnaker2": {"window", "exponent"},
}
# Rules that no small network brings to their end: 32 bits of current or potential, sums of 65,535.
OUT_OF_REACH = {
    "cpu": {"current.overflow"},
    "spinnaker1.if-curr-delta": {"accumulators", "membrane.bits", "membrane.overflow"},
    "spinnaker1.if-trunc-delta": {"accumulators", "current.overflow"},
    "spinnaker2": {"current.overflow"},
}


def path_of(target: str, kind: str) -> Path:
    return FOLDER / f"{target}-{kind}{SUFFIX}"


def networks_of(target: str) -> list[IntNetwork]:
    return [read_golden(path_of(target, kind)).recorded.network for kind in KINDS]


def features(network: IntNetwork) -> Iterator[str]:
    for p in network.populations:
        if p.role == "input" or p.driven:
            yield "spikes" if p.role == "input" else "current"
        if p.role == "hidden" and not p.gate:
            yield p.reset
        for name, is_there in {
            "leak": p.decay,
            "current decay": p.current_decay,
            "clamp": p.clamp_until,
            "v_init": p.v_init_int,
            "bias": p.bias_mantissa.any(),
        }.items():
            if is_there:
                yield name
    for j in network.projections:
        yield SYNAPSES[type(j.synapse)]
        if j.exponent:
            yield "exponent"
        if network.depth[j.post] - network.depth[j.pre] > 1:
            yield "skip"
    for head in network.heads:
        yield head.read
        yield network.by_name[head.population].reset if head.read == "count" else "membrane"


def test_every_datasheet_has_its_recordings_and_they_are_those_once_written() -> None:
    found = sorted(FOLDER.glob(f"*{SUFFIX}"))
    assert {path.name for path in found} == {path_of(t, kind).name for t in TARGETS for kind in KINDS}
    assert sorted(line_of(path) for path in found) == sorted(HASHES)
    assert max(path.stat().st_size for path in found) < 50_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_core_and_oracle_give_what_was_recorded(target: str, kind: str) -> None:
    golden = read_golden(path_of(target, kind))
    assert golden.recorded.network.arithmetic == SHEETS[target].arithmetic, "the datasheet's arithmetic is another"
    for rerun in check_golden(path_of(target, kind), ["cpu"]):
        assert rerun.is_equal, str(rerun)
        assert rerun.comparison.compared_spikes > 500


@pytest.mark.parametrize("target", TARGETS)
def test_a_datasheet_s_recordings_hold_all_that_its_neurons_can_do(target: str) -> None:
    found = {name for network in networks_of(target) for name in features(network)}
    assert found == ALL - LACKING[target]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_population_fires_and_none_always(target: str, kind: str) -> None:
    recorded = read_golden(path_of(target, kind)).recorded
    for p in recorded.network.populations:
        if p.role != "input" and p.name != "out":
            assert 0.1 < recorded.trace.spikes[p.name].mean() < 0.7


@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_rule_or_number_is_noticed(target: str) -> None:
    """Each population's own numbers by its own recording, the rules of the arithmetic by one of the two."""
    unnoticed: dict[str, int] = {}
    for kind in KINDS:
        recorded = read_golden(path_of(target, kind)).recorded
        made = list(mutations(recorded.network))
        assert len(made) > 20
        for what, network in made:
            trace = run_oracle(network, recorded.inputs)
            is_equal = all((trace.spikes[name] == x).all() for name, x in recorded.trace.spikes.items())
            if is_equal and all((trace.potentials[name] == v).all() for name, v in recorded.trace.potentials.items()):
                unnoticed[what] = unnoticed.get(what, 0) + (1 if " " not in what else len(KINDS))
    assert {what for what, n in unnoticed.items() if n >= len(KINDS)} == OUT_OF_REACH.get(target, set())


def test_the_core_with_another_comparison_is_told_by_where_it_first_differs() -> None:
    recorded = read_golden(path_of("loihi1", "spikes")).recorded
    a = recorded.network.arithmetic
    other = a.model_copy(update={"threshold": a.threshold.model_copy(update={"compare": ">="})})
    trace = run_core(replace(recorded.network, arithmetic=other), recorded.inputs, record="spikes").trace
    first = compare(recorded.network, recorded.inputs, recorded.trace, trace).first_mismatch
    assert first is not None
    threshold = recorded.network.by_name["conv"].threshold_mantissa << a.threshold.shift
    assert (first.population, first.what, first.core, first.backend) == ("conv", "spike", 0, 1)
    assert threshold in first.core_v


@pytest.mark.lava
@pytest.mark.parametrize("target", [t for t in TARGETS if "lava" in SHEETS[t].backends])
def test_lava_gives_what_was_recorded(lava: object, target: str) -> None:
    for kind in KINDS:
        (_, rerun) = check_golden(path_of(target, kind), ["lava"])
        assert rerun.is_equal, str(rerun)


def test_the_script_writes_two_lines_and_never_over_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["loihi2"], tmp_path)
    assert capsys.readouterr().out.splitlines() == [line_of(tmp_path / path_of("loihi2", k).name) for k in KINDS]
    with pytest.raises(GoldenError, match="is there already, and recordings are written once"):
        main(["loihi2"], tmp_path)
