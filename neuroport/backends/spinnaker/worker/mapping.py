"""Lets sPyNNaker map an exported folder onto a virtual machine, and reads back what it would load.

What a placement, its memory or a list of stored synapses is called is not part of PyNN: the names are those of
sPyNNaker 7.4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import run
from spynnaker.pyNN.data import SpynnakerDataView

_SYSTEM = {"ChipPowerMonitorMachineVertex", "ExtraMonitorSupportMachineVertex", "DataSpeedUpPacketGatherMachineVertex"}


def map_network(folder: Path, n_boards: int, on_state: Callable[[str], None]) -> dict[str, Any]:
    """Where everything was placed, and whether every weight and delay that would be loaded is the export's.

    n_boards: of the machine; 0 for as many as sPyNNaker thinks are needed.
    """
    sim = run.set_up(folder, "spiNNaker", **({"n_boards_required": n_boards} if n_boards else {}))
    made, projections = run.build(folder, sim, "spiNNaker")
    _, _, n_steps = run.read_lengths(folder)
    on_state("mapping")
    sim.run(n_steps * run.DT)
    populations = [_placed(name, p, n_steps) for name, p in made.items()]
    n_connections, n_wrong, first = 0, 0, None
    for k, projection in enumerate(projections):
        on_state(f"reading back connections {k + 1} of {len(projections)}")
        with h5py.File(folder / "network.h5", "r") as f:
            expected = run.read(f["projections"][str(k)])
        n, found = _compare(projection, expected, made[expected["post"]].size)
        n_connections, n_wrong, first = n_connections + len(expected["i"]), n_wrong + n, first or found
    result = {
        "machine": _machine(),
        "steps": n_steps,
        "populations": populations,
        "connections": n_connections,
    }
    sim.end()
    return {**result, "differences": n_wrong, "first_difference": first}


def _machine() -> dict[str, int]:
    """What the virtual machine has, and what is used of it by our populations and by sPyNNaker's own helpers."""
    machine = SpynnakerDataView.get_machine()
    places = [(p.x, p.y, type(p.vertex).__name__ in _SYSTEM) for p in SpynnakerDataView.iterate_placemements()]
    return {
        "chips": machine.n_chips,
        "cores": machine.total_available_user_cores,
        "chips_used": len({(x, y) for x, y, is_system in places if not is_system}),
        "cores_used": sum(not is_system for *_, is_system in places),
        "system_cores": sum(is_system for *_, is_system in places),
        "router_entries": SpynnakerDataView.get_uncompressed().get_max_number_of_entries(),
    }


def _placed(name: str, population: Any, n_steps: int) -> dict[str, Any]:
    """Cores of one population: chip, processor, its neurons, and bytes of SDRAM for a run of n_steps."""
    vertex, cores = population._vertex, []
    for m in vertex.machine_vertices:
        place = SpynnakerDataView.get_placement_of_vertex(m)
        atoms, sdram = m.vertex_slice, m.sdram_required.get_total_sdram(n_steps)
        cores.append(
            {
                "chip": [place.x, place.y],
                "processor": place.p,
                "neurons": [int(atoms.lo_atom), int(atoms.hi_atom)],
                "sdram_bytes": int(sdram),
            }
        )
    row: dict[str, Any] = {"name": name, "neurons": population.size, "cores": cores}
    if hasattr(vertex, "get_ring_buffer_shifts"):
        row["ring_buffer_shifts"] = [int(s) for s in vertex.get_ring_buffer_shifts()]
    return row


def _compare(projection: Any, expected: dict[str, Any], n_post: int) -> tuple[int, str | None]:
    """Connections that are missing, too many or of another weight or delay, and the first of them."""
    stored = np.concatenate([np.asarray(c) for c in projection.get(["weight", "delay"], "list").connections])
    ours = expected["i"].astype(np.int64) * n_post + expected["j"]
    theirs = stored["source"].astype(np.int64) * n_post + stored["target"]
    if not np.array_equal(np.sort(ours), np.sort(theirs)):
        missing, extra = np.setdiff1d(ours, theirs), np.setdiff1d(theirs, ours)
        n = max(abs(len(ours) - len(theirs)), len(missing) + len(extra), 1)
        return n, f"{_name(expected)}: {len(ours)} connections exported, {len(theirs)} stored"
    a, b = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    weight = np.abs(expected["weight"][a].astype(np.int64))
    held, delay = stored["weight"][b] / float(expected["unit"]), stored["delay"][b] / run.DT
    wrong = (held != weight) | (delay != int(expected["delay"]))
    if not wrong.any():
        return 0, None
    at = int(np.flatnonzero(wrong)[0])
    i, j = divmod(int(ours[a][at]), n_post)
    return int(wrong.sum()), (
        f"{_name(expected)}: {i} to {j} has weight {weight[at]} and delay {int(expected['delay'])}, stored are "
        f"{held[at]:g} and {delay[at]:g}"
    )


def _name(c: dict[str, Any]) -> str:
    return f"{c['receptor']} connections from '{c['pre']}' to '{c['post']}'"
