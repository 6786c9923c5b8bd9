"""Structure that does not show at first sight: it is read as it is, or refused by the model's name.

Windows that a model only puts into its mask, layers called twice, hybrids, positions that begin elsewhere, logits that
are more than a head on hidden states, attention that chooses its tokens, soft caps that a kernel leaves out.
"""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, masking_utils

from attention_rhythm.errors import ReproError
from attention_rhythm.signals import dense
from attention_rhythm.signals.architecture import UnsupportedAttention, backbone, layers_to_read
from attention_rhythm.signals.attention import attention_of_layers, check_implementation, rule_of
from attention_rhythm.signals.forward import forward_statistics, is_causal, response_statistics
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from tests.support import zoo
from tests.support.models import make_batch
from tests.support.reading import EVERY_LAYER, in_float64, logp_of_both_passes, own_logp

CAUSAL = masking_utils.causal_mask_function
LENGTHS = [(12, 40), (3, 9)]  # (prompt, response) tokens: beyond the zoo's windows, and within


def both(model, batch, config=EVERY_LAYER):
    return [attention_signals(model, *batch, config, method=method) for method in ("streaming", "dense")]


def assert_close(one, other, *, waad=2e-4, fai=1e-5):
    torch.testing.assert_close(one.waad, other.waad, atol=waad, rtol=0, equal_nan=True)
    torch.testing.assert_close(one.fai, other.fai, atol=fai, rtol=0, equal_nan=True)
    assert torch.equal(one.layers, other.layers)


# --- the rule behind a mask -------------------------------------------------------------------------------------------


def test_a_rule_is_the_conjunction_of_its_conditions():
    window, chunk = masking_utils.sliding_window_overlay, masking_utils.chunked_overlay(8, torch.zeros(1))
    rule = rule_of(masking_utils.and_masks(CAUSAL, window(5), masking_utils.and_masks(chunk, window(3))))
    assert (rule.window, rule.chunk, rule.packed) == (3, 8, False)
    rule = rule_of(CAUSAL)
    assert (rule.window, rule.chunk, rule.packed) == (None, None, False)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (masking_utils.sliding_window_overlay(3), "the attention is not causal"),
        (masking_utils.or_masks(CAUSAL, masking_utils.sliding_window_overlay(3)), "a condition that is not known here"),
        (masking_utils.and_masks(CAUSAL, lambda b, h, q, kv: q % 2 == 0), "a condition that is not known here"),
        (masking_utils.and_masks(CAUSAL, masking_utils.chunked_overlay(8, torch.ones(1))), "not known here"),
    ],
)
def test_what_a_rule_cannot_say_is_refused(function, says):
    with pytest.raises(UnsupportedAttention, match=says):
        rule_of(function)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "llama4_text"])
def test_windows_and_chunks_are_right_at_the_edges_of_the_tiles(name):
    """Tiles have 64 rows: the first row of one sees as far back as its last."""
    assert_close(*both(zoo.build(name), make_batch([(20, 170), (3, 62)])))


@pytest.mark.parametrize("name", ["qwen2_moe", "phimoe"])
def test_a_window_that_only_the_mask_has_is_seen_in_every_pass(name):
    """Their layers hand no window to their attention: without the mask's rule they would look plain."""
    model, batch = zoo.build(name), make_batch(LENGTHS)
    assert {attention.window for _, attention in attention_of_layers(model)} >= {zoo.WINDOW}
    exact = in_float64(model)
    assert_close(
        attention_signals(model, *batch, EVERY_LAYER), attention_signals(exact, *batch, EVERY_LAYER, method="dense")
    )
    expected = own_logp(exact, batch)
    for logp in logp_of_both_passes(model, batch).values():
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)


# --- layers that are called twice, or whose maps are not what they use ------------------------------------------------


@pytest.mark.parametrize("method", ["streaming", "dense"])
@pytest.mark.parametrize("layers", ["all", (0,), (5,)])
def test_a_layer_with_several_maps_in_a_pass_is_refused_even_if_the_pass_ends_before(layers, method):
    with pytest.raises(UnsupportedAttention, match=r"hrm_text: layer [05] attends twice in one pass"):
        attention_signals(zoo.build("hrm_text"), *make_batch(LENGTHS), SignalConfig(layers=layers), method=method)


def test_one_map_that_is_put_to_two_sets_of_values_is_one_map():
    streaming, maps = both(model := zoo.build("diffllama"), make_batch(LENGTHS))
    assert_close(streaming, maps)
    assert [layer for layer, _ in attention_of_layers(model)] == list(range(6))


