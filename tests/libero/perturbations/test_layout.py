"""Scenes with distractors: their files, their number, and where things stand in all suites."""

import os

import numpy as np
import pytest

from srpo_env.libero.bddl import read_bddl
from srpo_env.libero.perturbations import Layout
from srpo_env.libero.perturbations.layout_files import CATEGORIES, NUM_SETS, with_distractors
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_suite
from srpo_env.libero.visuals import _remove_oldest

pytestmark = pytest.mark.libero

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


@pytest.mark.parametrize("suite", SUITES)
def test_files_with_distractors_are_those_of_the_task_with_objects_added(suite):
    for task in get_suite(suite).tasks:
        before = read_bddl(task.bddl_file)
        for count in (1, 5):
            scene = with_distractors(task, count, 0)
            after = read_bddl(scene.bddl_file)  # checks it
            added = set(after.categories) - set(before.categories)
            assert added == set(scene.extra_objects)
            assert {after.categories[name] for name in added} <= set(CATEGORIES)
            assert not {after.categories[name] for name in added} & set(before.categories.values())
            assert (after.goal, after.instruction) == (before.goal, before.instruction)
            assert scene.init_states_file == task.init_states_file


def test_sets_differ_and_are_made_once():
    task = get_suite("libero_goal").tasks[0]
    scenes = [with_distractors(task, 4, number) for number in range(NUM_SETS)]
    assert len({frozenset(scene.extra_objects) for scene in scenes}) == NUM_SETS
    assert with_distractors(task, 4, 1) == scenes[1]


@pytest.mark.parametrize(("suite", "task_id"), [("libero_object", 2), ("libero_10", 5)])
def test_distractors_lie_on_the_table_and_stay_there(libero_assets, suite, task_id):
    layout = Layout(distractors=5, draw=7)
    task = get_suite(suite).tasks[task_id]
    simulation = Simulation(layout.task(task), 32)
    simulation.start(0)
    layout.start(simulation)
    bodies = [simulation.objects[name] for name in simulation.task.extra_objects]
    before = simulation.data.xpos[bodies].copy()
    for _ in range(20):
        simulation.step(SETTLE_ACTION)
    moved = simulation.data.xpos[bodies] - before
    assert np.abs(moved[:, :2]).max() < 0.03
    assert np.abs(moved[:, 2]).max() < 0.03  # nothing falls, and nothing is thrown up
    simulation.close()


def test_too_many_scenes_are_removed_oldest_first(tmp_path):
    for number in range(5):
        file = tmp_path / f"{number}.mjb"
        file.write_bytes(b"")
        os.utime(file, (number, number))
    _remove_oldest(tmp_path, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2.mjb", "3.mjb", "4.mjb"]
