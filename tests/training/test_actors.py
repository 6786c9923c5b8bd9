"""The three actors on tiny models: what they hand over, that all ways to do one thing agree, and what stops a step."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.errors import InputError
from attention_rhythm.generation.base import Completion, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.signals import dense, forward
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import SignalConfig
from tests.support import zoo
from tests.support.models import make_batch
from tests.support.reading import own_logp
from training.actors import attn, train
from training.actors.attn import AttnActor
from training.actors.infer import InferActor, Rollout, collate
from training.actors.train import DivergedError, OptimConfig, TrainActor, response_logp

NAN = float("nan")
SIGNALS = SignalConfig(window=4, horizon=(2, 9), layers="all", num_layers=None)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]


@pytest.fixture
def rollout(new_model, letters):
    generator = HFGenerator(new_model(), letters)
    return InferActor(generator, pad_id=0, batch=64).rollout(PROMPTS, SamplingConfig(max_new_tokens=20, samples=2))


def experience(rollout, seed=0):
    """Tensors for a gradient step: another policy's log-probabilities, advantages of both signs, two rows of zeros."""
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(rollout.input_ids.shape, generator=generator)
    advantages[[1, 4]] = 0
    old_logp = rollout.sampled_logp + 0.1 * torch.randn(rollout.input_ids.shape, generator=generator)
    return [rollout.input_ids, rollout.response, old_logp, advantages]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- actor_infer ------------------------------------------------------------------------------------------------------


def test_prompts_and_responses_stand_side_by_side():
    completions = [
        Completion([7, 30], "7", [-0.5, -0.25], "stop"),
        Completion([8, 9, 9], "8 9 9", [-1.0] * 3, "length"),
    ]
    batch = collate([[1, 2, 3], [4]], completions, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 7, 30], [4, 8, 9, 9, 0]]
    assert batch.response.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert batch.attention.int().tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert batch.sampled_logp[batch.response].tolist() == [-0.5, -0.25, -1, -1, -1]
    assert batch.sampled_logp[~batch.response].isnan().all()
    assert batch.texts == ("7", "8 9 9") and batch.finished.tolist() == [True, False]
    with pytest.raises(ValueError, match="completion 0 has no tokens"):
        collate([[1]], [replace(completions[0], token_ids=[], logprobs=[])], pad_id=0)


def test_how_many_are_generated_at_once_changes_nothing(new_model, letters, rollout):
    few = InferActor(HFGenerator(new_model(), letters), pad_id=0, batch=3)
    again = few.rollout(PROMPTS, SamplingConfig(max_new_tokens=20, samples=2))
    assert torch.equal(again.input_ids, rollout.input_ids) and again.texts == rollout.texts


def test_new_weights_reach_another_engine_and_the_same_module_needs_none(new_model, letters):
    trained, copy = new_model(seed=1), new_model(seed=2)
    InferActor(HFGenerator(copy, letters), 0, 8).sync(trained)
    assert torch.equal(weights(copy), weights(trained))

    class Shared(HFGenerator):
        def update_weights(self, named_tensors):
            raise AssertionError("nothing to copy")

    InferActor(Shared(trained, letters), 0, 8).sync(trained)


# --- actor_attn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_all_three_ways_give_the_same_gamma(new_model, rollout, kind):
    model = new_model(kind)
    readings = {mode: AttnActor(model, SIGNALS, mode, batch=3).read(rollout) for mode in attn.MODES}
    for strategy in ("local_chunk", "global_anchor", "coupled_rhythm"):
        gammas = [
            credit_weights(rollout.response, CreditConfig(strategy), waad=r.signals.waad, fai=r.signals.fai)
            for r in readings.values()
        ]
        assert (gammas[0] != 1).any()
        assert torch.equal(gammas[0], gammas[1]) and torch.equal(gammas[0], gammas[2])
    for reading in readings.values():
        torch.testing.assert_close(
            reading.signals.waad, readings["dense"].signals.waad, atol=1e-4, rtol=0, equal_nan=True
        )
        torch.testing.assert_close(reading.old_logp, readings["dense"].old_logp, atol=1e-5, rtol=0, equal_nan=True)
        torch.testing.assert_close(reading.entropy, readings["dense"].entropy, atol=1e-5, rtol=0, equal_nan=True)


