import sys
import time
import types

import numpy as np
import pytest

from srpo_env import PixelEncoder, ProgressReward, SelfReferentialProgressWrapper
from srpo_env.encoders.named import named_encoder
from srpo_env.encoders.protocol import moment_frames, reward_for
from srpo_env.encoders.timed import TimedEncoder
from srpo_env.offline import RecordedEpisode, relabel_episodes
from srpo_env.rewards.distances import distances_to_centers
from tests.corridor import GIVE_UP, STAY, WALK, drive, make_corridor


class Slow:
    latent_shape = (2,)

    def encode(self, videos):
        time.sleep(0.02)
        return np.zeros((len(videos), 2), np.float32)

    def distance(self, latents, centers):
        return np.full(len(latents), 7.0), np.zeros(len(latents), np.int64)


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own_encoders")
    module.Slow, module.number = Slow, 3
    monkeypatch.setitem(sys.modules, "own_encoders", module)


def test_pixels_and_classes_of_modules_have_names(own):
    assert isinstance(named_encoder("pixels"), PixelEncoder)
    assert isinstance(named_encoder("own_encoders:Slow"), Slow)


@pytest.mark.parametrize(
    "name", ["own_encoders:number", "own_encoders:none", "own_encoders:", "numpy:array"]
)
def test_a_name_that_gives_no_encoder_is_an_error(own, name):
    with pytest.raises(ValueError, match=f"MODULE:NAME must be .* got '{name}'"):
        named_encoder(name)


def test_an_unknown_pooling_is_an_error():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="'mean', 'time' or 'grid', got 'max'"):
        named_encoder("libero-vjepa2@max")


def test_an_unknown_checkpoint_is_an_error():
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match="libero-vjepa2"):
        named_encoder("libero-vjepa3")


def test_pixels_has_no_pooling():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="pixels has no pooling: pass pixels, got 'pixels@mean'"):
        named_encoder("pixels@mean")


def test_an_unknown_name_lists_all_kinds_of_names():
    pytest.importorskip("transformers")
    with pytest.raises(
        FileNotFoundError, match=r"got 'foo'\. Other encoders: pixels, or MODULE:NAME"
    ):
        named_encoder("foo")


def test_a_module_that_is_not_found_is_not_installed_from_an_index():
    with pytest.raises(ModuleNotFoundError, match="add its folder to PYTHONPATH") as raised:
        named_encoder("no_such_module:Encoder")
    assert "pip install" not in str(raised.value)


def test_a_package_that_the_module_of_an_encoder_lacks_is_named(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        named_encoder("needs_more:Encoder")


# --- Distance ---


def test_the_distance_is_the_users_or_the_encoders_or_l2():
    encoder, latents = Slow(), np.zeros((3, 2))
    assert reward_for(PixelEncoder(), None).distance is distances_to_centers
    assert reward_for(encoder, None).measure(latents, latents)[0].tolist() == [7.0] * 3
    chosen = ProgressReward(distance=distances_to_centers)
    assert reward_for(encoder, chosen) == chosen


def test_a_distance_that_is_not_callable_is_an_error():
    encoder = PixelEncoder()
    encoder.distance = "cosine"
    with pytest.raises(TypeError, match=r"`distance` must be a callable .* got 'cosine'"):
        reward_for(encoder, None)


def test_the_wrapper_uses_the_encoders_distance_by_default():
    def distances(**settings):
        envs = SelfReferentialProgressWrapper(
            make_corridor(2), Slow(), reference="task", task_key=lambda *_: 0, **settings
        )
        envs.reset(seed=0)
        list(drive(envs, [(WALK, STAY)] * 2 + [(WALK, GIVE_UP)]))
        envs.close_groups()
        return {e.success: e.distance for g in envs.pop_groups() for e in g.episodes}

    assert distances() == {True: 7.0, False: 7.0}
    assert distances(reward=ProgressReward(distance=distances_to_centers)) == {
        True: 0.0,
        False: 0.0,
    }


def test_recorded_episodes_use_the_encoders_distance_by_default():
    video = np.zeros((2, 4, 4, 3), np.uint8)
    episodes = [
        RecordedEpisode(name=str(i), task="t", source="s", success=i == 0, video=video)
        for i in range(2)
    ]
    assert relabel_episodes(episodes, Slow()).relabeling.distances.tolist() == [7.0, 7.0]
    result = relabel_episodes(
        episodes, Slow(), reward=ProgressReward(distance=distances_to_centers)
    )
    assert result.relabeling.distances.tolist() == [0.0, 0.0]
    assert result.settings["distance"].endswith("distances_to_centers")


def test_the_default_encoder_without_torch_is_an_error_with_a_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "srpo_env.encoders.vjepa2", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"srpo-env\[encoders\].*PixelEncoder"):
        SelfReferentialProgressWrapper(make_corridor(1))


def test_a_timed_encoder_equals_its_encoder_and_sums_the_seconds():
    encoder = TimedEncoder(Slow())
    assert encoder.encode([np.zeros((1, 2, 2, 3), np.uint8)]).shape == (1, 2)
    assert encoder.seconds >= 0.02
    assert encoder.distance(np.zeros((1, 2)), np.zeros((1, 2)))[0] == 7.0


def test_a_timed_encoder_keeps_the_moments_of_its_encoder():
    class Own:
        latent_shape = (2, 1)

        def encode(self, videos):
            return np.zeros((len(videos), 2, 1), np.float32)

        def moment_frames(self, num_frames):
            return np.array([0, num_frames // 2])

    assert moment_frames(TimedEncoder(Own()), 8).tolist() == [0, 4]
