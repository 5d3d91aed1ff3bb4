"""Runs an integer spiking network that neuroport exported, sample by sample, on SpiNNaker, NEST or Brian2 by PyNN.

    python run.py nest                    (or brian2, or spiNNaker) writes spikes and potentials to result.h5
    python run.py nest --verify           and compares them with expected.h5: exit status 1 where anything differs

Exit status 2: it did not run.

Files beside this script: network.h5 (populations, sources, lists of connections), stimulus.h5 (what the sources fire),
expected.h5 (what neuroport's core did; spikes [samples, steps, neurons] packed with numpy.packbits). See README.md.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SIMULATORS = {"spiNNaker": "spynnaker", "nest": "nest", "brian2": "brian2"}  # and the package of each
DT = 1.0  # ms: one step
START = 3  # the step of the first input spike: NEST needs 2 steps before any, and biases arrive one step after theirs


def set_up(folder: Path, simulator: str, **options: Any) -> Any:
    """The PyNN module of a simulator, ready to build; options: of its own setup()."""
    if simulator == "nest":
        with h5py.File(folder / "network.h5", "r") as f:
            longest = max((float(c.attrs["delay"]) for c in f["projections"].values()), default=1.0)
        options |= {"spike_precision": "on_grid", "max_delay": max(longest, 10.0) * DT}
    if simulator == "brian2":
        import brian2

        brian2.prefs.codegen.target = "numpy"  # compiling takes longer than most runs
        brian2.defaultclock.dt = DT * brian2.ms  # PyNN leaves spike sources on Brian2's own clock of 0.1 ms
        # Brian2's own order would lose what arrives in the very step a neuron fires in.
        schedule = ["start", "groups", "synapses", "thresholds", "resets", "end"]
        brian2.prefs.core.network.default_schedule = schedule
    sim = import_module(f"pyNN.{simulator}")
    if simulator == "nest":  # missing in PyNN 0.13.0: without it v can be neither set nor recorded
        sim.IF_curr_delta.variable_map, sim.IF_curr_delta.scale_factors = {"v": "V_m"}, {"v": 1}
    sim.setup(timestep=DT, min_delay=DT, **options)
    return sim


# What a step of each neuron does on SpiNNaker, in Brian2's words; `a` is what arrives. All numbers are small integers
# times powers of two, so that floating point computes as s16.15 does; `unit` is its 2^-15, and products round down.
BRIAN2_STEP = {
    "if-trunc-delta": "v = clip(v + a, v_reset, inf*volt)",  # no leak, and not below v_reset
    "if-curr-delta": "v = a - floor((a - v) * kept / unit) * unit",
}


def brian2_neuron(sim: Any, neuron: str) -> Any:
    """sPyNNaker's neuron for Brian2. 1 V stands for PyNN's 1 mV: the factor 1000 would round."""
    import brian2
    from pyNN.brian2.cells import BaseNeuronGroup
    from pyNN.standardmodels import build_translations

    names = ("v_thresh", "v_reset", "unit")

    class Group(BaseNeuronGroup):
        def __init__(self, n: int, equations: str, **parameters: Any) -> None:
            super().__init__(n, equations, "v >= v_thresh", reset="v = v_reset", refractory=False, **parameters)
            step = f"{BRIAN2_STEP[neuron]}\na = 0*volt"
            self.run_regularly(step, when="before_thresholds", dt=DT * brian2.ms)

    class Cell(sim.IF_curr_delta):
        default_parameters = dict.fromkeys((*names, "kept"), 0.0)
        translations = build_translations(*((name, name, brian2.volt) for name in names), ("kept", "kept"))
        state_variable_translations = build_translations(("v", "v", brian2.volt))
        post_synaptic_variables = {"excitatory": "a", "inhibitory": "a"}  # noqa: RUF012
        eqs = brian2.Equations(
            "v : volt\na : volt\nkept : 1 (constant)\n" + "\n".join(f"{name} : volt (constant)" for name in names)
        )
        brian2_model = Group

    return Cell


def make_population(sim: Any, simulator: str, p: dict[str, Any]) -> Any:
    """Neurons that fire at v >= v_thresh and start again at v_reset; `kept` is what a step leaves of v, 1 without leak.

    IFTruncDelta's potentials end at v_reset: at 0, or far below where the neurons never fire.
    """
    v = {"v_thresh": float(p["v_thresh"]), "v_reset": float(p["v_reset"])}
    n, label, is_leaky, kept = int(p["n"]), str(p["name"]), p["neuron"] == "if-curr-delta", float(p["kept"])
    if simulator == "spiNNaker":
        tau = {"tau_m": float(p["tau_m"]), "cm": float(p["tau_m"]), "tau_refrac": 0.0}  # R = tau_m / cm = 1
        cell = sim.IF_curr_delta(v_rest=0.0, **tau, **v) if is_leaky else sim.extra_models.IFTruncDelta(**tau, **v)
        # Says how sPyNNaker is to hold weights: its own estimate may halve them, and round.
        held = [float(p["max_expected_summed_weight"])] * 2
        made = sim.Population(n, cell, label=label, max_expected_summed_weight=held)
    elif simulator == "nest":  # without leak exp(-1 / tau_m) is exactly 1
        tau_m = -1 / np.log(kept) if is_leaky else 1e18
        cell = sim.IF_curr_delta(tau_m=tau_m, cm=1.0, tau_refrac=0.0, v_rest=0.0, i_offset=0.0, **v)
        made = sim.Population(n, cell, label=label)
        if not is_leaky:
            made.node_collection.V_min = v["v_reset"]  # of NEST's own neuron, not in PyNN
    else:
        made = sim.Population(n, brian2_neuron(sim, p["neuron"])(unit=2.0**-15, kept=kept, **v), label=label)
    made.initialize(v=float(p["v_init"]))
    made.record(["spikes", "v"] if p["is_readout"] else ["spikes"])
    return made


def connect(sim: Any, simulator: str, pre: Any, post: Any, c: dict[str, Any]) -> Any:
    """One list of connections, all of one sign. PyNN's inhibitory weights are negative."""
    i, j, weight, delay = c["i"].astype(int), c["j"].astype(int), c["weight"] * float(c["unit"]), float(c["delay"] * DT)
    if simulator == "nest":  # adds a weight to v whole, where sPyNNaker's neuron moves v a part of the way towards it
        weight = weight * float(c["moved"])
    if simulator == "spiNNaker":
        connector = sim.FromListConnector(np.column_stack([i, j, weight, np.full(len(i), delay)]))
        return sim.Projection(pre, post, connector, sim.StaticSynapse(), receptor_type=c["receptor"])

    class Connections(sim.FromListConnector):
        """All at once: PyNN would take the neurons (NEST) or the connections (Brian2) one by one."""

        def connect(self, projection: Any) -> None:
            if simulator == "nest":
                ids = [np.asarray(x.all_cells).astype(int)[k] for x, k in ((pre, i), (post, j))]
                values = {"weight": weight, "delay": np.full(len(i), delay)}
                import_module("nest").Connect(*ids, "one_to_one", values)
            else:
                brian2 = import_module("brian2")
                synapses = projection._brian2_synapses[0][0]
                synapses.connect(i=i, j=j)
                synapses.weight = weight * brian2.volt
                # A spike leaves at the end of a step, and with a delay of 0 arrives in the next one.
                synapses.delay = (delay - DT) * brian2.ms

    return sim.Projection(pre, post, Connections([]), sim.StaticSynapse(), receptor_type=c["receptor"])