def test_old_log_probabilities_and_entropy_are_those_of_the_full_logits(new_model, rollout):
    model = new_model()
    reading = AttnActor(model, SIGNALS, "fused", batch=5).read(rollout)
    with torch.no_grad():
        logp = model(input_ids=rollout.input_ids, attention_mask=rollout.attention.long()).logits.log_softmax(-1)
    expected = F.pad(logp[:, :-1].gather(-1, rollout.input_ids[:, 1:, None])[..., 0], (1, 0), value=NAN)
    entropy = F.pad(-(logp.exp() * logp).sum(-1)[:, :-1], (1, 0), value=NAN)
    own = rollout.response
    torch.testing.assert_close(reading.old_logp[own], expected[own], atol=1e-5, rtol=0)
    torch.testing.assert_close(reading.old_logp[own], rollout.sampled_logp[own], atol=1e-5, rtol=0)
    torch.testing.assert_close(reading.entropy[own], entropy[own], atol=1e-5, rtol=0)
    for values in (reading.old_logp, reading.entropy, reading.signals.waad):
        assert values.shape == own.shape and torch.equal(values.isnan(), ~own) and not values.requires_grad


@pytest.mark.parametrize("mode", attn.MODES)
def test_neighbours_and_batches_change_nothing_but_rounding(new_model, rollout, mode):
    model = new_model()
    one, all_ = (AttnActor(model, SIGNALS, mode, batch=size).read(rollout) for size in (1, 64))
    torch.testing.assert_close(one.old_logp, all_.old_logp, atol=1e-5, rtol=0, equal_nan=True)
    torch.testing.assert_close(one.signals.fai, all_.signals.fai, atol=1e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(one.signals.head_span, all_.signals.head_span, atol=0, rtol=1e-5)
    assert torch.equal(one.signals.local_heads, all_.signals.local_heads)


def test_signals_that_nobody_needs_are_not_read(new_model, rollout):
    model = new_model()
    without = AttnActor(model, SIGNALS, "fused", batch=8).read(rollout, signals=False)
    assert without.signals is None
    with_ = AttnActor(model, SIGNALS, "fused", batch=8).read(rollout)
    torch.testing.assert_close(without.old_logp, with_.old_logp, atol=1e-5, rtol=0, equal_nan=True)


def test_fused_signals_stay_exact_under_autocast(new_model, rollout, monkeypatch):
    """Against the equations on float64 maps made from the very q and k that the bfloat16 pass hands to a layer."""
    model, layer = new_model("llama"), 1
    seen = {}

    class Spy(forward.SignalRecorder):
        def __call__(self, module, query, key, value, attention):
            if module.layer_idx == layer:
                seen["scores"] = query.double() @ key.double().repeat_interleave(2, 1).mT * attention.scale
            return super().__call__(module, query, key, value, attention)

    config = replace(SIGNALS, layers=(layer,), head_fraction=None)
    monkeypatch.setattr(attn, "precision", lambda model, bf16: torch.autocast("cpu", torch.bfloat16))
    monkeypatch.setattr(forward, "SignalRecorder", Spy)
    with torch.no_grad():
        reading = attn.fused_pass(model, rollout.input_ids, rollout.attention, rollout.response, config, bf16=True)
    maps = seen["scores"].masked_fill(~torch.ones_like(seen["scores"]).tril().bool(), float("-inf")).softmax(-1)
    own = rollout.response
    expected = dense.waad(maps, config.window).mean(1).float()
    torch.testing.assert_close(reading.signals.waad[own], expected[own], atol=1e-4, rtol=0)
    expected = dense.fai(maps, own, config.horizon).mean(1).float()
    torch.testing.assert_close(reading.signals.fai[own], expected[own], atol=1e-6, rtol=0, equal_nan=True)


def rollout_of(batch):
    """Sequences of the zoo's vocabulary as a rollout."""
    ids, attention, response = batch
    rows = len(ids)
    return Rollout(ids, attention, response, torch.zeros(ids.shape), ("",) * rows, torch.ones(rows, dtype=torch.bool))


# Logits that are more than a linear head on hidden states; a window that hides in a mask; positions by length; and
# attention that chooses its keys, which may lie in the padding.
ODD = ["bert", "electra", "recurrent_gemma", "cohere", "granite", "llama4_text", "qwen2_moe", "phi3/longrope",
       "llama/dynamic-rope"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_both_passes_have_the_models_own_log_probabilities(name):
    model, batch = zoo.build(name), make_batch([(12, 40), (3, 9), (5, 30)])
    expected = own_logp(model, batch)
    actor = AttnActor(model, SIGNALS, "fused", batch=3, bf16=False)
    for signals in (True, False):
        logp = actor.read(rollout_of(batch), signals=signals).old_logp
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)


def test_attention_that_chooses_its_keys_is_read_without_signals_only():
    model, batch = zoo.build("doge"), make_batch([(12, 40), (3, 9)])
    actor = AttnActor(model, SIGNALS, "fused", batch=2, bf16=False)
    with pytest.raises(UnsupportedAttention, match="doge: the model computes with its attention mask"):
        actor.read(rollout_of(batch))
    logp = actor.read(rollout_of(batch), signals=False).old_logp
    torch.testing.assert_close(logp, own_logp(model, batch), atol=3e-4, rtol=0, equal_nan=True)


def test_an_unknown_way_is_refused(new_model):
    with pytest.raises(ValueError, match="attn must be one of fused, separate, dense"):
        AttnActor(new_model(), SIGNALS, "flash", batch=1)


# --- actor_train ------------------------------------------------------------------------------------------------------


def actor(model, folder, aggregation="token_mean", **options):
    return TrainActor(model, OptimConfig(**{"lr": 1e-2, "warmup": 1, **options}), folder, aggregation=aggregation)


def test_log_probabilities_of_the_response_are_differentiable(new_model, rollout):
    model = new_model().requires_grad_(True)
    logp = response_logp(model, rollout.input_ids, rollout.response)
    torch.testing.assert_close(logp[rollout.response], rollout.sampled_logp[rollout.response], atol=1e-5, rtol=0)
    assert logp[~rollout.response].eq(0).all()
    logp.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_step_is_adamw_on_the_clipped_loss_of_the_whole_batch(new_model, rollout, tmp_path, aggregation):
    ids, response, old, advantages = experience(rollout)
    model = new_model()
    metrics = actor(model, tmp_path, aggregation, weight_decay=0.1, grad_clip=0.05, micro_batch=3).step(
        ids, response, old, advantages
    )

    by_hand = new_model().requires_grad_(True)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.1)
    logp = by_hand(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    ratio = (logp - old[:, 1:].nan_to_num()).exp()
    per_token = -torch.minimum(ratio * advantages[:, 1:], ratio.clamp(0.8, 1.2) * advantages[:, 1:])
    per_token = torch.where(response[:, 1:], per_token, 0)
    lengths = response.sum(1)
    loss = per_token.sum() / lengths.sum() if aggregation == "token_mean" else (per_token.sum(1) / lengths).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
    optimizer.step()

    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert norm > 0.05  # so that the clip is part of the test
    torch.testing.assert_close(weights(model), weights(by_hand), atol=2e-5, rtol=0)


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"micro_batch": 4}, {"gradient_checkpointing": True}], ids=str)
def test_what_saves_memory_changes_nothing_but_rounding(new_model, rollout, tmp_path, change):
    plain, other = new_model(), new_model()
    expected = actor(plain, tmp_path, micro_batch=64).step(*experience(rollout))
    found = actor(other, tmp_path, **change).step(*experience(rollout))
    assert found == pytest.approx(expected, abs=1e-5, rel=1e-4)
    torch.testing.assert_close(weights(other), weights(plain), atol=1e-4, rtol=0)


