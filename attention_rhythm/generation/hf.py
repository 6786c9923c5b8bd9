"""Generation with a Hugging Face model: on a CPU, on one GPU, no server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attention_rhythm.generation.base import Completion, GenerationError, Prefix, SamplingConfig
from attention_rhythm.generation.choice import Rows, make_decoder
from attention_rhythm.generation.conventions import ResponseText, repetition_penalty, stop_token_ids
from attention_rhythm.signals.architecture import exclusive, language_model

# Finished rows leave once they are this share of the batch: leaving copies the caches of those that stay. What stays is
# a multiple of so many rows, finished ones among them: libraries prepare their products anew for each new number.
_LEAVE_AT, _STAY_BY = 0.125, 16
_BLOCK = 64  # tokens whose probabilities are summed first, when one is drawn
_PIECE = 2**20  # logits that are drawn from at once


def uniform_draws(prompt: Sequence[int], seed: int, sample: int, count: int) -> np.ndarray:
    """(count,) uniform numbers that depend on the seed, the prompt and the sample number alone.

    So a completion is the same whatever shares its batch, and a longer limit only goes on where a shorter one stopped.
    """
    key = hashlib.sha256(repr((seed, sample, [int(t) for t in prompt])).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).random(count)


def draw(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row, (B,), of logits (B, V): the arg max at temperature 0, else the inverse CDF at `uniform` (B,).

    uniform: in [0, 1), float64. Probabilities are those of a softmax in float32, their sums are float64; a token whose
    probability is 0 there is never drawn, whatever the rounding.
    """
    if temperature == 0:
        return logits.argmax(-1)
    uniform = uniform.to(logits.device, torch.float64)
    return torch.cat([_inverse_cdf(logits[few], temperature, uniform[few]) for few in _pieces(logits)])


