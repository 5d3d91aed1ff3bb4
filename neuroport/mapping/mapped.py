"""The room's verb: an integer network onto the cores of a chip, placed, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.mapping.activity import Activity
from neuroport.mapping.cost import Cost, cost_of
from neuroport.mapping.floor import boards_needed, floor_of, unsaid
from neuroport.mapping.network import MappedNetwork, Partition
from neuroport.mapping.partition import partition
from neuroport.mapping.place import Placement, place
from neuroport.mapping.processors import cores_with_memory
from neuroport.mapping.traffic import Traffic, spike_traffic


@dataclass(frozen=True, eq=False)
class Mapped:
    """A network on its cores.

    activity, cost: None where no spikes were measured; the placement then takes each neuron to fire once.
    """

    mapped: MappedNetwork
    placement: Placement
    traffic: Traffic
    activity: Activity | None
    cost: Cost | None
    seed: int

    @property
    def partition(self) -> Partition:
        """Tiles by core."""
        return self.mapped.partition

    @property
    def n_cores(self) -> int:
        """Cores in use."""
        return len(self.partition.cores)

    @property
    def n_chips(self) -> int:
        """Chips in use."""
        return self.mapped.n_chips

    @property
    def boards(self) -> dict[str, int]:
        """For each kind of board that the datasheet knows, how many hold the chips."""
        return boards_needed(self.partition.target.geometry, self.n_chips)


def map_to_cores(
    network: IntNetwork,
    target: Target,
    activity: Activity | None = None,
    *,
    n_macs: int | None = None,
    max_cores: int | None = None,
    seed: int = 0,
) -> Mapped:
    """Cut the network into tiles, pack them into cores, place the cores, and count what an inference costs.

    Args:
        network: quantized for the target.
        target: whose geometry is known.
        activity: spikes measured on the core (mapping.activity.measure); None: no cost is given.
        n_macs: of the ANN, to stand beside the cost.
        max_cores: the most cores to use; None: as many as it takes.
        seed: of the annealing.

    Raises:
        DoesNotFitError: the datasheet has no cores, or a layer fits into none; layer, value and limit are named.
    """
    check_geometry(target)
    cut = partition(network, target, max_cores=max_cores)
    traffic = spike_traffic(cut, activity)
    floor = floor_of(target.geometry, len(cut.cores), cores_with_memory(cut))
    placement = place(traffic, floor, seed=seed)
    cost = None
    if activity is not None:
        cost = cost_of(network, target, placement, traffic, activity, n_macs=n_macs)
    return Mapped(placement.mapped(cut), placement, traffic, activity, cost, seed)


def check_geometry(target: Target) -> None:
    """Refuse a target of which nothing is known that a core holds.

    Raises:
        DoesNotFitError: no cores in its datasheet.
    """
    if missing := unsaid(target.geometry):
        raise DoesNotFitError(
            f"target '{target.name}': its datasheet does not say {missing}, so no network can be mapped onto it; use a "
            f"target that does (loihi1), or say it under `geometry:` in a datasheet of your own"
        )
