"""The reward object as a reward function of TRL's GRPOTrainer and of verl."""

import importlib.util
import math
import pickle

import pytest

from srpo_env.reflection import ReflectionReward
from tests.reflection.responses import CASES, LABEL, RIGHT, WRONG, response

REWARD = ReflectionReward.paper()
TOTALS = {"rr": 1.60, "wr": 1.35, "rw": 1.10, "ww": 0.85}
RESPONSES = [response(*case) for case in CASES.values()]
LABELS = [LABEL] * len(CASES)


def as_chat(text):
    return [{"role": "assistant", "content": text}]


# --- TRL's interface ---


@pytest.mark.parametrize("form", [str, as_chat], ids=["text", "chat"])
def test_batch_earns_what_its_responses_earn(form):
    rewards = REWARD(
        prompts=["?"] * 4,
        completions=list(map(form, RESPONSES)),
        completion_ids=[[1, 2]] * 4,
        answer=LABELS,
        trainer_state=object(),
        log_extra=lambda column, values: None,
        log_metric=lambda name, value: None,
    )
    assert rewards == pytest.approx(list(TOTALS.values()))
    assert all(type(reward) is float for reward in rewards)


def test_means_of_the_components_are_logged():
    logged = {}
    REWARD(completions=RESPONSES, answer=LABELS, log_metric=logged.__setitem__)
    assert logged == pytest.approx(
        {
            "reflection/format": 0.5,
            "reflection/accuracy": 0.25,
            "reflection/reflection_format": 0.25,
            "reflection/effectiveness": (0.25 + 0.5 - 0.25) / 4,
            "reflection/brevity": 0.1,
            "reflection/first_correct": 0.5,
            "reflection/final_correct": 0.5,
        }
    )


def test_row_without_a_usable_label_is_left_out_of_rewards_and_means():
    logged = {}
    labels = [LABEL, None]
    rewards = REWARD(completions=RESPONSES[:2], answer=labels, log_metric=logged.__setitem__)
    assert rewards == [1.6, None]
    assert logged["reflection/accuracy"] == 0.5
    # Processes exchange metrics by name, so that each must log all of them.
    names = set(logged)
    REWARD(completions=RESPONSES[:1], answer=[None], log_metric=logged.__setitem__)
    assert set(logged) == names
    assert all(math.isnan(value) for value in logged.values())


def test_labels_may_have_another_column():
    assert ReflectionReward(label_column="solution")([response()], solution=[LABEL]) == [1.6]


def test_missing_or_too_few_labels_are_errors():
    with pytest.raises(ValueError, match=r"a column 'answer' with the labels, got \['solution'\]"):
        REWARD([response()], solution=[LABEL])
    with pytest.raises(ValueError, match="one label per completion, got 1 and 4"):
        REWARD(RESPONSES, answer=[LABEL])


def test_reward_has_a_name_and_survives_pickling():
    assert REWARD.__name__ == "reflection_reward"
    assert ReflectionReward.__name__ == "ReflectionReward"
    assert pickle.loads(pickle.dumps(REWARD))(RESPONSES, answer=LABELS) == REWARD(
        RESPONSES, answer=LABELS
    )


# --- TRL itself ---

BLOCKS = [
    "<think>a</think>",
    f"<answer>{RIGHT}</answer>",
    f"<answer>{WRONG}</answer>",
    "<reflection>b</reflection>",
]
"""Tokens of the model, so that random responses have right and wrong answers, and reflections."""


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[pad]", "[end]", "?", *BLOCKS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Before version 5, transformers' default has token types, which Llama does not take.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[pad]", eos_token="[end]", padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return fast


# Libraries may warn as they like. Importing TRL takes most of the time.
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("prompt", ["?", [{"role": "user", "content": "?"}]], ids=["text", "chat"])
def test_trl_trains_with_the_reward_and_logs_its_components(prompt, tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="needs the extra [trl]: run `pip install 'srpo-env[trl]'`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_attention_heads=2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            **sizes,
        )
    )
    before = model.lm_head.weight.detach().clone()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[REWARD],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=6,
            max_steps=3,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": [prompt] * 8, "answer": [LABEL] * 8}),
        processing_class=tokenizer,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    assert len(logs) == 3
    components = ("format", "accuracy", "reflection_format", "effectiveness", "brevity")
    for log in logs:
        total = sum(log[f"reflection/{name}"] for name in components)
        assert log["rewards/reflection_reward/mean"] == pytest.approx(total, abs=1e-5)
        assert log["reflection/accuracy"] == pytest.approx(0.5 * log["reflection/first_correct"])
    assert any(log["reward_std"] > 0 for log in logs)
    assert not torch.equal(before, model.lm_head.weight)


# --- verl ---


def test_verl_gets_the_score_and_the_components():
    score = REWARD.compute_score("geo3k", response(*CASES["wr"]), LABEL, {"index": 3})
    assert score.pop("score") == pytest.approx(1.35)
    assert score == {
        "format": 0.5,
        "accuracy": 0.0,
        "reflection_format": 0.25,
        "effectiveness": 0.5,
        "brevity": 0.1,
        "first_correct": 0.0,
        "final_correct": 1.0,
    }
    malformed = REWARD.compute_score(data_source="", solution_str="", ground_truth=LABEL)
    assert malformed.pop("score") == 0.0
    assert list(malformed) == list(score)  # verl makes a column of each


def test_verl_loads_the_function_from_a_file(tmp_path):
    file = tmp_path / "my_reward.py"
    file.write_text(
        "from srpo_env.reflection import ReflectionReward\n"
        "compute_score = ReflectionReward.paper().compute_score\n"
    )
    # As verl does with custom_reward_function.path and .name.
    specification = importlib.util.spec_from_file_location("custom_module", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.compute_score("", response(), LABEL)["score"] == 1.6


def test_verl_is_told_about_labels_that_cannot_be_used():
    with pytest.raises(ValueError, match="verl needs a label for every row, got None"):
        REWARD.compute_score("", response(), None)
