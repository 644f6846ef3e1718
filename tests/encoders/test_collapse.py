from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from srpo_env.encoders.collapse import collapse_of  # noqa: E402


def test_random_latents_have_full_rank_and_no_dead_dimension():
    torch.manual_seed(0)
    collapse = collapse_of(torch.randn(500, 3, 8))
    assert not collapse.is_real
    assert collapse.rank == pytest.approx(8, rel=0.02)
    assert collapse.dead_dimensions == 0
    assert collapse.spread == pytest.approx(1, rel=0.05)


def test_one_latent_for_all_clips_is_collapse():
    torch.manual_seed(0)
    tokens = torch.randn(1, 3, 8).expand(20, 3, 8)  # differs between places only
    collapse = collapse_of(tokens)
    assert collapse.is_real
    assert (collapse.spread, collapse.dead_dimensions, collapse.rank) == (0, 1, 1)
    assert collapse_of(torch.zeros(20, 3, 8)).is_real


def test_latents_on_a_line_are_collapse():
    torch.manual_seed(0)
    tokens = torch.randn(20, 1, 1) * torch.randn(1, 1, 8)
    collapse = collapse_of(tokens)
    assert collapse.is_real
    assert collapse.rank == pytest.approx(1, abs=1e-3)
    assert collapse.spread > 0.5


def test_the_effective_rank_counts_equal_directions():
    # Four clips at the corners of a square: two singular values, equal.
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    collapse = collapse_of(corners[:, None])
    assert collapse.rank == pytest.approx(2)
    assert collapse.dead_dimensions == pytest.approx(1 / 3)
