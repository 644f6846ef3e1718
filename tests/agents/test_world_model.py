from __future__ import annotations

import os
import re
import shutil
import signal

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from agents import world_model
from agents.world_model import (
    MASKS,
    Args,
    Blocks,
    WorldModel,
    draw_masks,
    hide,
    learning_rate,
    main,
    make_optimizer,
    read_clips,
)
from srpo_env.encoders import VJEPA2Encoder
from srpo_env.libero.behaviour_files import BehaviourEpisode, writing_behaviours
from srpo_env.training.checkpoint import load_training, newest_checkpoint
from srpo_env.training.report import read_history

TINY = {
    "batch_size": 8,
    "crop_size": 28,
    "patch_size": 7,
    "frames_per_clip": 4,
    "hidden_size": 24,
    "layers": 2,
    "heads": 2,
    "predictor_size": 12,
    "predictor_layers": 1,
    "predictor_heads": 1,
    "shift": 2,
    "held_out": 8,
    "torch_threads": 1,
    "device": "cpu",
}


def moving_square(rng, size=32):
    """Returns frames of a bright square that moves across a dark picture."""
    start, end = rng.integers(0, size - 10, (2, 2))
    frames = np.full((int(rng.integers(5, 9)), size, size, 3), 40, np.uint8)
    for share, frame in zip(np.linspace(0, 1, len(frames)), frames, strict=True):
        top, left = (start + share * (end - start)).round().astype(int)
        frame[top : top + 10, left : left + 10] = (220, 180, 60)
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("videos") / "squares.hdf5"
    with writing_behaviours(path, {}) as write:
        for seed in range(32):
            frames = moving_square(rng)
            write(BehaviourEpisode(0, 0, "square", seed, False, 8, frames, np.zeros(len(frames))))
    return path.parent


@pytest.fixture
def settings(videos, tmp_path):
    return TINY | {"videos": (videos,), "run_dir": tmp_path / "runs"}


def folder_of(args):
    (folder,) = args.run_dir.iterdir()
    return folder


def test_world_model_learns_moving_squares(settings, capsys):
    args = Args(**settings, steps=150, learning_rate=3e-3, ema=0.95, check_every=50)
    product = main(args)
    history = read_history(product.parent)
    losses = [record["losses/held_out"] for record in history if "losses/held_out" in record]
    # Targets have variance 1, so a prediction of 0 has a loss of 0.8.
    assert losses[-1] < 0.5
    assert losses[-1] < losses[0]
    assert "COLLAPSED" not in capsys.readouterr().out
    assert history[-1]["collapse/rank"] > 3

    encoder = VJEPA2Encoder(product)
    rng = np.random.default_rng(1)
    still = np.repeat(moving_square(rng)[:1], 6, axis=0)
    brighter = np.clip(still.astype(int) + 5, 0, 255).astype(np.uint8)
    moved = np.roll(still, (12, 12), axis=(1, 2))
    here, same, elsewhere = encoder.encode([still, brighter, moved])
    assert np.linalg.norm(here - same) < np.linalg.norm(here - elsewhere)


def test_exported_model_is_the_target_encoder_in_half_precision(settings):
    args = Args(**settings, steps=2)
    product = main(args)
    weights = VJEPA2Encoder(product).model.state_dict()
    model = WorldModel(args.model_config())
    parts = {"model": model, "optimizer": make_optimizer(model, args)}
    load_training(newest_checkpoint(folder_of(args)), parts)
    for name, value in model.target.state_dict().items():
        torch.testing.assert_close(weights[name], value.half().float())
    assert (product / "provenance.json").is_file()
    assert (product / "model.safetensors").stat().st_size < 100_000


def test_stopped_run_resumes_to_the_bit(settings, tmp_path, monkeypatch):
    straight = Args(**settings | {"run_dir": tmp_path / "straight"}, steps=6, save_every=3)
    expected = (main(straight) / "model.safetensors").read_bytes()

    # Ctrl-C in the middle of the fourth step.
    args = Args(**settings, steps=6, save_every=3)
    draw, calls = world_model.draw_masks, []

    def press_ctrl_c(*arguments):
        calls.append(1)
        if len(calls) == 7:  # two masks a step
            os.kill(os.getpid(), signal.SIGINT)
        return draw(*arguments)

    monkeypatch.setattr(world_model, "draw_masks", press_ctrl_c)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 130
    monkeypatch.undo()
    assert [path.name for path in (folder_of(args) / "checkpoints").iterdir()] == [
        "iteration_0004_temporary"
    ]
    resumed = Args.parse(["--resume", str(folder_of(args))])
    assert resumed.steps == 6
    assert (main(resumed) / "model.safetensors").read_bytes() == expected


def test_collapsed_model_prints_a_warning(settings, capsys, monkeypatch):
    def constant(self, pixels):
        return torch.ones(len(pixels), 2 * 16, 24)

    monkeypatch.setattr(WorldModel, "latents", constant)
    main(Args(**settings, steps=1))
    assert re.search(r"WARNING: the model has COLLAPSED", capsys.readouterr().out)


