from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from srpo_env.encoders import TrajectoryEncoder, VJEPA2Encoder  # noqa: E402
from srpo_env.encoders.preprocessing import FILES, VideoPreprocessing  # noqa: E402
from srpo_env.encoders.projection import random_projection  # noqa: E402
from srpo_env.encoders.protocol import encode_checked  # noqa: E402
from srpo_env.encoders.vjepa2 import (  # noqa: E402
    GRID_DIM,
    LATENTS_FILE,
    find_checkpoint,
    read_latents,
    write_latents,
)
from srpo_env.rewards.distances import distances_to_centers, remaining_share  # noqa: E402

CROP, FRAMES, HIDDEN = 16, 4, 24


def tiny_model(frames_per_clip=FRAMES, **settings):
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        crop_size=CROP,
        patch_size=8,
        frames_per_clip=frames_per_clip,
        tubelet_size=2,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        pred_hidden_size=12,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=1,
        pred_num_mask_tokens=1,
        **settings,
    )
    model = transformers.VJEPA2Model(config)
    # Larger than V-JEPA's initial weights, with which a tiny model hardly depends on its input.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    VideoPreprocessing.for_crop(CROP).write(folder)
    return folder


@pytest.fixture
def own(checkpoint, tmp_path):
    """Returns a copy of the checkpoint that a test may modify."""
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def videos(*lengths, height=18, width=18, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8) for n in lengths]


# --- Latents -------------------------------------------------------------------------------


def test_a_video_of_any_length_becomes_one_finite_latent(checkpoint):
    encoder = VJEPA2Encoder(checkpoint)
    assert isinstance(encoder, TrajectoryEncoder)
    latents = encode_checked(encoder, videos(1, 2, 4, 11), ["a", "b", "c", "d"])
    assert latents.shape == (4, *encoder.latent_shape) == (4, HIDDEN)
    assert latents.dtype == np.float32
    assert encoder.encode([]).shape == (0, HIDDEN)


def test_the_mean_is_over_all_tokens_of_the_models_own_output(checkpoint):
    (video,) = videos(FRAMES, height=18, width=18)
    # By hand: 18 pixels, the middle 16, ImageNet's mean and deviation.
    pixels = torch.from_numpy(video[:, 1:17, 1:17]).permute(0, 3, 1, 2)[None].double() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        output = tiny_model()(((pixels - mean) / std).float())
    expected = output.last_hidden_state[0]  # 2 times x 2 x 2 tokens
    np.testing.assert_allclose(
        VJEPA2Encoder(checkpoint).encode([video])[0], expected.mean(0), atol=1e-5
    )
    np.testing.assert_allclose(
        VJEPA2Encoder(checkpoint).encode_paths([video])[0],
        expected.view(2, 4, HIDDEN).mean(1),
        atol=1e-5,
    )


def test_pooling_by_time_keeps_the_order_of_events(checkpoint):
    by_time = VJEPA2Encoder(checkpoint, pooling="time")
    (video,) = videos(FRAMES)
    path = by_time.encode_paths([video])
    assert path.shape == (1, by_time.num_times, HIDDEN) == (1, 2, HIDDEN)
    latent = by_time.encode([video])
    assert latent.shape == (1, *by_time.latent_shape)
    np.testing.assert_array_equal(latent, path)
    mean = VJEPA2Encoder(checkpoint).encode([video])
    np.testing.assert_allclose(mean[0], path[0].mean(axis=0), atol=1e-6)


