"""vLLM against HFGenerator: the same completions, also after new weights. Run by ./reproduce.sh test engines.

Weights are compared by log-probabilities in float32, not by text: the old head's arg max may well be the new one's.
"""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from attention_rhythm.generation import vllm as vllm_module
from attention_rhythm.generation.base import GenerationError, Prefix, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.generation.vllm import MissingEngine, VLLMGenerator
from attention_rhythm.models import DEFAULT_MODEL, load_model
from pipeline.manifest import ROOT

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: ./reproduce.sh test engines"
)

SIZES = dict(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,  # the smallest that vLLM's attention on a CPU has
    max_position_embeddings=256,
    initializer_range=0.3,
    eos_token_id=96,
)
MODELS = {
    "tied-qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "untied-llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
}
GREEDY = SamplingConfig(max_new_tokens=40, temperature=0)


class Letters:
    """A tokenizer that is enough for a generator."""

    eos_token_id = 96

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == self.eos_token_id))


def make(name, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():  # sharp logits, and small embeddings, or a tied model would only repeat the last token
        model.model.embed_tokens.weight.mul_(0.3)
        model.model.norm.weight.mul_(3)
    return model


def prompts():
    """Some longer than the blocks of 32 tokens that the prefix cache keeps."""
    rng = np.random.default_rng(1)
    return [rng.integers(1, 90, size=n).tolist() for n in (3, 70, 33, 100)]


def assert_same(completions, expected, atol):
    assert [c.token_ids for c in completions] == [c.token_ids for c in expected]
    assert [(c.text, c.finish_reason) for c in completions] == [(c.text, c.finish_reason) for c in expected]
    for ours, theirs in zip(completions, expected, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=atol, rtol=0)


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A model's name and a generator of it; tests leave the weights as they were."""
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param).save_pretrained(folder)
    generator = VLLMGenerator(folder, Letters(), block_size=32)
    yield request.param, generator
    generator.close()


def test_where_vllm_is_missing_the_message_says_what_to_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingEngine, match=r"reproduce.sh setup-engines.* environment.yml") as caught:
        VLLMGenerator.load(DEFAULT_MODEL)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


def test_both_environments_have_the_same_packages_but_for_what_vllm_wants_older():
    main, vllm = (
        {name: version for name, _, version in (line.partition(";")[0].strip().partition("==") for line in lines)}
        for lines in (
            [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
            for file in ("requirements.txt", "requirements-engines.txt")
        )
    )
    assert all(vllm.values())
    assert {name for name in main.keys() & vllm.keys() if main[name] != vllm[name]} == {"lark", "numpy", "setuptools"}
    assert not vllm.keys() & {"torchvision", "torchaudio", "torchcodec"}


@needs_vllm
def test_an_engine_that_sleeps_is_awake_for_each_call_and_no_longer(tmp_path, monkeypatch):
    """With a stand-in for the engine: sleep mode needs a GPU."""
    made, heard = {}, []

    class Engine:
        llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=128))

        def __init__(self, **options):
            made.update(options)

        def generate(self, *arguments, **options):
            return []

        def __getattr__(self, name):
            return lambda *arguments, **options: heard.append((name, options)) if name != "__deepcopy__" else None

    model = make("tied-qwen3")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(vllm_module, "_import_vllm", lambda: SimpleNamespace(LLM=Engine))
    generator = VLLMGenerator(tmp_path, Letters(), sleeps=True)
    assert made["enable_sleep_mode"]
    asleep, awake = ("sleep", {"level": 1}), ("wake_up", {})
    assert heard == [asleep]
    generator.generate([[1, 2]], GREEDY)
    assert heard == [asleep, awake, asleep]
    generator.update_weights(model.named_parameters())
    assert [name for name, _ in heard[3:]][:2] == ["wake_up", "collective_rpc"] and heard[-1] == asleep


