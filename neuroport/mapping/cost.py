"""What one inference costs: how often each thing happens on measured spikes, and what a datasheet says of each.

Nothing is invented: what the datasheet does not know has a count and no energy, and the sum says what it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neuroport.ann.graph import AnnGraph, Conv2d, ConvTranspose2d, Linear
from neuroport.chip.network import IntNetwork
from neuroport.chip.sources import entry_of
from neuroport.chip.target import Target
from neuroport.mapping.activity import Activity, fan_out
from neuroport.mapping.place import Placement
from neuroport.mapping.traffic import Traffic

_UNLISTED = "not in the datasheet"
_WITHIN = "in power of cores"  # what a processor computes costs what it draws


@dataclass(frozen=True)
class CostLine:
    """One kind of event, or of power drawn.

    count: per inference, in `unit`; coefficient: joules per unit; mark, source: what the coefficient is worth.
    """

    what: str
    count: float
    unit: str
    coefficient: float | None
    mark: str
    source: str

    @property
    def energy_J(self) -> float | None:  # noqa: N802 - the symbol of the unit
        """Joules per inference; None: not known."""
        if not self.count:
            return 0.0
        return None if self.coefficient is None else self.count * self.coefficient


@dataclass(frozen=True, eq=False)
class Cost:
    """The lines, the steps of an inference, and how long a step takes where the datasheet says it.

    time_mark, time_source: what step_duration_s is worth, or why it is not known. n_macs: multiply-accumulates of the
    ANN, None: not known. references: what the short names in sources stand for.
    """

    lines: tuple[CostLine, ...]
    n_steps: int
    n_samples: int
    step_duration_s: float | None
    time_mark: str
    time_source: str
    n_macs: int | None
    references: Mapping[str, str]

    @property
    def energy_J(self) -> float | None:  # noqa: N802 - the symbol of the unit
        """Joules per inference of all lines that are known; None where none is."""
        known = [e for line in self.lines if line.count and (e := line.energy_J) is not None]
        return math.fsum(known) if known else None

    @property
    def missing(self) -> tuple[str, ...]:
        """What happens and has no known energy: the sum leaves it out."""
        return tuple(line.what for line in self.lines if line.energy_J is None and line.mark != _WITHIN)

    @property
    def marks(self) -> tuple[str, ...]:
        """What the known coefficients are worth, each mark once."""
        known = [line.mark for line in self.lines if line.count and line.coefficient is not None]
        return tuple(dict.fromkeys(known))

    @property
    def synaptic_events(self) -> float:
        """Of one inference; beside n_macs."""
        return next(line.count for line in self.lines if line.what == "synaptic events")

    def as_json(self) -> dict[str, Any]:
        """For reports; SI, with the unit in the key."""
        energy = self.energy_J
        return {
            "samples": self.n_samples,
            "steps": self.n_steps,
            "energy_per_inference_J": energy,
            "energy_per_step_J": None if energy is None else energy / self.n_steps,
            "energy_leaves_out": list(self.missing),
            "energy_marks": list(self.marks),
            "step_duration_s": self.step_duration_s,
            "step_duration_mark": self.time_mark,
            "step_duration_source": self.time_source,
            "ann_macs": self.n_macs,
            "references": dict(self.references),
            "lines": [
                {
                    "what": line.what,
                    "count_per_inference": line.count,
                    "unit": line.unit,
                    f"energy_per_{line.unit}_J": line.coefficient,
                    "energy_J": line.energy_J,
                    "mark": line.mark,
                    "source": line.source,
                }
                for line in self.lines
            ],
        }


def cost_of(
    network: IntNetwork,
    target: Target,
    placement: Placement,
    traffic: Traffic,
    activity: Activity,
    *,
    n_macs: int | None = None,
) -> Cost:
    """What one inference of the activity costs on the target.

    Neuron updates count compartments; synaptic events count each synapse behind each spike, those of spike sources and
    of the second compartments' thresholds too. Messages go once to each core with synapses of the neuron, its own
    too. Hops between chips cost what hops on a chip do, and what the link costs besides is not known.
    """
    updates, idle, events = _neuron_counts(network, activity)
    floor = placement.floor
    hops = traffic.along(placement.sites, floor.hops)
    (links,) = traffic.along(placement.sites, lambda a, b: (floor.crossings(a, b),))
    duration = target.energy.step_duration_s
    seconds = 0.0 if duration is None else duration * activity.n_steps
    computed = [
        _line(target, "neuron updates", updates, "energy_per_neuron_update_J"),
        _line(target, "idle neuron updates", idle, "energy_per_idle_neuron_update_J"),
        _line(target, "synaptic events", events, "energy_per_synaptic_event_J"),
    ]
    if seconds and target.energy.power_per_core_W is not None:
        computed = [replace(line, mark=_WITHIN) if line.coefficient is None else line for line in computed]
    lines = [
        *computed,
        _line(target, "spike messages", float(traffic.messages.sum()), "energy_per_spike_message_J"),
        _line(target, "hops east and west", hops[0], "energy_per_hop_east_west_J"),
        _line(target, "hops north and south", hops[1], "energy_per_hop_north_south_J"),
    ]
    lines += [_line(target, "diagonal hops", hops[2], "energy_per_hop_diagonal_J")] if hops[2] else []
    if links and len(placement.floor.places) > len(placement.floor.chip_places):  # else every hop is such a link
        lines.append(CostLine("links between chips", links, "event", None, "unknown", _UNLISTED))
    if traffic.from_outside.any():
        outside = float(traffic.from_outside.sum())
        lines.append(CostLine("spikes from outside", outside, "event", None, "unknown", _UNLISTED))
    n_chips = len(np.unique(placement.sites // placement.floor.cores_per_chip))
    for what, n, key in (("chips", n_chips, "power_per_chip_W"), ("cores", traffic.n_cores, "power_per_core_W")):
        line = _line(target, f"power of {what}", n * seconds, key, unit="s")
        # without a duration nothing can be multiplied, but power is drawn all the same
        lines.append(line if seconds else CostLine(line.what, n, what.removesuffix("s"), None, "unknown", line.source))
    _, mark, source = _known(target, "step_duration_s")
    said = " ".join((source, *(line.source for line in lines)))
    references = {short: full for short, full in target.references.items() if short in said}
    return Cost(tuple(lines), activity.n_steps, activity.n_samples, duration, mark, source, n_macs, references)


def n_macs(graph: AnnGraph) -> int:
    """Multiply-accumulates of one inference of the ANN: convolutions, their transposes and linear layers."""
    total = 0
    for node in graph:
        match node.op:
            case Conv2d(weight) | Linear(weight):
                total += node.size * math.prod(weight.shape[1:])
            case ConvTranspose2d(weight):
                total += graph.by_name[node.inputs[0]].size * math.prod(weight.shape[1:])
    return total


def _neuron_counts(network: IntNetwork, activity: Activity) -> tuple[float, float, float]:
    """Updates of compartments that something reaches, of the others, and synaptic events, per inference."""
    updates = idle = events = 0.0
    for p in network.populations:
        if p.role != "input":
            n_compartments = network.compartments_of(p)
            all_of_them = p.n_neurons * n_compartments * activity.n_steps
            idle += activity.idle[p.name] * all_of_them
            updates += (1 - activity.idle[p.name]) * all_of_them
            if n_compartments > 1:
                events += float(activity.rates(p.name).sum())
    for j in network.projections:
        events += float(activity.rates(j.pre) @ fan_out(j.synapse, network.by_name[j.pre].n_neurons))
    return updates, idle, events


def _line(target: Target, what: str, count: float, key: str, *, unit: str = "event") -> CostLine:
    return CostLine(what, count, unit, *_known(target, key))


def _known(target: Target, name: str) -> tuple[float | None, str, str]:
    """Value of a key of the energy section, its mark and its source."""
    value: float | None = getattr(target.energy, name)
    entry = entry_of(f"energy.{name}", target.sources)
    if entry is None:
        return value, "no source" if value is not None else "unknown", _UNLISTED
    return value, target.sources[entry].mark, target.sources[entry].source
