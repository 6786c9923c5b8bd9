"""Which tokens of a response are text, and which only give it its place."""

from copy import deepcopy

import pytest
from transformers import AutoTokenizer, GenerationConfig

from attention_rhythm.generation.base import GenerationError
from attention_rhythm.generation.conventions import ResponseText, repetition_penalty, stop_token_ids
from attention_rhythm.tasks.countdown import countdown_reward
from tests.support.models import Letters

CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model_folder):
    """Its special tokens: <eos>, the marks of the chat, and the answer's."""
    tokenizer = deepcopy(AutoTokenizer.from_pretrained(tiny_model_folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>", "<answer>", "</answer>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("so <answer>19</answer>", "so <answer>19</answer>"),
        ("so <answer>19</answer><eos>", "so <answer>19</answer>"),
        ("so <answer>19</answer><|end|>", "so <answer>19</answer>"),
        ("so <answer>19</answer><|end|><eos><eos>", "so <answer>19</answer>"),
        ("<eos>a<eos>b", "ab"),
        ("a<|end|>b", "a<|end|>b"),  # not at the end: written by the model, and seen by the grader
        ("", ""),
    ],
)
def test_the_text_of_a_response(tokenizer, written, text):
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert ResponseText(tokenizer, stop_token_ids(None, tokenizer))(ids) == text


def test_a_right_answer_in_special_tags_is_worth_one(tokenizer):
    ids = tokenizer("<answer>19 + 36 + 55 - 7</answer><eos>", add_special_tokens=False)["input_ids"]
    assert countdown_reward(tokenizer.decode(ids, skip_special_tokens=True), [19, 36, 55, 7], 103) == 0
    assert countdown_reward(ResponseText(tokenizer, {0})(ids), [19, 36, 55, 7], 103) == 1.0


def test_a_tag_that_the_instruction_names_stays_at_the_end(tokenizer):
    tokenizer.chat_template = "Write <answer> </answer>. " + CHAT
    ids = tokenizer("<answer>1</answer>", add_special_tokens=False)["input_ids"]
    assert ResponseText(tokenizer, {0})(ids) == "<answer>1</answer>"


def test_a_template_that_takes_no_chat_takes_nothing_from_the_text(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    ids = tokenizer("a<|end|>", add_special_tokens=False)["input_ids"]
    assert ResponseText(tokenizer, {0})(ids) == "a<|end|>"


def test_anything_that_decodes_is_a_tokenizer():
    assert ResponseText(Letters(), {7})([5, 7, 0, 30, 6]) == "5 6"  # 0 pads, 30 ends


def test_the_repetition_penalty_of_a_config():
    assert repetition_penalty(None) == repetition_penalty(GenerationConfig()) == 1
    assert repetition_penalty(GenerationConfig(repetition_penalty=1.05, top_p=0.8, temperature=0.7)) == 1.05
    with pytest.raises(GenerationError, match="sets no_repeat_ngram_size=2, which is not applied here"):
        repetition_penalty(GenerationConfig(no_repeat_ngram_size=2))
