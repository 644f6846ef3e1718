import math

import pytest
import torch

from srpo_env.training.gradients import clip_gradients


def with_gradients(*values):
    parameter = torch.nn.Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values)
    return parameter


def test_gradients_are_scaled_to_the_norm():
    parameter = with_gradients(3.0, 4.0)
    clip_gradients([parameter], 1.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_an_error(value):
    with pytest.raises(FloatingPointError, match="must be finite"):
        clip_gradients([with_gradients(1.0, value)], 1.0)
