"""Tiny models with random weights of every type of causal LM that the installed transformers has.

`build(name)`: sizes are small and the same for all; `SETTINGS` are what a type needs beyond them. Windows, chunks, soft
caps and sinks are such that they matter within a few tokens. `VARIANTS` are other settings of a type.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = V = 128
WINDOW = S = 16  # tokens
SIZES = dict(
    vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512, moe_intermediate_size=32,
    shared_expert_intermediate_size=32, num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2,
    n_shared_experts=1, num_shared_experts=1, n_group=1, topk_group=1, kv_lora_rank=16, q_lora_rank=24,
    qk_rope_head_dim=8, v_head_dim=12, qk_nope_head_dim=16, first_k_dense_replace=1, pad_token_id=0, bos_token_id=1,
    eos_token_id=2, attention_dropout=0.0, router_jitter_noise=0.0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, dropout=0.0,
    # the same under the names that other configurations have for them
    n_embd=64, n_layer=6, n_head=4, n_positions=512, d_model=64, ffn_dim=96, decoder_layers=6, encoder_layers=2,
    decoder_attention_heads=4, encoder_attention_heads=4, decoder_ffn_dim=96, encoder_ffn_dim=96, num_layers=6,
    num_heads=4, n_layers=6, n_heads=4, max_seq_len=512, n_inner=96, attention_heads=4, emb_dim=64, d_inner=96,
    d_head=16, dff=96,
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any] | None] = {
    "afmoe": dict(num_dense_layers=1, sliding_window=S, route_scale=1.5, mup_enabled=True, layer_types=None),
    "axk2": dict(
        head_dim=8,
        num_key_value_heads=4,
        index_topk=8,
        index_head_dim=16,
        index_n_heads=4,
        layer_types=["indexed_attention"] * 6,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
        n_group=1,
        topk_group=1,
        gated_norm_rank=4,
    ),
    "bamba": dict(attn_layer_indices=[1, 4], mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16),
    "bert": dict(is_decoder=True),
    "bert-generation": dict(is_decoder=True),
    "camembert": dict(is_decoder=True),
    "data2vec-text": dict(is_decoder=True),
    "electra": dict(is_decoder=True, embedding_size=64),
    "ernie": dict(is_decoder=True),
    "roberta": dict(is_decoder=True),
    "roberta-prelayernorm": dict(is_decoder=True),
    "roc_bert": dict(
        is_decoder=True, pronunciation_vocab_size=V, shape_vocab_size=V, pronunciation_embed_dim=16, shape_embed_dim=16
    ),
    "xlm-roberta": dict(is_decoder=True),
    "xlm-roberta-xl": dict(is_decoder=True),
    "xmod": dict(is_decoder=True, default_language="en_XX"),
    "rembert": dict(is_decoder=True, input_embedding_size=32, output_embedding_size=48),
    "roformer": dict(is_decoder=True, embedding_size=64),
    "megatron-bert": dict(is_decoder=True),
    "big_bird": dict(is_decoder=True, attention_type="original_full"),
    "qdqbert": dict(is_decoder=True),
    "bigbird_pegasus": dict(attention_type="original_full"),
    "blenderbot": {},
    "bloom": dict(hidden_size=64, n_head=4),
    "cohere": dict(logit_scale=0.3, use_qk_norm=True),
    "cohere2": dict(
        logit_scale=0.3,
        sliding_window=S,
        layer_types=["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2,
    ),
    "cohere2_moe": dict(
        logit_scale=0.3,
        sliding_window=S,
        layer_types=["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2,
        mlp_layer_types=["sparse"] * 6,
    ),
    "cohere_compass_text": dict(
        pad_token_id=0,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]},
        },
        sliding_window=S,
        layer_types=["sliding_attention"] * 3 + ["full_attention"] * 3,
    ),
    "ctrl": dict(dff=96),
    "cwm": dict(sliding_window=S, layer_types=["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"] * 2),
    "dbrx": dict(
        attn_config=dict(clip_qkv=2.0, kv_n_heads=2, attn_pdrop=0.0, rope_theta=10000.0),
        ffn_config=dict(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2, hidden_size=64),
        d_model=64,
        n_heads=4,
        n_layers=6,
        max_seq_len=512,
    ),
    "deepseek_v2": dict(num_key_value_heads=4),
    "deepseek_v3": dict(num_key_value_heads=4, head_dim=8, n_group=2, topk_group=1),
    "deepseek_v32": dict(
        num_key_value_heads=4,
        n_group=2,
        topk_group=1,
        index_topk=8,
        index_head_dim=16,
        index_n_heads=4,
        layer_types=["indexed_attention"] * 6,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
    ),
    "deepseek_v4": dict(
        num_key_value_heads=1,
        sliding_window=S,
        index_topk=4,
        index_head_dim=16,
        index_n_heads=4,
        o_groups=2,
        o_lora_rank=16,
        layer_types=["heavily_compressed_attention", "compressed_sparse_attention"] * 3,
        mlp_layer_types=["moe"] * 6,
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    ),
    "diffllama": dict(num_key_value_heads=2),
    "doge": dict(num_key_value_heads=2, keep_window_size=8),
    "dots1": dict(
        sliding_window=S, max_window_layers=2, layer_types=["full_attention"] * 2 + ["sliding_attention"] * 4
    ),
    "ernie4_5_moe": dict(
        moe_k=2, moe_num_experts=4, moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=5
    ),
    "exaone4": dict(sliding_window=S, sliding_window_pattern=3, layer_types=None),
    "exaone_moe": dict(
        sliding_window=S, sliding_window_pattern=3, layer_types=None, mlp_layer_types=["dense"] + ["sparse"] * 5
    ),
    "falcon": dict(alibi=False, num_kv_heads=2, new_decoder_architecture=True, ffn_hidden_size=96),
    "falcon_h1": dict(
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_d_ssm=128,
        mamba_d_state=16,
        mamba_chunk_size=16,
        lm_head_multiplier=0.7,
        key_multiplier=1.3,
        attention_in_multiplier=1.2,
    ),
    "gemma2": dict(
        sliding_window=S,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention"] * 3,
    ),
    "gemma3_text": dict(
        sliding_window=S,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        final_logit_softcapping=8.0,
    ),
    "gemma3n_text": dict(
        sliding_window=S,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        intermediate_size=[96] * 6,
        activation_sparsity_pattern=[0.5] * 2 + [0.0] * 4,
        vocab_size_per_layer_input=V,
        hidden_size_per_layer_input=16,
        laurel_rank=8,
        final_logit_softcapping=8.0,
    ),
    "gemma4_text": dict(
        sliding_window=S,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=V,
        hidden_size_per_layer_input=16,
        final_logit_softcapping=8.0,
        per_layer_config={"02": {"head_dim": 32}, "05": {"head_dim": 32}},
    ),
    "gemma4_unified_text": dict(
        sliding_window=S,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=0,
        final_logit_softcapping=8.0,
        per_layer_config={"02": {"head_dim": 32}, "05": {"head_dim": 32}},
    ),
    "glm4_moe": dict(use_qk_norm=True),
    "glm4_moe_lite": dict(num_key_value_heads=4, mlp_layer_types=["dense"] + ["sparse"] * 5),
    "glm_moe_dsa": dict(
        num_key_value_heads=4,
        index_topk=8,
        index_head_dim=16,
        index_n_heads=4,
        layer_types=["indexed_attention"] * 6,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
        indexer_types=["full"] * 6,
    ),
    "gpt2": dict(scale_attn_by_inverse_layer_idx=True),
    "gpt_bigcode": dict(multi_query=True),
    "gpt_neo": dict(attention_types=[[["global", "local"], 3]], window_size=S),
    "gpt_neox": dict(is_decoder=True),
    "gptj": dict(rotary_dim=8),
    "gpt_oss": dict(sliding_window=S, layer_types=["sliding_attention", "full_attention"] * 3),
    "granite": dict(attention_multiplier=0.4, logits_scaling=3.0, embedding_multiplier=4.0, residual_multiplier=0.5),
    "granite_swa": dict(
        sliding_window=S,
        attention_multiplier=0.4,
        logits_scaling=3.0,
        layer_types=["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"] * 2,
        layer_rope_theta=[1e4] * 6,
    ),
    "granitemoe": dict(attention_multiplier=0.4, logits_scaling=3.0, embedding_multiplier=4.0, residual_multiplier=0.5),
    "granitemoe_swa": dict(
        sliding_window=S,
        attention_multiplier=0.4,
        logits_scaling=3.0,
        layer_types=["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"] * 2,
        layer_rope_theta=[1e4] * 6,
    ),
    "granitemoehybrid": dict(
        attention_multiplier=0.4,
        logits_scaling=3.0,
        layer_types=["mamba", "mamba", "attention"] * 2,
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_d_state=16,
        mamba_chunk_size=16,
        shared_intermediate_size=32,
        position_embedding_type="nope",
    ),
    "granitemoeshared": dict(attention_multiplier=0.4, logits_scaling=3.0, shared_intermediate_size=32),
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": dict(moe_topk=2, num_experts=4),
    "hy_v3": dict(mlp_layer_types=["dense"] + ["sparse"] * 5),
    "hy_v4": dict(
        num_key_value_heads=4,
        index_topk=8,
        index_head_dim=16,
        index_n_heads=4,
        layer_types=["indexed_attention"] * 6,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
        indexer_types=["full"] * 6,
        hc_mult=2,
    ),
    "hyperclovax": dict(
        attention_multiplier=0.4, logits_scaling=0.5, residual_multiplier=0.7, embedding_multiplier=3.0
    ),
    "inkling_text": dict(
        sliding_window_size=S,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=16,
        d_rel=4,
        rel_extent=64,
        layer_types=["hybrid_sliding", "hybrid_sliding", "hybrid"] * 2,
        mlp_layer_types=["sparse"] * 6,
        unpadded_vocab_size=120,
    ),
    "jamba": dict(
        attn_layer_period=3,
        attn_layer_offset=2,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
        num_experts=2,
    ),
    "jetmoe": dict(kv_channels=16, num_key_value_heads=2, num_attention_heads=4),
    "kimi_linear": dict(
        num_key_value_heads=4,
        num_experts_per_token=2,
        q_lora_rank=None,
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
        linear_head_dim=16,
        linear_num_heads=4,
    ),
    "laguna": dict(
        sliding_window=S,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"] * 2,
        num_attention_heads_per_layer=[4] * 6,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
    ),
    "lfm2": dict(layer_types=["conv", "conv", "full_attention"] * 2, full_attn_idxs=[2, 5]),
    "lfm2_moe": dict(layer_types=["conv", "conv", "full_attention"] * 2, num_dense_layers=1),
    "llama4_text": dict(
        attention_chunk_size=S,
        no_rope_layers=[1, 1, 0] * 2,
        layer_types=["chunked_attention", "chunked_attention", "full_attention"] * 2,
        intermediate_size_mlp=96,
        moe_layers=[1, 3, 5],
        floor_scale=8,
        num_experts_per_tok=1,
    ),
    "longcat_flash": dict(
        head_dim=8,
        num_layers=4,
        num_key_value_heads=4,
        ffn_hidden_size=96,
        moe_topk=2,
        zero_expert_num=2,
        expert_ffn_hidden_size=32,
    ),
    "mamba": dict(state_size=8),
    "mamba2": dict(num_heads=8, head_dim=16, state_size=16, n_groups=2, chunk_size=16, hidden_size=64),
    "falcon_mamba": dict(state_size=8),
    "mellum": dict(
        sliding_window=S,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"] * 2,
        mlp_layer_types=["sparse"] * 6,
    ),
    "mimo_v2_flash": dict(
        sliding_window=S,
        head_dim=24,
        v_head_dim=16,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"] * 2,
        mlp_layer_types=["dense"] + ["sparse"] * 5,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=24,
        swa_v_head_dim=16,
    ),
    "minicpm3": dict(num_key_value_heads=4, dim_model_base=32, scale_depth=1.4, scale_emb=3),
    "minimax": dict(sliding_window=None, layer_types=["full_attention", "linear_attention"] * 3, block_size=16),
    "minimax_m3_vl_text": dict(
        index_n_heads=2,
        index_head_dim=16,
        index_block_size=8,
        index_topk_blocks=2,
        index_local_blocks=1,
        dense_intermediate_size=96,
        shared_intermediate_size=32,
        rotary_dim=8,
        mlp_layer_types=["sparse"] * 6,
    ),
    "ministral": dict(sliding_window=S, layer_types=["sliding_attention", "full_attention"] * 3),
    "ministral3": dict(sliding_window=S),
    "mistral": dict(sliding_window=S),
    "mixtral": dict(sliding_window=S),
    "modernbert-decoder": dict(
        local_attention=2 * S,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"] * 2,
        embedding_dropout=0.0,
        mlp_dropout=0.0,
    ),
    "moshi": dict(
        sliding_window=S,
        ffn_dim=96,
        depth_decoder_config=dict(
            hidden_size=32,
            input_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            ffn_dim=64,
            vocab_size=V,
            audio_vocab_size=16,
        ),
    ),
    "phi4_multimodal": dict(
        sliding_window=S,
        vision_config=dict(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            crop_size=28,
            patch_size=14,
            image_token_id=100,
        ),
        audio_config=dict(
            hidden_size=32,
            intermediate_size=32,
            num_blocks=1,
            num_attention_heads=2,
            nemo_conv_channels=16,
            ext_pw_out_channel=32,
            depthwise_separable_out_channel=32,
            audio_token_id=101,
            nemo_final_size=10,
        ),
    ),
    "mpt": dict(d_model=64, n_heads=4, n_layers=6, max_seq_len=512, expansion_ratio=2),
    "nanochat": dict(final_logit_softcapping=8.0, num_key_value_heads=2),
    "nemotron_h": dict(
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp", "full_attention", "linear_attention"],
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=2,
        chunk_size=16,
        moe_shared_expert_intermediate_size=32,
        moe_latent_size=None,
    ),
    "olmo": dict(clip_qkv=2.0),
    "olmoe": dict(clip_qkv=2.0),
    "olmo3": dict(sliding_window=S, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2),
    "olmo_hybrid": dict(
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    ),
    "opt": dict(word_embed_proj_dim=48),
    "persimmon": dict(qk_layernorm=True),
    "phi": dict(qk_layernorm=True),
    "phi3": dict(sliding_window=S),
    "phimoe": dict(sliding_window=S),
    "qwen2": dict(use_sliding_window=True, sliding_window=S, max_window_layers=2, layer_types=None),
    "qwen3": dict(use_sliding_window=True, sliding_window=S, max_window_layers=2, layer_types=None),
    "qwen2_moe": dict(
        use_sliding_window=True,
        sliding_window=S,
        max_window_layers=2,
        layer_types=["full_attention"] * 2 + ["sliding_attention"] * 4,
    ),
    "qwen3_moe": dict(use_sliding_window=True, sliding_window=S, max_window_layers=2),
    "qwen3_5_text": dict(
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "qwen3_5_moe_text": dict(
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "qwen3_next": dict(
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "qwen4_exp_text": dict(
        layer_types=["linear_attention", "linear_attention", "indexed_attention"] * 2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        hc_count=2,
        hc_lowrank=8,
        ngram_vocab_size_base=64,
        make_ngram_vocab_size_divisible_by=8,
        split_ngram_parts=4,
        ple_embed_dim=16,
        heads_per_ngram=2,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=16,
        indexer_budget=8,
        indexer_compress_ratio=4,
    ),
    "recurrent_gemma": dict(
        lru_width=64,
        attention_window_size=S,
        block_types=["recurrent", "attention"],
        num_key_value_heads=2,
        logits_soft_cap=8.0,
    ),
    "rwkv": dict(attention_hidden_size=64, context_length=256),
    "smollm3": dict(
        use_sliding_window=True,
        sliding_window=S,
        layer_types=["sliding_attention", "full_attention"] * 3,
        no_rope_layers=[1, 1, 0] * 2,
        no_rope_layer_interval=3,
    ),
    "stablelm": dict(qk_layernorm=True, use_parallel_residual=True),
    "starcoder2": dict(sliding_window=S),
    "vaultgemma": dict(
        sliding_window=S,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention"] * 3,
    ),
    "xlstm": dict(embedding_dim=64, num_blocks=6, num_heads=4),
    "youtu": dict(num_key_value_heads=4, head_dim=8),
    "axk1": dict(num_key_value_heads=4, head_dim=8),
    "zamba": dict(
        attention_hidden_size=128,
        attention_head_dim=32,
        num_key_value_heads=4,
        n_mamba_heads=2,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
        layers_block_type=["linear_attention", "hybrid", "linear_attention"] * 2,
        attn_layer_period=3,
        attn_layer_offset=1,
    ),
    "zamba2": dict(
        layers_block_type=["linear_attention", "hybrid", "linear_attention"] * 2,
        n_mamba_heads=4,
        mamba_d_state=16,
        mamba_ngroups=1,
        chunk_size=16,
        num_mem_blocks=1,
        use_mem_rope=True,
        adapter_rank=8,
        num_key_value_heads=4,
        use_mamba_kernels=False,
    ),
    "zaya": dict(
        sliding_window=S, layer_types=["hybrid", "hybrid_sliding"] * 3, router_hidden_size=16, num_experts_per_tok=1
    ),
    "aria_text": dict(moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
    "apertus": {},
    "bitnet": {},
    "biogpt": {},
    "codegen": dict(rotary_dim=8),
    "reformer": None,
    "xlnet": dict(),
    "xlm": dict(causal=True),
    "prophetnet": None,
    "whisper": dict(decoder_start_token_id=1),
    "cpmant": dict(
        dim_head=16, dim_ff=96, prompt_length=4, position_bias_num_buckets=16, position_bias_max_distance=128
    ),
    "solar_open": {},
    "hrm_text": {},
}
# name -> (type, settings that differ)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral/no-window": ("mistral", dict(sliding_window=None)),
    "mistral/window-256": ("mistral", dict(sliding_window=256)),
    "mixtral/no-window": ("mixtral", dict(sliding_window=None)),
    "qwen2/plain": ("qwen2", dict(use_sliding_window=False, sliding_window=None, layer_types=None)),
    "qwen3/plain": ("qwen3", dict(use_sliding_window=False, sliding_window=None, layer_types=None)),
    "qwen3_moe/plain": ("qwen3_moe", dict(use_sliding_window=False, sliding_window=None)),
    "qwen2_moe/plain": (
        "qwen2_moe",
        dict(use_sliding_window=False, sliding_window=None, layer_types=["full_attention"] * 6),
    ),
    "phi3/no-window": ("phi3", dict(sliding_window=None)),
    "phimoe/no-window": ("phimoe", dict(sliding_window=None)),
    "starcoder2/no-window": ("starcoder2", dict(sliding_window=None)),
    "gemma3_text/window-256": ("gemma3_text", dict(sliding_window=256)),
    "gemma2/no-softcap,window-256": ("gemma2", dict(attn_logit_softcapping=None, sliding_window=256)),
    "vaultgemma/no-softcap,window-256": ("vaultgemma", dict(attn_logit_softcapping=None, sliding_window=256)),
    "gemma2/eager": ("gemma2", {}),
    "vaultgemma/eager": ("vaultgemma", {}),
    "falcon/alibi,eager": ("falcon", dict(alibi=True, new_decoder_architecture=False)),
    "gemma3n_text/window-256": ("gemma3n_text", dict(sliding_window=256)),
    "gemma3n_text/window-256,no-shared-kv": ("gemma3n_text", dict(sliding_window=256, num_kv_shared_layers=0)),
    "gemma4_text/window-256": ("gemma4_text", dict(sliding_window=256)),
    "gemma4_text/window-256,shared-kv": ("gemma4_text", dict(sliding_window=256, num_kv_shared_layers=2)),
    "gemma4_unified_text/window-256": ("gemma4_unified_text", dict(sliding_window=256)),
    "exaone4/window-256": ("exaone4", dict(sliding_window=256)),
    "exaone_moe/window-256": ("exaone_moe", dict(sliding_window=256)),
    "olmo3/window-256": ("olmo3", dict(sliding_window=256)),
    "cohere2/window-256": ("cohere2", dict(sliding_window=256)),
    "cohere2_moe/window-256": ("cohere2_moe", dict(sliding_window=256)),
    "smollm3/plain": ("smollm3", dict(use_sliding_window=False, sliding_window=None, layer_types=None)),
    "cohere_compass_text/window-256": ("cohere_compass_text", dict(sliding_window=256)),
    "cwm/window-256": ("cwm", dict(sliding_window=256)),
    "afmoe/window-256": ("afmoe", dict(sliding_window=256)),
    "dots1/window-256": ("dots1", dict(sliding_window=256)),
    "laguna/window-256": ("laguna", dict(sliding_window=256)),
    "mellum/window-256": ("mellum", dict(sliding_window=256)),
    "ministral/window-256": ("ministral", dict(sliding_window=256)),
    "ministral3/no-window": ("ministral3", dict(sliding_window=None)),
    "modernbert-decoder/window-256": ("modernbert-decoder", dict(local_attention=512)),
    "laguna/heads-differ": ("laguna", dict(sliding_window=256, num_attention_heads_per_layer=[4, 8, 8, 4, 8, 8])),
    "doge/keep-all": ("doge", dict(keep_window_size=512)),
    "doge/window": ("doge", dict(keep_window_size=512, sliding_window=S)),
    "lfm2/all-attention": ("lfm2", dict(layer_types=["full_attention"] * 6)),
    "llama4_text/chunk-256": ("llama4_text", dict(attention_chunk_size=256)),
    "llama4_text/all-full": ("llama4_text", dict(layer_types=["full_attention"] * 6)),
    "minimax/all-full": ("minimax", dict(layer_types=["full_attention"] * 6)),
    "gpt_bigcode/mha": ("gpt_bigcode", dict(multi_query=False)),
    "falcon/alibi": ("falcon", dict(alibi=True, new_decoder_architecture=False)),
    "granitemoehybrid/all-attention": ("granitemoehybrid", dict(layer_types=["attention"] * 6)),
    "llama/dynamic-rope": (
        "llama",
        dict(max_position_embeddings=40, rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0)),
    ),
    "llama/yarn": (
        "llama",
        dict(
            max_position_embeddings=160,
            rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=10000.0, original_max_position_embeddings=40),
        ),
    ),
    "llama/llama3-rope": (
        "llama",
        dict(
            rope_parameters=dict(
                rope_type="llama3",
                factor=8.0,
                rope_theta=10000.0,
                original_max_position_embeddings=64,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
            )
        ),
    ),
    "phi3/longrope": (
        "phi3",
        dict(
            sliding_window=None,
            max_position_embeddings=160,
            original_max_position_embeddings=40,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                partial_rotary_factor=1.0,
                short_factor=[1.0] * 8,
                long_factor=[1.0 + 0.7 * i for i in range(8)],
                factor=4.0,
                original_max_position_embeddings=40,
            ),
        ),
    ),
    "hunyuan_v1_dense/dynamic": (
        "hunyuan_v1_dense",
        dict(
            max_position_embeddings=40,
            rope_parameters=dict(rope_type="dynamic", factor=4.0, alpha=None, rope_theta=10000.0),
        ),
    ),
    "gpt2/plain": ("gpt2", dict(scale_attn_by_inverse_layer_idx=False)),
    "mimo_v2_flash/no-sink,window-256": ("mimo_v2_flash", dict(sliding_window=256, layer_types=["full_attention"] * 6)),
    "axk2/topk-256": ("axk2", dict(index_topk=256)),
    "deepseek_v32/topk-256": ("deepseek_v32", dict(index_topk=256)),
    "minimax_m3_vl_text/all-blocks": ("minimax_m3_vl_text", dict(index_topk_blocks=64)),
    "gemma3/window-256": ("gemma3", dict(sliding_window=256, final_logit_softcapping=None)),
    "moshi/window-256": ("moshi", dict(sliding_window=256)),
    "phi4_multimodal/no-window": ("phi4_multimodal", dict(sliding_window=None)),
    "bert/encoder": ("bert", dict(is_decoder=False)),
    "recurrent_gemma/window-256": ("recurrent_gemma", dict(attention_window_size=256)),
}


def composite(kind: str, settings: dict[str, Any]) -> PreTrainedConfig | None:
    """The configuration of a type that has other parts beside its text model; None: it has none."""
    made_by = CONFIG_MAPPING[kind]

    def text(of: str, **own: Any) -> dict[str, Any]:
        return configuration(of, {**own, **settings}).to_dict()

    def default_text(**own: Any) -> dict[str, Any]:
        sizes = {key: SIZES[key] for key in _COMMON}
        return {**made_by().text_config.to_dict(), **sizes, **own}

    eyes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    if kind == "gemma3":
        vision = dict(**eyes, intermediate_size=32)
        return made_by(text_config=text("gemma3_text"), vision_config=vision, mm_tokens_per_image=4)
    if kind == "got_ocr2":
        vision = dict(hidden_size=32, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64)
        vision |= dict(patch_size=16, mlp_dim=32, global_attn_indexes=[0])
        plain = dict(use_sliding_window=False, sliding_window=None, layer_types=None)
        return made_by(text_config=text("qwen2", **plain), vision_config=vision)
    if kind == "fuyu":
        return made_by(text_config=text("persimmon"), vocab_size=V, hidden_size=64, patch_size=4)
    if kind == "emu3":
        codes = dict(codebook_size=16, embed_dim=8, latent_channels=8, base_channels=32)
        codes |= dict(channel_multiplier=[1, 1], num_res_blocks=1, attn_resolutions=[])
        images = {"<image>": 5}
        return made_by(text_config=default_text(attention_dropout=0.0), vq_config=codes, vocabulary_map=images)
    if kind == "mllama":
        vision = dict(hidden_size=32, attention_heads=2, num_hidden_layers=1, num_global_layers=1, intermediate_size=32)
        vision |= dict(vision_output_dim=64, image_size=28, patch_size=14, intermediate_layers_indices=[0])
        return made_by(text_config=default_text(cross_attention_layers=[2, 4]), vision_config=vision)
    if kind == "blt":
        part = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
        part |= dict(num_key_value_heads=4, head_dim=16)
        return made_by(
            vocab_size=V, encoder_hash_byte_group_vocab=64, encoder_hash_byte_group_size=[3, 4],
            patcher_config=dict(**part, num_hidden_layers=2),
            encoder_config=dict(**part, num_hidden_layers=1, hidden_size_global=64),
            decoder_config=dict(**part, num_hidden_layers=3, hidden_size_global=64),
            global_config=dict(**part, num_hidden_layers=6), max_position_embeddings=512,
        )  # fmt: skip
    return None


_COMMON = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


# Wrappers of a text model that is here under its own name, or models of something other than text.
SKIPPED = (
    "gemma3n", "gemma4", "gemma4_unified", "gemma4_assistant", "gemma4_unified_assistant", "llama4", "musicgen",
    "musicgen_melody", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "prophetnet", "reformer", "cpmant", "git",
)  # fmt: skip


# transformers' sdpa computes something else (no soft cap, another ALiBi), so people have to ask for eager attention.
EAGER = ("gemma2/eager", "vaultgemma/eager", "falcon/alibi,eager")


def names() -> list[str]:
    """Every type, without variants."""
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in SKIPPED]


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """The model of a type or variant, in float32 and eval mode."""
    kind, settings = VARIANTS.get(name, (name, {}))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = composite(kind, settings) or configuration(kind, settings)
        kind_of_model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        if kind == "emu3":
            config = config.get_text_config()
        if name in EAGER:
            config._attn_implementation = "eager"
        model = kind_of_model(config).float()
    _spread(model, seed)
    return model.eval()


def configuration(kind: str, settings: dict[str, Any] | None = None) -> PreTrainedConfig:
    """The configuration of a type of text model."""
    made_by = CONFIG_MAPPING[kind]
    aliases = getattr(made_by, "attribute_map", {})
    own = {**(SETTINGS.get(kind) or {}), **(settings or {})}
    known = set(made_by().to_dict()) | set(aliases)
    chosen = {key: value for key, value in SIZES.items() if key in known} | own
    for alias, name in aliases.items():  # one of the two names of a setting
        if alias in chosen and name in chosen:
            chosen.pop(name if alias in own else alias)
    if kind == "persimmon":
        chosen.pop("num_key_value_heads", None)
    return made_by(**{key: value for key, value in chosen.items() if (key, value) != ("layer_types", None)})


_KEPT = ("a_log", "dt_bias", "conv1d", "time_decay", "time_first", "time_mix")
_NOT_WEIGHTS = (*_KEPT, ".d", "time_", "rotary", "inv_freq", "r_w_bias", "positional")
_QUERIES_AND_KEYS = re.compile(r"(q_|k_|q\.|k\.|query|key|qkv|wqk|c_attn|q_a|kv_a|q_b|kv_b|in_proj_qk|attn\.w)")


def _spread(model: PreTrainedModel, seed: int) -> None:
    """Weights at which attention is far from uniform, and tokens, layers and positions matter."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator) * std

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = name.lower()
            if any(word in name for word in _NOT_WEIGHTS) and not re.search(r"\.d[a-z]", name):
                continue
            if any(word in name for word in _KEPT):
                continue
            if parameter.ndim >= 2:
                transposed = any(word in name for word in ("c_attn", "c_proj", "c_fc"))
                std = (2.2 if _QUERIES_AND_KEYS.search(name) else 1.3) / math.sqrt(
                    parameter.shape[0 if transposed else -1]
                )
                if any(word in name for word in ("embed", "wte", "wpe", "embd")):
                    std = 0.5 if "pos" in name or "wpe" in name else 1.0
                parameter.copy_(normal(parameter, std))
            elif "sink" in name:
                parameter.copy_(normal(parameter, 1.5))
            elif "bias" in name:
                parameter.copy_(normal(parameter, 0.1))
            elif parameter.ndim == 1 and "norm" in name and parameter.float().abs().sum() > 0:
                parameter.mul_(1 + normal(parameter, 0.2))
        model.tie_weights()
