"""One place for prompts: the paper's system line, then context, question and options."""

import pytest

from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.prompts import build_prompt, build_prompt_ids, user_text

PAPER = r"Please reason step by step, and put your final answer within \boxed{}."


class Chat:
    chat_template = "some template"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [0] * add_special_tokens + [ord(c) for c in text]}


class Base(Chat):
    chat_template = None


def test_the_papers_prompt_as_a_chat():
    problem = Problem("a", "1 + 1?", "2", "gsm8k")
    assert build_prompt(problem, Chat()) == f"<system>{PAPER}<user>Question: 1 + 1?<assistant>"


def test_a_base_model_gets_plain_text():
    problem = Problem("a", "1 + 1?", "2", "gsm8k")
    assert build_prompt(problem, Base()) == f"{PAPER}\n\nQuestion: 1 + 1?\nAnswer:"


def test_context_comes_first_and_options_are_lettered():
    problem = Problem("a", "Which?", "B", "crossthink_qa", context="Read this.", choices=("one", "two"))
    assert user_text(problem) == "Context: Read this.\nQuestion: Which?\nA: one\nB: two"
    assert "letter" in build_prompt(problem, Chat())


@pytest.mark.parametrize(("task", "words"), [("countdown", "<answer> (1 + 2) / 3 </answer>"), ("zebra", "name")])
def test_puzzles_have_their_own_instruction(task, words):
    prompt = build_prompt(Problem("a", "?", "x", task), Chat())
    assert words in prompt and PAPER not in prompt


def test_ids_have_special_tokens_once():
    problem = Problem("a", "?", "x", "gsm8k")
    assert build_prompt_ids(problem, Chat())[0] == ord("<")  # the template's own
    assert build_prompt_ids(problem, Base())[0] == 0  # the tokenizer's
