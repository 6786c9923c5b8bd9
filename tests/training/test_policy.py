"""The small policy: an ordinary folder that loads like any other model, made the same way twice."""

import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.prompts import build_prompt, build_prompt_ids
from attention_rhythm.tasks.puzzles import MAX_VALUE, load_puzzles, problem, puzzles
from training.countdown_traces import write_trace
from training.measuring import sampled_accuracy
from training.policy import (
    CONTEXT,
    IGNORED,
    MAX_RESPONSE,
    PolicySize,
    WarmStart,
    build_policy,
    build_tokenizer,
    trace_batches,
    trace_example,
    warm_start,
)

TINY = PolicySize(layers=2, hidden=32, intermediate=48, heads=2, kv_heads=1, head_dim=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny policy after three steps."""
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    warm_start(folder, WarmStart(steps=3, batch=8), TINY)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(str(folder))


def test_every_number_is_one_token():
    tokenizer = build_tokenizer()
    assert all(tokenizer.decode(tokenizer(str(number))["input_ids"]) == str(number) for number in range(MAX_VALUE + 1))
    assert all(len(tokenizer(str(number))["input_ids"]) == 1 for number in range(MAX_VALUE + 1))
    assert tokenizer(str(MAX_VALUE + 1))["input_ids"] == [tokenizer.unk_token_id]


def test_traces_survive_the_tokenizer_and_are_graded_after_it():
    tokenizer, rng = build_tokenizer(), random.Random(0)
    for puzzle in puzzles("train")[:300]:
        trace = write_trace(puzzle, rng)
        ids = tokenizer(trace)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(trace.split())
        text = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
        assert text == trace
        assert grade(problem(puzzle, ""), text) == grade(problem(puzzle, ""), trace)


def test_the_prompt_is_one_line_of_known_words():
    tokenizer = build_tokenizer()
    puzzle = load_puzzles("dev", 1)[0]
    assert build_prompt(puzzle, tokenizer) == f"<bos> Question: {puzzle.question} Solution:"
    ids = build_prompt_ids(puzzle, tokenizer)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert len(ids) == 8
    assert len(ids) + MAX_RESPONSE <= CONTEXT


def test_prompt_and_padding_are_not_learned():
    tokenizer = build_tokenizer()
    config = WarmStart(batch=4)
    ids, labels = trace_example(puzzles("train")[0], tokenizer, random.Random(0), config.trace)
    assert labels[:8] == [IGNORED] * 8
    assert labels[8:] == ids[8:]
    assert ids[-1] == tokenizer.eos_token_id
    input_ids, labels = next(trace_batches(tokenizer, config, random.Random(0)))
    assert input_ids.shape == labels.shape
    assert len(labels) == 4
    assert (labels[input_ids == tokenizer.pad_token_id] == IGNORED).all()
    assert ((labels == input_ids) | (labels == IGNORED)).all()


def test_the_longest_trace_fits_the_response_limit():
    tokenizer, rng = build_tokenizer(), random.Random(0)
    longest = max(len(tokenizer(write_trace(puzzle, rng))["input_ids"]) for puzzle in puzzles("train"))
    assert longest + 1 <= MAX_RESPONSE


def test_the_default_policy_is_a_small_qwen3():
    policy = build_policy()
    assert 1e6 < policy.num_parameters() < 3e6
    assert policy.config.head_dim % 8 == 0
    assert policy.config.vocab_size == len(build_tokenizer())


def test_the_network_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    a, b, c = (build_policy(TINY, seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_folder_is_an_ordinary_one(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert sorted(file.suffix for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".py")) == []


def test_the_folder_serves_the_rest_of_the_project(loaded):
    model, tokenizer = loaded
    assert model.dtype == torch.float32
    assert tokenizer.padding_side == "left"
    trace = "3 * 7 = 21 , 21 + 8 = 29 yes <answer> ( 3 * 7 ) + 8 </answer>"
    assert tokenizer.decode(tokenizer(trace)["input_ids"]) == trace
    prompts = [build_prompt_ids(p, tokenizer) for p in load_puzzles("dev", 2)]
    completions = HFGenerator(model, tokenizer).generate(prompts, SamplingConfig(max_new_tokens=4, samples=3))
    assert len(completions) == 6


def test_accuracy_is_a_share_and_repeats(loaded):
    model, tokenizer = loaded
    problems = load_puzzles("dev", 4)
    options = {"samples": 2, "max_new_tokens": 96, "batch": 8}
    first, again = (sampled_accuracy(HFGenerator(model, tokenizer), tokenizer, problems, **options) for _ in range(2))
    assert first.shape == (4, 2) and 0 <= first.mean() <= 1
    assert (first == again).all()


def test_two_warm_starts_are_the_same_bytes_and_another_seed_is_not(folder, tmp_path):
    losses = []
    warm_start(tmp_path / "again", WarmStart(steps=3, batch=8), TINY, on_step=lambda step, loss: losses.append(step))
    warm_start(tmp_path / "other", WarmStart(steps=3, batch=8), TINY, seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "again", tmp_path / "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert losses == [1, 2, 3]


def test_warm_start_learns(tmp_path):
    losses = []
    config = WarmStart(steps=30, batch=16, warmup=5, lr=1e-2)
    warm_start(tmp_path / "policy", config, TINY, on_step=lambda step, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
