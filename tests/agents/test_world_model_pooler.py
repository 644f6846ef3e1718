from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

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


def test_pooler_learns_to_separate_the_moments_of_an_episode(settings, capsys):
    main(Args(**settings, steps=300, batch_size=24, near=0.7))
    printed = capsys.readouterr()
    assert "NOTHING" not in printed.err
    # On held-out squares, with other brightness and crops.
    losses = re.search(r"loss (\S+) \(constant latents: (\S+)\)", printed.out).groups()
    learnt, constant = map(float, losses)
    assert learnt < 0.9 * constant
    assert VJEPA2Encoder(settings["model"]).pooling == "moments"


def test_pooler_that_has_learnt_nothing_prints_a_warning(settings, capsys):
    main(Args(**settings, steps=1, learning_rate=1e-9))
    assert "NOTHING" in capsys.readouterr().err


def test_equal_seeds_give_equal_poolers_and_provenance_is_written(settings):
    file = main(Args(**settings, steps=3))
    once = file.read_bytes()
    assert main(Args(**settings, steps=3, overwrite=True)).read_bytes() == once
    story = json.loads((settings["model"] / "provenance.json").read_text())
    assert story["agent"] == "world_model"
    assert story["pooler"]["args"]["seed"] == 1
    assert story["pooler"]["videos"] == 24


def test_existing_pooler_is_replaced_only_with_overwrite(settings, capsys):
    main(Args(**settings, steps=1))
    with pytest.raises(SystemExit):
        main(Args(**settings, steps=1))
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_model_whose_weights_are_not_finite_is_refused(settings, value, capsys):
    file = settings["model"] / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights) if "encoder.layer.0" in name)
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, file)
    with pytest.raises(SystemExit) as end:
        main(Args(**settings, steps=1))
    assert end.value.code == 2
    assert f"the model in {settings['model']} must encode videos to" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 3])
def test_training_that_diverges_is_an_error_and_keeps_the_earlier_pooler(settings, steps):
    before = main(Args(**settings, steps=1)).read_bytes()
    with pytest.raises(FloatingPointError, match="must be finite"):
        main(Args(**settings, steps=steps, learning_rate=1e30, overwrite=True))
    assert (settings["model"] / "pooler.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_damaged_provenance_is_one_sentence_that_names_it(settings, content, capsys):
    file = settings["model"] / "provenance.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        main(Args(**settings, steps=1))
    shown = capsys.readouterr().err
    assert f"world_model_pooler.py: {file} is damaged" in shown
    assert file.read_text() == content


# --- The objective --------------------------------------------------------------------------------


def contrast_of(latents, moments, others=None, **settings):
    """Returns the contrast of one episode, with or without another one of its scene."""
    args = Args(model=Path(), near=0.1, **settings)
    stranger = latents[:, 0] if others is None else others
    return contrast(latents, moments, stranger, torch.tensor([others is not None]), args).item()


def test_contrast_is_low_if_and_only_if_equal_moments_agree():
    latents = torch.eye(4).expand(2, 4, 4)[None]  # two equal views of four moments
    moments = torch.arange(4.0).expand(2, 4)[None]
    assert contrast_of(latents, moments) < 0.01
    shuffled = torch.stack([latents[:, 0], latents[:, 1].roll(1, dims=1)], dim=1)
    # A moment's partner has cosine 0, another moment has cosine 1; the temperature is 0.1.
    assert contrast_of(shuffled, moments) == pytest.approx(10, abs=0.01)


def test_constant_latents_have_the_loss_of_a_uniform_guess():
    latents, moments = torch.ones(1, 2, 5, 4) / 2, torch.arange(5.0).expand(1, 2, 5)
    assert contrast_of(latents, moments) == pytest.approx(np.log(5))
    assert contrast_of(latents, moments, latents[:, 0]) == pytest.approx(np.log(10))


def test_moments_missing_in_the_other_view_are_ignored():
    east, north, up = torch.eye(3)
    latents = torch.stack([torch.stack([east, north]), torch.stack([north, up])])[None]
    moments = torch.tensor([[[0.0, 1.0], [1.0, 50.0]]])
    # Only moment 1 is in both views, with cosine 1 to its partner and 0 to the other moment.
    expected = np.log(1 + np.exp(-1))
    assert contrast_of(latents, moments, temperature=1.0) == pytest.approx(expected)


def test_loss_is_zero_without_shared_moments():
    latents, moments = (
        torch.eye(2).expand(2, 2, 2)[None],
        torch.tensor([[[0.0, 1.0], [50.0, 60.0]]]),
    )
    assert contrast_of(latents, moments) == 0.0


def test_targets_of_near_moments_follow_the_gaussian():
    latents, moments = torch.eye(2).expand(2, 2, 2)[None], torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    share = np.exp(-0.5) / (1 + np.exp(-0.5))  # of the moment one frame away
    args = Args(model=Path(), near=1.0, temperature=1.0)
    found = contrast(latents, moments, latents[:, 0], torch.tensor([False]), args).item()
    right, beside = np.log([np.e / (1 + np.e), 1 / (1 + np.e)])
    assert found == pytest.approx(-(1 - share) * right - share * beside)


def test_other_episode_is_of_the_same_scene_if_there_is_one():
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
        ({"latent_dim": 0}, "--latent-dim must be above 0, got 0"),
        ({"shift": -1}, "--shift must be at least 0, got -1"),
        ({"views": 1}, "--views must be at least 2, got 1"),
        ({"temperature": 0.0}, "--temperature must be above 0, got 0.0"),
        ({"jitter": 0.5}, "--jitter must be below 0.5, got 0.5"),
        ({"min_window": 0.0}, "--min-window must be above 0, got 0.0"),
        ({"min_window": 1.5}, "--min-window must be at most 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        Args(model=tmp_path, **changed)


def test_too_few_videos_are_refused(settings, capsys):
    with pytest.raises(SystemExit):
        main(Args(**settings | {"held_out": 32}))
    assert "more videos than the 32 held out" in capsys.readouterr().err
