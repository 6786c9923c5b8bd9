"""Signals and log-probabilities of every type of causal LM are those of its float64 pass, or refused by name.

docs/models.md says which, and is held to it here. What a verdict is: `tests/support/verdicts.py`.
"""

from dataclasses import replace

import pytest

from attention_rhythm.signals import architecture
from tests.support import verdicts as support
from tests.support import zoo
from tests.support.generation import generation_verdict
from tests.support.models_page import PAGE, row, rows
from tests.support.verdicts import verdicts

EVERYTHING = [*zoo.names(), *zoo.VARIANTS]
FEW = [
    "llama", "gemma2", "gemma2/eager", "gpt_oss", "granite_swa", "bamba", "qwen3_next", "bart", "phi3/longrope",
    "deepseek_v32", "bert/encoder", "mamba2",
]  # fmt: skip
# Signals: attention of their own, outside transformers' interface; tokens chosen or compressed by the layers; layers
# that attend twice, or have no number; no attention; not causal.
NO_SIGNALS = {
    "axk2", "axk2/topk-256", "bert/encoder", "big_bird", "bloom", "blt", "codegen", "deepseek_v32",
    "deepseek_v32/topk-256", "deepseek_v4", "doge", "doge/keep-all", "doge/window", "falcon", "falcon/alibi",
    "falcon/alibi,eager", "falcon_mamba", "glm_moe_dsa", "gpt_neo", "gpt_neox_japanese", "gptj", "hrm_text", "hy_v4",
    "mamba", "mamba2", "megatron-bert", "mpt", "mvp", "openai-gpt", "qwen4_exp_text", "rembert", "roformer", "rwkv",
    "trocr", "xglm", "xlm", "xlnet", "xlstm", "zamba", "zamba2",
}  # fmt: skip
NO_LOGPROBS = {"bert/encoder", "falcon/alibi", "gemma2", "vaultgemma", "xlnet"}  # not causal, or other than eager
# In transformers' pass over a whole sequence, what comes later chooses or joins earlier tokens, or their frequencies.
NOT_CAUSAL = {
    "axk2", "bert/encoder", "deepseek_v32", "deepseek_v4", "doge", "glm_moe_dsa", "hunyuan_v1_dense/dynamic", "hy_v4",
    "llama/dynamic-rope", "phi3/longrope", "xlnet",
}  # fmt: skip
SINKS_NOT_SHOWN = {"granite_swa", "granitemoe_swa"}  # by eager maps: method="dense" would leave them out
IMPLICIT = {
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "mamba", "mamba2", "minimax",
    "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "zamba", "zamba2",
}  # fmt: skip
PEOPLE_RUN = {
    "bamba", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon_h1",
    "gemma2/eager", "gemma3", "gemma3_text", "glm4", "glm4_moe", "gpt_oss", "granite", "granitemoehybrid", "jamba",
    "lfm2", "llama", "llama4_text", "ministral", "ministral3", "mistral", "mixtral", "nemotron_h", "olmo2", "olmo3",
    "phi3", "phi4_multimodal", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "smollm3",
}  # fmt: skip


def check(name):
    model = zoo.build(name)
    found = verdicts(model)
    expected = {
        "streaming": name not in NO_SIGNALS,
        "fused": name not in NO_SIGNALS,
        "logprobs": name not in NO_LOGPROBS,
    }
    assert {way: getattr(found, way) == "right" for way in expected} == expected, found
    assert found.causal == (name not in NOT_CAUSAL)
    assert (found.implicit == "right") == (name in IMPLICIT), found.implicit
    if name not in NO_SIGNALS:
        assert (found.dense == "right") == (name not in SINKS_NOT_SHOWN), found.dense
    for verdict in (found.streaming, found.dense, found.fused, found.logprobs, found.implicit):
        assert verdict in ("right", "none") or verdict.startswith("refused: "), verdict
        assert not verdict.startswith("refused: ") or model.config.model_type in verdict
    assert rows(PAGE.read_text(encoding="utf-8"))[name] == row(name, found, generation_verdict(zoo.build(name)))


def shifted(read, **by):
    """A reading whose values are off by so much."""

    def wrong(*args, **kwargs):
        found = read(*args, **kwargs)
        return replace(found, **{name: getattr(found, name) + value for name, value in by.items()})

    return wrong


@pytest.mark.parametrize(
    ("by", "says"),
    [({"waad": 3e-4}, "WAAD off by 3e-04"), ({"fai": 2e-4}, "FAI off by 2e-04"), ({"layers": 1}, "layers")],
)
def test_a_verdict_says_what_is_wrong(monkeypatch, by, says):
    monkeypatch.setattr(support, "attention_signals", shifted(support.attention_signals, **by))
    found = verdicts(zoo.build("qwen3"))
    assert (
        says in found.streaming and found.streaming.startswith("wrong: ") and found.fused == found.logprobs == "right"
    )


def test_a_log_probability_of_a_batch_with_other_mates_is_wrong(monkeypatch):
    """Frequencies of the longest sequence for all of them, as transformers has them."""
    monkeypatch.setattr(architecture, "length_matters", lambda model: False)
    found = verdicts(zoo.build("phi3/longrope"))
    assert "log-probability off by" in found.logprobs and "WAAD off by" in found.streaming


@pytest.mark.parametrize("name", FEW)
def test_a_few_types(name):
    check(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in FEW])
def test_every_type_and_variant(name):
    check(name)


def test_signals_of_125_types_are_right_and_those_that_people_run_are_among_them():
    assert len(set(zoo.names()) - NO_SIGNALS) >= 125
    assert set(EVERYTHING) - NO_SIGNALS - NO_LOGPROBS >= PEOPLE_RUN


def test_every_type_and_variant_has_a_row_on_the_page():
    assert set(rows(PAGE.read_text(encoding="utf-8"))) == set(EVERYTHING)
