"""Problems on their way through verl: parquet rows, and the reward that comes back from them."""

import pandas as pd
import pytest

from attention_rhythm.integrations.verl.data import main, rows, write
from attention_rhythm.integrations.verl.reward import compute_score
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles

ANSWERS = ("<answer> ( 4 + 11 ) - 12 </answer>", "<answer> 11 + 4 </answer>", "8", "")


@pytest.fixture
def parquet(tmp_path):
    write("puzzles", tmp_path, limit=5)
    return pd.read_parquet(tmp_path / "train.parquet")


def test_a_row_has_what_verl_reads(parquet):
    row = parquet.iloc[0]
    assert list(parquet.columns) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert row["reward_model"]["ground_truth"] == load_puzzles("train", 1)[0].answer


def test_the_chat_of_a_row_is_the_prompt_of_the_single_machine_loop(parquet, policy_tokenizer):
    for row, problem in zip(parquet.itertuples(), load_puzzles("train", 5), strict=True):
        text = policy_tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        ids = policy_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == build_prompt_ids(problem, policy_tokenizer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_reward_is_the_graders_on_the_problem_that_went_in(parquet, answer):
    for row, problem in zip(parquet.itertuples(), load_puzzles("train", 5), strict=True):
        wanted = grade(problem, answer)
        given = compute_score(row.data_source, answer, row.reward_model["ground_truth"], row.extra_info)
        assert given == {"score": wanted.score, "acc": float(wanted.correct)}


def test_a_problem_with_choices_and_a_context_survives(tmp_path):
    problem = load_puzzles("train", 1)[0]
    from dataclasses import replace

    harder = replace(problem, task="crossthink_qa", answer="B", context="It is late.", choices=["early", "late"])
    pd.DataFrame(rows([harder], "train")).to_parquet(tmp_path / "one.parquet")
    row = pd.read_parquet(tmp_path / "one.parquet").iloc[0]
    assert compute_score("crossthink_qa", r"So \boxed{B}.", "B", row["extra_info"])["acc"] == 1.0
    assert "Context: It is late." in row["prompt"][1]["content"]


def test_a_task_that_is_not_there_ends_in_one_line(tmp_path, capsys):
    assert main(["--task", "chess", "--out", str(tmp_path)]) == 2
    assert "unknown task 'chess'" in capsys.readouterr().err
