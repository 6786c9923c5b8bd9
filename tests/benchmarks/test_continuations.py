"""The benchmark of continuations: what is sampled, that all sides sample it, and what is made of their answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attention_rhythm.generation.hf import HFGenerator
from benchmarks import continuations
from benchmarks.continuations import Prefix, apart, batches, compare, cut, mean_and_error, positions, prefixes, summary
from tests.support.models import Letters

WORK = replace(continuations.WORKLOADS["policy"], responses=2, length=6, total=10, step=2, samples=3)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_positions_are_evenly_placed_or_every_so_many_tokens():
    assert positions(20, count=8, step=0) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert positions(3, count=8, step=0) == [0, 1, 2]
    assert positions(9, count=0, step=4) == [0, 4, 8]


def test_a_continuation_may_have_what_is_left_of_the_response():
    two = replace(WORK, positions=2, total=10)
    assert prefixes([3, 5], [4, 6], two) == [Prefix(0, 3, 10), Prefix(0, 5, 8), Prefix(1, 5, 10), Prefix(1, 8, 7)]


@pytest.mark.parametrize(
    ("limit", "stops", "kept"),
    [(9, {7}, [5, 6, 7]), (9, {5, 7}, [5]), (2, {7}, [5, 6]), (3, {7}, [5, 6, 7]), (9, {4}, [5, 6, 7, 7, 8])],
)
def test_tokens_behind_the_first_stop_token_or_the_limit_do_not_count(limit, stops, kept):
    assert cut([5, 6, 7, 7, 8], limit, stops) == kept


def test_batches_keep_the_order():
    chosen = [Prefix(0, n, 1) for n in range(5)]
    assert [len(few) for few in batches(chosen, 2)] == [2, 2, 1]
    assert [prefix for few in batches(chosen, 2) for prefix in few] == chosen


def test_the_error_of_a_mean_is_that_within_the_prefixes():
    """Variances 2 and 0 of two samples each: the mean of two means has (2 / 2 + 0 / 2) / 2^2."""
    assert mean_and_error(np.array([[1, 3], [5, 5]])) == {"mean": 3.5, "error": 0.5}


def test_means_are_apart_in_standard_errors_of_their_difference():
    assert apart({"mean": 12.0, "error": 0.3}, {"mean": 11.0, "error": 0.4}) == pytest.approx(2.0)
    assert apart({"mean": 12.0, "error": 0.0}, {"mean": 12.0, "error": 0.0}) is None


def answer(lengths, kinds, seconds):
    cost = {"wall_seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mib": 10 * seconds}
    return {"lengths": lengths, "kinds": kinds, "ended": 1, **cost}


def test_speed_is_a_median_over_rounds_and_length_a_mean_over_all():
    """Two prefixes, two samples each: of the first prefix 1, 3 and 2, 2, of the second 5, 5 and 5, 5."""
    found = summary([answer([1, 3, 5, 5], [1, 1, 4, 4], 2.0), answer([2, 2, 5, 5], [1, 1, 4, 4], 1.0)], samples=2)
    assert found["rounds"] == [7.0, 14.0] and found["tokens"] == [14, 14]
    assert found["tokens_per_second"] == 10.5 and found["tokens_per_cpu_second"] == 5.25
    assert found["length"] == {"mean": 3.5, "error": pytest.approx(np.sqrt((2 / 3) / 4) / 2)}
    assert found["different_tokens"] == {"mean": 2.5, "error": 0.0}
    assert found["ended"] == 0.25 and found["peak_mib"] == 20.0


def side(*speeds, mean=10.0, error=0.3):
    means = {key: {"mean": mean, "error": error} for key in ("length", "different_tokens")}
    return {"tokens_per_second": np.median(speeds), "rounds": speeds, **means}


SIDES = {
    "shared": {"bfloat16": side(40, 60, 80), "float32": side(10, 11, 12)},
    "generate": {"bfloat16": side(5, 6, 7), "float32": side(10, 20, 10, mean=10.5, error=0.4)},
}


def test_of_each_side_the_faster_number_format_is_compared_round_by_round():
    found = compare(SIDES)
    assert found["dtype"] == {"shared": "bfloat16", "generate": "float32"} and found["fastest"] == "shared"
    assert found["ratios"] == {"generate": 4.0}  # of 4, 3 and 8
    assert set(found["apart"]) == {"generate bfloat16", "generate float32"}
    assert found["apart"]["generate float32"]["length"] == pytest.approx(1.0)  # 0.5 of hypot(0.3, 0.4)


def test_the_faster_of_ours_is_compared():
    found = compare({**SIDES, "vllm": {"bfloat16": side(100, 100, 100)}})
    assert found["fastest"] == "vllm" and found["ratios"] == {"shared": 1.25 / 0.75, "generate": 10.0}


# --- every side on a tiny model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peaked():
    """A tiny model whose predictions are far from uniform, and different after different texts."""
    from tests.support.models import build

    model = build("llama", vocab_size=16)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


TEXTS = [[2, 5, 3, 7, 9, 4], [11, 2, 6, 8]]


def after(model, prefix):
    """The probabilities of the token after a prefix, (V,)."""
    with torch.no_grad():
        return model(torch.tensor([TEXTS[prefix.text][: prefix.tokens]])).logits[0, -1].softmax(-1).numpy()


SAMPLERS = ("shared", *continuations.PLAIN_SIDES)


def sampler(name, model, stops, rows):
    """What samples, with these stop tokens."""
    if name != "shared":
        return continuations.PLAIN_SIDES[name](model, stops)
    generator = HFGenerator(model, Letters())
    generator.stops = stops
    return continuations.ours(generator, rows)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_side_samples_what_the_model_predicts_after_each_prefix(peaked, name):
    chosen, samples = [Prefix(0, 3, 1), Prefix(0, 6, 1), Prefix(1, 2, 1)], 2000
    rows = sampler(name, peaked, {15}, 4096)(TEXTS, chosen, samples, 0)
    assert len(rows) == len(chosen) * samples and all(len(row) == 1 for row in rows)
    for number, prefix in enumerate(chosen):
        drawn = [row[0] for row in rows[number * samples : (number + 1) * samples]]
        share = np.bincount(drawn, minlength=16) / samples
        distance = {other: np.abs(share - after(peaked, other)).sum() / 2 for other in chosen}
        assert distance[prefix] < 0.05 < 0.2 < min(distance[other] for other in chosen if other != prefix)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_side_ends_at_a_stop_token_or_at_the_limit_of_the_prefix(peaked, name):
    chosen = [Prefix(0, 3, 12), Prefix(0, 6, 4), Prefix(1, 2, 9)]
    rows = sampler(name, peaked, {1, 15}, 8)(TEXTS, chosen, 8, 3)
    limits = [prefix.limit for prefix in chosen for _ in range(8)]
    assert {row[-1] in {1, 15} for row in rows} == {True, False}  # both happen
    for row, limit in zip(rows, limits, strict=True):
        assert not {1, 15} & set(row[:-1]) and (row[-1] in {1, 15} or len(row) == limit) and len(row) <= limit


def test_shared_samples_do_not_depend_on_the_size_of_a_batch(peaked):
    chosen = [Prefix(0, 3, 12), Prefix(0, 6, 4), Prefix(1, 2, 9)]
    few, all_at_once = (sampler("shared", peaked, {15}, rows)(TEXTS, chosen, 4, 3) for rows in (4, 100))
    assert few == all_at_once


def test_a_side_as_a_worker(tiny_model_folder):
    texts, prompts, source = continuations.sample_responses(tiny_model_folder, WORK)
    lengths = [len(text) - prompt for text, prompt in zip(texts, prompts, strict=True)]
    assert source == "generated" and len(texts) == 2 and all(1 <= length <= 6 for length in lengths)
    chosen = prefixes(prompts, lengths, WORK)
    ask, about = continuations.prepare("shared", tiny_model_folder, "float32", rows=4, context=64)
    found = ask({"texts": texts, "prefixes": [list(prefix) for prefix in chosen], "samples": 3, "seed": 1})
    assert about.startswith("transformers") and len(found["lengths"]) == 3 * len(chosen)
    limits = [prefix.limit for prefix in chosen for _ in range(3)]
    assert all(1 <= length <= limit for length, limit in zip(found["lengths"], limits, strict=True))
    assert 0 <= found["ended"] <= len(found["lengths"]) and found["wall_seconds"] > 0
    assert summary([found], 3)["tokens"] == [sum(found["lengths"])]
