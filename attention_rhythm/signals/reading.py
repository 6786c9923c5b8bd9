"""WAAD and FAI of a response, for any Hugging Face causal LM with softmax attention (Sec. 4, Eqs. 7-10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attention_rhythm.errors import InputError, NotFinite
from attention_rhythm.signals import dense
from attention_rhythm.signals.architecture import language_model, layers_to_read
from attention_rhythm.signals.forward import head_statistics
from attention_rhythm.signals.heads import head_sets as sets_of_heads

HeadSets = tuple[Bool[Tensor, "*batch L H"], Bool[Tensor, "*batch L H"]]


@dataclass(frozen=True)
class SignalConfig:
    """What the signals are read from; the defaults are those of the paper's RL runs."""

    window: int = 10  # W of Eq. 9, in tokens
    horizon: tuple[int, int | None] = (10, 100)  # H_lo, H_hi of Eq. 10, in tokens; None: to the end of the response
    layers: str | tuple[int, ...] = "middle"  # middle | all | top | bottom | layer numbers
    num_layers: int | None = 5  # evenly spaced; None: every layer of the range
    head_fraction: float | None = 0.3  # share of heads that are local, and global (Eq. 8); None: all heads are both
    row: str = "token"  # token: WAAD_t is read from row t | predictor: from row t-1, which predicted token t

    def __post_init__(self) -> None:
        low, high = self.horizon
        if self.window < 1:
            raise InputError(f"window must be at least 1, not {self.window}")
        if low < 0 or (high is not None and high < low):
            raise InputError(f"horizon must be 0 <= H_lo <= H_hi, not {self.horizon}")
        if self.row not in ("token", "predictor"):
            raise InputError(f"row must be 'token' or 'predictor', not {self.row!r}")


@dataclass(frozen=True)
class Signals:
    """float32, on the model's device, detached; NaN outside the response and where a value is undefined."""

    waad: Float[Tensor, "B N"]  # tokens
    fai: Float[Tensor, "B N"]  # mean attention weight
    head_span: Float[Tensor, "B L H"]  # tokens
    local_heads: Bool[Tensor, "B L H"]
    global_heads: Bool[Tensor, "B L H"]
    layers: Int[Tensor, "L"]  # the model's own numbers


def attention_signals(
    model: nn.Module,
    input_ids: Int[Tensor, "B N"],
    attention_mask: Bool[Tensor, "B N"],
    response_mask: Bool[Tensor, "B N"],
    config: SignalConfig = SignalConfig(),
    *,
    method: str = "streaming",
    head_sets: HeadSets | None = None,
) -> Signals:
    """WAAD (Eq. 9) and FAI (Eq. 10) of each response token from one forward pass.

    Windows, chunks, soft caps and sinks of the model are what they are in it: A = 0 outside a window, and a row with a
    sink sums to less than one. Of a hybrid, only the layers of softmax attention are read and counted.

    Args:
        model: a causal LM of transformers, or one with LoRA or IA3 adapters of PEFT.
        input_ids: prompt and response, padded on the left or on the right.
        attention_mask: True on prompt and response, contiguous.
        response_mask: True on the response, R.
        method: "streaming" (fused attention, memory linear in N, stops after the last layer read) or "dense" (eager
            N x N maps, the equations literally).
        head_sets: (local, global), each (L, H) or (B, L, H) bool over the selected layers; None draws them from each
            response's own spans (Eq. 8).

    Raises:
        InputError: shapes that do not match, a mask with holes, a response without tokens, an unknown method.
        UnsupportedAttention: the model's attention is not understood; the message says why.
    """
    attention_mask, response_mask = attention_mask.bool(), response_mask.bool()
    check_masks(input_ids, attention_mask, response_mask)
    model = language_model(model)
    layers = layers_to_read(model, config.layers, config.num_layers)
    if method == "dense":
        maps = dense.attention_maps(model, input_ids, attention_mask, layers)
        span = dense.span(maps, response_mask)
        per_head_waad = dense.waad(maps, config.window)
        per_head_fai = dense.fai(maps, response_mask, config.horizon)
    elif method == "streaming":
        order, back = right_padding(attention_mask)
        statistics = head_statistics(
            model,
            input_ids.gather(1, order),
            response_mask.gather(1, order),
            layers,
            config.window,
            [config.horizon],
            attention_mask.sum(1),
        )
        span = statistics.span
        per_head_waad, per_head_fai = (
            x.gather(3, back[:, None, None].expand_as(x)) for x in (statistics.waad, statistics.fai[0])
        )
    else:
        raise InputError(f"method must be 'streaming' or 'dense', not {method!r}")
    return combine_heads(span, per_head_waad, per_head_fai, layers, attention_mask, response_mask, config, head_sets)