def test_a_block_that_several_layers_share_has_no_number_of_its_own():
    with pytest.raises(UnsupportedAttention, match="zamba2 does not number its layers of attention"):
        attention_signals(zoo.build("zamba2"), *make_batch(LENGTHS), EVERY_LAYER)


def test_maps_that_leave_out_the_sinks_are_refused_by_the_oracle():
    model, batch = zoo.build("granite_swa"), make_batch(LENGTHS)
    with pytest.raises(UnsupportedAttention, match=r"layers \[0, .* of granite_swa give maps without their sinks"):
        attention_signals(model, *batch, EVERY_LAYER, method="dense")
    model.set_attn_implementation("eager")
    logp = logp_of_both_passes(model, batch)["fused"]  # streaming has them: hidden states after it are the model's
    torch.testing.assert_close(logp, own_logp(model, batch), atol=3e-4, rtol=0, equal_nan=True)


# --- hybrids ----------------------------------------------------------------------------------------------------------

HYBRIDS = {"qwen3_next": (2, 5), "lfm2": (2, 5), "bamba": (1, 4), "jamba": (2, 5), "nemotron_h": (2, 4)}


@pytest.mark.parametrize("name", HYBRIDS)
def test_layers_of_a_hybrid_go_by_the_models_own_numbers(name):
    model, batch, softmax = zoo.build(name), make_batch(LENGTHS), HYBRIDS[name]
    streaming, maps = both(model, batch)
    assert streaming.layers.tolist() == list(softmax)
    assert_close(streaming, maps)
    last = attention_signals(model, *batch, SignalConfig(layers=softmax[1:], horizon=(2, 20)), method="dense")
    torch.testing.assert_close(last.head_span[:, 0], maps.head_span[:, 1])


@pytest.mark.parametrize("method", ["streaming", "dense"])
@pytest.mark.parametrize("name", HYBRIDS)
def test_a_layer_of_another_kind_has_no_map(name, method):
    with pytest.raises(
        UnsupportedAttention, match=rf"layers \[0.*\] of {name} have no softmax attention; those that do"
    ):
        attention_signals(zoo.build(name), *make_batch(LENGTHS), SignalConfig(layers=(0, 2)), method=method)


# --- parts that are not where they are looked for ---------------------------------------------------------------------

PARTS = {
    "an output head that is called decoder": "modernbert-decoder",
    "layers that attend to images": "mllama",
    "layers of images beside those of the text": "phi4_multimodal",
    "a mask for an encoder that is not there": "bart",
}


@pytest.mark.parametrize("name", PARTS.values(), ids=PARTS)
def test_the_layers_of_the_text_are_found(name):
    streaming, maps = both(zoo.build(name), make_batch(LENGTHS))
    assert_close(streaming, maps)
    assert streaming.layers.tolist() == ([0, 1, 3, 5] if name == "mllama" else [0, 1, 2, 3, 4, 5])


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["roberta", "xlm-roberta-xl", "data2vec-text"])
def test_positions_that_begin_behind_the_number_of_the_padding_token(name, side):
    model = zoo.build(name)
    streaming, maps = both(model, make_batch(LENGTHS, side))
    assert_close(streaming, maps)
    ids, attention, response = make_batch(LENGTHS, side)
    alone = attention_signals(model, *(x[1:, attention[1]] for x in (ids, attention, response)), EVERY_LAYER)
    torch.testing.assert_close(maps.waad[1, attention[1]], alone.waad[0], atol=2e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["streaming", "dense"])
def test_a_sequence_past_the_table_of_positions_is_refused(method):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=16)).eval()
    with pytest.raises(ValueError, match="a sequence of 20 tokens is longer than the 16 positions of gpt2"):
        attention_signals(model, *make_batch([(10, 10)]), method=method)


def test_positions_of_images_are_none_of_the_texts():
    model, batch = zoo.build("phi4_multimodal"), make_batch(LENGTHS)  # has a table of four, for the parts of an image
    logp = response_statistics(model, batch[0], batch[2], batch[1].sum(1))[1]
    torch.testing.assert_close(logp, own_logp(model, batch), atol=3e-4, rtol=0, equal_nan=True)


# --- logits that are more than a head on hidden states ----------------------------------------------------------------

LOGITS = {
    "a head of several layers": "bert",
    "and another": "electra",
    "a soft cap": "recurrent_gemma",
    "a factor": "cohere",
    "a divisor": "granite",
    "hidden states of another name": "llama4_text",
    "a decoder in a wrapper": "opt",
}


