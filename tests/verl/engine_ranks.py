"""One gloo rank with our FSDP2 engine, as verl's worker makes it: what it answers to its share of a batch.

python tests/verl/engine_ranks.py FOLDER RANK
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Sequences = list[tuple[list[int], list[int]]]  # prompt and response


def batch_of(sequences: Sequences, request: dict[str, Any] | None, **engineering: Any) -> Any:
    """A batch as it reaches verl's engine: nested tensors without padding, and the settings of the pass."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    from attention_rhythm.integrations.verl.engine import REQUEST

    def nested(rows: list[list[int]]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)

    whole = [prompt + response for prompt, response in sequences]
    ones = nested([[1] * len(response) for _, response in sequences])
    data = TensorDict(
        {
            "input_ids": nested(whole),
            "position_ids": nested([list(range(len(row))) for row in whole]),
            "prompts": nested([prompt for prompt, _ in sequences]),
            "responses": nested([response for _, response in sequences]),
            "response_mask": ones,
            "loss_mask": ones,
        },
        batch_size=len(sequences),
    )
    if request:
        tu.assign_non_tensor(data, **{REQUEST: request})
    defaults = {
        "temperature": 1.0,
        "calculate_entropy": True,
        "use_remove_padding": False,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": 2,
        "max_token_len_per_gpu": 64,
    }
    tu.assign_non_tensor(data, **{**defaults, **engineering})
    return data


def make_engine(model: Path, fused_kernels: bool) -> Any:
    """The engine that verl's registry gives for a language model under FSDP2, initialised, in float32."""
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine.base import EngineRegistry

    made = EngineRegistry.new(
        "language_model",
        "fsdp2",
        model_config=HFModelConfig(
            path=str(model),
            use_remove_padding=True,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
            use_fused_kernels=fused_kernels,
            fused_kernel_options={"impl_backend": "torch"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            mixed_precision={"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            pad_to_length=True,
            pad_to_length_bucket=48,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3),
        checkpoint_config=CheckpointConfig(),
    )
    made.initialize()
    return made


def main(folder: Path, rank: int) -> None:
    """Answer the cases of folder/spec.pt: to folder/rankN.pt, for each case a tensor a sequence by name."""
    spec = torch.load(folder / "spec.pt", weights_only=False)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(spec["shares"]))
    engine = make_engine(spec["model"], spec["fused_kernels"])
    result = []
    for request, settings in spec["cases"]:
        batch = batch_of(spec["shares"][rank], request, use_fused_kernels=spec["fused_kernels"], **settings)
        with engine.eval_mode():
            output = engine.infer_batch(batch)["model_output"]
        result.append({name: [x.clone() for x in nested.unbind()] for name, nested in output.items()})
    torch.save(result, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