def test_a_checkpoint_says_how_its_latents_are_made(own):
    assert read_latents(own) == ("mean", 1)
    write_latents(own, "grid", 3)
    encoder = VJEPA2Encoder(own)
    assert (encoder.pooling, encoder.num_clips, encoder.num_frames) == ("grid", 3, 3 * FRAMES)
    assert encoder.latent_shape == (3 * FRAMES // 2, GRID_DIM)
    assert encoder.distance is remaining_share
    assert encoder.encode(videos(6, 9)).shape == (2, *encoder.latent_shape)
    assert VJEPA2Encoder(own, num_clips=1).num_times == FRAMES // 2


def test_the_papers_pooling_and_distance_need_one_argument(own):
    plain = VJEPA2Encoder(own).encode(videos(9))
    write_latents(own, "grid", 3)
    encoder = VJEPA2Encoder(own, pooling="mean")
    assert (encoder.num_clips, encoder.latent_shape) == (1, (HIDDEN,))
    assert encoder.distance is distances_to_centers
    np.testing.assert_array_equal(encoder.encode(videos(9)), plain)


def test_a_grid_holds_all_tokens_of_its_moment_in_their_places(checkpoint):
    encoder = VJEPA2Encoder(checkpoint, pooling="grid")
    (video,) = videos(FRAMES)
    clip = encoder.preprocessing.resize(torch.from_numpy(video))
    pixels = encoder.preprocessing.normalize(encoder.preprocessing.crop_middle(clip))
    with torch.inference_mode():
        tokens = encoder.model(pixel_values_videos=pixels[None]).last_hidden_state[0]
    expected = tokens.view(2, 4 * HIDDEN).numpy() @ random_projection(4 * HIDDEN, GRID_DIM, seed=0)
    np.testing.assert_allclose(encoder.encode([video])[0], expected, rtol=1e-4, atol=1e-4)


def test_clips_follow_each_other(checkpoint):
    encoder = VJEPA2Encoder(checkpoint, pooling="grid", num_clips=2)
    (video,) = videos(2 * FRAMES)
    halves = VJEPA2Encoder(checkpoint, pooling="grid").encode([video[:FRAMES], video[FRAMES:]])
    np.testing.assert_allclose(encoder.encode([video])[0], np.concatenate(halves), atol=1e-4)
    assert encoder.moment_frames(2 * FRAMES).tolist() == [1, 3, 5, 7]


def test_frames_that_do_not_fill_a_moment_are_not_counted_in_any_clip(tmp_path):
    tiny_model(frames_per_clip=5).save_pretrained(tmp_path)
    VideoPreprocessing.for_crop(CROP).write(tmp_path)
    encoder = VJEPA2Encoder(tmp_path, pooling="grid", num_clips=2)
    assert encoder.moment_frames(10).tolist() == [1, 3, 6, 8]
    assert encoder.encode(videos(10)).shape == (1, 4, GRID_DIM)


def test_the_projection_nearly_keeps_distances():
    points = torch.randn(20, 9408, generator=torch.Generator().manual_seed(0))
    matrix = torch.from_numpy(random_projection(9408, GRID_DIM, seed=0))
    ratios = torch.pdist(points @ matrix) / torch.pdist(points)
    assert 0.8 < ratios.min() < ratios.max() < 1.2


def test_loading_a_checkpoint_does_not_change_the_random_state(own):
    write_latents(own, "grid", 2)
    before = torch.get_rng_state()
    VJEPA2Encoder(own)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"pooling": "grid"},
        {"pooling": "max", "num_clips": 1},
        {"pooling": ["grid"], "num_clips": 1},
        {"pooling": "grid", "num_clips": 0},
        {"pooling": "grid", "num_clips": 10**9},
        {"pooling": "grid", "num_clips": 1.5},
        {"pooling": "grid", "num_clips": True},
    ],
)
def test_a_damaged_description_of_the_latents_is_an_error(own, content):
    (own / LATENTS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'latents\.json must hold "pooling" and "num_clips"'):
        VJEPA2Encoder(own)


def test_frames_are_evenly_spaced_from_first_to_last(checkpoint):
    encoder = VJEPA2Encoder(checkpoint)
    (long,) = videos(10)
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([long[[0, 3, 6, 9]]]))
    (short,) = videos(2)
    np.testing.assert_array_equal(encoder.encode([short]), encoder.encode([short[[0, 0, 1, 1]]]))


