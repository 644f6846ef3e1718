"""Runs a law on few examples by default, and on many behind the marker ``exhaustive``."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def fuzz(examples, exhaustive, **strategies):
    """Makes a test of a law.

    Args:
        examples: Number of examples in the default run.
        exhaustive: Number of examples with ``pytest -m exhaustive``.
        strategies: Strategies of the law's arguments.
    """

    def decorate(law):
        @pytest.mark.parametrize(
            "count",
            [examples, pytest.param(exhaustive, marks=pytest.mark.exhaustive, id=f"{exhaustive}")],
        )
        def test(count):
            num_calls = 0

            @functools.wraps(law)
            def counted(**arguments):
                nonlocal num_calls
                num_calls += 1
                law(**arguments)

            run = settings(max_examples=count, suppress_health_check=CHECKS)(
                given(**strategies)(counted)
            )
            try:
                run()
            finally:
                print(f"{law.__name__}: {num_calls} calls")

        test.__name__, test.__doc__, test.__module__ = law.__name__, law.__doc__, law.__module__
        return test

    return decorate
