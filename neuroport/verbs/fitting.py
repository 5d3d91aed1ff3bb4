"""`map` and `fit`: a network onto the cores of one chip, or of all that are known, without running a simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from neuroport.bundle import check_place, staged_bundle
from neuroport.bundle import verify as verify_bundle
from neuroport.chip.files import read_inputs, read_network, write_network
from neuroport.chip.inputs import EncodedInputs, Inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target, load_target
from neuroport.datasheets import names
from neuroport.engine import evaluate_samples
from neuroport.errors import BundleError, ConversionError, DoesNotFitError, UsageError
from neuroport.mapping.activity import measure
from neuroport.mapping.cost import n_macs
from neuroport.mapping.floor import unsaid
from neuroport.mapping.mapped import Mapped, check_geometry, map_to_cores
from neuroport.mapping.picture import draw_mesh
from neuroport.mapping.precision import within
from neuroport.mapping.report import mapping_report, placement_data
from neuroport.normalize.recipe import load_recipe
from neuroport.progress import Progress, Silent
from neuroport.validation.html.tables import write_mapping_page
from neuroport.validation.outputs import TestSet
from neuroport.validation.report import versions, write_report
from neuroport.verbs.conversion import COMPARED_SAMPLES, Conversion, Made, calibration_set
from neuroport.verbs.loading import Source, load_source

DEFAULT_TARGET, DEFAULT_STEPS = "loihi1", 64
FIT_SCHEMA = "neuroport-fit/1"


@dataclass(frozen=True)
class MapOptions(Source):
    """What `neuroport map` and `fit` can be told; model, data and seed: see Source.

    model: also a bundle of `neuroport deploy`, or a network.h5; with those no data are needed. target: a name or YAML
    file; None for the bundle's own, or loihi1; recipe: None is the target's default. steps: None for the recipe's, or
    for those of recorded spikes. samples: of the calibration data, whose spikes on the core are counted. max_cores: the
    most cores to use. out: directory, None for neuroport-out/<model>-<target>-map.
    """

    target: str | Path | None = None
    recipe: str | Path | None = None
    steps: int | None = None
    samples: int = 32
    max_cores: int | None = None
    out: Path | None = None


@dataclass(frozen=True, eq=False)
class MapRun:
    """What came of it: where the files lie, the mapping, and mapping.json as data."""

    out: Path
    mapped: Mapped
    report: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Fit:
    """One row for each target; the same as data."""

    report: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Subject:
    """An integer network, what it was made of, and inputs to measure its spikes with (None: there are none).

    made, calibration: of a network converted here.
    """

    name: str
    network: IntNetwork
    target: Target
    inputs: Inputs | None
    recipe: str | None = None
    n_macs: int | None = None
    made: Made | None = None
    calibration: TestSet | None = None


def map_model(options: MapOptions, progress: Progress | None = None) -> MapRun:
    """Map a network and write mapping.json, placement.json and mesh.svg, or nothing if it does not fit.

    A network converted here is written as network.h5 beside them, with its recipe's name in mapping.json.

    Raises:
        UsageError: wrong options or files (exit code 2). ConversionError: the network cannot be converted, or does not
        fit (3); layer, value, limit and what would make it fit are named.
    """
    progress = progress or Silent()
    _check(options)
    made = _Maker(options, progress)
    is_stored = _is_stored(options.model)
    subject = _stored(options, progress) if is_stored else made.subject(load_target(options.target or DEFAULT_TARGET))
    out = options.out or Path("neuroport-out") / f"{subject.name}-{subject.target.name}-map"
    check_place(out)
    precision = None
    if options.max_cores is not None:
        subject, precision = _within(subject, options.max_cores, made, progress)
    mapped = _mapped(subject, options, progress)
    report = {
        "model": subject.name,
        "recipe": subject.recipe,
        **mapping_report(mapped),
        "precision": precision,
        "versions": versions(),
    }
    progress.stage(f"writing {out}")
    with staged_bundle(out) as stage:
        write_report(stage / "mapping.json", report)
        write_report(stage / "placement.json", placement_data(mapped))
        mesh = draw_mesh(mapped, f"{subject.name} on {subject.target.name}")
        (stage / "mesh.svg").write_text(mesh, encoding="utf-8")
        write_mapping_page(stage, report, mesh)
        if subject.made is not None:
            write_network(stage / "network.h5", subject.network)
        text = yaml.safe_dump(subject.target.model_dump(mode="json", exclude_none=True), sort_keys=False)
        (stage / "target.yaml").write_text(text, encoding="utf-8")
    return MapRun(out, mapped, report)


def _within(
    subject: _Subject, max_cores: int, made: _Maker, progress: Progress
) -> tuple[_Subject, dict[str, Any] | None]:
    """The network on max_cores at most: as it is, or with the most weight bits that allow it, and what that costs.

    Raises:
        DoesNotFitError: no precision is enough, or the network cannot be quantized again.
    """
    progress.stage(f"looking for at most {max_cores:,} core{'s' * (max_cores > 1)}")
    coarse = subject

    def quantized(target: Target) -> IntNetwork:
        nonlocal coarse
        coarse = replace(made.subject(target), target=subject.target)
        return coarse.network

    budget = within(subject.network, subject.target, max_cores, None if subject.made is None else quantized)
    if budget.fits:
        return subject, None
    if budget.option is None:
        raise DoesNotFitError(f"{budget.summary}; allow more cores, or use a smaller network")
    if subject.made is None:
        raise DoesNotFitError(f"{budget.summary}; give the trained network, which can be quantized so")
    before, after = (_accuracy(s, made.options.seed) for s in (subject, coarse))
    return coarse, {
        "summary": budget.summary,
        "weight_bits": budget.option.weight_bits,
        "cores_before": len(budget.partition.cores),
        "accuracy_before": before,
        "accuracy_after": after,
    }


def _accuracy(subject: _Subject, seed: int) -> float | None:
    """On some samples of the calibration data, on the core; None of a network that is not made here."""
    if subject.made is None or subject.calibration is None or subject.inputs is None:
        return None
    samples = subject.calibration.first(COMPARED_SAMPLES)
    network, normalized = subject.made.recalibrated.quantized.network, subject.made.recalibrated.normalized
    return evaluate_samples(network, normalized, samples, subject.inputs.n_steps, seed=seed).complete().accuracy


def fit(options: MapOptions, progress: Progress | None = None, *, targets: Sequence[str | Path] = ()) -> Fit:
    """Map a trained network onto every target whose cores are known; why not, where it does not fit.

    Each target is tried with its own default recipe, unless one is given. targets: names or YAML files; none for the
    one of the options, or all that are known.

    Raises:
        UsageError: wrong options or files. ConversionError: the network itself cannot be read.
    """
    progress = progress or Silent()
    _check(options)
    if _is_stored(options.model):
        raise UsageError(f"'{options.model}' is quantized for one chip; `fit` compares chips: give the trained network")
    chosen = targets or (names("targets") if options.target is None else [options.target])
    wanted = [load_target(name) for name in chosen]
    made = _Maker(options, progress)
    rows = [_row(target, made, options, progress) for target in wanted]
    return Fit({"schema": FIT_SCHEMA, "model": made.ann.name, "rows": rows, "versions": versions()})


def _row(target: Target, made: _Maker, options: MapOptions, progress: Progress) -> dict[str, Any]:
    row: dict[str, Any] = {"target": target.name, "fits": None, "why_not": None, "mapping": None}
    if missing := unsaid(target.geometry):
        return row | {"why_not": f"its datasheet does not say {missing}"}
    try:
        mapped = _mapped(made.subject(target), options, progress)
    except ConversionError as error:
        return row | {"fits": False, "why_not": str(error)}
    return row | {"fits": True, "mapping": mapping_report(mapped)}


class _Maker:
    """Integer networks of one trained network, which is read once."""

    def __init__(self, options: MapOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.conversions: dict[tuple[int | None, int], Conversion] = {}
        if not _is_stored(options.model):
            progress.stage("reading model and data")
            steps = load_recipe(options.recipe).steps if options.recipe else options.steps or DEFAULT_STEPS
            self.ann, self.dataset = load_source(options, steps)

    def subject(self, target: Target) -> _Subject:
        """The network for a target, with the target's neuron that suits it best."""
        options = self.options
        check_geometry(target)
        recipe = load_recipe(options.recipe or target.default_recipe)
        self.progress.stage(f"recipe {recipe.name} for {target.name}")
        n_steps = options.steps or self.dataset.n_steps or recipe.steps
        key = (recipe.calibration_samples, n_steps)
        if key not in self.conversions:
            calibration = calibration_set(self.ann, self.dataset, recipe, n_steps, options.seed)
            events = self.dataset.has_events
            self.conversions[key] = Conversion(
                self.ann, calibration, n_steps, events, options.seed, self.progress.stage
            )
        conversion = self.conversions[key]
        made = conversion.made(target, recipe)
        network = made.recalibrated.quantized.network
        few = conversion.calibration.samples(slice(0, options.samples))
        inputs = EncodedInputs(made.recalibrated.normalized.network, network, few, n_steps)
        macs, shown = n_macs(self.ann.graph), conversion.calibration
        return _Subject(self.ann.name, network, made.target, inputs, made.recipe.name, macs, made, shown)


