"""Adapters that let verl run where there is no GPU. For tests and development only: nothing here is fast.

verl wants an accelerator with a collective library, and a rollout server. This is a platform whose accelerator is the
CPU and whose collectives are gloo's (VERL_PLATFORM=cpu), with our engine registered for it; cpu_hf.py is a rollout
server. Ray's "GPUs" are then mere slots: ray.init(num_gpus=N).

In VERL_USE_EXTERNAL_MODULES this comes before the plugin, and nothing that Ray pickles may live here: a process that
imported this file before verl would load the plugin before the platform is there.
"""

from __future__ import annotations

import functools
import types
from contextlib import nullcontext
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _CPUDevice(types.ModuleType):
    """torch.cpu, with the calls to an allocator that verl makes on torch.<device>: all of them do nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))
    get_device_name = staticmethod(lambda *_: "CPU")
    mem_get_info = staticmethod(lambda *_: (0, 0))
    memory_allocated = memory_reserved = staticmethod(lambda *_: 0)
    max_memory_allocated = max_memory_reserved = staticmethod(lambda *_: 0)
    set_device = empty_cache = ipc_collect = reset_peak_memory_stats = staticmethod(lambda *_: None)


_DEVICE = _CPUDevice("rhythm_cpu_device")


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """A CPU in the place of an accelerator, with gloo for its collectives."""

    device_name = vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"  # logical: ray.init(num_gpus=N)

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None: ...


# The platform has to be known before verl's workers are imported: they ask for it.
from verl.experimental.agent_loop import agent_loop  # noqa: E402
from verl.workers import engine_workers  # noqa: E402
from verl.workers.engine.base import EngineRegistry  # noqa: E402
from verl.workers.rollout.base import _ROLLOUT_REGISTRY  # noqa: E402
from verl.workers.rollout.replica import RolloutReplicaRegistry  # noqa: E402

from attention_rhythm.integrations.verl.engine import RhythmFSDPEngine  # noqa: E402


def _hf_replica() -> type:
    from attention_rhythm.integrations.verl.cpu_hf import HFReplica

    return HFReplica


EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cpu")(RhythmFSDPEngine)
RolloutReplicaRegistry.register("hf", _hf_replica)
_ROLLOUT_REGISTRY["hf", "async"] = "attention_rhythm.integrations.verl.cpu_hf.HFRollout"
# verl builds the tokens of a turn by the family of the model, and expects a newline of a Qwen's tokenizer: the embedded
# policy has Qwen's architecture, and words of its own
_builder = agent_loop.create_continuous_token_builder
agent_loop.create_continuous_token_builder = lambda tokenizer, **options: _builder(
    tokenizer, **{**options, "hf_model_type": None}
)
# verl would ask torch for the backend "cpu:gloo,cpu:gloo", which it refuses
engine_workers.initialize_global_process_group_ray = functools.partial(
    engine_workers.initialize_global_process_group_ray, backend="gloo"
)
