"""Bounded videos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_env.types import FrameRecorder


def record(max_frames, num_frames):
    """Records frames whose pixels hold their time; returns the times handed over."""
    recorder = FrameRecorder(max_frames)
    for time in range(num_frames - 1):
        recorder.add(np.full((1, 1, 3), time))
        assert len(recorder.kept) < 2 * max_frames
    return recorder, recorder.video(np.full((1, 1, 3), num_frames - 1))[:, 0, 0, 0]


def test_a_short_episode_is_handed_over_whole():
    assert record(8, 5)[1].tolist() == [0, 1, 2, 3, 4]
    assert record(8, 1)[1].tolist() == [0]


def test_frames_of_a_long_episode_are_evenly_spaced_with_the_first_and_the_last():
    # 4 of 10 frames: places 0, 3, 6, 9. The stride is 2 by then, and 3 rounds up to 4.
    assert record(4, 10)[1].tolist() == [0, 4, 6, 9]
    assert record(2, 1000)[1].tolist() == [0, 999]


@given(max_frames=st.integers(2, 9), num_frames=st.integers(1, 300))
def test_frames_are_distinct_in_order_and_near_their_even_places(max_frames, num_frames):
    recorder, times = record(max_frames, num_frames)
    assert len(times) == min(max_frames, num_frames)
    assert (times[0], times[-1]) == (0, num_frames - 1)
    assert (np.diff(times) > 0).all()
    even = np.linspace(0, num_frames - 1, len(times))
    assert np.abs(times - even).max() <= recorder.stride / 2
    # The stride stays below the spacing of the even places, so half of it is not much.
    if num_frames > max_frames:
        assert recorder.stride <= (num_frames - 1) / (max_frames - 1)


@pytest.mark.parametrize("num_frames", [50, 50_000])
def test_memory_does_not_grow_with_the_length_of_the_episode(num_frames):
    recorder, times = record(64, num_frames)
    assert len(times) == min(num_frames, 64)
    assert len(recorder.kept) < 128


def test_frames_that_are_kept_are_copies():
    recorder = FrameRecorder(2)
    frame = np.zeros((1, 1, 3), np.uint8)
    recorder.add(frame)
    frame += 9
    assert recorder.video(frame)[:, 0, 0, 0].tolist() == [0, 9]


def test_one_frame_cannot_be_both_the_first_and_the_last():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        FrameRecorder(1)