def _mapped(subject: _Subject, options: MapOptions, progress: Progress) -> Mapped:
    activity = None
    if subject.inputs is not None:
        progress.stage(f"counting spikes of {subject.inputs.n_samples} samples on the core")
        activity = measure(subject.network, subject.inputs)
    progress.stage(f"mapping onto {subject.target.name}")
    return map_to_cores(
        subject.network,
        subject.target,
        activity,
        n_macs=subject.n_macs,
        seed=options.seed,
    )


def _check(options: MapOptions) -> None:
    for flag, value in (("--samples", options.samples), ("--steps", options.steps), ("--max-cores", options.max_cores)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, got {value}")


def _is_stored(model: Any) -> bool:
    """Whether a MODEL is an integer network: a bundle, or an .h5 file."""
    if not isinstance(model, str | Path):
        return False
    return Path(model).is_dir() or Path(model).suffix == ".h5"


def _stored(options: MapOptions, progress: Progress) -> _Subject:
    """The network of a bundle or an .h5 file, and the bundle's inputs."""
    needless = (options.data, options.recipe, options.steps, options.weights)
    flags = ("--data", "--recipe", "--steps", "--weights")
    given = [flag for flag, value in zip(flags, needless, strict=True) if value is not None]
    path = Path(str(options.model))
    if given:
        raise UsageError(f"{', '.join(given)}: '{path}' is an integer network already; leave it out")
    progress.stage(f"reading {path}")
    folder = path if path.is_dir() else None
    if folder is not None:
        verify_bundle(folder)
        path = folder / "network.h5"
    if not path.is_file():
        raise BundleError(f"'{path}' is not there; give a bundle made by `neuroport deploy`, or its network.h5")
    network = read_network(path)
    own = None if folder is None or not (folder / "target.yaml").is_file() else folder / "target.yaml"
    target = load_target(options.target or own or network.target)
    neuron = network.arithmetic.neuron
    if neuron is not None and neuron in target.neurons:
        target = target.with_neuron(neuron)
    if network.arithmetic != target.arithmetic:
        raise UsageError(
            f"'{options.model}' was quantized for {network.target}, whose arithmetic is not that of {target.name}; "
            f"give the trained network (a .net file to `neuroport load --target`), or another --target"
        )
    inputs = None
    if folder is not None and (folder / "inputs.h5").is_file():
        inputs = read_inputs(folder / "inputs.h5").part(slice(0, options.samples))
    name = folder.resolve().name if folder is not None else path.stem
    return _Subject(name, network, target, inputs)