@pytest.mark.parametrize("name", LOGITS.values(), ids=LOGITS)
def test_log_probabilities_follow_from_the_models_own_logits(name):
    model, batch = zoo.build(name), make_batch(LENGTHS)
    expected = own_logp(model, batch)
    for logp in logp_of_both_passes(model, batch).values():
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["bart", "whisper", "mllama", "gemma3"])
def test_the_part_that_makes_hidden_states_is_the_one_that_is_called(name):
    model, batch = zoo.build(name), make_batch(LENGTHS)
    assert backbone(model) is not model
    logp = response_statistics(model, batch[0], batch[2], batch[1].sum(1))[1]
    torch.testing.assert_close(logp, own_logp(model, batch), atol=3e-4, rtol=0, equal_nan=True)


# --- padding ----------------------------------------------------------------------------------------------------------


def test_what_stands_behind_a_token_changes_nothing_for_it():
    assert is_causal(zoo.build("llama")) and is_causal(zoo.build("mamba"))
    assert not is_causal(zoo.build("bert/encoder"))


@pytest.mark.parametrize("name", ["bert/encoder", "xlnet"])
def test_a_model_that_sees_later_tokens_has_no_log_probabilities(name):
    model, batch = zoo.build(name), make_batch(LENGTHS)
    with pytest.raises(UnsupportedAttention, match=f"{model.config.model_type} is not causal"):
        response_statistics(model, batch[0], batch[2], batch[1].sum(1))


TOP_K = ["doge", "deepseek_v32", "axk2"]  # each token attends to the keys that score best, 8 or 16 of them


@pytest.mark.parametrize("name", TOP_K)
def test_attention_that_chooses_its_keys_never_sees_padding(name):
    """The best k of a padded row may lie in the padding: streaming refuses, all else reads each sequence alone."""
    model, (ids, attention, response) = zoo.build(name), make_batch(LENGTHS)
    with pytest.raises(UnsupportedAttention, match=f"^{name}: the model computes with its attention mask"):
        attention_signals(model, ids, attention, response, EVERY_LAYER)
    with pytest.raises(UnsupportedAttention, match=f"^{name}: the model computes with its attention mask"):
        forward_statistics(model, ids, response, [0], 6, [(2, 20)])
    expected = own_logp(model, (ids, attention, response))
    logp = response_statistics(model, ids, response, attention.sum(1))[1]
    torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)
    own = attention[1]
    together = dense.attention_maps(model, ids, attention, [1])[1:, :, :, own][..., own]
    torch.testing.assert_close(together, dense.attention_maps(model, ids[1:, own], attention[1:, own], [1]))


def test_keys_that_stand_for_several_tokens_never_hold_padding():
    """They begin at some length, so a few tokens say nothing about them."""
    model, batch = zoo.build("deepseek_v4"), make_batch([*LENGTHS, (5, 85)])
    logp = response_statistics(model, batch[0], batch[2], batch[1].sum(1))[1]
    torch.testing.assert_close(logp, own_logp(model, batch), atol=3e-4, rtol=0, equal_nan=True)


def test_maps_that_look_ahead_are_refused():
    with pytest.raises(UnsupportedAttention, match="bert looks ahead: its attention is not causal"):
        attention_signals(zoo.build("bert/encoder"), *make_batch(LENGTHS), EVERY_LAYER, method="dense")


def test_maps_that_are_not_square_are_refused(unchecked):
    model, batch = zoo.build("deepseek_v4"), make_batch(LENGTHS)  # it has keys that stand for several tokens
    with pytest.raises(UnsupportedAttention, match=r"deepseek_v4 gives maps of .* for 52 tokens"):
        attention_signals(model, *batch, EVERY_LAYER, method="dense")


# --- what a kernel leaves out -----------------------------------------------------------------------------------------


def test_a_soft_cap_that_sdpa_leaves_out_is_not_left_out_unsaid():
    model, batch = zoo.build("gemma2"), make_batch(LENGTHS)
    assert model.config._attn_implementation == "sdpa"
    message = "gemma2 has scores soft-capped at 5.0, which transformers' sdpa leaves out: call model.set_attn"
    with pytest.raises(UnsupportedAttention, match=message):
        response_statistics(model, batch[0], batch[2], batch[1].sum(1))
    signals = attention_signals(model, *batch, EVERY_LAYER)
    model.set_attn_implementation("eager")
    check_implementation(model)
    assert_close(signals, attention_signals(model, *batch, EVERY_LAYER, method="dense"))
    expected = own_logp(model, batch)
    for logp in logp_of_both_passes(model, batch).values():
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)


def test_an_implementation_that_differs_from_eager_attention_is_refused_where_nothing_is_said_of_the_layers():
    with pytest.raises(UnsupportedAttention, match="falcon computes something else with transformers' sdpa than with"):
        check_implementation(zoo.build("falcon/alibi"))
    check_implementation(zoo.build("falcon/alibi,eager"))
    check_implementation(zoo.build("falcon"))


