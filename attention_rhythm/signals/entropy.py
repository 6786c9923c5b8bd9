"""Token entropy and log-probability, never holding a full (N, V) float32 array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from attention_rhythm.errors import NotFinite
from attention_rhythm.signals.architecture import UnsupportedAttention, backbone, exclusive

OutputHead = Callable[[Float[Tensor, "M D"]], Float[Tensor, "M V"]]


class _Decoded:
    """What a decoder returns, as far as a model needs it to make logits: hidden states, and nothing else."""

    def __init__(self, hidden: Float[Tensor, "1 M D"]):
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        """None: what a decoder returns beside. AttributeError: a name of Python's own."""
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


def output_head(model: PreTrainedModel) -> OutputHead:
    """The function from hidden states to logits: the model's own forward, without its decoder.

    So heads of several layers, soft caps and scales are what they are in the model. Differentiable.

    UnsupportedAttention, when it is called: the model's logits follow from more than the decoder's hidden states.
    """
    decoder = backbone(model)

    def logits(hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        calls: list[None] = []

        def stub(*_: Any, **__: Any) -> _Decoded:
            calls.append(None)
            return _Decoded(hidden[None])

        unused = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with exclusive(model):
            own = vars(decoder).get("forward")  # what a library has put in the place of the method of the class
            decoder.forward = stub
            try:
                out = model(input_ids=unused, use_cache=False)
            finally:
                del decoder.forward
                if own is not None:
                    decoder.forward = own
        found = out[0] if isinstance(out, tuple) else out.logits
        if len(calls) != 1 or found.shape[:2] != unused.shape:
            raise UnsupportedAttention(f"{model.config.model_type} makes its logits of more than its hidden states")
        return found[0]

    return logits


def token_statistics(
    hidden: Float[Tensor, "M D"], head: OutputHead, tokens: Int[Tensor, "M"], chunk: int = 256
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
    head: OutputHead,
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