def test_the_batch_size_does_not_change_the_latents(checkpoint):
    clips = videos(3, 4, 5, 6, 7)
    together = VJEPA2Encoder(checkpoint, batch_size=5).encode(clips)
    np.testing.assert_allclose(
        VJEPA2Encoder(checkpoint, batch_size=2).encode(clips), together, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_and_returns_float32(checkpoint, dtype):
    clips = videos(4, 6)
    exact = VJEPA2Encoder(checkpoint).encode(clips)
    half = VJEPA2Encoder(checkpoint, dtype=getattr(torch, dtype)).encode(clips)
    assert half.dtype == np.float32
    assert np.linalg.norm(half - exact) < 0.05 * np.linalg.norm(exact)
    assert not np.array_equal(half, exact)


def test_a_latent_that_is_not_finite_is_an_error(checkpoint):
    encoder = VJEPA2Encoder(checkpoint)
    with torch.no_grad():
        encoder.model.layernorm.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"the latent of video 0 is not finite in torch\.float32"):
        encoder.encode(videos(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_latents(checkpoint):
    clips = videos(4, 6)
    on_gpu = VJEPA2Encoder(checkpoint, device="cuda", dtype=torch.float32).encode(clips)
    np.testing.assert_allclose(
        on_gpu, VJEPA2Encoder(checkpoint, device="cpu").encode(clips), atol=1e-3
    )


# --- Preprocessing --------------------------------------------------------------------------------


def test_the_shorter_side_is_resized_and_the_middle_is_cropped():
    preprocessing = VideoPreprocessing(crop=4, size=4)
    frames = np.zeros((1, 8, 16, 3), np.uint8)
    frames[:, :, 4:12] = 200  # the middle half of the width
    images = preprocessing.resize(torch.from_numpy(frames))
    assert images.shape == (1, 3, 4, 8)
    middle = preprocessing.crop_middle(images)
    assert middle.shape == (1, 3, 4, 4)
    # Antialiasing mixes the edges, and only them.
    np.testing.assert_array_equal(middle[..., 1:3], 200)


def test_preprocessing_can_be_written_and_read(tmp_path):
    original = VideoPreprocessing(crop=112, size=128, mean=(0.5, 0.4, 0.3), resample=3)
    original.write(tmp_path)
    assert VideoPreprocessing.read(tmp_path) == original


def test_the_processor_files_of_transformers_can_be_read(tmp_path):
    # What its VJEPA2VideoProcessor writes for a crop of 256: the size is int(256 * 256 / 224).
    content = {
        "crop_size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 292},
        "video_processor_type": "VJEPA2VideoProcessor",
    }
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(content))
    assert VideoPreprocessing.read(tmp_path) == VideoPreprocessing.for_crop(256)


@pytest.mark.parametrize("size", [{"shortest_edge": 200}, {"height": 256, "width": 256}, 300, None])
def test_the_size_in_the_file_is_ignored_as_in_transformers(tmp_path, size):
    content = {"crop_size": {"height": 256, "width": 256}, "size": size}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(content))
    expected = 292  # int(256 * 256 / 224)
    assert VideoPreprocessing.read(tmp_path).size == expected
    if importlib.util.find_spec("torchvision"):
        processor = transformers.VJEPA2VideoProcessor.from_pretrained(tmp_path)
        assert processor.size["shortest_edge"] == expected


def test_a_size_that_readers_would_ignore_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"`size` must be 128 for a crop of 112, .*got 140"):
        VideoPreprocessing(crop=112, size=140).write(tmp_path)


@pytest.mark.parametrize(
    "video",
    [
        np.zeros((0, 16, 16, 3), np.uint8),
        np.zeros((4, 16, 16), np.uint8),
        np.zeros((4, 16, 16, 3), np.float32),
    ],
)
def test_an_array_that_is_not_a_video_is_an_error(checkpoint, video):
    with pytest.raises(ValueError, match="a video must be uint8 of shape"):
        VJEPA2Encoder(checkpoint).encode([video])


# --- Published sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "millions", "hidden"),
    [
        # Source: V-JEPA 2's paper, Table 4: ViT-L has 300 million parameters, ViT-g 1 billion.
        ({}, 303.9, 1024),
        (
            {
                "hidden_size": 1408,
                "num_hidden_layers": 40,
                "num_attention_heads": 22,
                "mlp_ratio": 48 / 11,
            },
            1012.2,
            1408,
        ),
    ],
    ids=["vitl-fpc64-256", "vitg-fpc64-256"],
)
def test_the_published_sizes_can_be_built(settings, millions, hidden):
    with torch.device("meta"):
        encoder = transformers.VJEPA2Model(transformers.VJEPA2Config(**settings)).encoder
        tokens = encoder(pixel_values_videos=torch.zeros(1, 64, 3, 256, 256)).last_hidden_state
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert tokens.shape == (1, 32 * 16 * 16, hidden)


