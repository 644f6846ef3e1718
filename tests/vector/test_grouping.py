"""Episodes are assigned to groups when they start."""

from __future__ import annotations

from srpo_env.vector.frames import FrameRecorder
from srpo_env.vector.grouping import GroupBook, OpenEpisode


class Book:
    """Makes a group book and fills it by episode ids."""

    def __init__(self, group_size):
        self.book = GroupBook(group_size)
        self.episodes = {}

    def start(self, *ids, key="a"):
        for i in ids:
            self.episodes[i] = OpenEpisode(i, 0, 0, key, None, FrameRecorder(2))
            self.book.start(self.episodes[i])

    def end(self, episode_id):
        self.episodes[episode_id].last_step = 0
        return ids(self.book.take_complete())

    def abandon(self, episode_id):
        self.book.abandon(self.episodes[episode_id])


def ids(groups):
    return [[episode.episode_id for episode in group.ended] for group in groups]


def test_groups_are_filled_in_the_order_in_which_episodes_start():
    # Short episodes are the successes: grouped by their ends, one group would get all of them.
    book = Book(2)
    book.start(0, 1, 2, 3)
    assert book.end(3) == []
    assert book.end(1) == []
    assert book.end(0) == [[0, 1]]
    assert book.end(2) == [[2, 3]]


def test_each_key_has_its_own_groups():
    book = Book(2)
    book.start(0, 2, key="a")
    book.start(1, 3, key="b")
    assert book.end(0) == []
    assert book.end(1) == []
    assert book.end(2) == [[0, 2]]


def test_next_episode_of_the_key_replaces_an_abandoned_one():
    book = Book(2)
    book.start(0, 1)
    book.end(0)
    book.abandon(1)
    book.start(2)
    assert book.end(2) == [[0, 2]]
    book.start(3)
    book.abandon(3)
    assert book.book.groups == []


def test_running_episodes_are_grouped_again_after_ended_ones_are_removed():
    book = Book(2)
    book.start(0, 1, 2, 3)
    book.end(0)
    book.end(3)
    assert ids(book.book.with_an_end()) == [[0], [3]]
    book.book.remove_ended()
    assert [[e.episode_id for e in group.running] for group in book.book.groups] == [[1, 2]]
    assert book.book.with_an_end() == []
    book.end(2)
    assert book.end(1) == [[1, 2]]
