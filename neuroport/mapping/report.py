"""The mapping as data: a report for people, the placement for a vendor's compiler, each under a versioned schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neuroport.chip.inputs import Inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.activity import measure
from neuroport.mapping.floor import unsaid
from neuroport.mapping.mapped import Mapped, map_to_cores
from neuroport.mapping.network import Partition
from neuroport.mapping.picture import draw_mesh
from neuroport.version import __version__

SCHEMA = "neuroport-mapping/1"
PLACEMENT_SCHEMA = "neuroport-placement/1"


def mapping_report(mapped: Mapped) -> dict[str, Any]:
    """Cores, chips and boards; use against limit, worst first; what binds each layer; placements tried; cost.

    Fractions are of a limit; `core` is a number of the placement's `cores`.
    """
    part, geometry = mapped.partition, mapped.partition.target.geometry
    return {
        "schema": SCHEMA,
        "target": part.target.name,
        "cores": mapped.n_cores,
        "cores_per_chip": geometry.cores_for_neurons,
        "chips": mapped.n_chips,
        "boards": mapped.boards,
        "uses": _uses(part),
        "limits_unknown": list(part.unknown),
        "layers": list(_layers(part)),
        "placement": {
            "chosen": mapped.placement.chosen,
            "seed": mapped.seed,
            "message_hops_per_inference": dict(mapped.placement.hops),
            "messages_measured": mapped.activity is not None,
        },
        "cost": None if mapped.cost is None else mapped.cost.as_json(),
    }


@dataclass(frozen=True)
class Section:
    """What a deployment says of the mapping: data for its report, and the picture, where cores are known."""

    report: Mapping[str, Any]
    picture: str | None = None


def mapping_section(
    network: IntNetwork, target: Target, inputs: Inputs, *, title: str, n_macs: int | None = None, seed: int = 0
) -> Section:
    """What a deployment says of the mapping; of a target without cores, that it has none. title: of the picture.

    Raises:
        DoesNotFitError: the network does not fit onto the target's cores.
    """
    if unsaid(target.geometry):
        note = f"no cores are known of {target.name}; `neuroport fit` says which chips the network fits onto"
        return Section({"schema": SCHEMA, "target": target.name, "cores": None, "note": note})
    try:
        mapped = map_to_cores(network, target, measure(network, inputs), n_macs=n_macs, seed=seed)
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}; to simulate it as if it fitted: --target loihi-sim, or cpu") from error
    return Section(mapping_report(mapped), draw_mesh(mapped, title))


def _uses(part: Partition) -> list[dict[str, Any]]:
    """For each limited resource the core that uses most of it, and the mean over all cores; worst first."""
    rows = []
    for name in dict.fromkeys(name for core in part.cores for name in core.uses):
        uses = {k: core.uses[name] for k, core in enumerate(part.cores) if name in core.uses}
        worst = max(uses, key=lambda k: (uses[k].fraction, uses[k].used))
        if uses[worst].limit is None:
            continue
        rows.append(
            {
                "resource": name,
                "used": uses[worst].used,
                "limit": uses[worst].limit,
                "fraction": uses[worst].fraction,
                "mean_fraction": sum(use.fraction for use in uses.values()) / len(part.cores),
                "core": worst,
                "layers": list(dict.fromkeys(tile.population for tile in part.cores[worst].tiles)),
            }
        )
    return sorted(rows, key=lambda row: -row["fraction"])


def _layers(part: Partition) -> Iterator[dict[str, Any]]:
    """For each population its cores, and the resource that its fullest core uses most."""
    for p in part.network.populations:
        cores = part.cores_of[p.name]
        if not cores:
            continue
        fullest = max((part.cores[k] for k in cores), key=lambda core: core.uses[core.binding].fraction)
        use = fullest.uses[fullest.binding]
        yield {
            "name": p.name,
            "shape": list(p.shape),
            "neurons": p.n_neurons,
            "compartments": p.n_neurons * part.network.compartments_of(p),
            "cores": len(cores),
            "binds": fullest.binding,
            "used": use.used,
            "limit": use.limit,
        }


def placement_data(mapped: Mapped) -> dict[str, Any]:
    """What a compiler needs: every core with its chip, its number there, its router, and the neurons it holds.

    A tile's box holds start and end of each axis of the population's shape; of one axis, of the population read in C
    order. Chips stand at their places on the grid of chips.
    """
    part, floor = mapped.partition, mapped.placement.floor
    used = sorted({site.chip for site in mapped.mapped.sites})
    return {
        "schema": PLACEMENT_SCHEMA,
        "neuroport": __version__,
        "target": part.target.name,
        "seed": mapped.seed,
        "chip_grid": "hexagonal" if floor.is_hexagonal else "mesh",
        "mesh": list(floor.mesh),
        "cores_per_router": floor.cores_per_router,
        "populations": [
            {"name": p.name, "shape": list(p.shape), "compartments_per_neuron": part.network.compartments_of(p)}
            for p in part.network.populations
            if part.cores_of[p.name]
        ],
        "chips": [{"chip": k, "place": floor.chip_places[k].tolist()} for k in used],
        "cores": [
            {
                "chip": site.chip,
                "core": site.core,
                "router": [site.x, site.y],
                "tiles": [{"population": t.population, "box": [list(ends) for ends in t.box]} for t in core.tiles],
                "uses": {name: use.used for name, use in core.uses.items()},
            }
            for core, site in zip(part.cores, mapped.mapped.sites, strict=True)
        ],
    }
