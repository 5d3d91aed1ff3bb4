"""`map` and `fit`: what they write and print, that it is all there or not at all, and every refusal."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import neuroport as nrp
from neuroport.bundle import verify
from neuroport.chip.files import read_network, write_network
from neuroport.cli import app
from neuroport.datasheets import data_dir
from tests.chip.networks import dense, network_of, population, source

LOIHI1 = data_dir("targets") / "loihi1.yaml"
FAST = ("--recipe", "reset-zero", "--steps", 16, "--samples", 4)
SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def save(folder: Path, *layers: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[Path, Path]:
    """A network with random weights and data for it."""
    torch.manual_seed(0)
    module, example = nn.Sequential(*layers).eval(), torch.randn(2, *shape)
    torch.export.save(
        torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},)), folder / "net.pt2"
    )
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=rng.random((60, *shape), np.float32), y=rng.integers(0, 10, 60))
    return folder / "net.pt2", folder / "data.npz"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The embedded network mapped once."""
    out = tmp_path_factory.mktemp("map") / "out"
    return run("map", *FAST, "--out", out), out


def test_a_map_is_printed_and_written(digits):
    result, out = digits
    assert result.exit_code == 0, result.output
    verify(out)
    assert {p.name for p in out.iterdir()} == {
        "manifest.json",
        "mapping.json",
        "report.html",
        "placement.json",
        "mesh.svg",
        "network.h5",
        "target.yaml",
    }
    report = json.loads((out / "mapping.json").read_text())
    assert (report["schema"], report["model"], report["target"]) == ("neuroport-mapping/1", "digits", "loihi1")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "1 chip" in page and "Energy of one inference" in page and "<svg" in page
    fractions = [row["fraction"] for row in report["uses"]]
    assert fractions == sorted(fractions, reverse=True)
    assert 0 < fractions[0] <= 1
    assert [row["name"] for row in report["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert sum(row["neurons"] for row in report["layers"]) == 1082
    assert report["cost"]["samples"] == 4
    assert report["cost"]["energy_per_inference_J"] > 0
    assert report["cost"]["energy_marks"] == ["second-hand"]
    assert report["cost"]["ann_macs"] == 75952
    text = " ".join(result.output.split())
    for part in (
        "use of a core against its limit",
        "what binds its fullest core",
        "second-hand",
        "time per step: unknown",
        "75,952 multiply-accumulates",
        f"mapping: {report['cores']} core",
        "placement: ",
        "energy, as far as known:",
    ):
        assert part in text


def test_the_placement_holds_every_neuron_once(digits):
    data = json.loads((digits[1] / "placement.json").read_text())
    assert data["schema"] == "neuroport-placement/1"
    assert {"target", "seed", "mesh", "cores_per_router", "chip_grid", "populations", "chips", "cores"} <= data.keys()
    assert set(data["cores"][0]) == {"chip", "core", "router", "tiles", "uses"}
    assert set(data["cores"][0]["tiles"][0]) == {"population", "box"}
    network = read_network(digits[1] / "network.h5")
    held = {p.name: np.zeros(p.shape, int) for p in network.populations}
    for core in data["cores"]:
        for tile in core["tiles"]:
            held[tile["population"]][tuple(slice(*ends) for ends in tile["box"])] += 1
        assert core["core"] // data["cores_per_router"] == core["router"][0] * data["mesh"][1] + core["router"][1]
    assert all((n == 1).all() for n in held.values())
    places = [(core["chip"], core["core"]) for core in data["cores"]]
    assert len(set(places)) == len(places)


def test_the_picture_is_svg_that_says_what_it_shows(digits):
    root = ET.parse(digits[1] / "mesh.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == "digits on loihi1"
    assert "number and colour say which layer" in root.find(f"{SVG}desc").text
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert any(text.startswith("conv1: ") for text in words)
    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert any("fc2: 10 neurons" in text for text in titles)
    assert {"1", "2"} <= {text.rstrip("+") for text in words}, "the number of a layer, not its colour alone"


def test_the_same_seed_writes_the_same_files(digits, tmp_path):
    assert run("map", *FAST, "--out", tmp_path / "again").exit_code == 0
    for name in ("mapping.json", "placement.json", "mesh.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (digits[1] / name).read_bytes()


def test_a_map_or_a_network_file_can_be_mapped_again(digits, tmp_path):
    """From network.h5 no spikes are known: no energy is made up."""
    for made in (digits[1], digits[1] / "network.h5"):
        result = run("map", made, "--target", "loihi1", "--json", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["cost"] is None
        assert report["placement"]["messages_measured"] is False
        assert not (tmp_path / "out" / "network.h5").exists()
    shown = run("map", digits[1], "--out", tmp_path / "out")
    assert "energy: unknown, as no spikes were measured" in shown.output


def test_a_bundle_brings_its_own_inputs_and_target(tmp_path):
    made = run("deploy", "--target", "loihi1", "--backend", "cpu", "--recipe", "reset-zero", "--steps", 16,
               "--samples", 3, "--eval", 10, "--out", tmp_path / "bundle")  # fmt: skip
    assert made.exit_code == 0, made.output
    section = json.loads((tmp_path / "bundle" / "report.json").read_text())["mapping"]
    assert section["schema"] == "neuroport-mapping/1"
    assert section["cost"]["samples"] == 3
    assert f"mapping: {section['cores']} core" in made.output
    result = run("map", tmp_path / "bundle", "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["target"] == "loihi1"
    counts = [{row["what"]: row["count_per_inference"] for row in r["cost"]["lines"]} for r in (section, report)]
    assert counts[0] == counts[1]
    assert report["cost"]["ann_macs"] is None, "a bundle does not hold the ANN"


def test_deploy_says_where_no_cores_are_known(tmp_path):
    made = run("deploy", "--target", "cpu", "--steps", 8, "--samples", 1, "--eval", 5, "--out", tmp_path / "bundle")
    assert made.exit_code == 0, made.output
    assert "mapping: no cores are known of cpu; `neuroport fit` says which chips" in made.output
    assert json.loads((tmp_path / "bundle" / "report.json").read_text())["mapping"]["cores"] is None


def test_a_layer_too_wide_is_refused_with_its_name(tmp_path):
    """5,000 inputs of a neuron, and a core too small to share axons among them."""
    net, data = save(tmp_path, nn.Flatten(), nn.Linear(64, 5000), nn.ReLU(), nn.Linear(5000, 10))
    sheet = tmp_path / "small.yaml"
    sheet.write_text(LOIHI1.read_text().replace("synapse_bits_per_core: 1048576", "synapse_bits_per_core: 20000"))
    for verb in (("map",), ("deploy", "--backend", "cpu", "--eval", 5)):
        flags = ("--recipe", "reset-zero", "--steps", 8, "--samples", 1)
        result = run(*verb, net, "--data", data, "--target", sheet, *flags, "--out", tmp_path / "out")
        assert result.exit_code == 3, result.output
        for part in ("layer '3': neuron", "input axons, loihi1 has 4,096 per core", "split the layer"):
            assert part in result.output
        assert not (tmp_path / "out").exists()
    assert "to simulate it as if it fitted: --target loihi-sim, or cpu" in result.output
    found = nrp.fit(nrp.MapOptions(model=net, data=data, target=sheet, recipe="reset-zero", steps=8, samples=1))
    (row,) = found.report["rows"]
    assert row["fits"] is False
    assert "4,096" in row["why_not"]


def test_fit_compares_all_targets():
    result = run("fit", "--recipe", "reset-zero", "--steps", 16, "--samples", 2)
    assert result.exit_code == 0, result.output
    for part in ("digits by target", "loihi1", "loihi2", "spinnaker1", "second-hand", "what binds"):
        assert part in result.output
    assert "cpu: its datasheet does not say what a core holds" in result.output
    assert "loihi2: not known, so not checked: input axons" in result.output


def test_fit_compares_chosen_targets_and_datasheets_of_the_user(tmp_path):
    sheet = tmp_path / "mine.yaml"
    sheet.write_text(LOIHI1.read_text().replace("name: loihi1", "name: mine"))
    chosen = ("--target", "loihi2", "--target", sheet)
    result = run("fit", "--recipe", "reset-zero", "--steps", 8, "--samples", 1, *chosen, "--json")
    assert result.exit_code == 0, result.output
    assert [row["target"] for row in json.loads(result.stdout)["rows"]] == ["loihi2", "mine"]
    wrong = run("fit", "--target", "loihi2", "--target", "nosuch")
    assert wrong.exit_code == 2
    assert "unknown target 'nosuch'" in wrong.output
    assert "quantizing" not in wrong.output, "before anything is computed"


def test_fewer_cores_by_fewer_bits_with_their_accuracy(tmp_path):
    """A wide layer: what 8 bits do not fit into, fewer do; and what no precision fits into is refused."""
    net, data = save(
        tmp_path, nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 900), nn.ReLU(), nn.Linear(900, 10)
    )
    common = ("map", net, "--data", data, *FAST, "--out", tmp_path / "out", "--json")
    needed = json.loads(run(*common).stdout)["cores"]
    result = run(*common, "--max-cores", needed - 1)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["cores"] <= needed - 1
    assert report["precision"]["cores_before"] == needed
    assert 0 < report["precision"]["weight_bits"] < 8
    assert 0 <= report["precision"]["accuracy_after"] <= 1
    shown = run(*common[:-1], "--max-cores", needed - 1)
    assert f"quantized to {report['precision']['weight_bits']} bits" in shown.output
    assert "accuracy on calibration samples, on the core" in shown.output
    assert run(*common, "--max-cores", needed).exit_code == 0
    stored = run("map", tmp_path / "out", "--max-cores", 1, "--out", tmp_path / "other")
    assert stored.exit_code == 3
    refused = run(*common, "--max-cores", 1)
    assert refused.exit_code == 3
    assert "1 are allowed" in refused.output
    assert "allow more cores" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "nosuch"), "unknown target 'nosuch'"),
        (("--target", "loihi-sim"), "does not say what a core holds (compartments_per_core, or machine), so no"),
        (
            ("--target", "cpu"),
            "(compartments_per_core, or machine) and how many cores a chip has (cores_per_chip)",
        ),
        (("--recipe", "nosuch"), "unknown recipe 'nosuch'"),
        (("--max-cores", 0), "--max-cores"),
        (("--samples", 0), "--samples"),
        (("--mean", "a"), "--mean 'a' is not a list of numbers"),
        (("nosuch.pt2", "--data", "nosuch.npz"), "nosuch"),
        (("nosuch.h5",), "'nosuch.h5' is not there"),
        ((str(data_dir("targets")),), "is not a bundle of neuroport"),
    ],
)
def test_refusals(arguments, message, tmp_path):
    result = run("map", *arguments, "--out", tmp_path / "out")
    assert result.exit_code in (2, 3)
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_network_of_a_chips_second_neuron_finds_it_again(tmp_path):
    """spinnaker1 has two; network.h5 says which one its integers are for."""
    target = nrp.load_target("spinnaker1").with_neuron("if-curr-delta")
    network = network_of(
        target.arithmetic,
        [source((4,)), population("out", (3,), decay=64)],
        [dense(np.ones((3, 4)))],
        name="spinnaker1",
    )
    write_network(tmp_path / "network.h5", network)
    for flags in ((), ("--target", "spinnaker1")):
        result = run("map", tmp_path / "network.h5", *flags, "--out", tmp_path / "out", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["cores"] == 1


def test_the_picture_keeps_its_colours_on_the_page(digits):
    """Any rule of the page for its text beats the picture's own fill: white on the dark colours, black on the light."""
    page = (digits[1] / "report.html").read_text(encoding="utf-8")
    rules = re.findall(r"([^{}]*svg text[^{}]*)\{", page)
    assert [rule.split("}")[-1].strip() for rule in rules] == [":not(.mesh) > svg text"]
    assert '<div class="mesh"><svg' in page
    assert "multiply-accumulates. How long a step takes" in page


def test_limits_that_are_not_known_are_on_the_page(tmp_path):
    assert run("map", "--target", "loihi2", "--recipe", "reset-zero", "--steps", 8, "--samples", 1,
               "--out", tmp_path / "out").exit_code == 0  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not known, so not checked: input axons, output axons, synapse bits" in page


def test_refusals_of_stored_networks(digits, tmp_path):
    out = digits[1]
    for arguments, message in (
        ((out, "--recipe", "robust", "--steps", 3), "--recipe, --steps: "),
        ((out, "--target", "loihi2"), "was quantized for loihi1, whose arithmetic is not that of loihi2"),
    ):
        result = run("map", *arguments, "--out", tmp_path / "out")
        assert (result.exit_code, message in result.output) == (2, True), result.output
    assert "`fit` compares chips: give the trained network" in run("fit", out).output
    (tmp_path / "broken.h5").write_bytes((out / "network.h5").read_bytes()[:500])
    broken = run("map", tmp_path / "broken.h5", "--out", tmp_path / "out")
    assert (broken.exit_code, "is not an integer network of neuroport, or is damaged" in broken.output) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    kept = run("map", out, "--out", tmp_path / "mine")
    assert (kept.exit_code, "holds files that neuroport did not write" in kept.output) == (2, True)
    assert (tmp_path / "mine" / "file").read_text() == "x"


def test_python_says_the_same_as_the_flags():
    with pytest.raises(nrp.NeuroportError, match="--samples must be at least 1"):
        nrp.map_model(nrp.MapOptions(samples=0))


def test_a_chip_of_processors_keeps_real_time(tmp_path):
    """SpiNNaker: power of chips and cores over the steps' milliseconds, packets by router."""
    result = run("map", "--target", "spinnaker1", *FAST, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    cost = json.loads((tmp_path / "out" / "mapping.json").read_text())["cost"]
    rows = {row["what"]: row for row in cost["lines"]}
    assert cost["step_duration_s"] == 1e-3
    assert rows["power of chips"]["energy_J"] == pytest.approx(0.35 * 16e-3)
    assert rows["spike messages"]["mark"] == "verified (read)"
    assert rows["synaptic events"]["energy_J"] is None
    assert rows["synaptic events"]["mark"] == "in power of cores"
    assert cost["energy_leaves_out"] == []
    assert "time per step: 1 ms, per inference: 16 ms" in result.output
    ET.parse(tmp_path / "out" / "mesh.svg")
