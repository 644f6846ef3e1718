from __future__ import annotations

import pytest

from srpo_env import check_wrapped
from tests.corridor import make_corridor, wrap


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"success": 3}, TypeError, "`success` must be a path, a callable or None, got 3"),
        ({"reward": "paper"}, TypeError, "`reward` must be a ProgressReward, .*got 'paper'"),
        ({"frames": "agentview"}, ValueError, "the observation itself is the image"),
    ],
)
def test_wrong_argument_of_the_wrapper_is_an_error(settings, error, message):
    with pytest.raises(error, match=message):
        wrap(make_corridor(), **settings)


def test_unknown_image_lists_those_of_the_observation():
    with pytest.raises(ValueError, match=r"the images in the observations are \['agentview'\]"):
        wrap(make_corridor(as_dict=True), frames="wrist")


@pytest.mark.parametrize("name", ["num_episodes", "max_steps"])
def test_check_wrapped_needs_positive_numbers(name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer and at least 1, got 0"):
        check_wrapped(wrap(make_corridor()), **{name: 0})
