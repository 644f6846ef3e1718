"""Every kind of vector environment that the wrapper has to be right in."""

from __future__ import annotations

import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import settings

# A time limit for each example would test how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(params=[SyncVectorEnv, AsyncVectorEnv], ids=["sync", "async"])
def vector(request):
    return request.param


@pytest.fixture(params=list(AutoresetMode), ids=lambda mode: mode.name)
def mode(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["box", "dict"])
def as_dict(request):
    return request.param
