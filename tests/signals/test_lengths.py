"""Rotary positions that depend on the length (dynamic NTK, LongRoPE): a sequence is read as if it were alone.

Neither what shares its batch, nor how far it is padded, nor what was read before changes a number. The zoo's models of
this kind were made for 40 tokens.
"""

import pytest
import torch

from attention_rhythm.signals.forward import response_statistics
from attention_rhythm.signals.reading import attention_signals
from tests.support import zoo
from tests.support.models import make_batch
from tests.support.reading import EVERY_LAYER, in_float64, logp_of_both_passes, own_logp

MODELS = ["llama/dynamic-rope", "hunyuan_v1_dense/dynamic", "phi3/longrope"]
SHORT, BETWEEN, LONG = (10, 25), (10, 32), (10, 80)  # (prompt, response) tokens; the last two pass the 40
IDS, ATTENTION, RESPONSE = make_batch([SHORT, BETWEEN, LONG])


READINGS = ["streaming", "dense", "fused", "no signals"]


def numbers(model, batch, read):
    """What a reading gives of a batch: WAAD, or log-probabilities; 0 where it is not defined."""
    if read == "no signals":
        ids, attention, response = batch
        return response_statistics(model, ids, response, attention.sum(1))[1].nan_to_num()
    if read == "fused":
        return logp_of_both_passes(model, batch)[read].nan_to_num()
    return attention_signals(model, *batch, EVERY_LAYER, method=read).waad.nan_to_num()


def rows(*numbers, width):
    """Some of the sequences, padded to a width."""
    return tuple(x[list(numbers), :width] for x in (IDS, ATTENTION, RESPONSE))


@pytest.mark.parametrize("method", ["streaming", "dense"])
@pytest.mark.parametrize("name", MODELS)
def test_neighbours_and_padding_change_no_signal(name, method):
    exact = in_float64(zoo.build(name))
    for number, length in enumerate((35, 42, 90)):
        alone = attention_signals(exact, *rows(number, width=length), EVERY_LAYER, method="dense")
        for batch, row in (
            (rows(number, width=length), 0),
            (rows(number, width=90), 0),
            (rows(0, 1, 2, width=90), number),
        ):
            read = attention_signals(zoo.build(name), *batch, EVERY_LAYER, method=method)
            own = slice(10, length)
            torch.testing.assert_close(read.waad[row, own], alone.waad[0, own], atol=2e-4, rtol=0)
            torch.testing.assert_close(read.fai[row, own], alone.fai[0, own], atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_on_either_side_is_no_part_of_the_length(name, side):
    model, lengths = zoo.build(name), [SHORT, LONG]
    streaming, dense = (
        attention_signals(model, *make_batch(lengths, side), EVERY_LAYER, method=method)
        for method in ("streaming", "dense")
    )
    torch.testing.assert_close(streaming.waad, dense.waad, atol=2e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(streaming.head_span, dense.head_span, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_those_of_each_sequence_alone(name):
    model, batch = zoo.build(name), rows(0, 1, 2, width=90)
    expected = own_logp(in_float64(model), batch)
    for logp in logp_of_both_passes(model, batch).values():
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_of_a_longer_sequence_that_was_read_before(name, read):
    """transformers keeps the frequencies of the longest sequence so far, for all that are longer than the original."""
    model, fresh = zoo.build(name), zoo.build(name)
    before = numbers(model, rows(1, width=42), read)
    numbers(model, rows(2, width=90), read)
    with torch.no_grad():  # nor for whoever calls the model next
        own, expected = (m(input_ids=IDS[1:2, :42]).logits for m in (model, fresh))
    torch.testing.assert_close(own, expected, atol=0, rtol=0)
    numbers(model, rows(2, width=90), read)
    assert torch.equal(numbers(model, rows(1, width=42), read), before)


@pytest.mark.parametrize("read", READINGS)
def test_a_longer_pass_of_the_model_itself_changes_no_reading(read):
    model, batch = zoo.build("llama/dynamic-rope"), rows(1, width=42)
    expected = numbers(model, batch, read)
    with torch.no_grad():
        model(input_ids=IDS[2:3])
    assert torch.equal(numbers(model, batch, read), expected)
