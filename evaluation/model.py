"""Stage `model`: the model is made ready, and what it is is written down."""

from __future__ import annotations

from pathlib import Path

from attention_rhythm.files import write_json
from attention_rhythm.models import model_name, model_sha256, refusal_in_one_line, resolve_model
from evaluation.settings import Run


def stage(run: Run) -> None:
    """Make the model ready and write model.json: what it is, without a path of this machine."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(resolve_model(run.model.id))
    with refusal_in_one_line(run.model.id):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):  # shapes only
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    layers, heads = (getattr(text, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    given_as_folder = Path(run.model.id).expanduser().is_dir()
    write_json(
        run.path("model.json"),
        {
            "spec": model_name(run.model.id) if given_as_folder else run.model.id,
            "sha256": model_sha256(run.model.id),
            "architecture": type(model).__name__,
            "parameters": model.num_parameters(),  # tied weights once
            "layers": layers,
            "heads": heads,  # None: it has no attention
            "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
            "dtype": run.model.dtype,
        },
    )
    print(
        f"{type(model).__name__}, {model.num_parameters() / 1e6:.0f}M parameters, "
        f"{layers or 'no'} layers of {heads or 'no'} heads"
    )