def log_probability(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of one token a row, (B,), in nats, by logits (B, V)."""
    total = torch.cat([logits[few].logsumexp(-1) for few in _pieces(logits)])
    return logits.gather(-1, tokens[:, None])[:, 0] - total


def _pieces(logits: torch.Tensor) -> list[slice]:
    """Rows of logits (B, V) to take at once: on a CPU few, so that what is written stays in the processor's cache."""
    rows = max(_PIECE // logits.shape[-1], 1) if logits.device.type == "cpu" else len(logits)
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def _inverse_cdf(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """The first token of each row, (B,), up to which logits (B, V) have more than the share `uniform` (B,).

    Found in two steps, so that only some of the sums are made: the block of tokens, then the token in it.
    """
    weights = (logits - logits.amax(-1, keepdim=True)).div_(temperature).exp_()  # (B, V)
    if missing := -weights.shape[-1] % _BLOCK:
        weights = F.pad(weights, (0, missing))
    weights = weights.unflatten(-1, (-1, _BLOCK))  # (B, blocks, _BLOCK)
    upto = weights.sum(-1).cumsum(-1, dtype=torch.float64)  # (B, blocks)
    target = uniform[:, None] * upto[:, -1:]  # below the last sum: uniform < 1
    block = torch.searchsorted(upto, target, right=True)  # (B, 1)
    target = target - F.pad(upto, (1, 0)).gather(-1, block)
    inside = weights.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    # The float32 sum of the block may be more than the float64 sum of its tokens: then the last that adds to it.
    last = torch.searchsorted(inside, inside[:, -1:].contiguous())
    token = torch.searchsorted(inside, target, right=True).minimum(last)
    return (block * _BLOCK + token)[:, 0]


class Repetition:
    """The repetition penalty of a generation config, as transformers applies it: to the tokens of prompt and response.

    Args:
        rows: the token ids of each row so far.
        penalty: logits of tokens that were there before are divided by it, negative ones multiplied.
    """

    def __init__(self, rows: Sequence[Sequence[int]], penalty: float):
        self.rows, self.penalty = rows, penalty
        self.seen: torch.Tensor | None = None  # (B, V), once V is known

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The logits (b, V) of the rows (b,) with the penalty."""
        if self.seen is None:
            self.seen = torch.zeros(len(self.rows), logits.shape[-1], dtype=torch.bool, device=logits.device)
            for seen, row in zip(self.seen, self.rows, strict=True):
                seen[torch.tensor(row, device=logits.device)] = True
        lower = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(self.seen[rows], lower, logits)

    def add(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Each of the rows (b,) has one more token, (b,)."""
        assert self.seen is not None
        self.seen[rows, tokens] = True


@torch.inference_mode()
def continue_rows(
    model: nn.Module,
    prefixes: Sequence[Sequence[int]],
    group: Sequence[int],
    visible: Sequence[int],
    first: Sequence[int],
    limits: Sequence[int],
    stops: set[int],
    choose: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
) -> tuple[list[list[int]], list[list[float]]]:
    """Continue B rows until a stop token or the row's limit.

    Args:
        prefixes: token ids whose keys and values are shared.
        group, visible: (B,) each row's prefix, and how many of its tokens the row sees.
        first: (B,) the token that follows the visible part; it is given, not part of the result.
        limits: (B,) most tokens to generate for each row, at least 1.
        choose: (logits (b, V), indices of the rows (b,), step) -> tokens (b,). The repetition penalty of the model's
            generation config is in these logits.

    Returns:
        For each row its tokens (a stop token included) and their log-probabilities in nats at temperature 1, without a
        penalty.

    Raises:
        GenerationError: the context is too short. BrokenLogits: NaN or inf in what the model predicts.
            UnsupportedAttention: no decoder is right for the model, or it is not at hand (a wrapper, the meta device).
    """
    model = language_model(model)
    device = model.device
    penalty = repetition_penalty(model.generation_config)
    before = [[*prefixes[g][:v], token] for g, v, token in zip(group, visible, first, strict=True)]
    repetition = Repetition(before, penalty) if penalty != 1 else None
    texts = [torch.tensor(p, dtype=torch.long) for p in prefixes]
    with exclusive(model):  # a thread that reads the model has its attention replaced meanwhile
        decoder = make_decoder(model, Rows(texts, group, visible, limits))
    tokens: list[list[int]] = [[] for _ in first]
    logprobs: list[list[float]] = [[] for _ in first]
    rows = torch.arange(len(first), device=device)
    limit = torch.tensor(limits, device=device)
    stop = torch.tensor(sorted(stops), dtype=torch.long, device=device)
    finished = torch.zeros(len(first), dtype=torch.bool, device=device)
    current = torch.tensor(first, device=device)
    step = 0
    while True:
        with exclusive(model):
            logits = decoder.step(current)  # (b, V)
        current = choose(logits if repetition is None else repetition(logits, rows), rows, step)
        if repetition is not None:
            repetition.add(rows, current)
        picked = log_probability(logits, current)  # (b,)
        for row, token, logprob, done in zip(
            rows.tolist(), current.tolist(), picked.tolist(), finished.tolist(), strict=True
        ):
            if not done:
                tokens[row].append(token)
                logprobs[row].append(logprob)
        step += 1
        finished |= torch.isin(current, stop) | (limit[rows] <= step)
        gone = int(finished.sum())
        if gone == len(rows):
            return tokens, logprobs
        if gone >= _LEAVE_AT * len(rows):
            stay = finished.long().argsort(stable=True)[: _rounded_up(len(rows) - gone)]
            if len(stay) < len(rows):
                decoder.keep(stay)
                rows, current, finished = rows[stay], current[stay], finished[stay]


def _rounded_up(rows: int) -> int:
    return -(-rows // _STAY_BY) * _STAY_BY if rows > _STAY_BY else rows


class HFGenerator:
    """Generates with a Hugging Face model: the n samples of a prompt share its keys and values where the model allows.

    The repetition penalty of the model's generation config is obeyed; its temperature, top_p and their like are not:
    `SamplingConfig` says how tokens are drawn.

    Args:
        model: of transformers, with LoRA or without.
        tokenizer: anything with `decode` and `eos_token_id`.

    GenerationError: a model whose generation config asks for what is not applied here. UnsupportedAttention: one that
    cannot be decoded as it is (on the meta device, wrapped).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        config = language_model(model).generation_config
        repetition_penalty(config)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.stops = stop_token_ids(config, tokenizer)
        self.text = ResponseText(tokenizer, self.stops)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Completion]:
        """See `Generator.generate`. All prompts form one batch: callers cut their work to what memory holds.

        Raises: see `continue_rows`; GenerationError for a prompt without tokens, too.
        """
        if not prompts:
            return []
        for number, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise GenerationError(f"prompt {number} has no tokens: begin it with a token, as that of the sequence")
        numbers = [(p, s) for p in range(len(prompts)) for s in range(sampling.samples)]
        uniform = torch.from_numpy(
            np.stack([uniform_draws(prompts[p], sampling.seed, s, sampling.max_new_tokens) for p, s in numbers])
        ).to(self.model.device)

        # The last token of a prompt is fed through `step`, like every later one: its logits choose the first new token.
        tokens, logprobs = continue_rows(
            self.model,
            prefixes=[p[:-1] for p in prompts],
            group=[p for p, _ in numbers],
            visible=[len(prompts[p]) - 1 for p, _ in numbers],
            first=[prompts[p][-1] for p, _ in numbers],
            limits=[sampling.max_new_tokens] * len(numbers),
            stops=set() if sampling.ignore_eos else self.stops,
            choose=lambda logits, rows, step: draw(logits, sampling.temperature, uniform[rows, step]),
        )
        return [
            Completion(
                token_ids=ids,
                text=self.text(ids),
                logprobs=lps,
                finish_reason="stop" if ids[-1] in self.stops and not sampling.ignore_eos else "length",
            )
            for ids, lps in zip(tokens, logprobs, strict=True)
        ]

    def continue_prefixes(
        self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix], samples: int, seed: int
    ) -> list[list[list[int]]]:
        """See `Generator.continue_prefixes`. All rows form one batch. Raises: see `continue_rows`."""
        if not prefixes:
            return []
        used = sorted({prefix.text for prefix in prefixes})
        rows = [(prefix, number) for prefix in prefixes for number in range(samples)]
        longest = max(prefix.limit for prefix in prefixes)
        ids = {prefix: [*texts[prefix.text][: prefix.visible], prefix.first] for prefix in prefixes}
        uniform = torch.from_numpy(np.stack([uniform_draws(ids[p], seed, number, longest) for p, number in rows]))
        uniform = uniform.to(self.model.device)
        tokens, _ = continue_rows(
            self.model,
            prefixes=[texts[text] for text in used],
            group=[used.index(p.text) for p, _ in rows],
            visible=[p.visible for p, _ in rows],
            first=[p.first for p, _ in rows],
            limits=[p.limit for p, _ in rows],
            stops=self.stops,
            choose=lambda logits, few, step: draw(logits, 1.0, uniform[few, step]),
        )
        return [tokens[start : start + samples] for start in range(0, len(tokens), samples)]

    @torch.no_grad()
    def update_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy new weights in; names that the model does not have are an error, tied ones follow by themselves."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, tensor in named_tensors:
            parameters[name].copy_(tensor)
