"""Numbers that are none stop the step, with its batch on disk; the smallest and the emptiest batches give numbers."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from attention_rhythm.credit import SIGNALS, CreditConfig, NoCreditError, credit_weights, shape_advantages
from attention_rhythm.errors import NotFinite
from attention_rhythm.generation.base import BrokenLogits, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.grpo import group_advantages, policy_loss
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from tests.support.models import Letters
from tests.support.models import build_trained as build
from tests.support.training import PROBLEMS, SMALL, low_tokens, prompt
from training import loop
from training.actors.attn import AttnActor
from training.actors.infer import InferActor
from training.actors.train import DivergedError, OptimConfig, TrainActor

BAD = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


def train(folder, model=None, config=SMALL, reward=low_tokens, **options):
    return loop.train(
        model or build(), Letters(), PROBLEMS, folder=folder, prompt=prompt, reward=reward, config=config, **options
    )


# --- what stops a step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_reward_that_is_no_number_stops_the_step_and_keeps_its_batch(tmp_path, value):
    seen = []

    def reward(problem, text):
        seen.append(text)
        return value if len(seen) == 21 else low_tokens(problem, text)  # in the second step

    with pytest.raises(DivergedError, match=r"step 2: a reward .*; its batch is in diverged-step-000002.safetensors"):
        train(tmp_path, reward=reward)
    saved = load_file(tmp_path / "diverged-step-000002.safetensors")
    assert saved.keys() == {"prompts", "input_ids", "response", "sampled_logp", "rewards"}
    (row,) = (~torch.isfinite(saved["rewards"])).nonzero().flatten().tolist()
    assert Letters().decode(saved["input_ids"][row][saved["response"][row]].tolist()) == seen[20]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1  # the first step is kept


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_logits_that_are_no_numbers_stop_the_step_and_keep_its_prompts(tmp_path, value):
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = value
    with pytest.raises(DivergedError, match=r"step 1: NaN or inf in the logits.*diverged-step-000001"):
        train(tmp_path, model)
    prompts = load_file(tmp_path / "diverged-step-000001.safetensors")["prompts"]
    assert prompts.shape == (SMALL.prompts_per_step, 3) and (prompts[:, 0] == 1).all()


@pytest.mark.parametrize("strategy", ["coupled_rhythm", "uniform"])
def test_logits_that_only_the_trained_model_breaks_stop_the_step_and_keep_its_rollout(tmp_path, strategy):
    """actor_infer has an engine of its own, whose weights are whole."""
    model = build()
    engine = HFGenerator(build(), Letters())
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = math.nan
    config = replace(SMALL, credit=CreditConfig(strategy))
    with pytest.raises(DivergedError, match=r"step 1: NaN or inf in the (attention|logits)"):
        train(tmp_path, model, config, generator=engine)
    saved = load_file(tmp_path / "diverged-step-000001.safetensors")
    assert saved["response"].any() and torch.isfinite(saved["sampled_logp"][saved["response"]]).all()


def test_a_gradient_that_is_no_number_stops_the_step_and_the_run_can_be_resumed(tmp_path):
    """The mini-batch is kept by actor_train; the checkpoint before it is untouched."""
    expected = train(tmp_path / "undisturbed", config=replace(SMALL, steps=3))
    model, config = build(), replace(SMALL, steps=3, checkpoint_every=1)

    def break_it(problem, text):
        if (tmp_path / "run" / "checkpoints" / "step-000002").exists():
            next(model.parameters()).register_hook(lambda gradient: gradient * math.nan)
        return low_tokens(problem, text)

    with pytest.raises(DivergedError, match=r"NaN or inf in the gradient; its batch is in diverged-000004"):
        train(tmp_path / "run", model, config, reward=break_it)
    assert set(load_file(tmp_path / "run" / "diverged-000004.safetensors")) >= {"input_ids", "advantages"}
    resumed = train(tmp_path / "run", build(), config, resume=True)
    assert [r["loss"] for r in resumed] == [r["loss"] for r in expected]


# --- 16-bit floats --------------------------------------------------------------------------------------------------


def overflowing(dtype):
    """A model of large queries and keys: products up to 1e6, beyond float16's 65504."""
    model = build("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight.mul_(150)
    return model.to(dtype)


def test_attention_that_overflows_float16_is_noticed_or_does_no_harm():
    ids = torch.arange(1, 25)[None]
    ones = torch.ones_like(ids, dtype=torch.bool)
    response = ones.clone()
    response[:, :4] = False
    config = SignalConfig(layers="all", num_layers=None, horizon=(2, 9))
    model = overflowing(torch.float16)
    layer = model.model.layers[0]
    hidden = layer.input_layernorm(model.model.embed_tokens(ids))
    q, k = (
        p(hidden).view(1, 24, -1, 8).transpose(1, 2)[:, 0] for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    assert (q @ k.transpose(-1, -2)).isinf().any()  # as float16 has it
    signals = attention_signals(model, ids, ones, response, config)
    assert torch.isfinite(signals.waad[response]).all()  # scores are in float32
    assert ((signals.fai >= 0) & (signals.fai <= 1))[response][:-2].all()
    with pytest.raises(BrokenLogits, match="number format"):  # decoding keeps the model's own format
        HFGenerator(model, Letters()).generate([ids[0].tolist()], SamplingConfig(max_new_tokens=4))
    HFGenerator(overflowing(torch.bfloat16), Letters()).generate([ids[0].tolist()], SamplingConfig(max_new_tokens=4))


# --- the smallest, the emptiest -------------------------------------------------------------------------------------


def test_groups_of_equal_rewards_train_on_without_a_gradient(tmp_path):
    for reward in (0.0, 1.0, 1 / 3):
        records = train(tmp_path / str(reward), reward=lambda problem, text, reward=reward: reward)
        assert all(record["loss"] == record["grad_norm"] == record["advantage_size"] == 0 for record in records)
    assert group_advantages(torch.full((6,), 1 / 3), torch.tensor([0, 0, 0, 1, 1, 2])).tolist() == [0] * 6


@pytest.mark.parametrize("strategy", SIGNALS)
def test_responses_of_one_token(tmp_path, strategy):
    config = replace(SMALL, credit=CreditConfig(strategy), max_new_tokens=1, gradient_steps=1)
    if {"waad", "fai"} & set(
        SIGNALS[strategy]
    ):  # no token before or after it: no change of WAAD, no FAI, and it says so
        with pytest.raises(NoCreditError):
            train(tmp_path, config=config)
        return
    records = train(tmp_path, config=config)
    assert all(record["response_length"] == 1 and math.isfinite(record["loss"]) for record in records)


def test_a_sequence_of_one_token():
    """No prompt, a response of one token: nothing predicted it, and nothing looks back at it."""
    ids, ones = torch.tensor([[5]]), torch.ones(1, 1, dtype=torch.bool)
    for method in ("streaming", "dense"):
        signals = attention_signals(build(), ids, ones, ones, SignalConfig(horizon=(0, None)), method=method)
        torch.testing.assert_close((signals.waad, signals.fai), (torch.tensor([[0.0]]), torch.tensor([[1.0]])))
    assert HFGenerator(build(), Letters()).generate([[5]], SamplingConfig(max_new_tokens=1))[0].token_ids
    batch = InferActor(HFGenerator(build(), Letters()), 0, 4).rollout([[5]], SamplingConfig(max_new_tokens=1))
    reading = AttnActor(build(), SignalConfig(horizon=(0, None)), "fused", 4).read(batch)
    assert torch.isfinite(reading.old_logp[batch.response]).all()


@pytest.mark.parametrize("strategy", SIGNALS)
def test_rows_that_are_masked_altogether_get_neither_credit_nor_gradient(tmp_path, strategy):
    response = torch.tensor([[False, True, True, True, True, True], [False] * 6])
    signal = torch.where(response, torch.arange(6.0), math.nan)
    gamma = credit_weights(
        response, CreditConfig(strategy), waad=signal, fai=signal, entropy=signal,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.isfinite(gamma).all() and (gamma[1] == 1).all()
    shaped = shape_advantages(torch.tensor([1.0, 1.0]), gamma)
    logp = torch.full(response.shape, -1.0, requires_grad=True)
    for aggregation in ("token_mean", "sequence_mean"):
        loss, _ = policy_loss(logp, logp.detach(), shaped, response, aggregation=aggregation)
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, logp)
        assert torch.isfinite(gradient).all() and (gradient[1] == 0).all()
    ids = torch.randint(1, 30, response.shape, generator=torch.Generator().manual_seed(0))
    metrics = TrainActor(build(), OptimConfig(), tmp_path).step(ids, response, torch.full((2, 6), -1.0), shaped)
    assert math.isfinite(metrics["loss"]) and metrics["tokens"] == 5


def test_a_batch_that_is_masked_altogether_does_not_move_the_weights(tmp_path):
    model, nothing = build(), torch.zeros(2, 6, dtype=torch.bool)
    before = [p.clone() for p in model.parameters()]
    actor = TrainActor(model, OptimConfig(), tmp_path)
    metrics = actor.step(torch.ones(2, 6, dtype=torch.long), nothing, torch.full((2, 6), math.nan), torch.ones(2, 6))
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="sequence 0 has an empty response"):
        attention_signals(model, torch.ones(2, 6, dtype=torch.long), ~nothing, nothing)


def test_signals_that_are_no_numbers_are_refused_before_they_become_credit():
    response = torch.ones(1, 5, dtype=torch.bool)
    for value in (math.inf, math.nan):
        waad = torch.tensor([[1.0, 2.0, value, 1.0, 2.0]])
        with pytest.raises(NotFinite, match="waad is infinite or undefined"):
            credit_weights(response, CreditConfig("local_chunk"), waad=waad)
