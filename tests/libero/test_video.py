import numpy as np
import pytest

from srpo_env.libero.video import FPS, write_video

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install opencv-python")


def test_a_video_has_the_frames_in_their_colours_and_order(tmp_path):
    frames = np.zeros((10, 64, 96, 3), np.uint8)
    frames[:5] = (200, 30, 10)
    frames[5:] = (10, 30, 200)
    frames[:, :32, :48] = (90, 220, 90)  # the upper left
    write_video(tmp_path / "v.mp4", frames)
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
    reader = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert reader.get(cv2.CAP_PROP_FPS) == FPS == 20
    seen = np.array([reader.read()[1][..., ::-1] for _ in range(10)])
    assert not reader.read()[0]
    reader.release()
    assert np.abs(seen.astype(int) - frames).mean() < 10


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(OSError, match=r"v\.mp4") as raised:
        write_video(tmp_path / "lost" / "v.mp4", np.zeros((2, 64, 64, 3), np.uint8))
    assert "\n" not in str(raised.value)