# --- dropout ----------------------------------------------------------------------------------------------------------


def gpt2(**dropout):
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                   **{"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, **dropout})
    )  # fmt: skip


@pytest.mark.parametrize("place", ["attn_pdrop", "embd_pdrop", "resid_pdrop"])
def test_dropout_anywhere_is_refused_where_it_is_at_work(place):
    model, batch = gpt2(**{place: 0.1}).train(), make_batch(LENGTHS)
    ids, attention, response = batch
    for read in (
        lambda: attention_signals(model, *batch, EVERY_LAYER),
        lambda: attention_signals(model, *batch, EVERY_LAYER, method="dense"),
        lambda: forward_statistics(model, ids, response, [0], 6, [(2, 20)]),
        lambda: response_statistics(model, ids, response, attention.sum(1)),
    ):
        with pytest.raises(UnsupportedAttention, match=r"dropout 0.1 in transformer\..*: call model.eval\(\)"):
            read()
    signals = attention_signals(model.eval(), *batch, EVERY_LAYER)
    model.transformer.h[1].train()  # one part of it
    if place != "embd_pdrop":
        with pytest.raises(UnsupportedAttention, match=r"dropout 0.1 in transformer\.h\.1"):
            attention_signals(model, *batch, EVERY_LAYER)
    assert_close(signals, attention_signals(model.eval(), *batch, EVERY_LAYER))


def test_training_mode_without_dropout_is_no_obstacle():
    model, batch = gpt2(), make_batch(LENGTHS)
    expected = attention_signals(model.eval(), *batch, EVERY_LAYER)
    assert_close(attention_signals(model.train(), *batch, EVERY_LAYER), expected)


# --- a batch, and layers, that are none -------------------------------------------------------------------------------


def test_layers_are_chosen_among_those_that_attend():
    assert layers_to_read(zoo.build("bamba"), "middle", 5) == (1, 4)
    with pytest.raises(ValueError, match=r"layers \[6\] are not layers of a model that has 6"):
        layers_to_read(zoo.build("llama"), (0, 6), None)


NOTHING = torch.zeros(0, 5, dtype=torch.long), *[torch.zeros(0, 5, dtype=torch.bool)] * 2
EVERY, NONE = torch.ones(6, 4, dtype=torch.bool), torch.zeros(6, 4, dtype=torch.bool)
SAID = {
    "no sequence": (
        lambda: attention_signals(zoo.build("llama"), *NOTHING),
        r"input_ids of shape \(0, 5\) hold no sequence: hand over at least one",
    ),
    "no local heads": (
        lambda: attention_signals(zoo.build("llama"), *make_batch(LENGTHS), EVERY_LAYER, head_sets=(NONE, EVERY)),
        "the set of local heads is empty, and has no mean: put at least one head into it",
    ),
    "no global heads": (
        lambda: attention_signals(zoo.build("llama"), *make_batch(LENGTHS), EVERY_LAYER, head_sets=(EVERY, NONE)),
        "the set of global heads is empty",
    ),
    "no response": (
        lambda: attention_signals(zoo.build("llama"), *make_batch(LENGTHS)[:2], torch.zeros(2, 52, dtype=torch.bool)),
        "sequence 0 has an empty response",
    ),
    "past the table of positions": (
        lambda: attention_signals(zoo.build("gpt2"), *make_batch([(500, 13)])),
        "a sequence of 513 tokens is longer than the 512 positions of gpt2: cut it to them",
    ),
    "a layer too many": (
        lambda: attention_signals(zoo.build("llama"), *make_batch(LENGTHS), SignalConfig(layers=(6,))),
        r"layers \[6\] are not layers of a model that has 6",
    ),
    "several devices": (
        lambda: attention_signals(torch.nn.DataParallel(zoo.build("llama")), *make_batch(LENGTHS)),
        "DataParallel wraps the model: hand over model.module",
    ),
    "no weights": (
        lambda: attention_signals(zoo.build("llama").to("meta"), *make_batch(LENGTHS)),
        "the model is on the meta device, without weights: load it with from_pretrained",
    ),
    "no model": (
        lambda: attention_signals(torch.nn.Linear(2, 2), *make_batch(LENGTHS)),
        "Linear is not a model of transformers",
    ),
}


@pytest.mark.parametrize("case", SAID.values(), ids=SAID)
def test_what_cannot_be_read_is_said_in_one_line(case):
    read, says = case
    with pytest.raises(ReproError, match=says) as caught:
        read()
    assert isinstance(caught.value, ValueError) and len(str(caught.value).splitlines()) == 1
