"""Scripted experts that solve LIBERO's tasks from the simulator's state, in closed loop.

`hand` moves the gripper, `scene` has the positions of objects and fixtures. Skills such as
`pick_place` and `drawers` reach one goal predicate each; `tasks` composes them from a task's goal,
and `attempts` plays episodes.
"""

from srpo_env.libero.experts.attempts import Attempt as Attempt
from srpo_env.libero.experts.attempts import run_expert as run_expert
from srpo_env.libero.experts.basket import CLEARANCE as CLEARANCE
from srpo_env.libero.experts.basket import LOW as LOW
from srpo_env.libero.experts.basket import PickAndPlaceExpert as PickAndPlaceExpert
from srpo_env.libero.experts.hand import CLOSE as CLOSE
from srpo_env.libero.experts.hand import FULL_OPENING as FULL_OPENING
from srpo_env.libero.experts.hand import OPEN as OPEN
from srpo_env.libero.experts.tasks import make_expert as make_expert
