"""The state of what each rank has its own of, in the one checkpoint of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srpo_env.training.checkpoint import get_state, set_state
from srpo_env.training.distributed import Ranks


class PerRank:
    """Saves the states of a part of all ranks, and restores that of this rank.

    Saving is a communication: all ranks do it together. Each rank reads the checkpoint, so the
    run's folder must be visible to all of them.
    """

    def __init__(self, ranks: Ranks, part: Any) -> None:
        """Initialises the state of a part: anything that `get_state` takes."""
        self._ranks, self._part = ranks, part

    def state_dict(self) -> Mapping[str, Any]:
        """Returns the states of all ranks in the first one, and nothing in the others."""
        state = get_state(self._part)
        if self._ranks.size == 1:
            return state
        states = self._ranks.gather_in_first(dict(state))
        return {
            f"rank{n}/{name}": value for n, of in enumerate(states) for name, value in of.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of this rank.

        Raises:
            ValueError: If the state was saved by another number of ranks.
        """
        ranks = self._ranks
        saved = {int(found[1]) for name in state if (found := re.match(r"rank(\d+)/", name))}
        if len(saved or {0}) != ranks.size:
            raise ValueError(
                f"a run of {len(saved or {0})} ranks must be resumed with as many, got {ranks.size}"
            )
        if saved:
            own = f"rank{ranks.rank}/"
            state = {name.removeprefix(own): x for name, x in state.items() if name.startswith(own)}
        set_state(self._part, state)