def read(group: h5py.Group) -> dict[str, Any]:
    """Attributes and arrays of one group."""
    return {**group.attrs, **{key: dataset[()] for key, dataset in group.items()}}


def read_all(f: h5py.File, kind: str) -> list[dict[str, Any]]:
    """All sources, or all populations."""
    return [read(f[kind][str(k)]) for k in range(len(f[kind]))] if kind in f else []


def read_bits(path: Path, name: str) -> np.ndarray:
    """Spikes [samples, steps, neurons] of one population or source."""
    with h5py.File(path, "r") as f:
        found = next(d for d in f["spikes"].values() if d.attrs["name"] == name)
        return np.unpackbits(found[()], axis=-1, count=int(np.prod(found.attrs["shape"])))


def read_lengths(folder: Path) -> tuple[int, int, int]:
    """Samples, steps of each, and steps from one to the next: until the deepest population has seen the last one."""
    with h5py.File(folder / "network.h5", "r") as f:
        depth = max(int(p["depth"]) for p in read_all(f, "populations"))
    with h5py.File(folder / "stimulus.h5", "r") as f:
        n_samples, n_steps = int(f.attrs["n_samples"]), int(f.attrs["n_steps"])
    return n_samples, n_steps, START + n_steps + depth + 1


def spike_times(raster: np.ndarray, first: int, period: int) -> Any:
    """When each neuron of a source fires [samples, steps, neurons], the first step of a sample being START + first."""
    samples, steps, neurons = np.nonzero(raster)
    times = (START + first + samples * period + steps) * DT
    ends = np.cumsum(np.bincount(neurons, minlength=raster.shape[2]))[:-1]
    trains = [train.tolist() for train in np.split(times[np.argsort(neurons, kind="stable")], ends)]
    if not raster.any():  # sPyNNaker fails at lists of which none holds a spike
        return []
    return trains if len(trains) > 1 else trains[0]