# --- Masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", MASKS)
def test_masks_cover_most_of_the_picture_at_all_times_but_not_all(blocks):
    rng = np.random.default_rng(0)
    hidden = np.array([hide(blocks, 7, 8, rng).reshape(8, 7, 7) for _ in range(100)])
    np.testing.assert_array_equal(hidden, hidden[:, :1].repeat(8, axis=1))
    shares = hidden[:, 0].mean(axis=(1, 2))
    assert shares.max() <= 0.85
    # Of 8 blocks of 0.15 at random places (1 - 0.15) ** 8 = 0.27 would stay visible.
    assert 0.65 < shares.mean() < 0.85


def test_block_has_the_requested_area_and_aspect():
    rng = np.random.default_rng(0)
    for _ in range(50):
        hidden = hide(Blocks(1, 0.25), 16, 1, rng).reshape(16, 16)
        rows, columns = hidden.any(axis=1).sum(), hidden.any(axis=0).sum()
        assert hidden.sum() == rows * columns  # a rectangle
        assert rows * columns == pytest.approx(64, rel=0.2)
        assert 0.6 < rows / columns < 1.7


def test_visible_and_masked_tokens_never_overlap():
    args = Args(**TINY)
    visible, hidden = draw_masks(args, Blocks(2, 0.3), np.random.default_rng(0), 8)
    for seen, unseen in zip(visible, hidden, strict=True):
        assert not set(seen.tolist()) & set(unseen.tolist())
        assert sorted(seen.tolist()) == seen.tolist()
        assert max(seen.max(), unseen.max()) < 2 * 4 * 4


# --- The objective --------------------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(0)
    return WorldModel(Args(**TINY).model_config())


def test_encoder_does_not_see_masked_tokens(model):
    pixels = torch.randn(2, 4, 3, 28, 28)
    visible, hidden = (
        torch.tensor([ids] * 2) for ids in ([0, 16], [5, 21])
    )  # one place at two times
    other = pixels.clone()
    other[..., 7:14, 7:14] += 1  # place 5 of the 4 x 4 grid: second row, second column
    targets = model.latents(pixels)
    model.latents = lambda _: targets  # the same targets for both
    same = model.loss(pixels, [(visible, hidden)])
    assert model.loss(other, [(visible, hidden)]) == same
    other[..., :7, :7] += 1  # place 0, which is visible
    assert model.loss(other, [(visible, hidden)]) != same


def test_gradients_reach_encoder_and_predictor_but_not_the_target(model):
    visible, hidden = draw_masks(Args(**TINY), MASKS[0], np.random.default_rng(0), 2)
    # The mask token is initialised to 0, which makes the gradient of the first queries 0.
    torch.nn.init.normal_(model.online.predictor.embeddings.mask_tokens)
    model.loss(torch.randn(2, 4, 3, 28, 28), [(visible, hidden)]).backward()
    for name, parameter in model.online.named_parameters():
        assert parameter.grad is not None, name
        # The softmax is invariant to a constant that is added to all keys.
        if "key.bias" not in name:
            assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.target.parameters())


def test_target_is_an_exponential_moving_average(model):
    before = [parameter.clone() for parameter in model.target.parameters()]
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.add_(1)
    model.follow(0.9)
    for old, new in zip(before, model.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    args = Args(**TINY, steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(args, step) for step in range(1, 101)]
    assert rates[4] == pytest.approx(0.5)
    assert max(rates) == rates[9] == pytest.approx(1)
    assert rates[54] == pytest.approx(0.5)  # half of the way down the cosine
    assert rates[-1] == pytest.approx(0.01)


# --- Data and settings ----------------------------------------------------------------------------


def test_clips_are_parts_of_videos_and_whole_clips_include_both_ends(settings):
    clips, held_out = read_clips(Args(**settings))
    assert (len(clips.videos), len(held_out.videos)) == (24, 8)
    batch = clips.draw(range(8), np.random.default_rng(0), "cpu").pixels
    assert batch.shape == (8, 4, 3, 28, 28)
    whole = held_out.whole("cpu")
    first = held_out.videos[0][[0, -1], :, 2:30, 2:30].float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(whole[0, [0, -1]], (first - mean) / std)


def test_too_few_videos_are_refused(settings):
    with pytest.raises(ValueError, match="more videos than the 32 held out, got 32"):
        read_clips(Args(**settings | {"held_out": 32}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "--steps must be above 0, got 0"),
        ({"ema": 1.0}, "--ema must be below 1, got 1.0"),
        ({"min_window": 0.0}, "--min-window must be above 0, got 0.0"),
        ({"crop_size": 21}, "--crop-size must be at least 4 patches, .*, got 21 with patches of 7"),
        ({"held_out": 1}, "--held-out must be at least 2, got 1"),
        ({"crop_size": 30}, "--crop-size must be a multiple of 7, got 30"),
        ({"hidden_size": 25}, "--hidden-size must be a multiple of 2, got 25"),
    ],
)
def test_settings_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Args(**TINY | changed)


def test_resumed_run_cannot_change_the_architecture(settings, capsys):
    args = Args(**settings, steps=1)
    main(args)
    folder = folder_of(args)
    with pytest.raises(SystemExit, match="2"):
        Args.parse(["--resume", str(folder), "--layers", "3"])
    assert "--layers of a resumed run must stay 2, got 3" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(SystemExit, match="2"):
        Args.parse(["--resume", str(folder)])
