"""Signals that are scored against token values: by hand, and on a tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.read_signals import read
from analysis.token_signals import (
    CREDITS,
    SIGNALS,
    Reading,
    answer_gradient,
    attention_flow,
    masking,
    parts_of,
    signals_table,
)
from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from tests.support.models import build

HORIZONS = {"fai": (2, 6), "fai_receiver": (1, None)}
TRAINING = SignalConfig(horizon=(2, 6))


@pytest.fixture(scope="module")
def reading():
    """A response of twelve tokens, whose tokens 8 and 9 are its answer."""
    model = build("qwen3")
    ids = torch.arange(1, 17)
    arrays = read(model, [{"prompt_ids": ids[:4].tolist(), "response_ids": ids[4:].tolist()}], HORIZONS)[0]
    receivers = np.zeros(arrays["span"].shape, bool)
    receivers[0, 1] = True
    parts = (slice(0, 3), slice(3, 8), slice(8, 12))
    return Reading(model, ids, 4, arrays, HORIZONS, TRAINING, receivers, slice(8, 10), parts, 0, 0)


def answer_logprob(model, ids):
    with torch.no_grad():
        logp = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return sum(logp[i - 1, 1 + i].item() for i in (12, 13))  # ids are 1, 2, 3, ...


def test_flow_by_hand(reading):
    # prompt 0, 1; response 2, 3; the answer is 3. Reach: 1, then 0.5, 0.3 + 0.4 * 0.5, 0.5 * 0.5 + 0.2 * 0.5 + 0.1
    graph = np.array([[0, 0, 0, 0], [0.5, 0, 0, 0], [0.2, 0.4, 0, 0], [0.1, 0.3, 0.5, 0]])
    small = replace(reading, ids=torch.arange(4), start=2, answer=slice(1, 2))
    small.__dict__["graph"] = graph
    at_1 = 0.5 + 0.5 * 0.25 / 0.45
    at_2 = 0.5 * 0.1 / 0.45 + at_1 * 0.2 / 0.5
    assert attention_flow(small) == pytest.approx([at_2, 1.0])


def test_flow_behind_the_answer_is_none_and_all_of_it_arrives(reading):
    flow = attention_flow(reading)
    assert (flow[10:] == 0).all()
    assert (flow[:8] > 0).all()
    assert flow.max() <= 1


def test_the_gradient_is_that_of_the_answers_log_probability(reading):
    found = answer_gradient(reading)
    assert (found[9:] == 0).all()  # the answer's last token, and what is behind it, are no input of it
    embeddings = reading.model.get_input_embeddings()
    token, before = int(reading.ids[4 + 3]), embeddings.weight.detach().clone()
    direction = torch.nn.functional.normalize(torch.randn(before.shape[1], generator=torch.manual_seed(0)), dim=0)
    slopes = []
    with torch.no_grad():
        for step in (1e-2, -1e-2):
            embeddings.weight[token] = before[token] + step * direction
            slopes.append(answer_logprob(reading.model, reading.ids))
        embeddings.weight.copy_(before)
    assert abs(slopes[0] - slopes[1]) / 2e-2 <= found[3] * 1.01  # no direction is steeper than the gradient is long


def test_masking_a_part_by_hand(reading):
    found = masking(reading)
    whole = answer_logprob(reading.model, reading.ids)
    for part in (slice(0, 3), slice(3, 8)):
        masked = reading.ids.clone()
        masked[4 + part.start : 4 + part.stop] = reading.mask
        assert found[part] == pytest.approx(whole - answer_logprob(reading.model, masked), abs=1e-4)
    assert np.isnan(found[8:]).all()


def test_without_an_answer_what_needs_one_is_undefined(reading):
    blind = replace(reading, answer=None)
    for signal in (attention_flow, answer_gradient, masking):
        assert np.isnan(signal(blind)).all()


def test_every_signal_has_a_value_a_token_and_credit_is_that_of_training(reading):
    table = signals_table(reading)
    assert set(table) == {*SIGNALS, *CREDITS}
    assert all(values.shape == (12,) and values.dtype == np.float32 for values in table.values())
    ids = reading.ids[None]
    response = torch.arange(16)[None] >= 4
    whole = torch.ones_like(response)
    for name, changes in (("coupled_rhythm", {}), ("coupled_rhythm_all_layers", {"layers": "all", "num_layers": None})):
        signals = attention_signals(
            reading.model, ids, torch.ones_like(response), response, replace(TRAINING, **changes)
        )
        gamma = credit_weights(response, CreditConfig(), waad=signals.waad, fai=signals.fai)[0, 4:]
        assert table[name] == pytest.approx((gamma.numpy() - 1) / 0.5)
    waad = attention_signals(reading.model, ids, whole, response, TRAINING).waad[0, 4:]
    assert table["waad"] == pytest.approx(waad.numpy(), abs=1e-4)
    assert table["late"].tolist() == [*range(12)]


def test_parts_of_a_text():
    assert parts_of(np.array([True, False, True, True])) == (slice(0, 2), slice(2, 3), slice(3, 4))
    assert parts_of(np.array([False, False])) == (slice(0, 2),)