@needs_vllm
def test_greedy_completions_equal_those_of_hf(pair):
    name, generator = pair
    expected = HFGenerator(make(name), Letters()).generate(prompts(), GREEDY)
    assert min(len(set(c.token_ids)) for c in expected) > 3  # else the comparison says little
    assert {c.finish_reason for c in expected} == {"stop", "length"}
    assert_same(generator.generate(prompts(), GREEDY), expected, atol=1e-4)


@needs_vllm
def test_new_weights_are_taken_over_by_head_body_and_cache(pair):
    name, generator = pair
    generator.generate(prompts(), GREEDY)  # fills the prefix cache with what the old weights made
    model = make(name)
    head_only = make(name)
    with torch.no_grad():
        head_only.lm_head.weight.mul_(1.1)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    for changed in (model, head_only, make(name)):
        generator.update_weights(changed.named_parameters())
        expected = HFGenerator(changed, Letters()).generate(prompts(), GREEDY)
        assert_same(generator.generate(prompts(), GREEDY), expected, atol=1e-3)


@needs_vllm
def test_weights_that_do_not_fit_change_nothing(pair):
    name, generator = pair
    before = generator.generate(prompts(), GREEDY)
    other = dict(make(name, seed=1).named_parameters())
    norm = other.pop("model.norm.weight")
    for weights in (other, other | {"model.norm.weight": norm[:-1]}):
        with pytest.raises(GenerationError, match=r"missing, unknown or of another shape: model.norm.weight"):
            generator.update_weights(weights.items())
    with pytest.raises(GenerationError, match="nothing"):
        generator.update_weights((other | {"model.norm.weight": norm, "nothing": norm}).items())
    assert generator.generate(prompts(), GREEDY) == before


@needs_vllm
def test_a_sample_does_not_depend_on_its_neighbours_or_on_the_limit(pair):
    _, generator = pair
    together = generator.generate(prompts(), SamplingConfig(max_new_tokens=24, samples=3, seed=5))
    alone = {
        p: generator.generate([prompt], SamplingConfig(max_new_tokens=12, samples=3, seed=5))
        for p, prompt in reversed(list(enumerate(prompts())))
    }
    assert [c.token_ids[:12] for c in together] == [alone[p][s].token_ids for p in range(4) for s in range(3)]
    other = generator.generate(prompts(), SamplingConfig(max_new_tokens=24, samples=3, seed=6))
    assert [c.token_ids for c in together] != [c.token_ids for c in other]
    assert together[0].token_ids != together[1].token_ids


@needs_vllm
def test_more_tokens_than_one_pass_takes_do_not_end_the_engine(pair):
    """vLLM cuts a prompt in two where a pass is full, and then fails on a CPU: seeded samples have no offset there."""
    rng = np.random.default_rng(2)
    many = [rng.integers(1, 90, size=200).tolist() for _ in range(60)]  # 12,000 tokens
    made = pair[1].generate(many, SamplingConfig(max_new_tokens=2, seed=1))
    assert len(made) == 60
    assert all(completion.token_ids for completion in made)


@needs_vllm
def test_continuations_begin_behind_their_prefix_and_keep_its_limit(pair):
    _, generator = pair
    text = prompts()[1]
    prefixes = [Prefix(0, 40, text[40], 6), Prefix(0, 64, 17, 3)]
    found = generator.continue_prefixes([text], prefixes, 5, 3)
    assert [len(rows) for rows in found] == [5, 5]
    for prefix, rows in zip(prefixes, found, strict=True):
        assert all(1 <= len(row) <= prefix.limit for row in rows)
        assert len({tuple(row) for row in rows}) > 1
    assert generator.continue_prefixes([text], prefixes, 5, 3) == found
    (greedy,) = generator.generate([[*text[:40], text[40]]], GREEDY)
    assert found[0] != [greedy.token_ids[:6]] * 5
    with pytest.raises(GenerationError, match="context"):
        generator.continue_prefixes([text], [Prefix(0, 40, 1, 1000)], 1, 0)


