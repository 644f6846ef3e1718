"""Compiled tasks, shared by the environments of a process.

A compiled task is large (its meshes and textures) and an episode in it is small (its state). So a
process keeps one simulation per task, and the episodes take turns in it.
"""

from __future__ import annotations

from collections import OrderedDict

from srpo_env.libero.simulation import SETTLE_ACTION, Simulation, Snapshot
from srpo_env.libero.suites import get_task
from srpo_env.libero.visuals import Visuals, check_visuals

MAX_COMPILED_TASKS = 16
"""tasks that a process keeps compiled; beyond, the least recently used goes"""

_compiled: OrderedDict[tuple[str, int, int, Visuals], SharedSimulation] = OrderedDict()


class SharedSimulation:
    """A simulation, whose episode is in it now, and its states after settling."""

    def __init__(self, simulation: Simulation) -> None:
        """Takes a simulation that nobody is in."""
        self.simulation = simulation
        self.occupant: Seat | None = None
        self._settled: dict[tuple[int, int], Snapshot] = {}

    def settled(self, init_state_id: int, settle_steps: int) -> Snapshot:
        """The stored state after ``settle_steps`` without motion; computed once, as it is fixed."""
        key = (init_state_id, settle_steps)
        if key not in self._settled:
            self.vacate()
            simulation = self.simulation
            simulation.reset(simulation.task.init_states()[init_state_id])
            for _ in range(settle_steps):
                simulation.step(SETTLE_ACTION)
            self._settled[key] = simulation.save()
        return self._settled[key]

    def vacate(self) -> None:
        """Saves the episode that is in the simulator, so that another can enter."""
        if self.occupant is not None:
            self.occupant.snapshot = self.simulation.save()
            self.occupant = None


class Seat:
    """One environment's place in a shared simulation."""

    def __init__(self, shared: SharedSimulation, init_state_id: int, settle_steps: int) -> None:
        """Begins an episode from a stored state."""
        self._shared = shared
        self.snapshot = shared.settled(init_state_id, settle_steps)

    def take(self) -> Simulation:
        """The simulator with this episode in it."""
        shared = self._shared
        if shared.occupant is not self:
            shared.vacate()
            shared.simulation.load(self.snapshot)
            shared.occupant = self
        return shared.simulation

    def leave(self) -> None:
        """Ends the episode; nothing of it is kept."""
        if self._shared.occupant is self:
            self._shared.occupant = None


def shared_simulation(
    suite: str, task_id: int, image_size: int, visuals: Visuals | None = None
) -> SharedSimulation:
    """The process's simulation of a task; compiles it when it is asked for first."""
    visuals = check_visuals(visuals)
    key = (suite, task_id, image_size, visuals)
    if key not in _compiled:
        _compiled[key] = SharedSimulation(Simulation(get_task(suite, task_id), image_size, visuals))
        if len(_compiled) > MAX_COMPILED_TASKS:
            _compiled.popitem(last=False)  # those who sit in it keep it until they leave
    _compiled.move_to_end(key)
    return _compiled[key]
