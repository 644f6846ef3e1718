"""Fixtures of several test folders: kinds of vector environments, and LIBERO's own assets."""

from __future__ import annotations

import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import settings

# No time limit for each example, because it would depend on the load of the machine.
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


@pytest.fixture(scope="session")
def libero_assets():
    """The folder of LIBERO's own assets; skips the test if there is none."""
    from srpo_env.libero.assets import asset_warnings_silenced, resolve_assets

    with asset_warnings_silenced():
        assets = resolve_assets()
    if assets.kind != "libero":
        pytest.skip(
            f"needs LIBERO's own assets, found {assets.kind} assets: "
            "run `pip install 'srpo-env[assets]'`"
        )
    return assets.path
