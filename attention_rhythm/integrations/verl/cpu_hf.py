"""A rollout server for verl around `HFGenerator`, for machines without a GPU. For tests and development only."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput
from verl.workers.rollout.utils import ensure_async_iterator

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model


class HFServer:
    """A Ray actor with a transformers model. Requests that wait for it are generated together."""

    def __init__(self, path: str, max_new_tokens: int):
        torch.set_num_threads(1)
        self.generator = HFGenerator(*load_model(path, dtype="float32", device="cpu"))
        self.max_new_tokens, self.calls = max_new_tokens, 0
        self.global_steps: int | None = None
        self.waiting: list[tuple[tuple, asyncio.Future]] = []
        self.turn = asyncio.Lock()

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict, **_: Any) -> TokenOutput:
        """Complete one prompt, together with those that wait."""
        limit = sampling_params.get("max_tokens") or sampling_params.get("max_new_tokens") or self.max_new_tokens
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(((tuple(prompt_ids), limit, sampling_params.get("temperature", 1.0)), answer))
        async with self.turn:
            if not answer.done():
                await asyncio.sleep(0.05)  # let the others of the batch come in
                requests, self.waiting = self.waiting, []
                self.answer(requests)
        completion = answer.result()
        return TokenOutput(
            token_ids=completion.token_ids,
            log_probs=completion.logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": self.global_steps},
        )

    def answer(self, requests: list[tuple[tuple, asyncio.Future]]) -> None:
        """Generate for all that wait; those alike in one call."""
        alike = defaultdict(list)
        for key, future in requests:
            alike[key].append(future)
        for (prompt, limit, temperature), futures in alike.items():
            self.calls += 1
            sampling = SamplingConfig(limit, float(temperature), samples=len(futures), seed=self.calls)
            for future, completion in zip(futures, self.generator.generate([prompt], sampling), strict=True):
                future.set_result(completion)

    async def load(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Take over new weights."""
        self.generator.update_weights(weights.items())
        self.global_steps = global_steps

    async def nothing(self, *_: Any, **__: Any) -> None:
        """What a server on a GPU does to free or to fill its memory."""

    wake_up = sleep = abort_all_requests = resume_generation = clear_kv_cache = nothing
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing


class HFReplica(RolloutReplica):
    """Starts the server of one rollout replica."""

    async def launch_servers(self) -> None:
        name = _server_name(self.replica_rank)
        server = ray.remote(HFServer).options(name=name, max_concurrency=self.max_concurrency, num_cpus=0)
        self._server_handle = server.remote(self.model_config.path, self.config.response_length)
        self.servers, self._server_address = [self._server_handle], name


class HFRollout(BaseRollout):
    """The training worker's end of it: hands over the weights."""

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    @torch.no_grad()
    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        named = {name: x.detach().cpu().clone() async for name, x in ensure_async_iterator(weights)}
        await ray.get_actor(_server_name(int(os.environ["RANK"]))).load.remote(named, global_steps)


def _server_name(rank: int) -> str:
    return f"rhythm_hf_server_{rank}"
