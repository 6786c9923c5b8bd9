"""Llama, Qwen2 and Qwen3 as a Megatron-core GPTModel; imported only where Megatron-core is installed.

Without Transformer Engine: attention is PyTorch's, causal, on right-padded sequences. Weights stay float32; with `bf16`
on CUDA the passes run under autocast, as in training.actors.train.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig

from training.actors.megatron_weights import Heads, place
from training.actors.train import OptimConfig


class CausalAttention(torch.nn.Module):
    """In place of Megatron's DotProductAttention, whose N x N maps and mask are CUDA's."""

    def __init__(self, config: TransformerConfig, *_, softmax_scale: float | None = None, **__):
        super().__init__()
        self.scale = softmax_scale or config.kv_channels**-0.5

    def forward(
        self,
        query: Float[Tensor, "N B H d"],
        key: Float[Tensor, "N B K d"],
        value: Float[Tensor, "N B K d"],
        attention_mask: None,
        **_,
    ) -> Float[Tensor, "N B H*d"]:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))  # (B, heads, N, d)
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=grouped)
        return mixed.permute(2, 0, 1, 3).flatten(2)


class RMSNorm(torch.nn.RMSNorm):
    """With the mark by which Megatron sums its gradient over a sequence that is cut into parts."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_):
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel


def heads_of(config: PretrainedConfig) -> Heads:
    """Heads, and heads of keys and values, of a layer."""
    heads = config.num_attention_heads
    return Heads(heads, config.num_key_value_heads, getattr(config, "head_dim", None) or config.hidden_size // heads)


def build(
    config: PretrainedConfig, *, sequence_parallel: bool, recompute: bool, bf16: bool, device: torch.device
) -> GPTModel:
    """This rank's part of the model, its weights not set yet. Megatron's process groups must exist."""
    heads = heads_of(config)
    recomputed = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    ours = TransformerConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=heads.heads,
        num_query_groups=heads.groups,
        kv_channels=heads.size,
        ffn_hidden_size=config.intermediate_size,
        normalization="RMSNorm",
        layernorm_epsilon=config.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=config.model_type == "qwen2",
        qk_layernorm=config.model_type == "qwen3",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        sequence_parallel=sequence_parallel,
        variable_seq_lengths=True,  # micro-batches of like length, each cut to its longest
        moe_token_dispatcher_type="alltoall",  # no experts here, but the default objects to the line above
        batch_p2p_comm=False,
        enable_autocast=bf16 and device.type == "cuda",
        autocast_dtype=torch.bfloat16,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,  # moved to the device below: one path for both
        perform_initialization=False,
        # kernels of Transformer Engine and apex
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        # the loss is divided by its own denominator before the sum over micro-batches and ranks
        calculate_per_token_loss=True,
        finalize_model_grads_func=finalize_model_grads,
        **(recomputed if recompute else {}),
    )
    model = GPTModel(
        ours,
        _block(ours),
        vocab_size=config.vocab_size,
        max_sequence_length=config.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=True,
        share_embeddings_and_output_weights=config.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=config.rope_parameters["rope_theta"],
    )
    _mark_shards(model)
    return model.to(device)


def first_layer(model: GPTModel) -> int:
    """Index in the whole model of this stage's layer 0."""
    return model.decoder.layers[0].layer_number - 1 if len(model.decoder.layers) else 0


def make_optimizer(model: GPTModel, config: OptimConfig) -> tuple[DistributedDataParallel, DistributedOptimizer]:
    """The model with its gradient buffers, and AdamW whose moments are divided among the data-parallel ranks."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=True, overlap_grad_reduce=False
    )
    parallel = DistributedDataParallel(model.config, settings, model)
    adamw = OptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        weight_decay=config.weight_decay,
        decoupled_weight_decay=True,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        adam_eps=1e-8,
        clip_grad=config.grad_clip,
        params_dtype=torch.float32,
        use_distributed_optimizer=True,
    )
    # no overrides: weight decay on all weights, norms and biases too
    optimizer = get_megatron_optimizer(adamw, [parallel], config_overrides={})
    (optimizer,) = getattr(optimizer, "chained_optimizers", [optimizer])
    return parallel, optimizer


def _block(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Every norm is named: where it is left to Megatron, it becomes Transformer Engine's or apex's if importable."""
    layer = copy.deepcopy(get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm"))
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = CausalAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm)


def _mark_shards(model: GPTModel) -> None:
    """Without the marks, which Megatron sets only where it initialises, the gradient norm leaves out other shards."""
    for name, parameter in model.named_parameters():
        dim = place(name, 0, tied=False).dim
        if dim is not None and not getattr(parameter, "tensor_model_parallel", False):
            set_tensor_model_parallel_attributes(parameter, True, dim, 1)
