"""examples/reflection_counting: its task, teacher and model, and runs of a few steps."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srpo_env.reflection import ReflectionReward, parse, reflection_data

FOLDER = Path(__file__).parents[1] / "examples" / "reflection_counting"
NAMES = ("task", "teacher", "model", "train", "report")


@pytest.fixture(scope="module")
def study():
    """The modules of the example, imported as Python does when one of them is run."""
    sys.path.insert(0, str(FOLDER))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as train.py does
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        torch.set_num_threads(num_threads)
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def problems(study):
    return study.task.draw_problems(64, np.random.default_rng(0))


@pytest.fixture
def model(study):
    torch.manual_seed(0)
    return study.model.Model()


def seen_counts(study, problems):
    """Counts the symbols of each row from the pixels alone."""
    grid, patch = study.task.GRID, study.task.PATCH
    pixels = problems.patches.reshape(-1, grid, grid, patch, patch, 3)
    counts = np.zeros((len(problems), grid), int)
    for number, (color, shape, _) in enumerate(problems.questions):
        corner = pixels[number, :, :, 0, 0, :].max(axis=-1) > 0.6  # painted in squares only
        center = pixels[number, :, :, 1:3, 1:3, :].mean(axis=(2, 3))  # painted in both
        is_color = (center.argmax(axis=-1) == color) & (center.max(axis=-1) > 0.5)
        is_shape = corner if shape == 0 else ~corner if shape == 1 else np.ones_like(corner)
        counts[number] = (is_color & is_shape).sum(axis=1)
    return counts


def test_image_shows_what_the_counts_say(study, problems):
    # A corner is one noisy pixel: some are misread.
    assert (seen_counts(study, problems) == problems.counts).mean() > 0.95


def test_answer_is_the_sum_and_the_number_of_the_question(problems):
    for answer, counts, question in zip(
        problems.answers, problems.counts, problems.questions, strict=True
    ):
        assert int(answer) == sum(counts) + question[2]


def test_teacher_names_every_wrong_row_and_gives_the_right_counts(study, problems):
    rng = np.random.default_rng(1)
    said = (problems.counts + rng.integers(2, size=problems.counts.shape)) % 4
    responses = [
        (number, study.task.first_text(said[number], str(answer)), answer)
        for number, answer in enumerate(problems.answers)
    ]
    teacher = study.teacher.oracle(problems, rng)
    for example in reflection_data(responses, teacher, 50, rng, right_share=1.0):
        trace = parse(example.text)
        assert trace.well_formed
        counts = problems.counts[example.problem]
        for row in range(len(counts)):
            line = f"row{row + 1} has {counts[row]}"
            assert line in trace.reflection or said[example.problem][row] == counts[row]
        assert trace.think2.split()[-1] == str(counts.sum())
        # The model has words for all of it, and room.
        tokens = study.model.encode([study.train.spaced(example.text)])
        assert tokens.shape[1] <= study.model.MAX_WORDS + 1
        assert parse(study.model.decode(tokens)[0]) == trace


def test_probabilities_are_those_of_the_sampler(study, problems, model):
    some = problems[np.arange(4)]
    tokens = model.sample(some, 2, torch.Generator().manual_seed(0))
    together = model.log_probs(some, tokens, 2)
    # Word by word, as `sample` does.
    cache = study.model.repeat(model.read(some), 2)
    token, ended = torch.zeros(8, 1, dtype=torch.long), torch.zeros(8, dtype=torch.bool)
    for position in range(tokens.shape[1]):
        logits, cache = model.write(token, cache)
        token = tokens[:, position : position + 1]
        expected = logits[:, -1].log_softmax(dim=-1).gather(1, token)[:, 0]
        expected = torch.where(ended, 0.0, expected)
        torch.testing.assert_close(together[:, position], expected, atol=1e-4, rtol=1e-4)
        ended |= token[:, 0] == study.model.END


def test_words_depend_on_the_image_and_on_earlier_words_only(study, problems, model):
    some = problems[np.arange(2)]
    texts = [study.task.first_text(c, a) for c, a in zip(some.counts, some.answers, strict=True)]
    tokens = study.model.encode(texts)
    changed = tokens.clone()
    changed[:, 4] = study.model.TOKENS["ERR"]
    before, after = (model.log_probs(some, t).detach() for t in (tokens, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    flipped = study.task.Problems(some.patches[::-1].copy(), some.questions, some.counts)
    assert not torch.allclose(before, model.log_probs(flipped, tokens))


def test_supervised_training_lowers_the_loss(study, problems, model):
    texts = [
        study.task.first_text(c, a) for c, a in zip(problems.counts, problems.answers, strict=True)
    ]
    tokens, optimizer = study.model.encode(texts), torch.optim.Adam(model.parameters(), 1e-3)
    losses = [study.train.supervised_step(model, optimizer, problems, tokens) for _ in range(10)]
    assert losses[0] == pytest.approx(math.log(len(study.model.WORDS)), rel=0.15)
    assert losses[-1] < 0.8 * losses[0]


def test_rl_raises_the_probability_of_what_is_rewarded(study, model):
    def reward(completions, answer, log_metric):  # for short responses
        return [-len(completion.split()) / study.model.MAX_WORDS for completion in completions]

    args = study.train.Args(prompts=4, steps=10, learning_rate=3e-3, warmup_steps=1)
    history = study.train.train_rl(args, 1, model, reward)
    rewards = [step["reward"] for step in history]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.2
    assert all(math.isfinite(step["loss"]) for step in history)


def test_study_runs_reports_and_continues_where_it_was_stopped(study, model, tmp_path, capsys):
    folder = tmp_path / "study"
    for seed in (1, 2):
        for stage in ("base", "reflection"):
            study.train.write(
                folder / f"seed_{seed}" / f"{stage}.pt",
                lambda file: torch.save(model.state_dict(), file),
            )
    settings = {"seed": (1, 2), "steps": 2, "prompts": 2, "sft_examples": 20, "sft_steps": 2}
    args = study.train.Args(folder=folder, eval_problems=20, **settings)
    with pytest.warns(UserWarning, match="released"):
        study.train.main(args)
    files = sorted(folder.glob("seed_*/*.json"))
    assert len(files) == 2 * len(study.train.RUNS)
    results = [json.loads(file.read_text()) for file in files]
    for result in results:
        assert sum(result["cases"].values()) == len(result["lengths"]) == 20
        assert all(math.isfinite(step["loss"]) for step in result["history"])

    # Only what is missing runs again, and gives the same result.
    files[0].unlink()
    times = [file.stat().st_mtime_ns for file in files[1:]]
    capsys.readouterr()
    study.train.main(args)
    assert capsys.readouterr().out.count("first ") == 1
    assert [file.stat().st_mtime_ns for file in files[1:]] == times
    again = json.loads(files[0].read_text())
    assert {**again, "cpu_seconds": 0} == {**results[0], "cpu_seconds": 0}

    study.report.main(study.report.Args(folder=folder, smoothing=1))
    shown = capsys.readouterr().out
    for run in study.train.RUNS:
        assert study.report.ROWS[run] in shown
    for name in ("H1", "H2a", "H2b", "H3", "H4"):
        assert f"{name} " in shown
    assert (folder / "reflection.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("paper", "other", "met"),
    [((0.9, 0.8), (0.6, 0.5), True), ((0.9, 0.6), (0.6, 0.5), False)],
)
def test_criterion_is_met_if_every_seed_meets_it(study, paper, other, met):
    def results(finals):
        lengths = {"lengths": [16], "first_lengths": [8]}
        return {i: {"final": final, "first": 0.9, **lengths} for i, final in enumerate(finals)}

    lines = study.report.criteria(
        {"paper": results(paper), "no_effectiveness": results(other), "no_brevity": results(other)}
    )
    assert ("H1  final answer, I_eff on minus off, > 0.2: met" in lines[0]) == met
    assert "2.00 (seed 0), 2.00 (seed 1)" in lines[1]
    # By hand: differences d, d' have the half-width t(1) |d - d'| / 2 with t(1) = 12.706.
    gains = [a - b for a, b in zip(paper, other, strict=True)]
    half = 12.706 * abs(gains[0] - gains[1]) / 2
    assert f"[{np.mean(gains) - half:+.2f}, {np.mean(gains) + half:+.2f}]" in lines[4]


def test_unknown_reward_is_an_error(study):
    with pytest.raises(ValueError, match=r"--reward must be among .*, got 'papers'"):
        study.train.Args(reward=("papers",))


def test_rewards_of_the_study_are_those_of_the_package(study):
    with pytest.warns(UserWarning, match="released"):
        rewards = {name: make() for name, make in study.train.REWARDS.items()}
    assert rewards["paper"] == ReflectionReward.paper()
    assert rewards["final_only"] == ReflectionReward.final_only()
    assert {rewards["no_effectiveness"].effectiveness(a, b) for a in (0, 1) for b in (0, 1)} == {0}
    assert rewards["no_brevity"].brevity == 0


def test_readme_of_the_examples_lists_the_study():
    assert "`reflection_counting/`" in (FOLDER.parent / "README.md").read_text()
