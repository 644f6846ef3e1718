"""Fixtures of several test folders: kinds of vector environments, and LIBERO's own assets."""

from __future__ import annotations

import signal

import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import settings

# No time limit for each example, because it would depend on the load of the machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def default_signals():
    """Does not inherit ignored signals from nohup or a background shell: tests send them."""
    inherited = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    for number, handler in inherited.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)


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
