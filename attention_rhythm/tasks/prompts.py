"""Prompts, in one place: the paper's system line, then `Context: ...` (if any) and `Question: ...` (digest, Protocols).

Countdown and zebra puzzles have an instruction of their own, because their graders read the answer elsewhere or
differently. A tokenizer with a chat template gets a chat; one without (a base model) gets plain text with a cue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attention_rhythm.errors import ReproError
from attention_rhythm.tasks.base import LETTERS, Problem

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
TASK_INSTRUCTIONS = {
    "countdown": "Please reason step by step, and give your final equation in <answer> </answer> tags on the last "
    "line, for example <answer> (1 + 2) / 3 </answer>.",
    "zebra": r"Please reason step by step, and put only the name that answers the question within \boxed{}.",
}
CHOICE_INSTRUCTION = r"Please reason step by step, and put the letter of your final answer within \boxed{}."
BASE_CUE = "Answer:"  # ours: a base model needs to be told that the question has ended


def instruction(problem: Problem) -> str:
    """The system line for this problem."""
    default = INSTRUCTION if problem.choices is None else CHOICE_INSTRUCTION
    return TASK_INSTRUCTIONS.get(problem.task, default)


def user_text(problem: Problem) -> str:
    """Context, question and lettered options, one below the other."""
    lines = [] if problem.context is None else [f"Context: {problem.context}"]
    lines.append(f"Question: {problem.question}")
    lines += [f"{letter}: {text}" for letter, text in zip(LETTERS, problem.choices or (), strict=False)]
    return "\n".join(lines)


def messages(problem: Problem) -> list[dict[str, str]]:
    """The prompt as a chat."""
    return [
        {"role": "system", "content": instruction(problem)},
        {"role": "user", "content": user_text(problem)},
    ]


def build_prompt(problem: Problem, tokenizer: Any) -> str:
    """The prompt as text. tokenizer: a Hugging Face tokenizer; its chat template, if it has one, is used.

    A template that refuses a system line gets the instruction in the user's turn.

    ReproError: a chat template that refuses that, too.
    """
    together = f"{instruction(problem)}\n\n{user_text(problem)}"
    if not tokenizer.chat_template:
        return f"{together}\n{BASE_CUE}"
    from jinja2 import TemplateError  # transformers needs it for chats, and for nothing else

    def render(chat: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    try:
        return render(messages(problem))
    except TemplateError:
        alone = [{"role": "user", "content": together}]
    try:
        return render(alone)
    except TemplateError as error:
        raise ReproError(
            f"the tokenizer's chat template refuses a question ({error}); give the model's folder a"
            " chat_template.jinja that takes one"
        ) from error


def build_prompt_ids(problem: Problem, tokenizer: Any) -> list[int]:
    """The prompt as token ids. A chat template writes its own special tokens; plain text gets the tokenizer's.

    ReproError: no tokens at all, as from a tokenizer whose files are missing.
    """
    prompt = build_prompt(problem, tokenizer)
    ids = list(tokenizer(prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"])
    if not ids:
        raise ReproError("the tokenizer makes no tokens of a prompt: its files are missing from the model's folder")
    return ids


def prompts_that_fit(
    problems: Sequence[Problem], tokenizer: Any, context: int | None, max_new_tokens: int
) -> dict[str, list[int]]:
    """The prompt of each problem by its id. ReproError, naming the problem, if one leaves no room for a response.

    context: tokens that the model was made for, None where its configuration does not say.
    """
    prompts = {problem.id: build_prompt_ids(problem, tokenizer) for problem in problems}
    for name, ids in prompts.items():
        if context is not None and len(ids) + max_new_tokens > context:
            raise ReproError(
                f"problem {name}: a prompt of {len(ids)} tokens and a response of {max_new_tokens} do not fit the"
                f" model's context of {context}; lower max_new_tokens"
            )
    return prompts