def build(folder: Path, sim: Any, simulator: str) -> tuple[dict[str, Any], list[Any]]:
    """All sources and populations by name, and the projections in the order of the file."""
    _, _, period = read_lengths(folder)
    made = {}
    with h5py.File(folder / "network.h5", "r") as f:
        for s in read_all(f, "sources"):
            times = spike_times(read_bits(folder / "stimulus.h5", s["name"]), int(s["first"]), period)
            made[s["name"]] = sim.Population(int(s["n"]), sim.SpikeSourceArray(spike_times=times), label=s["name"])
        made.update({p["name"]: make_population(sim, simulator, p) for p in read_all(f, "populations")})
        projections = []
        for k in range(len(f["projections"])):
            c = read(f["projections"][str(k)])
            projections.append(connect(sim, simulator, made[c["pre"]], made[c["post"]], c))
    return made, projections


def simulate(folder: Path, simulator: str, on_sample: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Run all samples; spikes {name: [S, T, n]} and potentials {name: [S, T, n]}, with the core's count of steps.

    They run one after the other in one simulation, with new potentials in between, when no spike is on its way. A
    population that lies `depth` projections behind the input runs that many steps behind the core.
    """
    sim = set_up(folder, simulator)
    made, _ = build(folder, sim, simulator)
    n_samples, n_steps, period = read_lengths(folder)
    with h5py.File(folder / "network.h5", "r") as f:
        populations = read_all(f, "populations")
    on_sample(0)
    for s in range(n_samples):
        for p in populations if s else ():
            if simulator == "spiNNaker":  # where initialize() means the start of the simulation
                made[p["name"]].set_state(v=float(p["v_init"]))
            else:
                made[p["name"]].initialize(v=float(p["v_init"]))
        sim.run(period * DT)
        on_sample(s + 1)
    spikes, potentials = {}, {}
    for p in populations:
        name, first = str(p["name"]), START + int(p["depth"])
        segment = made[name].get_data().segments[0]
        spikes[name] = np.zeros((n_samples, n_steps, int(p["n"])), np.uint8)
        for n, train in enumerate(segment.spiketrains):
            sample, step = np.divmod(np.rint(np.asarray(train.magnitude) / DT).astype(int) - first, period)
            if ((sample < 0) | (sample >= n_samples) | (step >= n_steps)).any():
                raise RuntimeError(f"neuron {n} of '{name}' fired when nothing arrives; see its v_init, v_thresh")
            spikes[name][sample, step, n] = 1
        if p["is_readout"]:  # NEST counts a potential by the step it comes from, the others by the next one
            first += simulator != "nest"
            v = np.asarray(segment.analogsignals[0].magnitude)
            if len(v) < first + (n_samples - 1) * period + n_steps:
                raise RuntimeError(f"{len(v)} potentials of '{name}' came back; a virtual board runs nothing")
            potentials[name] = np.stack([v[first + s * period :][:n_steps] for s in range(n_samples)])
    sim.end()
    return {"spikes": spikes, "potentials": potentials}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Spikes packed as in expected.h5; potentials as PyNN has them."""
    with h5py.File(path, "w") as f:
        for k, (name, raster) in enumerate(result["spikes"].items()):
            dataset = f.create_dataset(f"spikes/{k}", data=np.packbits(raster, axis=-1), compression="gzip")
            dataset.attrs.update(name=name, shape=raster.shape[2:])
        for k, (name, v) in enumerate(result["potentials"].items()):
            f.create_dataset(f"potentials/{k}", data=v, compression="gzip").attrs["name"] = name


def first_difference(folder: Path, result: dict[str, Any]) -> str:
    """Where the result differs first from what the core expects, by sample, step and layer; '' if nowhere."""
    found: list[tuple[int, int, int, int, str]] = []  # sample, step, place of the population in the network, neuron
    order = list(result["spikes"])
    with h5py.File(folder / "network.h5", "r") as f:
        unit = float(f.attrs["v_unit"])
    for name, ours in result["spikes"].items():
        theirs = read_bits(folder / "expected.h5", name)
        at = tuple(int(k) for k in np.argwhere(ours != theirs)[0]) if (ours != theirs).any() else None
        if at is not None:
            what = f"population '{name}': {ours[at]} spikes, expected {theirs[at]}"
            found.append((at[0], at[1], order.index(name), at[2], what))
    with h5py.File(folder / "expected.h5", "r") as f:
        expected = {d.attrs["name"]: d[()] * unit for d in f.get("potentials", {}).values()}
    for name, v in result["potentials"].items():
        wrong = ~(np.abs(v - expected[name].reshape(v.shape)) <= 1e-9)
        at = tuple(int(k) for k in np.argwhere(wrong)[0]) if wrong.any() else None
        if at is not None:
            what = f"population '{name}': potential {v[at]}, expected {expected[name].reshape(v.shape)[at]}"
            found.append((at[0], at[1], order.index(name), at[2], what))
    if not found:
        return ""
    sample, step, _, neuron, text = min(found)
    return f"sample {sample}, step {step}, neuron {neuron} of {text}"


def is_leaky(folder: Path) -> bool:
    """Whether the neurons leak."""
    with h5py.File(folder / "network.h5", "r") as f:
        return any(p["neuron"] == "if-curr-delta" for p in read_all(f, "populations"))


def problem(folder: Path, simulator: str, out: Path, *, verify: bool) -> str:
    """What is sure to end a run, said before it begins; '' if nothing."""
    needed = ("network.h5", "stimulus.h5", *(("expected.h5",) if verify else ()))
    shapes = {}
    for name in needed:
        if not (folder / name).is_file():
            hint = "leave --verify out, or take it" if name == "expected.h5" else "take it"
            return f"{folder / name} is not there; {hint} from the export again"
        try:
            with h5py.File(folder / name, "r") as f:
                shapes[name] = {d.shape[:2] for d in f.get("spikes", {}).values()}
        except OSError as error:
            return f"{folder / name} is damaged ({error}); take it from the export again"
    if verify and shapes["expected.h5"] != {read_lengths(folder)[:2]}:
        return "--verify: expected.h5 is of other samples or steps than stimulus.h5; leave --verify out"
    if out.is_dir() or not out.parent.is_dir():
        return f"--out: {out} is a directory, or there is no directory {out.parent}; choose another file"
    missing = [name for name in ("pyNN", SIMULATORS[simulator]) if find_spec(name) is None]
    if missing:
        return (
            f"{simulator} needs packages that are missing here: {', '.join(missing)}; README.md says which to install"
        )
    return ""


def report(n_samples: int) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{n_samples} samples\n")


def main() -> int:
    """Exit status 0: done, and equal where --verify asks; 1: a difference; 2: wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulator", choices=SIMULATORS)
    parser.add_argument("--verify", action="store_true", help="compare with expected.h5")
    parser.add_argument("--out", type=Path, default=Path("result.h5"), help="default: result.h5 in the current folder")
    given = parser.parse_args()
    folder = Path(__file__).resolve().parent
    if found := problem(folder, given.simulator, given.out, verify=given.verify):
        parser.error(found)
    result = simulate(folder, given.simulator, report)
    write_result(given.out, result)
    n_spikes = sum(int(raster.sum()) for raster in result["spikes"].values())
    sys.stdout.write(f"{given.out}: {n_spikes} spikes of {len(result['spikes'])} populations\n")
    if given.verify:
        difference = first_difference(folder, result)
        sys.stdout.write(f"{given.simulator} differs from the core: {difference}\n" if difference else "all equal\n")
        if difference and given.simulator == "nest" and is_leaky(folder):
            sys.stdout.write("NEST does not round the leak as SpiNNaker does (README.md); Brian2 is exact here\n")
        return int(bool(difference))
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except Exception:  # noqa: BLE001 - Python's own status would be 1, a difference
        traceback.print_exc()
        status = 2
    sys.exit(status)
