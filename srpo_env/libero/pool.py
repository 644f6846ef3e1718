"""Shares compiled tasks among the environments of a process.

A compiled task is large (meshes and textures), and an episode's state is small. A process therefore
keeps one simulation per task, and the episodes take turns in it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from srpo_env.libero.look import DEFAULT_LOOK, Look, check_look
from srpo_env.libero.perturbations import Mixture
from srpo_env.libero.perturbations.appearance import Appearance
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation, Snapshot
from srpo_env.libero.suites import Task
from srpo_env.libero.visuals import Visuals, check_visuals
from srpo_env.system.machine import release_memory

MAX_COMPILED_TASKS = 16
"""Maximum number of compiled tasks per process; the least recently used one is removed."""

MAX_SETTLED = 200
"""Maximum number of settled initial states per task; those with seeds are of any number."""

lock = threading.RLock()
"""Held by an environment while it uses a simulation: environments in several threads take turns."""

_compiled: OrderedDict[tuple[Task, int, Visuals, Look], SharedSimulation] = OrderedDict()


class SharedSimulation:
    """A simulation, the episode that is loaded, and the settled initial states."""

    def __init__(self, simulation: Simulation) -> None:
        """Initialises without a loaded episode."""
        self.simulation = simulation
        self.loaded: EpisodeSlot | None = None
        self._settled: OrderedDict[tuple[int, int, int | None, Mixture], Snapshot] = OrderedDict()

    def settled(
        self,
        init_state_id: int,
        settle_steps: int,
        fixture_seed: int | None = None,
        perturbation: Mixture = (),
    ) -> Snapshot:
        """Returns an initial state after ``settle_steps`` without motion; keeps it.

        In exact physics, so that all environments start from the same state. Fixtures stand as in
        `Simulation.start`, before a perturbation moves them.
        """
        changes = tuple(part for part in perturbation if part.changes_start)
        key = (init_state_id, settle_steps, fixture_seed, changes)
        if key not in self._settled:
            self.unload()
            simulation = self.simulation
            simulation.physics = "exact"
            simulation.start(init_state_id, fixture_seed)
            for part in changes:
                part.start(simulation)
            for _ in range(settle_steps):
                simulation.step(SETTLE_ACTION)
            self._settled[key] = simulation.save()
            if len(self._settled) > MAX_SETTLED:
                self._settled.popitem(last=False)
        self._settled.move_to_end(key)
        return self._settled[key]

    def unload(self) -> None:
        """Saves the loaded episode, so that another one can be loaded."""
        if self.loaded is not None:
            self.loaded.snapshot = self.simulation.save()
            self.loaded = None


class EpisodeSlot:
    """One environment's episode in a shared simulation."""

    def __init__(
        self,
        shared: SharedSimulation,
        init_state_id: int,
        settle_steps: int,
        fixture_seed: int | None = None,
        perturbation: Mixture = (),
    ) -> None:
        """Starts an episode from an initial state; see `SharedSimulation.settled`."""
        self._shared = shared
        self.snapshot = shared.settled(init_state_id, settle_steps, fixture_seed, perturbation)
        self._appearance = Appearance.merged(
            part.appearance(shared.simulation) for part in perturbation
        )

    def load(self) -> Simulation:
        """Loads this episode into the simulation and returns it."""
        shared = self._shared
        if shared.loaded is not self:
            shared.unload()
            shared.simulation.appearance = self._appearance
            shared.simulation.load(self.snapshot)
            shared.loaded = self
        return shared.simulation

    def end(self) -> None:
        """Ends the episode without saving its state."""
        if self._shared.loaded is self:
            self._shared.loaded = None


def shared_simulation(
    task: Task, image_size: int, visuals: Visuals | None = None, look: Look = DEFAULT_LOOK
) -> SharedSimulation:
    """Returns the process's simulation of a task; compiles it at the first call.

    The caller holds :data:`lock`.
    """
    visuals = check_visuals(visuals)
    key = (task, image_size, visuals, check_look(look))
    if key not in _compiled:
        _compiled[key] = SharedSimulation(Simulation(task, image_size, visuals, look=look))
        if len(_compiled) > MAX_COMPILED_TASKS:
            _compiled.popitem(last=False)  # its episodes keep it until they end
            # Freed now: otherwise, memory grows by 60 MB for each task that is compiled before the
            # garbage collector runs, and more by what lies between used blocks.
            release_memory()
    _compiled.move_to_end(key)
    return _compiled[key]
