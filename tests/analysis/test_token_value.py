"""Token values: a policy whose values are enumerated by hand, the text of a response, and a study from end to end."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import token_value
from analysis.settings import StudySettings
from analysis.token_scores import tokens_of
from analysis.token_value import (
    Response,
    Subject,
    kept_responses,
    probabilities,
    right_continuations,
    study,
)
from attention_rhythm.errors import UsageError
from attention_rhythm.files import append_jsonl, read_json, resume_jsonl
from attention_rhythm.generation.conventions import ResponseText
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model, model_sha256
from attention_rhythm.tasks.puzzles import load_puzzles
from evaluation.settings import Run
from tests.support.models import Letters, build
from training.experiment import ROOT

POLICY = str(ROOT / "training" / "checkpoints" / "countdown-policy")
SETTINGS = StudySettings(
    problems=6, responses=6, screen=1, positions=0, samples=4, max_new_tokens=96, horizon=(5, 40), receiver_heads=2
)

# -------------------------------------------------------------------------------- a tree, by hand

# A policy of two choices, left (3) or right (4), then the end (2). It goes left with 0.7; after that left with 0.2,
# after right left with 0.9. Right answers: left left, right right. So V() = 0.7 * 0.2 + 0.3 * 0.1 = 0.17.
LEFT, RIGHT, END = 3, 4, 2
GOES_LEFT = {(): 0.7, (LEFT,): 0.2, (RIGHT,): 0.9}
VALUES = {(): 0.17, (LEFT,): 0.2, (RIGHT,): 0.1, (LEFT, LEFT): 1.0, (LEFT, RIGHT): 0.0}
PROMPT = [5, 6]


class Tree:
    """The generator of this policy."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.asked = []

    def continue_prefixes(self, texts, prefixes, samples, seed):
        found = []
        for prefix in prefixes:
            before = [*texts[prefix.text][: prefix.visible], prefix.first][len(PROMPT) :]
            self.asked.append(tuple(before))
            found.append([self.go_on(list(before), prefix.limit) for _ in range(samples)])
        return found

    def go_on(self, tokens, limit):
        new = []
        while len(new) < limit and END not in new:
            chance = GOES_LEFT.get((*tokens, *new))
            new.append(END if chance is None else LEFT if self.rng.random() < chance else RIGHT)
        return new


@pytest.fixture
def tree(monkeypatch):
    """A subject whose policy is the tree."""
    right = {f"{LEFT} {LEFT}", f"{RIGHT} {RIGHT}"}
    monkeypatch.setattr(token_value, "grade", lambda _, text: SimpleNamespace(correct=text in right, extracted=None))
    tokenizer = Letters()
    tokenizer.eos_token_id = END
    model = SimpleNamespace(generation_config=None)
    return Subject("tree", model, tokenizer, Tree(), "digest", [], True)


