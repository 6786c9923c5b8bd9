"""What comes with a model about generating: which tokens end a response, which are no text, which are penalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from attention_rhythm.generation.base import GenerationError

# Settings of a generation config that change which token is most likely, with the value that leaves it alone.
# Temperature, top_k, top_p and their like are not among them: `SamplingConfig` decides how tokens are drawn.
_ALTERING: dict[str, Any] = {
    "bad_words_ids": None, "begin_suppress_tokens": None, "dola_layers": None, "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0, "exponential_decay_length_penalty": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "guidance_scale": 1.0, "min_length": 0, "min_new_tokens": 0, "no_repeat_ngram_size": 0,
    "num_beams": 1, "penalty_alpha": 0.0, "sequence_bias": None, "stop_strings": None, "suppress_tokens": None,
    "token_healing": False, "watermarking_config": None,
}  # fmt: skip


def stop_token_ids(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a response: those of a model's generation config and the tokenizer's end of sequence."""
    declared = config.eos_token_id if config else None
    stops = set(declared if isinstance(declared, list) else [declared]) | {tokenizer.eos_token_id}
    return {int(s) for s in stops if s is not None}


def repetition_penalty(config: GenerationConfig | None) -> float:
    """The factor by which a generation config makes tokens less likely that were there before; 1: none.

    GenerationError: the config asks for something else that changes which token is the most likely.
    """
    for name, neutral in _ALTERING.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral and value != []:
            raise GenerationError(
                f"the model's generation config sets {name}={value!r}, which is not applied here: take it out of"
                " generation_config.json, or set model.generation_config to one without it"
            )
    penalty = getattr(config, "repetition_penalty", None)
    return 1.0 if penalty is None else float(penalty)


class ResponseText:
    """From the token ids of a response to what was written, which graders read.

    Special tokens that were added for the answer (`<answer>`, `<think>`) are text. What only gives a response its place
    is none: begin, end and padding of a sequence, stop tokens, and at the very end what the chat template puts behind a
    turn.

    Args:
        tokenizer: anything with `decode` and `eos_token_id`.
        stops: see `stop_token_ids`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: set[int]):
        self.tokenizer = tokenizer
        named = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
        self.structure = stops | {int(token) for token in named if token is not None}
        self.behind_a_turn = _behind_a_turn(tokenizer)

    def __call__(self, token_ids: Sequence[int]) -> str:
        written = [token for token in token_ids if token not in self.structure]
        while written and written[-1] in self.behind_a_turn:
            written.pop()
        return str(self.tokenizer.decode(written, skip_special_tokens=False))


def _behind_a_turn(tokenizer: Any) -> set[int]:
    """Special tokens that the chat template writes after what the assistant has said."""
    if not getattr(tokenizer, "chat_template", None):
        return set()
    from jinja2 import TemplateError  # transformers needs it for chats, and for nothing else

    said = "the assistant's turn"
    chat = [{"role": "user", "content": "the user's turn"}, {"role": "assistant", "content": said}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError:  # a template of another kind of chat
        return set()
    behind = text.rpartition(said)[2]
    return {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special and str(token) in behind
    }
