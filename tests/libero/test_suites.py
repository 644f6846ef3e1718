import io
import pickle
import zipfile

import numpy as np
import pytest

from srpo_env.libero.suites import Task, check_suite_name, get_task, tasks_of

pytestmark = pytest.mark.libero


def test_libero_object_has_ten_tasks_with_fifty_initial_states_each():
    tasks = tasks_of("libero_object")
    assert [task.task_id for task in tasks] == list(range(10))
    assert all(len(task.init_states()) == 50 for task in tasks)


def test_an_instruction_is_the_tasks_name_without_the_scene():
    assert (
        get_task("libero_object", 0).instruction
        == "pick up the alphabet soup and place it in the basket"
    )
    assert get_task("libero_10", 2).instruction == "turn on the stove and put the moka pot on it"


def test_all_files_of_the_suites_exist():
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        for task in tasks_of(suite):
            assert task.bddl_file.is_file()
            assert task.init_states_file.is_file()


def test_suite_names_may_be_spelt_with_hyphens():
    assert check_suite_name("libero-object") == "libero_object"


@pytest.mark.parametrize("suite", ["libero_foo", "", "object"])
def test_an_unknown_suite_is_an_error_that_lists_the_known_ones(suite):
    with pytest.raises(ValueError, match="libero_object"):
        check_suite_name(suite)


@pytest.mark.parametrize("task_id", [-1, 10])
def test_an_unknown_task_is_an_error_that_gives_the_range(task_id):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        get_task("libero_object", task_id)


def test_initial_states_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        get_task("libero_object", 0).init_states()[0, 0] = 1.0


class Evil:
    def __reduce__(self):
        return print, ("this ran code",)


def test_initial_states_with_code_are_refused(tmp_path, capsys):
    file = tmp_path / "evil.pruned_init"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="plain array"):
        Task("libero_object", 0, "evil", "", file, file).init_states()
    assert "this ran code" not in capsys.readouterr().out


def test_initial_states_are_read_as_torch_reads_them():
    torch = pytest.importorskip("torch")
    file = get_task("libero_object", 3).init_states_file
    ours = get_task("libero_object", 3).init_states()
    np.testing.assert_array_equal(
        ours, torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    )
