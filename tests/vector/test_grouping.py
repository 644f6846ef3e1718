"""Places in groups are given at the start of an episode."""

from __future__ import annotations

import numpy as np

from srpo_env.types import FrameRecorder
from srpo_env.vector.grouping import EndedEpisode, GroupBook, RunningEpisode


def start(book, *ids, key="a"):
    for i in ids:
        book.start(RunningEpisode(i, 0, 0, key, None, FrameRecorder(2)))


def end(book, episode_id, key="a"):
    video = np.zeros((1, 1, 1, 3), np.uint8)
    return book.end(EndedEpisode(episode_id, 0, 0, 0, key, None, False, 0.0, 0.0, video))


def ids(groups):
    return [[episode.episode_id for episode in group.ended] for group in groups]


def test_the_first_to_end_are_not_a_group_but_the_first_to_start():
    # Short episodes are the successes: grouped by their ends, one group would get all of them.
    book = GroupBook(2)
    start(book, 0, 1, 2, 3)
    assert end(book, 3) is None
    assert end(book, 1) is None
    assert ids([end(book, 0), end(book, 2)]) == [[1, 0], [3, 2]]


def test_keys_have_groups_of_their_own():
    book = GroupBook(2)
    start(book, 0, 2, key="a")
    start(book, 1, 3, key="b")
    assert end(book, 0) is None
    assert end(book, 1, "b") is None
    assert end(book, 2).key == "a"


def test_an_abandoned_place_goes_to_the_next_episode_of_the_key():
    book = GroupBook(2)
    start(book, 0, 1)
    end(book, 0)
    book.abandon(1)
    start(book, 2)
    assert ids([end(book, 2)]) == [[0, 2]]
    start(book, 3)
    book.abandon(3)
    assert book.groups == []


def test_closing_takes_what_has_ended_and_groups_the_rest_anew():
    book = GroupBook(2)
    start(book, 0, 1, 2, 3)
    end(book, 0)
    end(book, 3)
    assert ids(book.close()) == [[0], [3]]
    assert [group.running for group in book.groups] == [[1, 2]]
    assert book.close() == []
    end(book, 2)
    assert ids([end(book, 1)]) == [[2, 1]]
