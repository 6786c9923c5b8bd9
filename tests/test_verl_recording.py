"""What verl's hook refuses of a model, by the description that signals are read by; the engine itself: tests/verl/."""

import pytest
import torch

from attention_rhythm.integrations.verl.recording import check_recordable, kept_by_the_engine
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.attention import described_attention
from attention_rhythm.signals.forward import head_statistics
from attention_rhythm.signals.packing import packed
from attention_rhythm.signals.streaming import SignalRecorder, attention_output
from tests.support import zoo
from tests.support.models import make_batch

IDS, ATTENTION, RESPONSE = make_batch([(10, 30), (5, 9)])


@pytest.mark.parametrize("name", ["llama/dynamic-rope", "phi3/longrope"])
def test_positions_that_depend_on_the_batch_are_read_from_an_exported_copy(name):
    model = zoo.build(name)
    with pytest.raises(UnsupportedAttention, match=rf"{model.config.model_type} has rotary .*attn=exported"):
        check_recordable(model, 40)
    check_recordable(zoo.build("llama"), 40)


def test_what_is_not_readable_at_all_is_not_recordable():
    with pytest.raises(ValueError, match="longer than the 512 positions of gpt2"):
        check_recordable(zoo.build("gpt2"), 513)


def test_an_implementation_that_leaves_out_a_soft_cap_trains_another_policy_than_it_reads():
    model = zoo.build("gemma2")

    def read():
        with described_attention(model, kept_by_the_engine(model, lambda _, *qkv: attention_output(*qkv))):
            return model(input_ids=IDS, use_cache=False).logits

    with torch.no_grad():
        with pytest.raises(
            UnsupportedAttention, match=r"gemma2 has scores soft-capped at 5\.0, which transformers' sdpa"
        ):
            read()
        model.set_attn_implementation("eager")
        torch.testing.assert_close(read(), model(input_ids=IDS, use_cache=False).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["mistral", "qwen2_moe", "gpt_oss", "gemma3_text"])
def test_packed_sequences_are_read_as_the_rows_that_they_are(name):
    """Windows and sinks, as verl packs them: end to end in one row, positions beginning anew."""
    model, lengths = zoo.build(name), ATTENTION.sum(1)
    expected = head_statistics(model, IDS, RESPONSE, [0, 1, 2, 3, 4, 5], 6, [(2, 20)], lengths)
    recorder = SignalRecorder([0, 1, 2, 3, 4, 5], RESPONSE, 6, [(2, 20)])
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])[None]
    with torch.no_grad(), described_attention(model, kept_by_the_engine(model, packed(recorder, lengths))):
        model(input_ids=IDS[ATTENTION][None], position_ids=positions, use_cache=False)
    read = recorder.statistics()
    torch.testing.assert_close(read.span, expected.span, atol=1e-4, rtol=1e-4)
    own = RESPONSE[:, None, None].expand_as(read.waad)
    torch.testing.assert_close(read.waad[own], expected.waad[own], atol=2e-4, rtol=0)


def test_packed_chunks_are_refused_by_name():
    """transformers counts them from the beginning of the packed row."""
    model, lengths = zoo.build("llama4_text"), ATTENTION.sum(1)
    recorder = SignalRecorder([0], RESPONSE, 6, [(2, 20)])
    refused = pytest.raises(UnsupportedAttention, match=r"llama4_text: packed sequences with chunks of \d+: pad them")
    with refused, torch.no_grad(), described_attention(model, packed(recorder, lengths)):
        model(input_ids=IDS[ATTENTION][None], use_cache=False)
