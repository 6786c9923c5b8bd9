"""actor_attn inside verl's engines: WAAD and FAI of each response, beside the log-probabilities or instead of them.

A request travels with the batch (`REQUEST`, a non-tensor entry: the settings of the signals and the pass that is to
read them). The answer is two more nested tensors in `model_output`, `waad` and `fai`, (B, response length): verl puts
micro-batches together again, whatever their order, and hands each tensor to the trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from tensordict import TensorDict
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine import FSDPEngineWithLMHead, MegatronEngineWithLMHead
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.utils import postprocess_batch_func, prepare_micro_batches

from attention_rhythm.integrations.verl.recording import check_recordable, kept_by_the_engine
from attention_rhythm.signals.architecture import layers_to_read
from attention_rhythm.signals.attention import described_attention
from attention_rhythm.signals.packing import packed, right_padded
from attention_rhythm.signals.reading import SignalConfig, attention_signals, combine_heads
from attention_rhythm.signals.streaming import SignalRecorder

REQUEST = "rhythm_request"  # {"attn": fused | separate | exported, "signals": fields of SignalConfig}


class ReadsSignals:
    """For an engine's class: answers a request for signals from an exported copy of the weights.

    The copy is a plain transformers model, filled with the weights that the engine would hand to the rollout. It is
    there for the length of the pass only; each rank holds a whole one.
    """

    model_config: Any  # these three are the engine's own
    get_per_tensor_param: Any
    get_data_parallel_group: Any

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        """The engine's own, but for a request that an exported copy answers."""
        request = request_of(data)
        if not (forward_only and request and request["attn"] == "exported"):
            return super().forward_backward_batch(data, loss_function, forward_only)  # type: ignore[misc]
        model = exported_copy(self.get_per_tensor_param()[0], self.model_config.hf_config)
        config = SignalConfig(**request["signals"])
        tu.assign_non_tensor(data, sp_size=1)
        batches, order = prepare_micro_batches(data, dp_group=self.get_data_parallel_group(), same_micro_num_in_dp=True)
        outputs = [{"model_output": signals_of_copy(model, batch.to(get_device_id()), config)} for batch in batches]
        return postprocess_batch_func(output_lst=outputs, indices=order, data=data)


class RhythmFSDPEngine(ReadsSignals, FSDPEngineWithLMHead):
    """verl's FSDP engine, which also records signals where a batch asks for them."""

    def forward_step(self, micro_batch: TensorDict, loss_function: Any, forward_only: bool) -> tuple[Any, dict]:
        request = request_of(micro_batch)
        if not (forward_only and request):
            return super().forward_step(micro_batch, loss_function, forward_only)
        micro_batch = micro_batch.to(get_device_id())
        config = SignalConfig(**request["signals"])
        attention, response, lengths = masks(micro_batch)
        layers = layers_to_read(self.module, config.layers, config.num_layers)
        check_recordable(self.module, attention.shape[1])
        recorder = SignalRecorder(layers, response, config.window, [config.horizon])
        packs = tu.get_non_tensor_data(micro_batch, key="use_remove_padding", default=True)
        attend = kept_by_the_engine(self.module, packed(recorder, lengths) if packs else recorder)
        with described_attention(self.module, attend):
            loss: Any = torch.tensor(0.0)
            output: dict[str, Any] = {"model_output": {}, "loss": 0.0, "metrics": {}}
            if request["attn"] == "separate":
                self.decode(micro_batch)
            else:
                loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        read = recorder.statistics()
        signals = combine_heads(read.span, read.waad, read.fai[0], layers, attention, response, config)
        output["model_output"] |= nested(signals.waad, signals.fai, response)
        return loss, output

    def decode(self, micro_batch: TensorDict) -> None:
        """The forward pass for the sake of its attention: one row of logits, and no log-probabilities.

        It runs to the last layer: FSDP must see the end of a pass that it has begun.
        """
        inputs, _ = self.prepare_model_inputs(micro_batch=micro_batch)
        enabled = self._autocast_dtype != torch.float32
        with torch.autocast(micro_batch["input_ids"].device.type, dtype=self._autocast_dtype, enabled=enabled):
            self.module(**inputs, use_cache=False, logits_to_keep=1)


EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cuda", vendor="nvidia")(RhythmFSDPEngine)

if MegatronEngineWithLMHead is not None:  # where Megatron-core is installed

    class RhythmMegatronEngine(ReadsSignals, MegatronEngineWithLMHead):
        """verl's Megatron engine, whose attention nothing can look into: signals come from an exported copy."""

    EngineRegistry.register("language_model", "megatron", device="cuda", vendor="nvidia")(RhythmMegatronEngine)


# --------------------------------------------------------------------------------------------- parts


def request_of(data: TensorDict) -> dict[str, Any] | None:
    """The request that travels with a batch; None where there is none."""
    return tu.get_non_tensor_data(data, key=REQUEST, default=None)


def masks(batch: TensorDict) -> tuple[Bool[Tensor, "B N"], Bool[Tensor, "B N"], Int[Tensor, "B"]]:
    """Attention and response masks of right-padded rows, and the lengths of the sequences, from nested ids."""
    lengths = batch["input_ids"].offsets().diff()
    attention = right_padded(lengths)
    prompts = lengths - batch["responses"].offsets().diff()
    response = attention & (torch.arange(attention.shape[1], device=lengths.device) >= prompts[:, None])
    return attention, response, lengths


def nested(waad: Tensor, fai: Tensor, response: Bool[Tensor, "B N"]) -> dict[str, Tensor]:
    """Signals (B, N) as nested tensors (B, response length)."""
    named = {"waad": waad, "fai": fai}
    return {
        name: torch.nested.as_nested_tensor(
            [x[row] for x, row in zip(signal, response, strict=True)], layout=torch.jagged
        )
        for name, signal in named.items()
    }


def exported_copy(weights: Any, hf_config: Any) -> PreTrainedModel:
    """A transformers model with (name, tensor) weights of that architecture.

    RuntimeError, naming them, if weights are missing or unknown.
    """
    model: Any = None
    own: dict[str, Tensor] = {}
    left: dict[int, str] = {}
    for name, tensor in weights:
        if model is None:
            with torch.device(get_device_id()):
                model = AutoModelForCausalLM.from_config(hf_config, dtype=tensor.dtype).eval()
            own = dict(model.named_parameters(remove_duplicate=False))  # tied weights under each of their names
            left = {id(parameter): n for n, parameter in model.named_parameters()}
        if name not in own:
            raise RuntimeError(f"the engine exports {name}, which {type(model).__name__} does not have")
        own[name].data.copy_(tensor)
        left.pop(id(own[name]), None)
    if left:
        raise RuntimeError(f"the engine has not exported {', '.join(sorted(left.values()))}")
    return model


def signals_of_copy(model: PreTrainedModel, batch: TensorDict, config: SignalConfig) -> dict[str, Tensor]:
    """WAAD (tokens) and FAI of a micro-batch of nested sequences, nested tensors (B, response length)."""
    attention, response, _ = masks(batch)
    ids = torch.nested.to_padded_tensor(batch["input_ids"], padding=0, output_size=attention.shape)
    signals = attention_signals(model, ids, attention, response, config)
    return nested(signals.waad, signals.fai, response)
