"""Where Megatron's ranks live, and what the loop of training/loop.py sees of them.

MegatronLeader       under torchrun: all ranks `join`, rank 0 runs the loop, the others `follow` it
MegatronProcesses    on one machine: each rank is a process of its own, the loop (and vLLM) stays in this one
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch import multiprocessing as mp
from transformers import PreTrainedModel

from attention_rhythm.errors import ReproError
from training.actors.megatron import Layout, MegatronTrainActor, check


class RankError(ReproError):
    """A process of Megatron's has died."""


class _FrontEnd(ABC):
    """`TrainActor` as the loop knows it; the ranks do the work, and `model` has the new weights after each step."""

    model: PreTrainedModel
    ended = False  # no rank listens any more

    def step(self, *batch: Tensor) -> dict[str, float]:
        """See `TrainActor.step`."""
        metrics, weights = self._call("step_and_export", *(x.cpu() for x in batch))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return self._call("state_dict")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The optimizer's state; the weights are those that `model` has by now."""
        self._call("load_state_dict", state, {n: p.detach().cpu() for n, p in self.model.named_parameters()})

    @abstractmethod
    def _call(self, name: str, *arguments: Any) -> Any:
        """Method `name` of `MegatronTrainActor`, on every rank; the answer of rank 0."""

    @abstractmethod
    def close(self) -> None:
        """Let the ranks go."""


def join(model: PreTrainedModel, layout: Layout) -> int:
    """Meet the other ranks that torchrun has started, after `check`; the rank of this one."""
    check(model, layout, int(os.environ["WORLD_SIZE"]))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank()


class MegatronLeader(_FrontEnd):
    """Rank 0 under torchrun; arguments as of `MegatronTrainActor`. The other ranks `follow`."""

    def __init__(self, model: PreTrainedModel, *arguments: Any, **options: Any):
        self.model, self.actor = model, MegatronTrainActor(model, *arguments, **options)

    def _call(self, name: str, *arguments: Any) -> Any:
        dist.broadcast_object_list([(name, arguments)], src=0)
        self.ended = True  # an error here is an error on all ranks
        result = getattr(self.actor, name)(*arguments)
        self.ended = False
        return result

    def close(self) -> None:
        """Let the other ranks go."""
        if not self.ended:
            dist.broadcast_object_list([None], src=0)
            self.ended = True


def follow(actor: MegatronTrainActor) -> None:
    """Do what rank 0 does until it closes. Errors of a step are raised here as on rank 0."""
    while True:
        command: list[Any] = [None]
        dist.broadcast_object_list(command, src=0)
        if command[0] is None:
            return
        name, arguments = command[0]
        getattr(actor, name)(*arguments)


class MegatronProcesses(_FrontEnd):
    """Starts `ranks` processes on this machine, one a GPU where there are GPUs; `close` ends them.

    Args:
        ranks: processes; None: tensor x pipeline, no data parallelism.
        start: how a process is made; "fork" is faster, but not possible once CUDA or a second thread is in use.
        arguments, options: as of `MegatronTrainActor`.

    Raises:
        UsageError, MissingEngine: see `check`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *arguments: Any,
        layout: Layout,
        ranks: int | None = None,
        start: str = "spawn",
        **options: Any,
    ):
        self.model, world = model, ranks or layout.tensor * layout.pipeline
        check(model, layout, world)
        self.meeting = Path(tempfile.mkdtemp(prefix="megatron-"))  # where the processes find each other
        context = mp.get_context(start)
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(rank, world, self.meeting, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:  # once all have started: each waits for the others before it reads
            with suppress(ConnectionError):
                _send(pipe, partial(MegatronTrainActor, model, *arguments, layout=layout, **options))
        self._answers()

    def _call(self, name: str, *arguments: Any) -> Any:
        if self.ended:
            raise RankError("Megatron's processes have ended")
        for pipe in self.pipes:
            with suppress(ConnectionError):  # it has ended, as its answer will show
                _send(pipe, (name, arguments))
        return self._answers()

    def _answers(self) -> Any:
        """Rank 0's answer, once all have answered; an error of theirs is raised here."""
        answers = []
        for rank, pipe in enumerate(self.pipes):
            try:
                answers.append(_receive(pipe))
            except (EOFError, ConnectionError) as error:
                for process in self.processes:  # the others may wait for it
                    process.terminate()
                self.close()
                raise RankError(f"Megatron's process of rank {rank} has ended; what it wrote says why") from error
        if isinstance(answers[0], ReproError):
            self.close()
            raise answers[0]
        return answers[0]

    def close(self) -> None:
        """End the processes."""
        if self.ended:
            return
        self.ended = True
        for pipe in self.pipes:
            with suppress(ConnectionError):  # it has ended before
                _send(pipe, None)
            pipe.close()
        for process in self.processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
                process.join()
        shutil.rmtree(self.meeting, ignore_errors=True)


def _send(pipe: Connection, message: Any) -> None:
    """By value: `Connection.send` would share each tensor's memory, through a thread, after which nothing can fork."""
    pipe.send_bytes(pickle.dumps(message))


def _receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())


def _rank(rank: int, world: int, meeting: Path, pipe: Connection) -> None:
    """The life of one process: makes the actor that the pipe brings, then answers each command, until the empty one."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{meeting}/ranks", rank=rank, world_size=world
    )
    actor = _receive(pipe)()
    _send(pipe, None)
    while command := _receive(pipe):
        name, arguments = command
        try:
            answer = getattr(actor, name)(*arguments)
        except ReproError as error:  # of all ranks
            answer = error
        _send(pipe, answer if rank == 0 else None)
    dist.destroy_process_group()