def test_momentum_moves_the_weights_where_no_sequence_has_an_advantage(new_model, rollout, tmp_path):
    model = new_model()
    trainer = actor(model, tmp_path)
    ids, response, old, advantages = experience(rollout)
    before = weights(model)
    nothing = trainer.step(ids, response, old, torch.zeros_like(advantages))
    assert torch.equal(weights(model), before) and nothing["grad_norm"] == 0 and nothing["loss"] == 0
    trainer.step(ids, response, old, advantages)
    before = weights(model)
    trainer.step(ids, response, old, torch.zeros_like(advantages))
    assert not torch.equal(weights(model), before)


def test_the_learning_rate_rises_and_stays(new_model, rollout, tmp_path):
    trainer = actor(new_model(), tmp_path, lr=3e-3, warmup=3)
    rates = [trainer.step(*experience(rollout))["lr"] for _ in range(5)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3, 3e-3])


def test_a_step_goes_where_the_advantage_points(new_model, rollout, tmp_path):
    model = new_model()
    ids, response, old, _ = experience(rollout)
    better = torch.where(torch.arange(len(ids)) < 4, 1.0, -1.0)[:, None].expand(ids.shape)
    before = response_logp(model, ids, response).detach().sum(1)
    actor(model, tmp_path, lr=1e-3).step(ids, response, old, better)
    after = response_logp(model, ids, response).detach().sum(1)
    assert (after[:4] > before[:4]).all() and (after[4:] < before[4:]).all()


