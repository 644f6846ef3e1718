from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from agents import world_model
from agents.world_model_pooler import Args, Views, contrast, main
from srpo_env.encoders import VJEPA2Encoder
from tests.agents.test_world_model import TINY, moving_square, videos  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def model(videos, tmp_path_factory):  # noqa: F811
    runs = tmp_path_factory.mktemp("runs")
    settings = TINY | {"videos": (videos,), "run_dir": runs}
    return world_model.main(world_model.Args(**settings, steps=60, learning_rate=3e-3, ema=0.9))


@pytest.fixture
def settings(model, videos, tmp_path):  # noqa: F811
    shutil.copytree(model, tmp_path / "model")
    return {
        "model": tmp_path / "model", "videos": (videos,), "held_out": 8, "views": 3, "shift": 2,
        "torch_threads": 1, "device": "cpu",
    }  # fmt: skip


def test_it_learns_to_tell_the_moments_of_an_episode_apart(settings, capsys):
    main(Args(**settings, steps=300, batch_size=24, near=0.7))
    printed = capsys.readouterr()
    assert "NOTHING" not in printed.err
    # On squares that it has never seen, in other lights and cuts.
    learnt, guess = map(float, re.search(r"loss (\S+) \(a guess: (\S+)\)", printed.out).groups())
    assert learnt < 0.9 * guess
    assert VJEPA2Encoder(settings["model"]).pooling == "moments"


def test_a_pooler_that_has_learnt_nothing_is_told(settings, capsys):
    main(Args(**settings, steps=1, learning_rate=1e-9))
    assert "NOTHING" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_pooler_and_tells_how_it_came_about(settings):
    file = main(Args(**settings, steps=3))
    once = file.read_bytes()
    assert main(Args(**settings, steps=3, overwrite=True)).read_bytes() == once
    story = json.loads((settings["model"] / "provenance.json").read_text())
    assert story["agent"] == "world_model"
    assert story["pooler"]["args"]["seed"] == 1
    assert story["pooler"]["videos"] == 24


def test_a_pooler_that_is_there_is_not_replaced_unasked(settings, capsys):
    main(Args(**settings, steps=1))
    with pytest.raises(SystemExit):
        main(Args(**settings, steps=1))
    assert "--overwrite" in capsys.readouterr().err


# --- The objective --------------------------------------------------------------------------------


def found_in(latents, moments, others=None, **settings):
    """The contrast of one episode, with or without another of its scene."""
    args = Args(model="", near=0.1, **settings)
    stranger = latents[:, 0] if others is None else others
    return contrast(latents, moments, stranger, torch.tensor([others is not None]), args).item()


def test_the_contrast_is_low_where_equal_moments_agree_and_high_where_others_do():
    latents = torch.eye(4).expand(2, 4, 4)[None]  # two equal views of four moments
    moments = torch.arange(4.0).expand(2, 4)[None]
    assert found_in(latents, moments) < 0.01
    shuffled = torch.stack([latents[:, 0], latents[:, 1].roll(1, dims=1)], dim=1)
    # Each moment is found with a cosine of 0 where one of 1 is beside it, over a temperature of 0.1
    assert found_in(shuffled, moments) == pytest.approx(10, abs=0.01)


def test_one_latent_for_all_is_a_guess_among_all_moments():
    latents, moments = torch.ones(1, 2, 5, 4) / 2, torch.arange(5.0).expand(1, 2, 5)
    assert found_in(latents, moments) == pytest.approx(np.log(5))
    assert found_in(latents, moments, latents[:, 0]) == pytest.approx(np.log(10))


def test_moments_that_the_other_view_does_not_show_do_not_count():
    east, north, up = torch.eye(3)
    latents = torch.stack([torch.stack([east, north]), torch.stack([north, up])])[None]
    moments = torch.tensor([[[0.0, 1.0], [1.0, 50.0]]])
    # Only moment 1 is in both; either way it has a cosine of 1 there and of 0 beside it.
    expected = np.log(1 + np.exp(-1))
    assert found_in(latents, moments, temperature=1.0) == pytest.approx(expected)


def test_where_nothing_is_shared_there_is_nothing_to_lose():
    latents, moments = (
        torch.eye(2).expand(2, 2, 2)[None],
        torch.tensor([[[0.0, 1.0], [50.0, 60.0]]]),
    )
    assert found_in(latents, moments) == 0.0


def test_near_moments_share_what_is_asked_for():
    latents, moments = torch.eye(2).expand(2, 2, 2)[None], torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    share = np.exp(-0.5) / (1 + np.exp(-0.5))  # of the moment one frame away
    args = Args(model="", near=1.0, temperature=1.0)
    found = contrast(latents, moments, latents[:, 0], torch.tensor([False]), args).item()
    right, beside = np.log([np.e / (1 + np.e), 1 / (1 + np.e)])
    assert found == pytest.approx(-(1 - share) * right - share * beside)


def test_another_episode_is_of_the_same_scene_where_there_is_one():
    tokens = torch.arange(4.0)[:, None, None, None, None].expand(4, 2, 3, 1, 1)
    views = Views(tokens, torch.zeros(4, 2, 3), np.array([0, 1, 0, 1]))
    drawn = views.draw(50, np.random.default_rng(0))
    rows, others = drawn.tokens[:, 0, 0, 0, 0], drawn.others[:, 0, 0, 0]
    assert drawn.has_other.all()
    assert ((rows - others).abs() == 2).all()
    alone = Views(tokens, torch.zeros(4, 2, 3), np.arange(4)).draw(5, np.random.default_rng(0))
    assert not alone.has_other.any()


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latent_dim": 0}, "`latent_dim` must be at least 1, got 0"),
        ({"shift": -1}, "`shift` must be at least 0, got -1"),
        ({"views": 1}, "`views` must be at least 2, got 1"),
        ({"temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"jitter": 0.5}, r"`jitter` must be in \[0, 0.5\), got 0.5"),
        ({"least_window": 0.0}, r"`least_window` must be in \(0, 1\], got 0.0"),
    ],
)
def test_settings_out_of_range_are_errors(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        Args(model=tmp_path, **changed)


def test_too_few_videos_are_an_error(settings, capsys):
    with pytest.raises(SystemExit):
        main(Args(**settings | {"held_out": 32}))
    assert "more videos than the 32 held out" in capsys.readouterr().err