def test_values_of_a_tree_are_those_enumerated_by_hand(tree):
    response = Response(None, PROMPT, [LEFT, LEFT, END], True, 1.0)
    samples = 4000
    settings = StudySettings(samples=samples, max_new_tokens=3)
    other = np.array([RIGHT, RIGHT, LEFT])  # the last gives left left left: cut off, and wrong
    text = ResponseText(tree.tokenizer, {END})
    counts = right_continuations(tree, response, np.arange(3), other, text, settings, 0)
    own = [VALUES[()], VALUES[(LEFT,)], VALUES[(LEFT, LEFT)]]
    exact = {"before": own, "after": [*own[1:], 1.0], "other": [VALUES[(RIGHT,)], VALUES[(LEFT, RIGHT)], 0.0]}
    for column, values in exact.items():
        for half in "ab":
            found = counts[f"{column}_{half}"] / (samples // 2)
            error = np.sqrt(np.array(values) * (1 - np.array(values)) / (samples // 2))
            assert (abs(found - values) <= 5 * error).all(), column
    # what is certain is not sampled: the end of the response, and a forced token at the limit
    assert (LEFT, LEFT, END) not in tree.generator.asked
    assert (LEFT, LEFT, LEFT) not in tree.generator.asked
    assert len(tree.generator.asked) == len(set(tree.generator.asked)) == 5


def test_the_squared_changes_of_a_tree(tree):
    response = Response(None, PROMPT, [LEFT, LEFT, END], True, 1.0)
    text = ResponseText(tree.tokenizer, {END})
    settings = StudySettings(samples=16, max_new_tokens=3)
    squared = []
    for number in range(300):  # estimates of few continuations, in the mean
        counts = right_continuations(
            tree, response, np.arange(3), np.array([RIGHT, RIGHT, LEFT]), text, settings, number
        )
        table = pd.DataFrame({"response": 0, "t": range(3), "kind": "word", "weight": 1.0, "logprob": 0.0, **counts})
        squared.append(tokens_of(table.assign(collision=1.0), 8).squared)
    mean, error = np.mean(squared, 0), np.std(squared, 0) / np.sqrt(300)
    assert (abs(mean - [0.03**2, 0.8**2, 0.0]) <= 5 * error).all()


# --------------------------------------------------------------------------- the text of a response


def test_probabilities_are_those_of_the_row_before(tree):
    model = build("qwen3")
    with torch.no_grad():
        likely = int(model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].argmax())
    response = Response(None, [1, 2, 3], [likely, 5, 6, 7], True, 1.0)  # the other token is not the likeliest then
    found = probabilities(model, response)
    with torch.no_grad():
        p = model(input_ids=torch.tensor([[1, 2, 3, likely, 5, 6, 7]])).logits[0, 2:-1].softmax(-1)
    own = p.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
    np.testing.assert_allclose(found["logprob"], own.log(), atol=1e-5)
    np.testing.assert_allclose(found["collision"], (p**2).sum(1), atol=1e-6)
    np.testing.assert_allclose(found["entropy"], -(p * p.log()).sum(1), atol=1e-5)
    for row, token, other in zip(p, response.ids, found["other"], strict=True):
        assert other == max((v for v in range(len(row)) if v != token), key=lambda v: row[v].item())


def test_an_odd_number_of_samples_has_no_halves():
    with pytest.raises(UsageError, match="even"):
        StudySettings(samples=15)


# ------------------------------------------------------------------------------------ a whole study


@pytest.fixture(scope="module")
def policy():
    model, tokenizer = load_model(POLICY)
    return Subject(
        "warm", model, tokenizer, HFGenerator(model, tokenizer), model_sha256(POLICY), load_puzzles("test", 6), True
    )


@pytest.fixture(scope="module")
def studied(policy, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("study"), seed=0)
    study(run, "policy_values", [policy], SETTINGS)
    return run


def test_a_study_keeps_every_token_and_its_counts(studied):
    values = pd.read_parquet(studied.path("policy_values.parquet"))
    signals = pd.read_parquet(studied.path("policy_values_signals.parquet"))
    assert (values[["subject", "response", "t"]] == signals[["subject", "response", "t"]]).all(axis=None)
    assert (values["weight"] == 1).all()  # every position
    counts = values[list(token_value.COUNTS)]
    assert counts.isin([0, 1, 2]).all(axis=None)
    last = values.groupby("response").tail(1)
    assert (last["after_a"] == 2 * last["right"]).all()  # the outcome of the whole response
    following = values.groupby("response")["before_a"].shift(-1).dropna()
    assert (values.loc[following.index, "after_a"] == following).all()  # after a token is before the next
    found = read_json(studied.path("policy_values.json"))
    assert found["scores"]["warm"]["responses"] == 6
    assert {row["name"] for row in found["scores"]["warm"]["signals"]} >= {"random", "entropy", "coupled_rhythm"}
    assert not studied.path("policy_values.partial.jsonl").exists()


def test_what_has_been_measured_is_not_measured_again(studied, policy, monkeypatch):
    def never(*_):
        raise AssertionError("continued again")

    before = pd.read_parquet(studied.path("policy_values.parquet"))
    monkeypatch.setattr(HFGenerator, "continue_prefixes", never)
    study(studied, "policy_values", [policy], SETTINGS)
    pd.testing.assert_frame_equal(pd.read_parquet(studied.path("policy_values.parquet")), before)


def test_a_killed_study_goes_on_where_it_was(studied, policy, tmp_path, monkeypatch):
    run, done = Run(tmp_path, seed=0), []
    measure = token_value.measure

    def two_then_a_kill(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return measure(*arguments)

    monkeypatch.setattr(token_value, "measure", two_then_a_kill)
    with pytest.raises(KeyboardInterrupt):
        study(run, "policy_values", [policy], SETTINGS)
    assert len(resume_jsonl(run.path("policy_values.partial.jsonl"))) == 2
    monkeypatch.setattr(token_value, "measure", lambda *a: done.append(1) or measure(*a))
    study(run, "policy_values", [policy], SETTINGS)
    assert len(done) == 6
    whole, other = (pd.read_parquet(r.path("policy_values.parquet")) for r in (studied, run))
    pd.testing.assert_frame_equal(whole, other)


def test_a_half_written_line_of_a_killed_study_is_dropped(tmp_path):
    partial = tmp_path / "x.partial.jsonl"
    append_jsonl(partial, {"mark": "a", "columns": {"t": [0, 1]}})
    with partial.open("a") as file:
        file.write('{"mark": "b"')
    assert list(kept_responses(tmp_path / "none.parquet", partial)) == ["a"]
