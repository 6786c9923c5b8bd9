"""Models with PEFT's adapters: LoRA and IA3 are read as the merged model is; virtual tokens are refused by name."""

import copy

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import attention_signals
from tests.support import zoo
from tests.support.models import Letters, make_batch
from tests.support.reading import EVERY_LAYER, logp_of_both_passes, own_logp
from training.actors.attn import fused_pass

BATCH = make_batch([(12, 30), (3, 9)])
INSIDE = {
    "LoRA": lambda: LoraConfig(
        r=4, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.1
    ),
    "IA3": lambda: IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}
VIRTUAL = {
    "PROMPT_TUNING": PromptTuningConfig,
    "PREFIX_TUNING": PrefixTuningConfig,
    "P_TUNING": PromptEncoderConfig,
}


def adapted(config, name="llama"):
    """A model of the zoo with an adapter whose weights are random, in eval mode."""
    config.task_type = "CAUSAL_LM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(zoo.build(name), config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "ia3" in parameter_name:
                    parameter.copy_(torch.rand(parameter.shape) + 0.5)
    return model.eval()


@pytest.mark.parametrize("method", ["streaming", "dense"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3_moe"])
@pytest.mark.parametrize("kind", INSIDE)
def test_signals_are_those_of_the_merged_model(kind, name, method):
    if name == "qwen3_moe":
        config = INSIDE[kind]()
        config.target_modules = {"q_proj", "k_proj", "v_proj"}  # its experts are no linear layers
        if kind == "IA3":
            config.feedforward_modules = set()
    else:
        config = INSIDE[kind]()
    model = adapted(config, name)
    merged = copy.deepcopy(model).merge_and_unload()
    read = attention_signals(model, *BATCH, EVERY_LAYER, method=method)
    expected = attention_signals(merged, *BATCH, EVERY_LAYER, method=method)
    torch.testing.assert_close(read.waad, expected.waad, atol=2e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(read.fai, expected.fai, atol=1e-5, rtol=0, equal_nan=True)
    without = attention_signals(zoo.build(name), *BATCH, EVERY_LAYER)
    assert (read.waad - without.waad).abs().nan_to_num().max() > 0.1  # the adapter is at work


@pytest.mark.parametrize("kind", INSIDE)
def test_log_probabilities_and_completions_are_those_of_the_merged_model(kind):
    model = adapted(INSIDE[kind]())
    merged = copy.deepcopy(model).merge_and_unload()
    expected = own_logp(merged, BATCH)
    reading = fused_pass(model, *BATCH, EVERY_LAYER, bf16=False)
    for logp in (*logp_of_both_passes(model, BATCH).values(), reading.old_logp):
        torch.testing.assert_close(logp, expected, atol=3e-4, rtol=0, equal_nan=True)
    prompts, sampling = [[5, 9, 13], [21]], SamplingConfig(10, temperature=0, ignore_eos=True)
    ours, theirs = (HFGenerator(m, Letters()).generate(prompts, sampling) for m in (model, merged))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]


def test_dropout_of_an_adapter_in_training_mode_is_refused():
    model = adapted(INSIDE["LoRA"]()).train()
    for method in ("streaming", "dense"):
        with pytest.raises(UnsupportedAttention, match=r"dropout 0.1 in .*lora_dropout.* call model.eval\(\)"):
            attention_signals(model, *BATCH, method=method)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused_by_name(kind):
    model = adapted(VIRTUAL[kind](num_virtual_tokens=4))
    for work in (
        lambda: attention_signals(model, *BATCH),
        lambda: attention_signals(model, *BATCH, method="dense"),
        lambda: fused_pass(model, *BATCH, EVERY_LAYER, bf16=False),
        lambda: logp_of_both_passes(model, BATCH),
    ):
        with pytest.raises(UnsupportedAttention, match=f"{kind} puts virtual tokens before the prompt"):
            work()
