"""Token entropy and log-probability, never holding a full (N, V) float32 array."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.errors import NotFinite

# Settings under which a model's logits are more than `lm_head(hidden)`, and the value at which they are not.
_LOGIT_SETTINGS = {
    "final_logit_softcapping": None,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "lm_head_multiplier": 1.0,
}


def output_head(model: PreTrainedModel) -> torch.nn.Module:
    """The module that turns hidden states into logits. ValueError if the model does more than that to its logits."""
    config = model.config.get_text_config()
    for name, neutral in _LOGIT_SETTINGS.items():
        if (value := getattr(config, name, neutral)) not in (neutral, None):
            raise ValueError(
                f"{config.model_type} changes its logits ({name}={value}): entropy in chunks would be wrong"
            )
    return model.get_output_embeddings()


def token_statistics(
    hidden: Float[Tensor, "M D"], head: torch.nn.Module, tokens: Int[Tensor, "M"], chunk: int = 256
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """Entropy H = -sum_v p log p and log-probability log p(token), in nats, of what `hidden` predicts.

    At most `chunk` rows of logits exist at once; sums are in float32.
    NotFinite if the logits are not finite.
    """
    entropy, logprob = [], []
    for rows, targets in zip(hidden.split(chunk), tokens.split(chunk), strict=True):
        logits = head(rows).float()  # (chunk, V)
        logp = logits.log_softmax(-1)
        entropy.append(-(logp.exp() * logp).sum(-1))
        logprob.append(logp.gather(-1, targets[:, None])[:, 0])
    result = torch.cat(entropy), torch.cat(logprob)
    if not all(bool(torch.isfinite(x).all()) for x in result):
        raise NotFinite("NaN or inf in the logits: the weights or the number format are broken")
    return result


def response_entropy(
    hidden: Float[Tensor, "B N D"],
    head: torch.nn.Module,
    input_ids: Int[Tensor, "B N"],
    response: Bool[Tensor, "B N"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Entropy and log-probability of each response token, from the row that predicted it (t - 1); NaN elsewhere.

    A response token at position 0 was predicted by nothing: NaN.
    """
    predicted = response.clone()
    predicted[:, 0] = False
    entropy = torch.full(response.shape, float("nan"), device=hidden.device)
    logprob = entropy.clone()
    rows = hidden[:, :-1][predicted[:, 1:]]  # (M, D)
    if len(rows):
        entropy[predicted], logprob[predicted] = token_statistics(rows, head, input_ids[predicted])
    return entropy, logprob
