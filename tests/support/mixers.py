"""Tiny models with random weights whose mixers have no attention matrix, one of each kind that transformers has."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES = dict(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
MAMBA2 = dict(mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16)
DELTA = dict(
    layer_types=["linear_attention", "linear_attention", "full_attention"] * 2, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
)  # fmt: skip
KINDS = {  # model type: settings of its own, what is exact to which relative error
    "mamba": (dict(state_size=4, num_hidden_layers=2), 1e-4),
    "zamba": (
        dict(n_mamba_heads=2, mamba_d_state=4, mamba_dt_rank=4, num_key_value_heads=4,
             layers_block_type=["linear_attention", "hybrid", "linear_attention"] * 2, attention_hidden_size=64,
             attention_head_dim=16, use_mamba_kernels=False),
        1e-4,
    ),
    "mamba2": (dict(num_heads=4, head_dim=16, state_size=8, n_groups=2, chunk_size=16), 1e-5),
    "bamba": (dict(attn_layer_indices=[1, 4], **MAMBA2), 1e-5),
    "qwen3_next": (
        dict(**DELTA, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
             shared_expert_intermediate_size=16),
        1e-6,
    ),
    "qwen3_5_text": (DELTA, 1e-6),
    "kimi_linear": (
        dict(layer_types=DELTA["layer_types"], linear_head_dim=8, linear_num_heads=4, num_key_value_heads=4,
             q_lora_rank=None, mlp_layer_types=["dense"] * 6),
        1e-6,
    ),
    "minimax": (
        dict(layer_types=["full_attention", "linear_attention"] * 3, block_size=16, num_local_experts=2,
             num_experts_per_tok=1, sliding_window=None),
        1e-6,
    ),
}  # fmt: skip


def build_mixers(kind: str, seed: int = 3) -> PreTrainedModel:
    """A tiny model; matrices are drawn large, so that maps reach further back than a token."""
    own, _ = KINDS[kind]
    config_class = CONFIG_MAPPING[kind]
    known = config_class.__dataclass_fields__
    shared = {name: value for name, value in SIZES.items() if name in known or name in config_class.attribute_map}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_class(**{**shared, **own})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2 and "A_log" not in name:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
                elif "A_log" in name or "dt_bias" in name:
                    parameter.uniform_(-3, -1)  # slow decays
    return model
