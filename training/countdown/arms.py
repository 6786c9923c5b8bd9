"""What a run of the embedded experiment weighs its tokens by, where that does not come from attention."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attention_rhythm.generation.hf import HFGenerator
from training.countdown.controls import CONTROLS, weights_of
from training.countdown.values import Values
from training.measuring import correct
from training.recipes import PuzzleConfig

CEILINGS = ("value_credit", "vine")


def shapes_of(config: PuzzleConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The arguments `weights` or `advantages` of `training.loop.train` for the control of a run; none without one.

    ValueError: no such control.
    """
    if not config.control:
        return {}
    if config.control in CONTROLS:
        words_of = tokenizer.convert_ids_to_tokens
        return {"weights": weights_of(config.control, words_of, config.credit.amplification)}
    if config.control not in CEILINGS:
        raise ValueError(f"control must be one of {', '.join([*CONTROLS, *CEILINGS])}, not {config.control!r}")
    generator = HFGenerator(model, tokenizer)
    values = Values(
        generator,
        tokenizer.convert_ids_to_tokens,
        generator.text,
        correct,
        limit=config.max_new_tokens,
        seed=config.seed,
    )
    if config.control == "vine":
        return {"advantages": values.advantages}
    return {"weights": values.weights(config.credit.amplification, config.credit.quantile)}