@pytest.mark.parametrize("where", [2, 3], ids=["old_logp", "advantages"])
def test_nan_stops_the_step_before_the_weights_move(new_model, rollout, tmp_path, where):
    model = new_model()
    batch = experience(rollout)
    row, column = rollout.response.nonzero()[0].tolist()
    batch[where][row, column] = NAN
    before = weights(model)
    with pytest.raises(DivergedError, match=r"NaN or inf in the loss; its batch is in diverged-000000.safetensors"):
        actor(model, tmp_path).step(*batch)
    assert torch.equal(weights(model), before) and not model.training
    saved = load_file(tmp_path / "diverged-000000.safetensors")
    assert saved[("old_logp", "advantages")[where - 2]].isnan()[saved["response"]].any()
    assert set(saved) == {"input_ids", "response", "old_logp", "advantages"}


def test_an_infinite_gradient_stops_the_step(new_model, rollout, tmp_path):
    model = new_model().requires_grad_(True)
    next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(DivergedError, match="gradient"):
        actor(model, tmp_path).step(*experience(rollout))
    assert torch.equal(weights(model), before)


def test_a_ratio_without_bound_stops_the_step_even_where_the_clip_hides_it(new_model, rollout, tmp_path):
    ids, response, old, advantages = experience(rollout)
    with pytest.raises(DivergedError, match="loss"):
        actor(new_model(), tmp_path).step(ids, response, old - 200, torch.ones_like(advantages))


def test_weights_too_short_to_be_trained_are_refused(new_model, tmp_path):
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        actor(new_model().to(torch.bfloat16), tmp_path)


@pytest.mark.parametrize("name", ["llama/dynamic-rope", "phi3/longrope", "doge", "mamba", "opt"])
def test_a_step_has_the_log_probabilities_of_each_sequence_alone(name):
    model, batch = zoo.build(name), make_batch([(12, 40), (3, 9), (5, 30)])
    logp = response_logp(model, batch[0], batch[2])
    torch.testing.assert_close(logp, own_logp(model, batch).nan_to_num(), atol=5e-4, rtol=0)
    logp.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_dropout_is_refused_before_the_first_step(tmp_path):
    sizes = dict(vocab_size=61, n_embd=32, n_layer=1, n_head=4, embd_pdrop=0.0, attn_pdrop=0.0)
    with pytest.raises(InputError, match=r"dropout 0.1 in transformer.h.0.attn.resid_dropout .* set it to 0"):
        actor(GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.1)).eval(), tmp_path)
    actor(GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0)).eval(), tmp_path)


def test_a_soft_cap_that_sdpa_leaves_out_is_refused_before_the_first_step(tmp_path):
    model = zoo.build("gemma2")
    with pytest.raises(UnsupportedAttention, match=r"soft-capped at 5\.0, which transformers' sdpa leaves out"):
        actor(model, tmp_path)
    model.set_attn_implementation("eager")
    actor(model, tmp_path)


def test_autocast_is_for_cuda(new_model):
    assert isinstance(train.precision(new_model(), bf16=True), train.nullcontext)
