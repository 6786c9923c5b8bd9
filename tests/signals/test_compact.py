"""A batch in one row, each token once: worked by hand, then the numbers of padded rows, for every type of model."""

import pytest
import torch
from torch.nn import functional as F

from attention_rhythm.signals import compact as module
from attention_rhythm.signals.architecture import hidden_states
from attention_rhythm.signals.compact import can_be_compact, compact, compact_batch, compact_hidden_states
from attention_rhythm.signals.forward import forward_statistics, response_statistics
from tests.support import models, zoo
from tests.support.models import make_batch
from training.actors.train import response_logp

# Types whose layers keep a state, count tokens by themselves, number positions from their own mask or the length, or
# have an attention that is not known at any length.
PADDED = (
    "llama4_text", "llama/dynamic-rope", "phi3/longrope", "bamba", "mamba", "qwen3_next", "bloom", "opt", "roberta",
    "deepseek_v32", "gemma2",
)  # fmt: skip
COMPACT = ("llama", "qwen3", "qwen2", "gpt2", "mistral", "gemma3_text", "gpt_oss", "gemma2/eager", "mixtral", "phi3")


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """Batches of any size are put in one row, without tokens that fill it up."""
    monkeypatch.setattr(module, "_STEP", 1)


def test_a_batch_worked_by_hand():
    ids = torch.tensor([[7, 8, 9, 0], [7, 8, 5, 6], [3, 8, 0, 0]])
    batch = compact(ids, torch.tensor([3, 4, 2]))
    # sorted: 3 8 | 7 8 5 6 | 7 8 9, of which the last begins like the one before it
    assert batch.ids.tolist() == [[3, 8, 7, 8, 5, 6, 9]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2, 3, 2]]
    assert [batch.place[0, :3].tolist(), batch.place[1].tolist(), batch.place[2, :2].tolist()] == [
        [2, 3, 6], [2, 3, 4, 5], [0, 1],
    ]  # fmt: skip
    (group,) = batch.groups
    assert group.rows.tolist() == [2, 0, 1]  # by length


def test_tokens_that_fill_the_row_up_are_nowhere_looked_for(monkeypatch):
    monkeypatch.setattr(module, "_STEP", 8)
    batch = compact(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    assert batch.ids.shape == (1, 8) and batch.place.tolist() == [[0, 1, 2]]


def test_equal_sequences_stand_there_once_and_a_shorter_one_within_a_longer():
    batch = compact(torch.tensor([[4, 5, 6], [4, 5, 6], [4, 5, 0]]), torch.tensor([3, 3, 2]))
    assert batch.ids.tolist() == [[4, 5, 6]]
    assert batch.place[:2].tolist() == [[0, 1, 2]] * 2 and batch.place[2, :2].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_every_beginning_stands_there_once_and_every_token_is_found(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 3, (70, 9), generator=generator)  # two tokens only: many begin alike
    lengths = torch.randint(1, 10, (70,), generator=generator)
    batch = compact(ids, lengths)
    beginnings = {
        tuple(row[: n + 1]) for row, end in zip(ids.tolist(), lengths.tolist(), strict=True) for n in range(end)
    }
    assert batch.ids.numel() == len(beginnings)
    own = torch.arange(9) < lengths[:, None]
    assert torch.equal(F.embedding(batch.place, batch.ids[0, :, None])[..., 0][own], ids[own])
    assert torch.equal(batch.positions[0][batch.place][own], torch.arange(9).expand_as(ids)[own])
    assert torch.equal(torch.cat([g.rows for g in batch.groups]).sort().values, torch.arange(70))
    ends = torch.cat([g.place.flatten() for g in batch.groups])
    assert torch.equal(ends[batch.source], torch.arange(len(beginnings)))  # what attention gives goes back to its token


def similar(seed=0):
    """Sequences longer than every window, of which several begin alike; (ids, attention, response)."""
    ids, attention, response = make_batch([(6, 44), (6, 10), (3, 30), (6, 21), (2, 5)], seed=seed)
    ids[1, :9], ids[3, :20] = ids[0, :9], ids[0, :20]
    return ids, attention, response


def check(name):
    model = zoo.build(name)
    ids, attention, _ = similar()
    with torch.no_grad():
        batch = compact_batch(model, ids, attention.sum(1))
        padded, in_row = hidden_states(model, ids), compact_hidden_states(model, batch)
    torch.testing.assert_close(in_row[attention], padded[attention], atol=2e-4 * float(padded.abs().max()), rtol=0)


@pytest.mark.parametrize("name", COMPACT)
def test_hidden_states_are_those_of_padded_rows(name):
    check(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in (*zoo.names(), *zoo.VARIANTS) if n not in COMPACT])
