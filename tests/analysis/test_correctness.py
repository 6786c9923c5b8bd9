"""Answers lost to a forced token: by hand, and the stage on a tiny model whose answer hangs on one token."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import correctness
from analysis.correctness import one_response, stage, summarise
from analysis.settings import CorrectnessSettings
from analysis.token_value import Response, Subject
from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, write_jsonl
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.tasks.base import Problem
from evaluation.settings import ResponsesSettings, Run
from tests.support.models import build

SETTINGS = CorrectnessSettings(positions=2, samples=4, max_new_tokens=24, horizon=(1, 10))
PROBLEM = Problem("p", "q", "7", "gsm8k")


class Words:
    """One word a token: w3, and an answer that names what came before it."""

    eos_token_id = 60
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return "".join(f" w{i}" for i in ids if not (skip_special_tokens and i == self.eos_token_id))


@pytest.fixture
def subject():
    model = build("qwen3")
    model.generation_config.eos_token_id = Words.eos_token_id
    generator = HFGenerator(model, Words())
    return Subject("model", model, Words(), generator, "0" * 64, [PROBLEM], with_texts=False)


def a_response(seed=0, length=24):
    ids = torch.randint(1, 60, (4 + length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Response(PROBLEM, ids[:4], ids[4:], right=True, pass_rate=1.0)


def test_what_stays_is_the_other_token_less_ones_own(subject, monkeypatch):
    asked = {}

    def counts(_, response, positions, other, text, settings, seed):
        asked.update(positions=positions.tolist(), other=other)
        half = np.full(len(positions), 2.0)
        return {
            "before_a": half,
            "before_b": half,
            "after_a": half,
            "after_b": half - 1,
            "other_a": half - 2,
            "other_b": half,
        }

    monkeypatch.setattr(correctness, "right_continuations", counts)
    response = a_response()
    rows = pd.DataFrame(one_response(subject, response, SETTINGS, 0))
    assert sorted(rows["position"]) == asked["positions"] and set(rows["group"]) == {"top", "bottom", "matched"}
    assert set(rows["own"]) == {0.75} and set(rows["other"]) == {0.5} and set(rows["stays"]) == {-0.25}
    assert rows.groupby("group")["fai"].mean()["top"] > rows.groupby("group")["fai"].mean()["bottom"]
    ids = torch.tensor([response.prompt + response.ids])
    with torch.no_grad():
        likely = subject.model(input_ids=ids).logits[0, 3:-1]
    likely[range(len(response.ids)), response.ids] = float("-inf")
    likely[:, Words.eos_token_id] = float("-inf")
    assert asked["other"].tolist() == likely.argmax(-1).tolist()


def test_real_continuations_give_shares(subject):
    rows = pd.DataFrame(one_response(subject, a_response(), SETTINGS, 0))
    assert rows[["own", "other"]].apply(lambda column: column.between(0, 1)).all(axis=None)


def test_a_response_too_short_has_no_rows(subject):
    assert one_response(subject, a_response(length=1), SETTINGS, 0) == []


def test_groups_are_compared_over_problems():
    rows = [
        {
            "problem": p,
            "group": g,
            "position": n,
            "relative_position": 0.1,
            "own": 1.0,
            "other": 1 + stays,
            "stays": stays,
        }
        for p, values in {"a": (-0.5, 0.0), "b": (-0.3, -0.1), "c": (-0.4, -0.1)}.items()
        for n, (g, stays) in enumerate(zip(("top", "bottom"), values, strict=True))
    ]
    found = summarise(pd.DataFrame(rows), seed=0)
    assert found["groups"]["top"]["stays"] == pytest.approx(-0.4)
    assert found["groups"]["top"]["own"] == 1 and found["groups"]["top"]["other"] == pytest.approx(0.6)
    (comparison,) = found["comparisons"]
    assert comparison["name"] == "top_vs_bottom" and comparison["difference"] == pytest.approx(-1 / 3)


@pytest.fixture
def run(tmp_path, subject, monkeypatch):
    monkeypatch.setattr(correctness, "load_model", lambda *_, **__: (subject.model, subject.tokenizer))
    monkeypatch.setattr(correctness, "model_sha256", lambda _: "0" * 64)
    monkeypatch.setattr(correctness, "fastest_of_prefixes", lambda *_, **__: subject.generator)
    monkeypatch.setattr(
        correctness, "load_problems", lambda *_, **__: [replace(PROBLEM, id="p0"), replace(PROBLEM, id="p1")]
    )
    rows = [
        {"problem_id": f"p{i}", "kind": kind, "correct": i == 0, "prompt_ids": r.prompt, "response_ids": r.ids}
        for i, r in enumerate((a_response(), a_response(1)))
        for kind in ("sampled", "greedy")
    ]
    write_jsonl(tmp_path / "responses.jsonl", rows)
    return Run(tmp_path, mark="a" * 16)


def test_only_right_greedy_responses_are_studied_and_a_kill_loses_nothing(run, monkeypatch):
    stage(run, SETTINGS, ResponsesSettings())
    about = read_json(run.path("correctness.json"))
    assert (about["responses"], about["of"]) == (1, 2)
    assert set(pd.read_csv(run.path("correctness.csv"))["problem"]) == {"p0"}
    first = run.path("correctness.csv").read_bytes()

    def never(*_):
        raise AssertionError("done already")

    monkeypatch.setattr(correctness, "one_response", never)
    stage(run, SETTINGS, ResponsesSettings())
    assert run.path("correctness.csv").read_bytes() == first


def test_no_right_response_is_said(run):
    write_jsonl(
        run.path("responses.jsonl"),
        [{"problem_id": "p0", "kind": "greedy", "correct": False, "prompt_ids": [1], "response_ids": [2]}],
    )
    with pytest.raises(ReproError, match="no right response"):
        stage(run, SETTINGS, ResponsesSettings())
