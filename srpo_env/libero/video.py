"""Writes MP4 videos of episodes, which browsers and most players show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srpo_env.types import Video

FPS = 20
"""Control steps per second: videos have LIBERO's own speed"""


def write_video(path: str | Path, frames: Video) -> None:
    """Writes or replaces a video, VP9 in an MP4 file.

    Args:
        path: The file; its folder must exist.
        frames: Shape ``(num_frames, height, width, 3)``.

    Raises:
        OSError: If it cannot be written, or OpenCV was built without VP9.
    """
    # A requirement of robosuite; its wheels have the encoder of VP9, and not that of H.264.
    import cv2

    height, width = frames.shape[1:3]
    file = Path(path)
    draft = file.with_name(f".{file.stem}-unfinished.mp4")
    try:
        code = cv2.VideoWriter.fourcc(*"vp09")
        writer = cv2.VideoWriter(str(draft), code, FPS, (width, height))
        if not writer.isOpened():
            raise OSError(f"OpenCV {cv2.__version__} cannot write the video {str(file)!r} with VP9")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))  # OpenCV has blue first
        writer.release()
        # OpenCV reports neither a full disk nor a missing folder.
        if _num_frames(draft) != len(frames):
            raise OSError(f"the video {str(file)!r} could not be written: is the disk full?")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _num_frames(file: Path) -> int:
    import cv2

    reader = cv2.VideoCapture(str(file))
    try:
        return int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        reader.release()
