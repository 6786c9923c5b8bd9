"""The sections of the report. What stands in them is registered where it is built (registry.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    text: str


TOKENS = "every-token"  # the section with the token view
SECTIONS = (
    Section(
        "summary",
        "Summary",
        "Each claim that can be held against a result of this profile. The verdict is read off our interval alone.",
    ),
    Section(
        "rhythm",
        "The rhythm (Section 4.2)",
        "WAAD says how far back the local heads look, FAI how much later tokens look at this one. The paper claims "
        "that WAAD peaks fall on uncertain tokens, and FAI peaks on them or right after.",
    ),
    Section(
        TOKENS,
        "Every token",
        "The sampled responses with all signals. WAAD, FAI and their peaks follow the paper's analysis (every layer, "
        "FAI to the end of the response); γ follows training (five middle layers, FAI over the next 10 to 100 tokens).",
    ),
    Section(
        "perturbation",
        "Changing one token (Section 4.3)",
        "A token is replaced by another likely one, and the response is continued greedily. If anchors matter, less of "
        "the original text survives a change at high FAI.",
    ),
    Section(
        "token-values",
        "Which tokens change the outcome",
        "The value of a prefix is the share of its continuations that are right; a token matters as far as it changes "
        "that value. Lifts say how much more of the change a choice of tokens holds than as many tokens by chance. "
        "Method: docs/token-values.md.",
    ),
    Section(
        "training",
        "Credit in training (Section 5)",
        "A policy of about a million parameters learns Countdown puzzles with each credit strategy: same warm start, "
        "same puzzles, same random numbers; only γ differs. The last table asks which tokens get credit: on the "
        "sampled responses of the model above, under other answers to what the paper leaves open.",
    ),
    Section(
        "accuracy",
        "Accuracy on benchmarks",
        "The model as it was handed in, and models trained and evaluated into evaluations/, beside the paper's.",
    ),
)
