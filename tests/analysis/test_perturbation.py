"""Forced tokens: which positions, which candidates, what follows, and the summary, by hand and on a tiny model."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import perturbation
from analysis.perturbation import candidates, content_words, jaccard, perturb, summarise
from analysis.position_groups import PARTS, choose_positions
from analysis.settings import PerturbationSettings
from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, read_jsonl, write_jsonl
from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from evaluation.settings import Run
from tests.support.models import build

NAN = float("nan")


class Letters:
    """A tokenizer that is enough: one word a token."""

    eos_token_id = 60
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return "".join(f" w{i}" for i in ids if not (skip_special_tokens and i == self.eos_token_id))


# ------------------------------------------------------------------------------------- Eq. 11


def test_content_words_are_lower_cased_words_and_numbers_without_stop_words():
    assert content_words("The Cat's 3 hats, and 1,250.5 of THEM!") == {"cat's", "3", "hats", "1", "250", "5"}


def test_eq_11_by_hand():
    assert jaccard("red green blue", "Green, blue: yellow") == 2 / 4
    assert jaccard("red red", "red") == 1
    assert jaccard("red", "blue") == 0


def test_texts_without_content_cannot_be_compared():
    assert math.isnan(jaccard("and the", "of."))
    assert jaccard("", "red") == 0


# ---------------------------------------------------------------------------------- positions


def positions(fai, count, eligible=None, kinds=None):
    fai = np.array(fai, float)
    return choose_positions(
        fai,
        kinds or ["word"] * len(fai),
        count,
        np.ones(len(fai), bool) if eligible is None else np.array(eligible, bool),
    )


def test_the_highest_the_lowest_and_a_low_one_of_the_same_part():
    #      part 0    part 1    part 2    part 3    part 4
    fai = [5.0, 1.0, 9.0, 2.0, 3.0, 3.5, 8.0, 2.5, 0.5, 0.4]
    assert positions(fai, 2) == {"top": [2, 6], "bottom": [8, 9], "matched": [3, 7]}


def test_a_match_is_of_the_same_kind():
    #      part 0                part 1                part 2
    fai = [9.0, 1.0, 2.0, 3.0, *[4.0] * 4, *[0.5] * 12]
    kinds = ["punctuation", "word", "word", "punctuation", *["word"] * 16]
    assert positions(fai, 1, kinds=kinds) == {"top": [0], "bottom": [8], "matched": [3]}
    kinds[3] = "number"
    assert positions(fai, 1, kinds=kinds)["matched"] == []


def test_undefined_and_excluded_positions_are_never_chosen():
    chosen = positions([9.0, NAN, 3.0, 2.0, 1.0, NAN], 1, [False, True, True, True, True, True])
    assert chosen["top"] == [2] and chosen["bottom"] == [4]


def test_no_position_is_in_two_groups():
    assert positions([1.0, 2.0, 3.0], 5) == {"top": [2], "bottom": [0], "matched": []}
    # the lowest of the high one's part is the lowest of all: the match is the next
    fai = [9.0, 0.1, 0.5, 0.7, *[1.0] * 16]
    assert positions(fai, 1) == {"top": [0], "bottom": [1], "matched": [2]}


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["word", "number", "space"]), st.booleans()), max_size=30),
    st.integers(0, 6),
)
def test_groups_are_apart_and_matches_alike(tokens, count):
    fai, kinds, eligible = zip(*tokens, strict=True) if tokens else ((), (), ())
    chosen = positions(fai, count, eligible, kinds)
    everything = [p for group in chosen.values() for p in group]
    assert len(set(everything)) == len(everything) and all(eligible[p] for p in everything)
    assert len(chosen["top"]) == len(chosen["bottom"]) <= count and len(chosen["matched"]) <= len(chosen["top"])
    alike = Counter((p * PARTS // len(fai), kinds[p]) for p in chosen["matched"])
    assert alike <= Counter((p * PARTS // len(fai), kinds[p]) for p in chosen["top"])


def test_a_part_without_another_position_has_no_match():
    assert positions([9.0, 1, 1, 1, 2], 1)["matched"] == []


def test_two_high_positions_of_a_part_have_two_matches():
    #    part 0                part 1 .. 4: one low value each, and the lowest of all
    fai = [9.0, 8.0, 3.0, 2.0, *[1.0] * 16]
    assert positions(fai, 2)["matched"] == [2, 3]


def test_ties_go_to_the_earlier():
    chosen = positions(np.ones(10), 2)
    assert chosen["top"] == [0, 1] and chosen["bottom"] == [2, 3]


def test_a_response_without_future_has_no_positions():
    assert positions(np.full(4, NAN), 2) == {"top": [], "bottom": [], "matched": []}


# --------------------------------------------------------------------------------- candidates


def test_candidates_are_the_most_likely_other_tokens():
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    assert [t for t, _ in candidates(logits, original=0, count=2, excluded=set())] == [1, 2]
    assert [t for t, _ in candidates(logits, original=1, count=2, excluded={0})] == [2, 3]
    assert candidates(logits, original=0, count=1, excluded=set())[0][1] == pytest.approx(0.3)


def test_fewer_candidates_than_asked_for_where_the_vocabulary_ends():
    assert len(candidates(torch.zeros(3), original=0, count=5, excluded={1})) == 1


# ------------------------------------------------------------------------------- continuation

SETTINGS = PerturbationSettings(horizon=(2, 20), positions=2, candidates=2)
STAGE = replace(SETTINGS, problems=3, batch_size=1)


@pytest.fixture
def model():
    model = build("qwen2")
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # random weights give near-uniform logits: sharpen them
    model.generation_config.eos_token_id = Letters.eos_token_id
    return model


def greedy(model, prompts, tokens=40):
    done = HFGenerator(model, Letters()).generate(prompts, SamplingConfig(max_new_tokens=tokens, temperature=0))
    return [
        {"problem_id": f"p{i}", "kind": "greedy", "prompt_ids": p, "response_ids": c.token_ids}
        for i, (p, c) in enumerate(zip(prompts, done, strict=True))
    ]


def test_each_continuation_is_what_the_model_says_after_the_forced_token(model):
    (response,) = greedy(model, [[5, 9, 2, 7]])
    (record,) = perturb(model, Letters(), [response], {60}, SETTINGS)
    assert record["problem"] == "p0" and len(record["rows"]) == 2 * 2 * 2 + 2 * len(
        {r["position"] for r in record["rows"] if r["group"] == "matched"}
    )
    for row in record["rows"]:
        p, ids = row["position"], response["response_ids"]
        assert row["token"] == f" w{ids[p]}" != row["candidate"]
        assert row["original"] == Letters().decode(ids[p + 1 :])
        prefix = [*response["prompt_ids"], *ids[:p], int(row["candidate"][2:])]
        expected = model.generate(
            torch.tensor([prefix]), attention_mask=torch.ones(1, len(prefix), dtype=torch.long),
            max_new_tokens=len(ids) - p - 1, do_sample=False, pad_token_id=0,
        )[0, len(prefix) :].tolist()  # fmt: skip
        assert row["continuation"] == Letters().decode(expected)
        assert row["jaccard"] == jaccard(row["original"], row["continuation"])


def test_a_response_does_not_depend_on_the_others_of_its_batch(model):
    responses = greedy(model, [[5, 9, 2, 7], [3], [8, 8, 1, 30, 31, 32, 33]])
    together = perturb(model, Letters(), responses, {60}, SETTINGS)
    for response, record in zip(responses, together, strict=True):
        (alone,) = perturb(model, Letters(), [response], {60}, SETTINGS)
        for a, b in zip(alone["rows"], record["rows"], strict=True):
            assert {k: v for k, v in a.items() if k not in ("fai", "probability")} == {
                k: v for k, v in b.items() if k not in ("fai", "probability")
            }
            assert a["fai"] == pytest.approx(b["fai"], abs=1e-6)


def test_positions_are_chosen_by_eq_10(model):
    (response,) = greedy(model, [[5, 9, 2, 7]])
    ids = torch.tensor([response["prompt_ids"] + response["response_ids"]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    config = SignalConfig(horizon=(2, 20), layers="all", num_layers=None)
    fai = attention_signals(model, ids, mask, torch.arange(ids.shape[1])[None] >= 4, config, method="dense").fai[0, 4:]
    (record,) = perturb(model, Letters(), [response], {60}, SETTINGS)
    top = {row["position"] for row in record["rows"] if row["group"] == "top"}
    assert top == set(fai[:-1].nan_to_num(-1).topk(2).indices.tolist())


def test_forced_tokens_are_the_most_likely_others_where_the_original_was_predicted(model):
    (response,) = greedy(model, [[5, 9, 2, 7]])
    prompt, ids = response["prompt_ids"], response["response_ids"]
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].softmax(-1)
    (record,) = perturb(model, Letters(), [response], {60}, SETTINGS)
    for row in record["rows"]:
        at = chances[row["position"]].clone()
        at[[ids[row["position"]], 60]] = 0  # neither the original nor the end
        best = at.topk(2)
        assert row["candidate"] == f" w{best.indices[row['rank'] - 1]}"
        assert row["probability"] == pytest.approx(best.values[row["rank"] - 1].item(), abs=1e-5)


def test_the_last_token_is_never_forced(model):
    """Its FAI is defined where the horizon begins at the token itself, but nothing follows it."""
    (response,) = greedy(model, [[5, 9, 2, 7]], tokens=7)
    (record,) = perturb(model, Letters(), [response], {60}, replace(SETTINGS, horizon=(0, None), positions=7))
    chosen = {row["position"] for row in record["rows"] if row["group"] != "matched"}
    assert len(response["response_ids"]) == 7 and chosen == set(range(6))


def test_a_response_too_short_to_perturb_gives_no_rows(model):
    response = {"problem_id": "p", "kind": "greedy", "prompt_ids": [1, 2], "response_ids": [4]}
    assert perturb(model, Letters(), [response], {60}, SETTINGS) == [{"problem": "p", "rows": []}]


# ------------------------------------------------------------------------------------ summary


def row(problem, group, position, value, kind="word"):
    return {
        "problem": problem,
        "group": group,
        "position": position,
        "relative_position": position / 10,
        "jaccard": value,
        "kind": kind,
    }


ROWS = [
    row("a", "top", 1, 0.2), row("a", "top", 1, 0.4), row("a", "top", 5, 0.9, "punctuation"),  # mean of 0.3 and 0.9
    row("a", "bottom", 2, 0.8), row("b", "top", 3, 0.5), row("b", "bottom", 4, 0.5),
]  # fmt: skip


def test_a_problem_counts_once_whatever_its_number_of_positions():
    groups = summarise(ROWS, seed=0)["groups"]
    assert groups["top"]["jaccard"] == pytest.approx((0.6 + 0.5) / 2)
    assert groups["bottom"]["jaccard"] == pytest.approx((0.8 + 0.5) / 2)
    assert (groups["top"]["problems"], groups["top"]["positions"]) == (2, 3)
    assert groups["top"]["relative_position"] == pytest.approx((0.1 + 0.1 + 0.5 + 0.3) / 4)


def test_top_below_bottom_by_problem_and_a_tie_is_not_below():
    (comparison,) = summarise(ROWS, seed=0)["comparisons"]
    assert comparison["name"] == "top_vs_bottom" and comparison["problems"] == 2
    assert comparison["pr_less"] == 50
    assert comparison["difference"] == pytest.approx(-0.1)


def test_each_row_has_the_p_value_of_its_own_test():
    """Lower in three problems, higher in one, a tie: the sign test has 4 coins, the sign flips 4 sizes."""
    values = {"a": (0.1, 0.5), "b": (0.1, 0.5), "c": (0.1, 0.5), "d": (0.9, 0.1), "e": (0.3, 0.3)}
    rows = [row(p, g, 1, v) for p, pair in values.items() for g, v in zip(("top", "bottom"), pair, strict=True)]
    (comparison,) = summarise(rows, seed=0)["comparisons"]
    assert comparison["pr_less"] == pytest.approx(60)
    assert comparison["pr_p_value"] == pytest.approx(2 * 5 / 16)  # of 16 outcomes 5 have three heads or more
    # every sum of +-0.4, +-0.4, +-0.4, +-0.8 is at least as far from 0 as the -0.4 that was seen
    assert comparison["p_value"] == 1
    low, high = comparison["difference_ci"]
    assert comparison["visible"] == pytest.approx(2.8 * (high - low) / 3.92)


def test_kinds_apart():
    by_kind = summarise(ROWS, seed=0)["by_kind"]
    assert list(by_kind) == ["word", "punctuation"]
    assert by_kind["word"]["groups"]["top"]["jaccard"] == pytest.approx((0.3 + 0.5) / 2)
    assert by_kind["word"]["comparisons"][0]["difference"] == pytest.approx((0.3 - 0.8 + 0) / 2)
    assert by_kind["punctuation"]["groups"]["top"]["jaccard"] == pytest.approx(0.9)
    assert "bottom" not in by_kind["punctuation"]["groups"] and by_kind["punctuation"]["comparisons"] == []


def test_rows_without_content_words_do_not_count():
    groups = summarise([*ROWS, row("c", "top", 1, NAN)], seed=0)["groups"]
    assert groups["top"]["problems"] == 2


# -------------------------------------------------------------------------------------- stage


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    monkeypatch.setattr(perturbation, "load_model", lambda *_, **__: (model, Letters()))
    write_jsonl(tmp_path / "responses.jsonl", greedy(model, [[5, 9, 2, 7], [3, 4], [8, 8, 1]]))
    return Run(tmp_path, mark="a" * 16)


def test_a_killed_stage_goes_on_and_ends_with_the_same_numbers(run, monkeypatch):
    perturbation.stage(run, STAGE)
    whole = run.path("perturbation.json").read_bytes()
    rows = run.path("perturbation.jsonl").read_bytes()
    for name in ("perturbation.json", "perturbation.jsonl"):
        run.path(name).unlink()
    run.partial("perturbation.jsonl").unlink(missing_ok=True)

    calls = []
    real = perturb

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(perturbation, "perturb", dies)
    with pytest.raises(KeyboardInterrupt):
        perturbation.stage(run, STAGE)
    perturbation.stage(run, STAGE)
    assert len(calls) == 2 + 2  # one was kept
    assert (run.path("perturbation.json").read_bytes(), run.path("perturbation.jsonl").read_bytes()) == (whole, rows)
    assert {r["group"] for r in read_jsonl(run.path("perturbation.jsonl"))} <= {"top", "bottom", "matched"}
    assert read_json(run.path("perturbation.json"))["groups"]["top"]["problems"] == 3


def test_responses_that_are_all_too_short_are_an_error(run):
    write_jsonl(
        run.path("responses.jsonl"),
        [{"problem_id": "p", "kind": "greedy", "prompt_ids": [1, 2], "response_ids": [4]}],
    )
    with pytest.raises(ReproError, match="max_new_tokens"):
        perturbation.stage(run, STAGE)
