"""report.html of a real deployment: one well-formed file, every section visible in a browser, an empty console."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from neuroport.backends.base import Job
from neuroport.chip.files import read_network
from neuroport.cli import app
from neuroport.validation.diagnosis import backend_row
from neuroport.validation.divergence import compare
from neuroport.validation.html.images import data_uri, picture, some_neurons
from neuroport.validation.html.page import _RACE_UNITS, _race_plot, render
from neuroport.validation.html.plots import Bar, Line, bars, lines
from neuroport.validation.html.tables import write_verified_page
from neuroport.validation.html.verdict import statements
from neuroport.validation.recorded import read_bundle
from neuroport.verbs.deployment import deploy
from neuroport.verbs.options import DeployOptions, command_of
from tests.validation import planted

SECTIONS = ["verdict", "ladder", "time", "blame", "layers", "samples", "again"]
VOID = {"meta", "link", "br", "img", "input", "line", "rect", "path", "polyline"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "digits & <more>"
    deploy(DeployOptions(backend="cpu", samples=3, steps=8, eval_samples=150, blame=True, out=out))
    return out


@pytest.fixture
def report(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "report.json").read_text())
    return found


def browser() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found and os.environ.get("CI"):
        pytest.fail("no Chromium: apt-get install chromium")
    if not found:
        pytest.skip("no Chromium on PATH: the page is not looked at (apt-get install chromium)")
    return found


class Outline(HTMLParser):
    """Checks that tags close, and keeps ids, links and images without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.silent = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in a:
            self.ids.append(a["id"] or "")
        self.links += [a[key] or "" for key in ("src", "href") if key in a]
        described = a.get("alt") or a.get("aria-label") or a.get("aria-labelledby") or a.get("aria-hidden")
        self.silent += tag in ("img", "svg") and not described

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    @classmethod
    def ids_of(cls, text: str) -> list[str]:
        page = cls()
        page.feed(text)
        return page.ids

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_is_one_well_formed_file(bundle: Path) -> None:
    text = (bundle / "report.html").read_text(encoding="utf-8")
    page = Outline()
    page.feed(text)
    assert page.open == []
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert page.silent == 0
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert len(text) < 3_000_000
    assert "nan" not in page.text.lower().split()


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_every_section(bundle: Path, tmp_path: Path, width: int) -> None:
    """The page itself has no script; the copy has one that measures it."""
    measure = """<script>
        const sections = [...document.querySelectorAll("section")];
        const sizes = sections.map(s => [s.id, s.getBoundingClientRect().height, s.checkVisibility()]);
        const broken = [...document.images].filter(i => !i.naturalWidth).length;
        document.body.dataset.found = JSON.stringify({sizes, broken, wide: document.body.scrollWidth});
        </script></body>"""
    page = tmp_path / "page.html"
    page.write_text((bundle / "report.html").read_text(encoding="utf-8").replace("</body>", measure), encoding="utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = subprocess.run(
        [*command, profile, f"--window-size={width},900", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in shown.stderr
    match = re.search(r'data-found="([^"]*)"', shown.stdout)
    assert match is not None, shown.stderr[-2000:]
    found = json.loads(match[1].replace("&quot;", '"'))
    assert [name for name, _, _ in found["sizes"]] == SECTIONS
    assert all(height > 40 and is_visible for _, height, is_visible in found["sizes"])
    assert (found["broken"], found["wide"] <= width) == (0, True)


def test_what_it_says_first(report: dict[str, Any]) -> None:
    says = statements(report)
    assert says[0].sign == "ok"
    assert says[0].headline == "Every spike is equal"
    assert f"{report['backend']['compared_spikes']:,} spikes of 3 samples" in says[0].text
    assert "150 test samples" in says[1].text
    assert sum("change" in say.headline for say in says) == 1


def test_what_to_change(report: dict[str, Any]) -> None:
    """One advice: the backend, the layer, the rung, more samples, or nothing."""

    def advice(lost: float, *, rung: str = "float_snn", n_samples: int = 10_000) -> tuple[str, str, str]:
        is_below = False
        for row in report["rungs"]:
            is_below |= row["name"] == rung
            row |= {"accuracy": 0.9 - lost * is_below, "samples": n_samples}
        (found,) = (say for say in statements(report) if "change" in say.headline.lower())
        return found.sign, found.headline, found.text

    del report["insight"]["blame"]
    assert advice(0.0)[:2] == ("ok", "Nothing to change")
    assert advice(0.03, n_samples=100)[2] == (
        "First measure on more test samples (--eval): 100 cannot tell this loss from chance."
    )
    sign, _, text = advice(0.03)
    assert sign == "warn" and text.startswith("Most is lost with spikes instead of activations")
    assert "more steps (--steps)" in text
    assert "a higher percentile" in advice(0.03, rung="normalized")[2]
    assert "more weight bits" in advice(0.03, rung="integer_core")[2]
    regained = {"accuracy": 0.02, "error": 0.1}
    row = {"name": "conv1", "is_certain": True, "regained": regained, "standard_error": 0.001}
    report["insight"]["blame"] = {"samples": 100, "verdict": "'conv1' costs 2.0 points", "layers": [row]}
    assert advice(0.03)[2] == "'conv1' costs 2.0 points."
    row["is_certain"] = False
    assert advice(0.03)[2].startswith("No single layer, as far as 100 samples tell. Most is lost with spikes")
    report["backend"] = {"name": "lava", "samples": 3, "error": "it hung"}
    assert advice(0.03)[2] == "First what lava does, see above."


def test_it_says_what_went_wrong(report: dict[str, Any]) -> None:
    first = {"population": "conv2", "sample": 1, "step": 4}
    report["backend"] = {"name": "lava", "mismatches": 7, "first_mismatch": first}
    report["rungs"][4]["accuracy"] = report["rungs"][3]["accuracy"] - 0.5
    report["insight"]["faults"] = {"conv2": ["a <b> is wrong"]}
    report["warnings"] = ["layer 'fc1' never fired"]
    says = {say.headline: say for say in statements(report)}
    assert "first at population 'conv2', sample 1, step 4" in says["7 values differ on lava"].text
    lost = next(say for say in says.values() if "points of accuracy lost" in say.headline)
    assert lost.sign == "bad"
    assert "50.00 points, comes with rounding to the chip's integers" in lost.text
    assert says["'conv2' is not what was rounded"].sign == "bad"
    assert says["Mind this"].text == "layer 'fc1' never fired"
    report["backend"] = {"name": "lava", "samples": 3, "error": "it hung\nmore"}
    assert statements(report)[0].text == "it hung; see worker.log"


def test_a_difference_is_shown_with_both_sides(bundle: Path, report: dict[str, Any]) -> None:
    recorded = read_bundle(bundle)
    network, inputs, core = recorded.network, recorded.inputs, recorded.trace
    altered = planted.with_population(
        network, "conv2", threshold_mantissa=network.by_name["conv2"].threshold_mantissa + 1
    )
    trace = planted.run_with(network, inputs, "conv2", altered)
    job = Job(recorded.target, network, inputs, bundle, lambda _: None, lambda _: None)
    found = backend_row("lava", compare(network, inputs, core, trace), job, core, trace)
    report["backend"] |= json.loads(json.dumps(found))
    page = Outline()
    page.feed(render(report, network, None))
    assert page.open == [] and "difference" in page.ids
    first = found["divergence"]["origins"][0]["first"]
    row, column, step = first["neuron"][1], first["neuron"][2], first["step"]
    assert f"neuron [{first['neuron'][0]}, {row}, {column}] (channel, row, column)" in page.text
    text = " ".join(page.text.split())
    for part in ("has threshold mantissa", "input, backend", "v, core", "spike, core", f"{first['core_v'][0]:,}"):
        assert part in text
    assert step in first["steps"]
    assert "Population 'conv2' differs by itself" in statements(report)[0].text
    assert "difference" not in Outline.ids_of((bundle / "report.html").read_text(encoding="utf-8"))


def test_the_page_of_a_loaded_network_shows_a_difference_too(tmp_path: Path) -> None:
    around = {"sample": 0, "step": 1, "neuron": (2,), "steps": (0, 1), "core_v": (1234, 5), "rule_v": (1234, 6)}
    around |= dict.fromkeys(("core_spikes", "backend_spikes", "core_input", "backend_input"), (0, 1))
    origin = {"population": "a", "first": {**around, "backend_v": None}}
    backend = {"name": "netx", "mismatches": 3, "first_mismatch": {"population": "a", "sample": 0, "step": 1}}
    backend["divergence"] = {"verdict": "population 'a' differs", "origins": [origin]}
    size = {"neurons": 3, "synapses": 0}
    write_verified_page(
        tmp_path,
        {"model": "m", "target": "t", "network": size, "layers": [], "notes": [], "versions": {}, "backend": backend},
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Difference: population &#39;a&#39;, neuron [2], sample 0</h2>" in text
    assert "<td>v, core</td><td>1,234</td><td>5</td>" in text
    assert "v, backend" not in text


def test_warnings_come_before_nothing_to_change(report: dict[str, Any]) -> None:
    report["rungs"][4]["accuracy"] = report["rungs"][0]["accuracy"]
    report["insight"].pop("blame", None)
    report["warnings"] = []
    assert statements(report)[-1].headline == "Nothing to change"
    report["warnings"] = ["layer 'fc1' never fired: nothing reaches the layers behind it; use more steps"]
    assert statements(report)[-1].text == "First what to mind, see above."


def test_few_samples_are_not_certain(report: dict[str, Any]) -> None:
    """All right of few samples has no standard error, and proves little."""
    for row in report["rungs"]:
        row |= {"accuracy": 1.0, "samples": 5}
    assert "(5 test samples: 95 % interval 56.6 to 100.0 %)" in statements(report)[1].text


def mapping(differences: int = 0) -> dict[str, Any]:
    """What `Mapped.as_json` gives, as far as the page reads it."""
    machine = {"chips": 48, "chips_used": 1, "cores": 808, "cores_used": 11}
    first = "excitatory connections from 'a' to 'b': 3 to 4 has weight 5" if differences else None
    return {"machine": machine, "connections": 9000, "differences": differences, "first_difference": first}


def test_what_it_says_of_rounding(report: dict[str, Any]) -> None:
    bounded = {"compared_values": 500, "outside": 0, "first_outside": None, "bound": 60.2}
    found = {"name": "spinnaker-nest", "mismatches": 7, "compared_values": 900, "compared_spikes": 80, "samples": 3}
    report["backend"] = {**found, "bounded": bounded, "mapping": mapping()}
    says = statements(report)
    assert (says[0].sign, says[0].headline) == ("ok", "Equal but for rounding, which explains every difference")
    assert "7 of 900 values differ" in says[0].text and "500 neuron-steps is within 60 integers" in says[0].text
    assert (says[1].sign, says[1].headline) == ("ok", "The vendor's mapper takes 11 cores on 1 of 48 chips")
    assert "Nothing ran" not in says[1].text
    report["backend"]["bounded"] = bounded | {"outside": 2, "first_outside": "population 'dense', step 4"}
    says = statements(report)
    assert (says[0].sign, says[0].headline) == ("bad", "spinnaker-nest differs by more than its rounding")
    assert "does not explain 2 of 500 neuron-steps, first at population 'dense', step 4." in says[0].text


def test_what_it_says_of_a_mapping_alone(report: dict[str, Any]) -> None:
    report["backend"] = {"name": "spinnaker-virtual", "mapping": mapping()}
    first = statements(report)[0]
    assert (first.sign, first.headline) == ("ok", "The vendor's mapper takes 11 cores on 1 of 48 chips")
    assert first.text.endswith("equal the export. Nothing ran: there are no spikes to compare.")
    report["backend"] = {"name": "spinnaker-virtual", "mapping": mapping(differences=4)}
    first = statements(report)[0]
    assert (first.sign, first.headline) == ("bad", "What would be loaded is not what was exported")
    assert "4 of 9,000 weights and delays, first excitatory connections from 'a' to 'b'" in first.text
    report["backend"] = {"name": "spinnaker-nest", "samples": 3, "error": "it hung", "mapping": mapping()}
    assert [say.sign for say in statements(report)[:2]] == ["bad", "ok"]
    assert "Nothing ran" not in statements(report)[1].text


def test_a_failed_backend_still_has_a_page(bundle: Path, report: dict[str, Any]) -> None:
    report["backend"] = {"name": "lava", "samples": 3, "error": "it hung <here>"}
    del report["insight"]["blame"]
    text = render(report, read_network(bundle / "network.h5"), None)
    assert "it hung &lt;here&gt;" in text
    assert "<code>--blame</code> measures it" in text
    assert 'id="samples"' not in text


def test_a_mapper_may_predict_and_need_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    neuron = {"neuron": "if-curr-delta", "recipe": "reset-zero"}
    deploy(DeployOptions(target="spinnaker", backend="cpu", samples=1, steps=8, eval_samples=10, out=out, **neuron))
    found, network = json.loads((out / "report.json").read_text()), read_network(out / "network.h5")
    assert found["mapping"]["cores"]
    rows = [{"what": "chips", "predicted": 1200, "used": 1000, "difference": 0.2}]
    machine = {"cores_used": 4, "chips_used": 1000, "chips": 1056}
    shown, least = [], {"machine": machine, "connections": 9, "differences": 0}
    for mapping in (least, {**least, "predicted": rows}):
        found["backend"]["mapping"] = mapping
        shown.append(render(found, network, None))
    row = "<td>1,200</td><td>1,000</td><td>+20.00 %</td>"
    assert ["Predicted, and used" in page for page in shown] == [row in page for page in shown] == [False, True]


def test_the_command_gives_the_options_back() -> None:
    options = DeployOptions(model="my net.pt2", mean=(0.5, 0.25), steps=8, eval_samples=None, blame=False, seed=3)
    found = command_of(options)
    assert found == "neuroport deploy 'my net.pt2' --mean 0.5,0.25 --seed 3 --steps 8 --eval 0 --no-blame"
    assert command_of(DeployOptions()) == "neuroport deploy"


def test_the_command_has_only_flags_that_exist() -> None:
    options = DeployOptions(
        **{f.name: (3, 4) if f.name == "sample_numbers" else 7 for f in fields(DeployOptions) if f.name != "out"}
    )
    words = shlex.split(command_of(options))
    parser = typer.main.get_command(app).commands["deploy"]  # type: ignore[attr-defined]
    flags = {flag for option in parser.params for flag in (*option.opts, *option.secondary_opts)}
    found = [word for word in words if word.startswith("--")]
    assert len(found) == len(fields(DeployOptions)) - 2  # all but the model and out
    assert set(found) <= flags


def test_pictures_are_png_that_others_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    content = base64.b64decode(data_uri(pixels).split(",")[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    assert picture(np.zeros((2, 4, 4), np.float32)) is None
    assert picture(np.zeros((64,), np.float32)) is None
    assert picture(np.zeros((1, 4, 4), np.float32)) is not None  # constant: no division by 0


def test_neurons_that_fire_are_shown() -> None:
    spikes = np.zeros((4, 500), np.uint8)
    assert some_neurons(spikes).shape == (4, 96)
    spikes[:, 100:300] = 1
    assert some_neurons(spikes).all()
    assert some_neurons(spikes[:, :50]).shape == (4, 50)


def test_outputs_that_are_counted_are_in_spikes(bundle: Path) -> None:
    """The race of a network whose outputs spike is no potential; one step is still a mark."""
    assert "potential, chip integers" in (bundle / "report.html").read_text(encoding="utf-8")
    assert ">spikes</text>" in _race_plot(np.arange(20).reshape(5, 4), 1, _RACE_UNITS["count"])


def test_one_step_is_drawn_and_fractions_stay_fractions() -> None:
    drawn = lines("t", [1], [Line("a", [0.0])], ("step", "accuracy"), percent=True)
    assert re.search(r'points="[\d.]+,[\d.]+ [\d.]+,[\d.]+"', drawn)
    assert ">-" not in drawn
    assert "101 %" not in lines("t", [1, 2], [Line("a", [0.6, 1.0])], ("step", "accuracy"), percent=True)


def test_plots_of_constant_and_single_values() -> None:
    assert "nan" not in lines("t", [1], [Line("a", [0.5])], ("x", "y"))
    assert "nan" not in bars("t", [Bar("a", 0.0, 0.0, "0")], limits=(0.0, 0.0))
