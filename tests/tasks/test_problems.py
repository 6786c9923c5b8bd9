"""Problems come from a file, else the hub, else a generator; never silently, never from outside the data folder."""

import json
import logging
import re
import time

import pyarrow
import pyarrow.parquet
import pytest

from attention_rhythm.tasks import problems
from attention_rhythm.tasks.crossthink import parse_crossthink
from attention_rhythm.tasks.math import DAPO_PREFIX_END, DAPO_SUFFIX, parse_math, select_dapo
from attention_rhythm.tasks.problems import DataError, load_problems
from attention_rhythm.tasks.registry import TASKS
from attention_rhythm.tasks.zebra import parse_zebra

GSM8K = [
    {"id": f"g{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i), "solution": f"#### {2 * i}"}
    for i in range(50)
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    return tmp_path


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_row_becomes_a_problem_that_names_its_source(folder):
    first = load_problems("gsm8k", data_dir=folder)[0]
    assert (first.id, first.question, first.answer, first.task) == ("g0", "What is 0 + 0?", "0", "gsm8k")
    assert first.metadata == {"solution": "#### 0", "source": "file", "file": "gsm8k_test.jsonl"}


def test_the_folder_is_the_environments_unless_given(folder, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(folder))
    assert len(load_problems("gsm8k")) == 50


def test_limit_is_a_seeded_sample_in_the_files_order(folder):
    ids = [
        [p.id for p in load_problems("gsm8k", data_dir=folder, limit=n, seed=s)] for n, s in ((10, 0), (10, 0), (10, 1))
    ]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] == sorted(ids[0], key=lambda name: int(name[1:])) and len(set(ids[0])) == 10


def test_a_smaller_sample_lies_within_a_larger_one(folder):
    small, large = ({p.id for p in load_problems("gsm8k", data_dir=folder, limit=n)} for n in (10, 20))
    assert small < large


def test_a_limit_beyond_the_file_gives_the_file(folder):
    assert len(load_problems("gsm8k", data_dir=folder, limit=1000)) == 50


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{not json}", "Expecting"),
        (b"[1, 2]", "JSON object"),
        (b'{"question": "?"}', "'answer'"),
        (b'{"question": "", "answer": "1"}', "'question'"),
        (b'{"question": ["?"], "answer": "1"}', "'question'"),
        (b'{"question": "?", "answer": []}', "'answer'"),
        (b'{"question": "\xff", "answer": "1"}', "utf-8"),
        (b'{"id": "g0", "question": "again", "answer": "1"}', "twice"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(folder, line, why):
    path = folder / "gsm8k_test.jsonl"
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")  # line 51 is blank, 52 is bad
    with pytest.raises(DataError, match=rf"gsm8k_test\.jsonl:52: .*{why}"):
        load_problems("gsm8k", data_dir=folder)


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no problems"):
        load_problems("gsm8k", data_dir=tmp_path)


def test_a_data_dir_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_problems("gsm8k", data_dir=tmp_path / "nowhere")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../gsm8k", "/etc/passwd", "gsm8k/../../x", "", "GSM8K", "aime"])
def test_only_registered_tasks_load(name, folder):
    with pytest.raises(ValueError, match=r"unknown task .* one of aime24, aime25"):
        load_problems(name, data_dir=folder)


@pytest.mark.parametrize(("task", "split"), [("aime24", "train"), ("dapo_math", "test"), ("gsm8k", "../train")])
def test_only_a_tasks_own_splits_load(task, split):
    with pytest.raises(ValueError, match=f"{task} has no split"):
        load_problems(task, split=split)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit, folder):
    with pytest.raises(ValueError, match="at least 1"):
        load_problems("gsm8k", data_dir=folder, limit=limit)


# --- without files ----------------------------------------------------------------------------------------------------


def test_offline_and_without_a_generator_it_fails_fast_and_in_one_line(offline):
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        load_problems("math500")
    assert time.monotonic() - start < 2
    assert "\n" not in str(error.value) and "HF_HUB_OFFLINE" in str(error.value) and "DATA_DIR" in str(error.value)


def test_a_hub_that_does_not_answer_is_not_waited_for(offline, monkeypatch):
    monkeypatch.setattr(problems.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(problems.constants, "ENDPOINT", "http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(DataError, match="does not answer"):
        load_problems("math500")
    assert time.monotonic() - start < 2


def test_gsm_symbolic_stands_in_for_gsm8k_and_says_so(offline, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load_problems("gsm8k", limit=3)
    assert {p.task for p in loaded} == {"gsm_symbolic"} and {p.metadata["source"] for p in loaded} == {"generated"}
    assert "generated by reasoning-gym gsm_symbolic" in caplog.text and "HF_HUB_OFFLINE" in caplog.text


def test_asking_for_a_generated_task_by_name_is_no_reason_to_warn(offline, caplog):
    with caplog.at_level(logging.WARNING):
        load_problems("gsm_symbolic", limit=1)
    assert not caplog.text


@pytest.mark.parametrize("task", ["gsm_symbolic", "zebra", "countdown"])
def test_generated_problems_are_the_same_each_time_and_differ_between_splits(task, offline):
    first, second, train = (load_problems(task, limit=4, split=split) for split in ("test", "test", "train"))
    assert first == second
    assert not {p.question for p in first} & {p.question for p in train}


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_every_hub_file_is_pinned_to_a_commit():
    files = [file for task in TASKS.values() for file in task.hub.values()]
    assert len(files) >= 11 and all(re.fullmatch(r"[0-9a-f]{40}", file.revision) for file in files)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_hub_file_is_read_and_named(kind, offline, monkeypatch, tmp_path):
    rows = [
        {"problem": "1 + 1?", "answer": "2", "unique_id": "a"},
        {"problem": "2 + 2?", "answer": "4", "unique_id": "b"},
    ]
    path = tmp_path / f"test.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    asked = {}

    def download(repo, name, **options):
        asked.update(repo=repo, name=name, **options)
        return str(path)

    monkeypatch.setattr(problems, "hf_hub_download", download)
    loaded = load_problems("math500")
    assert [(p.id, p.question, p.answer) for p in loaded] == [("a", "1 + 1?", "2"), ("b", "2 + 2?", "4")]
    assert loaded[0].metadata["source"] == "hub" and loaded[0].metadata["repo"] == "HuggingFaceH4/MATH-500"
    assert asked["revision"] == loaded[0].metadata["revision"] and asked["repo_type"] == "dataset"


def test_gsm8k_of_the_hub_keeps_its_answer_at_the_end_of_the_solution():
    problem = parse_math({"question": "?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"}, 3, task="gsm8k")
    assert (problem.answer, problem.id) == ("1200", "gsm8k-3") and problem.metadata["solution"].endswith("1,200")


def test_olympiadbench_of_the_hub_has_a_list_of_answers():
    assert parse_math({"question": "?", "final_answer": ["$1$", "$2$"]}, 0, task="olympiadbench").answer == "$1$, $2$"


def test_dapo_of_the_hub_is_unwrapped_and_repeats_are_dropped():
    def row(question, answer):
        text = f"Solve. The last line is the {DAPO_PREFIX_END}{question}{DAPO_SUFFIX}"
        return {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": answer}}

    rows = select_dapo([row("1+1?", "2"), row("1+1?", "2"), row("2+2?", "4")], "train")
    assert [(r["id"], r["question"], r["answer"]) for r in rows] == [("dapo-0", "1+1?", "2"), ("dapo-1", "2+2?", "4")]


def test_crossthink_takes_the_options_out_of_the_question():
    row = {"question": "Which?\nA: one\nB: two", "choices": {"A": "one", "B": "two"}, "answer": "B"}
    problem = parse_crossthink(row, 0)
    assert (problem.question, problem.choices, problem.answer) == ("Which?", ("one", "two"), "B")


@pytest.mark.parametrize(("choices", "answer"), [({"A": "x", "C": "y"}, "A"), ({"A": "x"}, "B"), ({}, "A")])
def test_crossthink_refuses_options_with_gaps_and_answers_that_are_none(choices, answer):
    with pytest.raises(ValueError, match="choices"):
        parse_crossthink({"question": "?", "choices": choices, "answer": answer}, 0)


def test_zebralogic_of_the_hub_has_puzzle_question_and_choices():
    row = {"id": "z", "puzzle": "Two houses.", "question": "Who?", "choices": ["Bob", "Ann"], "answer": "Ann"}
    problem = parse_zebra(row, 0)
    assert (problem.question, problem.choices, problem.answer) == ("Two houses.\nWho?", ("Bob", "Ann"), "Ann")


# --- the real files ---------------------------------------------------------------------------------------------------

ROWS = {
    ("gsm8k", "test"): 1319,
    ("gsm8k", "train"): 1000,
    ("math500", "test"): 500,
    ("aime24", "test"): 30,
    ("aime25", "test"): 30,
    ("amc23", "test"): 40,
    ("olympiadbench", "test"): 400,
    ("minerva", "test"): 100,
    ("dapo_math", "train"): 4000,
    ("crossthink_qa", "test"): 500,
}


@pytest.mark.parametrize(("task", "split"), ROWS)
def test_every_row_of_the_real_files_loads(task, split, data_dir):
    loaded = load_problems(task, split=split, data_dir=data_dir)
    assert len(loaded) == ROWS[task, split] == len({p.id for p in loaded})
    assert all(p.question and p.answer and p.task == task for p in loaded)


def test_aime24_and_aime25_are_not_the_same(data_dir):
    questions = [{p.question for p in load_problems(task, data_dir=data_dir)} for task in ("aime24", "aime25")]
    assert not questions[0] & questions[1]