def test_hidden_states_are_those_of_padded_rows_whatever_the_model(name):
    if can_be_compact(zoo.build(name)):
        check(name)


@pytest.mark.parametrize("name", PADDED)
def test_what_could_differ_is_read_in_padded_rows(name):
    model, (ids, attention, _) = zoo.build(name), similar()
    assert not can_be_compact(model) and compact_batch(model, ids, attention.sum(1)) is None


def test_a_batch_that_would_hardly_be_smaller_is_left_as_it_is():
    ids, attention, _ = make_batch([(5, 20), (5, 20), (5, 19)])
    assert compact_batch(models.build("llama"), ids, attention.sum(1)) is None


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("rows", [2, 32], ids=["several groups", "one group"])
def test_signals_entropy_and_log_probabilities_are_those_of_padded_rows(kind, rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    model, (ids, attention, response) = models.build(kind), similar()
    arguments = (model, ids, response, [1, 3], 6, [(2, 9), (0, None)], attention.sum(1))
    ours = forward_statistics(*arguments)
    alone = response_statistics(model, ids, response, attention.sum(1))
    monkeypatch.setattr(module, "_SAVED", 0.0)
    theirs = forward_statistics(*arguments)
    close = {"atol": 1e-5, "rtol": 1e-5, "equal_nan": True}
    torch.testing.assert_close(ours[0].span, theirs[0].span, **close)
    waad = response[:, None, None].expand_as(ours[0].waad)
    torch.testing.assert_close(ours[0].waad[waad], theirs[0].waad[waad], **close)
    for mine, other in zip(ours[0].fai, theirs[0].fai, strict=True):
        torch.testing.assert_close(mine[waad], other[waad], **close)
    for mine, other, plain in zip(ours[1:], theirs[1:], alone, strict=True):
        torch.testing.assert_close(mine, other, **close)
        torch.testing.assert_close(plain, other, **close)


def gradients(model, ids, response):
    model.zero_grad()
    logp = response_logp(model, ids, response)
    (logp * torch.linspace(-1, 1, logp.numel()).view_as(logp)).sum().backward()
    return logp.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt_oss"])
def test_gradients_are_those_of_padded_rows(name, monkeypatch):
    """A window or a sink, which only padded rows can differentiate, among them."""
    model, (ids, _, response) = zoo.build(name), similar()
    if name == "gpt_oss":
        model.set_attn_implementation("eager")
    ours, theirs = gradients(model, ids, response), None
    monkeypatch.setattr(module, "_SAVED", 0.0)
    theirs = gradients(model, ids, response)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-4, rtol=1e-4)
    for key, gradient in ours[1].items():
        torch.testing.assert_close(gradient, theirs[1][key], atol=1e-3 * float(theirs[1][key].abs().max()), rtol=1e-3)


def test_layers_that_are_computed_twice_are_computed_in_padded_rows(monkeypatch):
    """The second time may come in another thread, where nothing is in the place of the model's own attention."""
    model, (ids, _, response) = models.build("qwen3").train(), similar()
    expected = gradients(model, ids, response)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    monkeypatch.setattr(module, "compact", None)  # not to be called
    logp, own = gradients(model, ids, response)
    torch.testing.assert_close(logp, expected[0], atol=1e-5, rtol=1e-5)
    for key, gradient in own.items():
        torch.testing.assert_close(gradient, expected[1][key], atol=1e-5, rtol=1e-4)
