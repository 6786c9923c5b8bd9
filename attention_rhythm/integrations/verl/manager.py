"""verl's reward manager, with special tokens that were added for the answer kept in what is graded."""

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from attention_rhythm.generation.conventions import ResponseText, stop_token_ids


class WrittenRewardManager(NaiveRewardManager):
    """Grades what the generators of this library call the text of a response."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, *others: Any, **more: Any):
        super().__init__(config, _Written(tokenizer), compute_score, *others, **more)


class _Written:
    """A tokenizer that can only decode."""

    def __init__(self, tokenizer: Any):
        self.text = ResponseText(tokenizer, stop_token_ids(None, tokenizer))

    def decode(self, token_ids: Any, skip_special_tokens: bool = True) -> str:
        return self.text([int(token) for token in token_ids])
