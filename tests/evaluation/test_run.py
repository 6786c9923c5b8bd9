"""From problems to accuracies with intervals, on a scripted generator; killed and resumed; the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_rhythm.errors import ReproError, UsageError
from attention_rhythm.files import read_jsonl, write_jsonl
from attention_rhythm.generation import engines
from attention_rhythm.generation.base import Completion
from attention_rhythm.generation.engines import Engine, make_engine
from attention_rhythm.tasks.problems import DataError, NoSource, Problem, load_problems
from evaluation import compare, run
from evaluation.run import evaluate, load_tasks, sampling_of, summarise, table
from evaluation.settings import EvaluationConfig, Run

ROOT = Path(__file__).resolve().parents[2]


class Words:
    """A tokenizer of one token a character."""

    chat_template = None

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(c) for c in text]}


class Scripted:
    """A generator that answers 7 on even calls and 8 on odd ones, and counts what it was asked."""

    def __init__(self, dies_after=None):
        self.asked, self.dies_after = [], dies_after

    def generate(self, prompts, sampling):
        result = []
        for prompt in prompts:
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(prompt)
            for sample in range(sampling.samples):
                text = f"So it is \\boxed{{{7 + sample % 2}}}."
                result.append(
                    Completion([1] * (5 + sample), text, [0.0] * (5 + sample), "stop" if sample else "length")
                )
        return result


def problems(count, task="math500"):
    return [Problem(f"p{i}", f"What is {i}?", "7", task, metadata={"source": "file"}) for i in range(count)]


def scripted(**options):
    return Engine("hf", Scripted(**options), Words(), 10_000)


def test_one_greedy_completion_gives_pass_at_1_with_a_wilson_interval(tmp_path):
    config = EvaluationConfig(("math500",))
    rows = evaluate(scripted(), {"math500": problems(10)}, config, tmp_path / "partial")
    (summary,) = summarise(rows, seed=0)
    assert (summary["metric"], summary["accuracy"], summary["interval"]) == ("pass@1", 100.0, "wilson")
    assert summary["ci"][0] == pytest.approx(72.2, abs=0.1)  # Wilson, 10 of 10
    assert (summary["problems"], summary["tokens"], summary["cut_off"]) == (10, 5, 100)


def test_several_samples_give_the_mean_and_the_best_of_k(tmp_path):
    config = EvaluationConfig(("math500",), samples=4)
    rows = evaluate(scripted(), {"math500": problems(3)}, config, tmp_path / "partial")
    assert [row["correct"] for row in rows[:4]] == [True, False, True, False]
    (summary,) = summarise(rows, seed=0)
    assert (summary["metric"], summary["accuracy"], summary["best_of"]) == ("avg@4", 50.0, 100.0)
    assert summary["interval"] == "bootstrap" and summary["ci"] == [50, 50]  # all problems alike


def test_some_tasks_may_have_other_numbers_of_samples():
    config = EvaluationConfig(("aime24", "math500"), samples_of={"aime24": 16})
    assert (sampling_of(config, "aime24").samples, sampling_of(config, "aime24").temperature) == (16, 0.7)
    assert (sampling_of(config, "math500").samples, sampling_of(config, "math500").temperature) == (1, 0)


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    config = EvaluationConfig(("math500",), batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(scripted(dies_after=3), {"math500": problems(5)}, config, tmp_path / "partial")
    engine = scripted()
    rows = evaluate(engine, {"math500": problems(5)}, config, tmp_path / "partial")
    assert len(engine.generator.asked) == 2 and len(rows) == 5


def test_a_prompt_that_leaves_no_room_is_named(tmp_path):
    engine = Engine("hf", Scripted(), Words(), 150)
    with pytest.raises(ReproError, match=r"problem p0: a prompt of \d+ tokens and a response of 100 do not fit"):
        evaluate(engine, {"math500": problems(1)}, EvaluationConfig(("math500",), max_new_tokens=100), tmp_path / "p")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("sudoku",)}, "unknown task 'sudoku'"),
        ({"generated": ("sudoku",)}, "unknown task 'sudoku'"),
        ({"tasks": ()}, "no tasks"),
        ({"tasks": ("gsm8k",), "generated": ("gsm8k",)}, "gsm8k is there twice"),
        ({"tasks": ("gsm8k",), "samples": 0}, "samples must be at least 1"),
        ({"tasks": ("gsm8k",), "samples_of": {"aime": 2}}, "unknown task 'aime'"),
        ({"tasks": ("gsm8k",), "limit": -1}, "limit"),
    ],
)
def test_settings_that_make_no_sense_are_wrong_usage(options, message):
    with pytest.raises(UsageError, match=message):
        load_tasks(EvaluationConfig(**options), None)


def test_a_benchmark_that_cannot_be_had_is_an_error_and_nothing_stands_in_unasked(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(
        "attention_rhythm.tasks.problems._download", lambda file: (_ for _ in ()).throw(OSError("offline"))
    )
    for name in ("aime24", "zebra"):  # the second has a generator
        with pytest.raises(NoSource, match=f"{name}.*offline"):
            load_tasks(EvaluationConfig((name,), limit=2), None)
    (problems,) = load_tasks(EvaluationConfig(generated=("zebra",), limit=2), None).values()
    assert [problem.metadata["source"] for problem in problems] == ["generated"] * 2
    with pytest.raises(NoSource, match=r"aime24.*has no generator"):
        load_tasks(EvaluationConfig(generated=("aime24",)), None)


def test_a_broken_data_file_is_never_skipped(tmp_path):
    (tmp_path / "aime24.jsonl").write_text('{"id": "a", "question": "q", "answer": "1"}\nnot json\n')
    with pytest.raises(DataError, match=r"aime24.jsonl:2"):
        load_tasks(EvaluationConfig(("aime24",), ("zebra",)), tmp_path)


def test_the_table_says_what_stood_in(tmp_path):
    stand_in = [Problem("p", "What?", "7", "gsm_symbolic", metadata={"source": "generated"})]
    rows = evaluate(scripted(), {"gsm8k": stand_in}, EvaluationConfig(("gsm8k",)), tmp_path / "partial")
    text = table(summarise(rows, 0))
    assert "gsm8k (gsm_symbolic)" in text and "100.0 [20.7, 100.0]" in text


def test_the_stage_writes_completions_and_accuracies(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_, **__: scripted())
    settings = EvaluationConfig(generated=("zebra",), limit=3, max_new_tokens=8, batch_size=2, engine="hf")
    run.stage(Run(tmp_path, mark="f" * 64), settings)
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [t["task"] for t in result["tasks"]] == ["zebra"] and result["engine"] == "hf"
    assert len(read_jsonl(tmp_path / "evaluation.jsonl")) == 3


# ------------------------------------------------------------------------------------------ engines


def test_engines_by_name(monkeypatch):
    with pytest.raises(UsageError, match="tgi"):
        make_engine("tgi", "m", dtype="float32", device="cpu")
    assert not engines._gpu_with_vllm("cpu")


# ------------------------------------------------------------------------------------------ compare


def completions(task, correct, samples=1):
    return [
        {"task": task, "problem": f"p{i}", "sample": s, "correct": bool(value)}
        for i, value in enumerate(correct)
        for s in range(samples)
    ]


def test_two_runs_are_compared_problem_by_problem():
    before = completions("gsm8k", [0, 0, 0, 0, 0, 0, 1, 1])
    after = completions("gsm8k", [1, 1, 1, 1, 1, 1, 1, 0])
    (row,) = compare.compare(before, after)
    assert (row["baseline"], row["treatment"], row["difference"]) == (25, 87.5, 62.5)
    assert (row["wins"], row["losses"], row["ties"], row["test"]) == (6, 1, 1, "mcnemar_exact")
    assert row["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert "+62.5" in compare.table([row])


def test_the_order_of_the_problems_does_not_matter():
    before, after = completions("gsm8k", [0, 1, 1]), completions("gsm8k", [0, 1, 1])
    (row,) = compare.compare(before, after[::-1])
    assert row["ties"] == 3 and row["difference"] == 0


def test_different_problems_cannot_be_compared():
    with pytest.raises(ReproError, match="different problems"):
        compare.compare(completions("gsm8k", [0, 1]), completions("gsm8k", [0, 1, 1]))
    with pytest.raises(ReproError, match="share no task"):
        compare.compare(completions("gsm8k", [0]), completions("amc23", [0]))


def test_compare_from_the_command_line(tmp_path, capsys):
    for name, correct in (("a", [0, 0, 1]), ("b", [1, 1, 1])):
        write_jsonl(tmp_path / f"{name}.jsonl", completions("gsm8k", correct, samples=2))
    arguments = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--json", str(tmp_path / "c.json")]
    assert compare.main(arguments) == 0
    assert json.loads((tmp_path / "c.json").read_text())[0]["test"] == "sign_flip"
    assert compare.main([str(tmp_path / "none"), str(tmp_path / "b.jsonl")]) == 1
    assert "no such file" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- end to end


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "nowhere", "--tasks", "gsm8k"], 2, "neither"),
        (["--model", "smollm2-135m-instruct", "--tasks", "sudoku"], 2, "unknown task 'sudoku'"),
        (["--tasks", "gsm8k"], 2, "--model"),
    ],
)
def test_wrong_usage_ends_in_one_line(arguments, status, message):
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.run", *arguments, "--limit", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_real_model_on_twenty_problems_of_every_task_that_can_be_had(tmp_path):
    """SmolLM2 on 20 problems of each task: the benchmark's where DATA_DIR or the hub has it, else generated ones."""
    options, benchmarks, generated = {"limit": 20, "seed": 0, "data_dir": None}, [], []
    for task in (name for name in run.TASKS if name not in ("dapo_math", "gsm_symbolic")):
        try:
            load_problems(task, **options, source="benchmark")
            benchmarks.append(task)
        except NoSource:
            if run.TASKS[task].generate:
                generated.append(task)
    found = (*benchmarks, *generated)
    assert {"gsm8k", "countdown", "zebra"} <= set(found)
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.run", "--model", "smollm2-135m-instruct", "--tasks", *benchmarks,
         "--generated", *generated, "--limit", "20", "--max-new-tokens", "64", "--batch-size", "20", "--device", "cpu",
         "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert {t["task"]: t["problems"] for t in result["tasks"]} == dict.fromkeys(found, 20)
    for task in result["tasks"]:
        assert 0 <= task["ci"][0] <= task["accuracy"] <= task["ci"][1] <= 100
        assert 0 < task["tokens"] <= 64
    assert len(read_jsonl(tmp_path / "completions.jsonl")) == 20 * len(found)
    assert done.stdout.strip().startswith("| Task")