def combine_heads(
    span: Float[Tensor, "B L H"],
    waad: Float[Tensor, "B L H N"],
    fai: Float[Tensor, "B L H N"],
    layers: tuple[int, ...],
    attention_mask: Bool[Tensor, "B N"],
    response_mask: Bool[Tensor, "B N"],
    config: SignalConfig,
    head_sets: HeadSets | None = None,
) -> Signals:
    """From per-head statistics to signals: draw the head sets (Eq. 8), average over them, keep the response.

    NotFinite: NaN or inf in the spans. InputError: head sets of another shape, or without heads.
    """
    if not bool(torch.isfinite(span).all()):
        raise NotFinite("NaN or inf in the attention: the weights or the number format are broken")
    local, glob = head_sets if head_sets is not None else sets_of_heads(span, config.head_fraction)
    for heads, name in ((local, "local"), (glob, "global")):
        if heads.dtype != torch.bool or heads.shape not in (span.shape, span.shape[1:]):
            raise InputError(
                f"the {name} heads must be bool of shape (L, H) = {tuple(span.shape[1:])} or (B, L, H), "
                f"not {heads.dtype} of {tuple(heads.shape)}"
            )
        if not bool(heads.any(-1).any(-1).all()):
            raise InputError(f"the set of {name} heads is empty, and has no mean: put at least one head into it")
    local, glob = local.expand_as(span), glob.expand_as(span)
    waad_local, fai_global = mean_over(waad, local), mean_over(fai, glob)  # (B, N)
    if config.row == "predictor":
        waad_local = waad_local.roll(1, 1)
        first = attention_mask.long().argmax(1)  # no row predicted the first token of a sequence
        waad_local[torch.arange(len(first), device=first.device), first] = float("nan")
    nan = torch.full_like(waad_local, float("nan"))
    return Signals(
        waad=torch.where(response_mask, waad_local, nan),
        fai=torch.where(response_mask, fai_global, nan),
        head_span=span,
        local_heads=local,
        global_heads=glob,
        layers=torch.tensor(layers, device=span.device),
    )


def mean_over(per_head: Float[Tensor, "*batch L H N"], heads: Bool[Tensor, "*batch L H"]) -> Float[Tensor, "*batch N"]:
    """Mean over a set of heads, in the unit of `per_head`: the signals of A_loc and A_glob.

    (Eq. 8 averages the maps; WAAD and FAI are linear in A, so the mean may come last.)
    """
    weights = heads.to(per_head.dtype) / heads.sum((-2, -1), keepdim=True)
    return torch.einsum("...lhn,...lh->...n", per_head, weights)


def right_padding(attention_mask: Bool[Tensor, "B N"]) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
    """Indices that move each sequence to the left end (`x.gather(1, order)`), and those that move it back."""
    order = (~attention_mask).to(torch.uint8).argsort(dim=1, stable=True)
    return order, order.argsort(1)


def check_masks(
    input_ids: Int[Tensor, "B N"], attention_mask: Bool[Tensor, "B N"], response_mask: Bool[Tensor, "B N"]
) -> None:
    """Refuse masks that do not describe padded prompts with responses.

    Raises:
        InputError: shapes that differ; a hole in an attention mask; response tokens outside it; an empty response. The
            message names the first such sequence.
    """
    if not input_ids.shape == attention_mask.shape == response_mask.shape:
        shapes = [tuple(x.shape) for x in (input_ids, attention_mask, response_mask)]
        raise InputError(f"input_ids, attention_mask and response_mask must have one shape, not {shapes}")
    if input_ids.ndim != 2 or not input_ids.numel():
        raise InputError(f"input_ids of shape {tuple(input_ids.shape)} hold no sequence: hand over at least one")
    edges = (attention_mask[:, 1:] != attention_mask[:, :-1]).sum(1)
    holes = edges > 2 - attention_mask[:, 0].long() - attention_mask[:, -1].long()
    for wrong, what in (
        (holes, "has a hole in its attention mask"),
        ((response_mask & ~attention_mask).any(1), "has response tokens outside its attention mask"),
        (~response_mask.any(1), "has an empty response"),
    ):
        if bool(wrong.any()):
            raise InputError(f"sequence {int(wrong.nonzero()[0])} {what}")
