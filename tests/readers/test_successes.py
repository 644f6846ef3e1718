import pytest

from srpo_env.readers.successes import assign_successes, read_successes

EPISODES = {"a/walk.hdf5": ["demo_0", "demo_1"], "b/walk.hdf5": ["demo_0"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", '{"demo_0": true, "demo_1": false}'),
        ("labels.csv", "name,success\ndemo_0,true\ndemo_1,false\n"),
        ("labels.csv", "\ufeffname, success\r\ndemo_0, True\r\n\r\ndemo_1, False\r\n"),
        ("labels.txt", "demo_0,1\ndemo_1,0"),
        ("labels", '"demo_0","1"\n"demo_1","0"'),
    ],
)
def test_all_formats_mean_the_same(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_successes(tmp_path / name) == {"demo_0": True, "demo_1": False}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", "[true]", "must be an object of episodes"),
        ("l.json", '{"demo_0": 1}', "must be an object of episodes"),
        ("l.json", '{"demo_0": true, "demo_0": false}', "'demo_0' occurs twice"),
        ("l.json", "{", "is not valid JSON"),
        ("l.csv", "demo_0", "got 'demo_0' in line 1"),
        ("l.csv", "demo_0,yes", "must be NAME,true or NAME,false"),
        ("l.csv", "demo_0,true,1", "in line 1"),
        ("l.csv", ",true", "in line 1"),
        ("l.csv", "demo_0,1\ndemo_0,0", "must name each episode once, got demo_0 twice"),
        ("l.csv", b"\xff\xfe\x00", "must be a text file"),
    ],
)
def test_other_content_is_one_sentence(name, text, message, tmp_path):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_successes(tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="lost"):
        read_successes(tmp_path / "lost.csv")


def test_episodes_are_found_by_name_or_by_recording_and_name():
    named = {"demo_1": True, "a/walk.hdf5:demo_0": False, "b/walk.hdf5:demo_0": True}
    assert assign_successes(named, EPISODES, "labels") == {
        "a/walk.hdf5": {"demo_0": False, "demo_1": True},
        "b/walk.hdf5": {"demo_0": True},
    }


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"demo_9": True}, "names 'demo_9', and there is no such episode; one is 'demo_0'"),
        ({"demo_0": True}, "which 2 recordings have: write a/walk.hdf5:demo_0"),
        ({"walk.hdf5:demo_0": True}, "which 2 recordings have"),
        ({"demo_1": True, "walk.hdf5:demo_1": True}, "each episode once, got demo_1 of a/walk"),
        ({"demo_1": True}, "must name each episode, and lacks demo_0 of a/walk"),
        ({}, "and lacks demo_0 and 1 more of a/walk"),
    ],
)
def test_names_that_do_not_fit_are_one_sentence(named, message):
    with pytest.raises(ValueError, match=message):
        assign_successes(named, EPISODES, "labels.csv")