# --- Invalid checkpoints ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-model", "./a/b", "/no/such/folder", "a/b/c"])
def test_an_unknown_folder_is_an_error(name):
    with pytest.raises(FileNotFoundError, match=r"must be a folder, the name of a bundled one"):
        VJEPA2Encoder(name)


def test_a_failed_download_is_an_error_with_a_fix(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ConnectionError, match=r"vitl-fpc64-256 could not be downloaded.*pass their"
    ):
        VJEPA2Encoder("facebook/vjepa2-vitl-fpc64-256")


def test_only_json_and_safetensors_are_downloaded(monkeypatch, tmp_path):
    import huggingface_hub

    requested = {}

    def download(name, *, allow_patterns):
        requested.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("facebook/vjepa2-vitg-fpc64-256") == tmp_path
    assert requested == {
        "name": "facebook/vjepa2-vitg-fpc64-256",
        "patterns": ["*.json", "*.safetensors"],
    }


def test_truncated_weights_are_an_error(own):
    file = own / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is not a safetensors file, or is damaged"):
        VJEPA2Encoder(own)


def test_another_type_of_model_is_an_error(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"model_type": "videomae"}))
    with pytest.raises(ValueError, match="must hold a model of type 'vjepa2', got 'videomae'"):
        VJEPA2Encoder(own)


def test_weights_of_another_size_are_an_error(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"and lack \d+ tensors, such as encoder\.layer\.2"):
        VJEPA2Encoder(own)
    (own / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(ValueError, match="do not belong together"):
        VJEPA2Encoder(own)


def test_layers_that_the_configuration_does_not_declare_are_an_error(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"and have \d+ tensors more, such as encoder\.layer\.1"):
        VJEPA2Encoder(own)


@pytest.mark.parametrize(
    ("name", "is_used"),
    [("extra", True), ("predictor.layer.7.mlp.fc1.bias", True), ("pooler.x", False),
     ("classifier.bias", False)],
)  # fmt: skip
def test_unexpected_tensors_are_an_error_unless_they_classify_videos(own, name, is_used):
    file = own / "model.safetensors"
    tensors = safetensors.load_file(file)
    safetensors.save_file({**tensors, name: torch.zeros(3)}, file)
    if is_used:
        with pytest.raises(ValueError, match=f"have 1 tensors more, such as {name}"):
            VJEPA2Encoder(own)
    else:
        assert VJEPA2Encoder(own).latent_shape == (HIDDEN,)


def test_a_pickle_is_not_read(own):
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"must be model\.safetensors.*can run code"):
        VJEPA2Encoder(own)


@pytest.mark.parametrize("name", ["config.json", FILES[0]])
def test_a_missing_or_damaged_description_is_an_error(own, name):
    content = (own / name).read_text()
    (own / name).write_text(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"\.json (is damaged|does not describe)"):
        VJEPA2Encoder(own)
    (own / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"a checkpoint .*must contain"):
        VJEPA2Encoder(own)


def test_a_crop_that_differs_from_the_models_is_an_error(own):
    VideoPreprocessing.for_crop(24).write(own)
    with pytest.raises(ValueError, match="must be equal, got 24 and 16"):
        VJEPA2Encoder(own)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "`pooling` must be 'mean', 'time' or 'grid', got 'max'"),
        ({"batch_size": 0}, "`batch_size` must be an integer and at least 1, got 0"),
        ({"num_clips": 1.5}, "`num_clips` must be an integer and at least 1, got 1.5"),
        ({"num_clips": 0}, "`num_clips` must be an integer and at least 1, got 0"),
    ],
)
def test_an_argument_out_of_range_is_an_error(checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        VJEPA2Encoder(checkpoint, **arguments)


def test_importing_the_encoders_does_not_import_torch():
    code = "import sys, srpo_env.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
