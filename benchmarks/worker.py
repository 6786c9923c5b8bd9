"""What is measured runs in a process of its own, so that its memory is its own: started once, asked often.

Both sides of a comparison are workers, and whoever measures lets them take turns: what else the machine does then falls
on both. Requests and answers are JSON, a line each.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError
from pipeline.manifest import ROOT

# ------------------------------------------------------------------------------------- who measures


class Worker:
    """`python -m MODULE ARGUMENTS`, which calls `serve`, on `threads` threads; `about` is what it says of itself.

    environment: variables to set, or with None to leave out. folder: of the repository, this version or another.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        threads: int,
        python: str | Path = sys.executable,
        environment: Mapping[str, str | None] | None = None,
        folder: Path = ROOT,
    ):
        self.name = name
        own = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} | (environment or {})
        self.process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            cwd=folder,
            env={key: value for key, value in own.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def __call__(self, request: Any) -> Any:
        """ReproError: the process has ended; what it had to say is on standard error."""
        with suppress(BrokenPipeError):  # its end shows in the answer
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise ReproError(f"{self.name}: its process ended with status {self.process.wait()}; see above")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------------------------ who is measured


def serve(prepare: Callable[[], tuple[Callable[[Any], Any], Any]]) -> None:
    """Be a worker. `prepare` loads what is needed and returns the function of a request, and the worker's `about`."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    answer, about = prepare()
    print(json.dumps(about), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and what it returns."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def measured(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `call` returns; its wall and CPU seconds, this process's peak memory, and the peak above what it held before
    (MiB; Linux)."""
    with suppress(AttributeError):  # of glibc only
        ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier would hide what the call needs
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    peak = _status("VmHWM")
    return result, seconds | {"peak_mib": peak, "above_mib": max(peak - before, 0.0)}


def available_gib() -> float:
    """Memory that can be had without swapping, in GiB (Linux)."""
    return _fields("/proc/meminfo")["MemAvailable"] / 2**20


def _status(field: str) -> float:
    return _fields("/proc/self/status")[field] / 1024


def _fields(path: str) -> dict[str, int]:
    """The fields of a file in /proc whose values are in kB."""
    pairs = (line.split(":", 1) for line in Path(path).read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in pairs if value.rstrip().endswith("kB")}