@needs_vllm
def test_log_probabilities_of_samples_are_those_at_temperature_1(pair):
    name, generator = pair
    model = make(name)
    for prompt, completion in zip(
        prompts(), generator.generate(prompts(), SamplingConfig(max_new_tokens=20, temperature=1.8)), strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)


@needs_vllm
def test_a_completion_ends_with_the_stop_token_or_at_the_limit(pair, monkeypatch):
    _, generator = pair
    endless = replace(GREEDY, ignore_eos=True)
    (whole,) = generator.generate(prompts()[:1], endless)
    assert (whole.finish_reason, len(whole.token_ids)) == ("length", 40)
    stop = whole.token_ids[7]
    monkeypatch.setattr(generator, "stops", {stop})
    (stopped,) = generator.generate(prompts()[:1], GREEDY)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert generator.generate(prompts()[:1], endless) == [whole]


@needs_vllm
def test_a_prompt_longer_than_the_context_is_refused(pair):
    with pytest.raises(GenerationError, match="300 tokens is longer than the context of 256"):
        pair[1].generate([[1, 2], [1] * 300], SamplingConfig())
    assert pair[1].generate([], SamplingConfig()) == []


@needs_vllm
def test_an_engine_that_fails_is_given_up(pair, monkeypatch):
    _, generator = pair
    engine = generator.llm

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory\nand a long story")

    monkeypatch.setattr(engine, "generate", fail)
    with pytest.raises(GenerationError, match=r"vLLM's engine failed \(RuntimeError: out of memory\)"):
        generator.generate(prompts(), GREEDY)
    with pytest.raises(GenerationError, match="failed before"):
        generator.generate(prompts(), GREEDY)
    generator.llm = engine


@needs_vllm
def test_an_engine_that_dies_in_the_middle_loses_its_batch_and_no_other(pair, tmp_path, monkeypatch):
    from vllm.v1.engine.exceptions import EngineDeadError

    _, generator = pair
    requests = [Request(str(number), prompt) for number, prompt in enumerate(prompts())]
    expected = complete(generator, requests, GREEDY, tmp_path / "undisturbed", 1, "t")
    engine, generate, calls = generator.llm, generator.llm.generate, []

    def die(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise EngineDeadError
        return generate(*args, **kwargs)

    monkeypatch.setattr(engine, "generate", die)
    with pytest.raises(GenerationError, match=r"engine failed \(EngineDeadError.*finished batches are kept"):
        complete(generator, requests, GREEDY, tmp_path / "partial", 1, "t")
    generator.llm = engine  # stands for a new one
    assert complete(generator, requests, GREEDY, tmp_path / "partial", 1, "t") == expected
    assert len(calls) == 3 + 2


@needs_vllm
def test_nan_in_the_weights_is_refused(pair):
    name, generator = pair
    broken = make(name)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    generator.update_weights(broken.named_parameters())
    with pytest.raises(GenerationError, match="NaN"):
        generator.generate(prompts(), GREEDY)
    generator.update_weights(make(name).named_parameters())


@needs_vllm
@pytest.mark.slow
def test_greedy_completions_of_smollm2_equal_those_of_hf():
    model, tokenizer = load_model(DEFAULT_MODEL)
    texts = ("What is 12 + 34?", "Name three colours of the rainbow.", "Write one sentence about the sea.")
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": t}], add_generation_prompt=True, tokenize=False)
        for t in texts
    ]
    ids = [tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]
    expected = HFGenerator(model, tokenizer).generate(ids, GREEDY)
    assert "stop" in {c.finish_reason for c in expected}
    generator = VLLMGenerator.load(DEFAULT_MODEL)
    assert_same(generator.generate(ids, GREEDY), expected, atol=1e-4)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.01)  # the head too: they are tied
    generator.update_weights(model.named_parameters())
    expected = HFGenerator(model, tokenizer).generate(ids, GREEDY)
    assert_same(generator.generate(ids, GREEDY), expected, atol=1e-3)
    generator.close()
