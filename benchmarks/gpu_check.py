"""What is claimed of one GPU, checked in one command: pass, fail or not run, claim by claim.

    ./reproduce.sh gpu-check [--python PYTHON] [--output FILE]

It needs a Python 3.11 or 3.12 with torch, transformers and triton, and this checkout: no installation, no network.

    kernels     Triton against dense maps in float32 and bfloat16, the other attentions, whole models (gpu_kernels.py)
    loop        20 steps of the embedded experiment, the first one beside a CPU's (gpu_training.py)
    step        steps of a SmolLM2-135M with random weights: its phases, the share of signals and credit
    attention   time and memory of a Qwen3-4B with random weights, 1k to 64k tokens (attention_cuda.py)

Each part is a process of its own with a time of its own: a fault of one leaves the GPU to the others, and what it had
found until then is kept. All together end within 9 minutes. Without a GPU the kernels are checked in Triton's
interpreter at small sizes and the rest is not run; a result of a GPU is then not overwritten. Exit status 0: no claim
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import stand_ins

stand_ins.install()  # before anything that annotates shapes

from attention_rhythm.files import read_json, shown  # noqa: E402
from benchmarks.record import run, write  # noqa: E402
from pipeline.manifest import ROOT  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu_check.json"
TOTAL = 520.0  # seconds for all parts together
GRACE = 15.0  # seconds that a part may take beyond its time, to finish the case at hand, before it is stopped
ABOUT = ("dtype", "heads_of", "rule", "model", "mode", "length")  # what tells claims of one name apart


@dataclass(frozen=True)
class Part:
    """module:function takes (device, deadline) and yields rows, and claims, which have a "claim"."""

    name: str
    function: str  # module:function
    seconds: float  # at most; the last part has what is left
    claims: dict[str, str]  # name -> in words


PARTS = (
    Part(
        "kernels",
        "benchmarks.gpu_kernels:check",
        180,
        {
            "tiles_equal_dense": "windows, chunks, caps, sinks, biases: largest error / its bound",
            "signals_equal_dense": "signals of a model, streaming and dense: largest error / its bound",
            "kernels_chosen_on_a_gpu": "the Triton kernels are what a GPU uses",
            "kernels_equal_dense": "Triton kernels and dense maps: largest error / its bound",
            "kernels_repeat_bits": "numbers that a second call of the kernels changes",
            "kernels_far_keys": "mean distance over far keys: largest error / its bound",
        },
    ),
    Part(
        "loop",
        "benchmarks.gpu_training:check_loop",
        100,
        {
            "loop_steps": "steps of the embedded experiment",
            "loop_sampler_gap": "log-probabilities of generation and of reading, nats apart",
            "loop_responses": "share of responses that a CPU draws too",
            "loop_first_step": "first step here and on a CPU: largest difference / its bound",
        },
    ),
    Part(
        "step",
        "benchmarks.gpu_training:check_step",
        80,
        {
            "step_response_tokens": "tokens of a response of the SmolLM2-shaped model",
            "step_signals_and_credit": "share of signals and credit in its step",
        },
    ),
    Part(
        "attention",
        "benchmarks.gpu_attention:check",
        240,
        {
            "fused_of_logp": "time of the old-log-prob pass with signals / without",
            "fused_memory_exponent": "exponent of its memory in the length",
            "fused_memory_exponent_at_the_end": "the same over the last doubling of the length",
        },
    ),
)


# ------------------------------------------------------------------------------- a part, in its process


def serve(part: Part, found: Path, device: str, seconds: float) -> int:
    """Do a part, and append what it finds to `found`, a line each. Status 1: it ended with an error, its last line."""
    module, _, name = part.function.partition(":")
    with open(found, "a", encoding="utf-8") as file:
        deadline = time.monotonic() + seconds
        try:
            for fact in checks(module, name)(device, deadline):
                print(json.dumps(fact), file=file, flush=True)
        except Exception as error:  # whatever it is, the other parts go on
            traceback.print_exc()
            text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            print(json.dumps({"error": text}), file=file, flush=True)
            return 1
    return 0


def checks(module: str, name: str) -> Callable[[str, float], Iterable[dict[str, Any]]]:
    """The function of a part; without a GPU that of the kernels has small cases."""
    function = getattr(importlib.import_module(module), name)
    if os.environ.get("TRITON_INTERPRET") != "1":
        return function
    small = importlib.import_module(module).SMALL
    return lambda device, deadline: function(device, deadline, small)


# -------------------------------------------------------------------------------------- all of them


def do(part: Part, device: str, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own: its rows and claims, how it ended, and its seconds."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["TRITON_INTERPRET"] = str(int(device == "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.jsonl"
        found.touch()
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", part.name, "--found", str(found)]
        command += ["--device", device, "--seconds", str(seconds)]
        started = time.monotonic()
        ended = ended_by(command, environment, seconds + GRACE)
        took = time.monotonic() - started
        facts = list(_facts(found))
    errors = [fact["error"] for fact in facts if set(fact) == {"error"}]
    return {
        "why": errors[0] if errors else ended,
        "seconds": took,
        "rows": [fact for fact in facts if "claim" not in fact and set(fact) != {"error"}],
        "claims": [fact for fact in facts if "claim" in fact],
    }


def ended_by(command: list[str], environment: dict[str, str], seconds: float) -> str | None:
    """Run a command for at most so long; why it did not end well, None if it did."""
    try:
        status = subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return f"its process ended with status {status}" if status else None


def _facts(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that a process may have been stopped in the middle of."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            if line:
                yield json.loads(line)


def judged(part: Part, claims: list[dict[str, Any]], why: str | None, ran: bool) -> list[dict[str, Any]]:
    """The claims with a verdict each: pass, fail, not run, or measured, where nothing is claimed of the value.

    why: a part did not end well, or was not run. What it had not come to has then failed, or is not run.
    """
    verdicts = {True: "pass", False: "fail"}
    found = []
    for claim in claims:
        nothing = "measured" if claim.get("bound") is None and claim.get("value") is not None else "not run"
        found.append({"part": part.name, **claim, "verdict": verdicts.get(claim.get("held"), nothing)})
    missing = [name for name in part.claims if name not in {claim["claim"] for claim in claims}]
    if ran and why is not None:
        missing = missing or ["part_ends_well"]  # it broke after its last claim had begun
        about = {"value": None, "held": False, "why": why, "verdict": "fail"}
    else:
        about = {"value": None, "held": None, "verdict": "not run"} | ({"why": why} if why else {})
    found += [{"part": part.name, "claim": name, **about} for name in missing]
    return found


def gpu() -> dict[str, Any] | None:
    """What PyTorch says of the first GPU, and the driver's version; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    driver = None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout.split("\n")[0]
    return {
        "name": about.name,
        "memory_gib": round(about.total_memory / 2**30, 1),
        "multiprocessors": about.multi_processor_count,
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
        "driver": driver,
    }


def is_of_a_gpu(path: Path) -> bool:
    """Whether a file is there that this check has written on a GPU. ReproError: it is no JSON."""
    return path.exists() and bool(read_json(path).get("gpu"))


def sentence(claim: dict[str, Any], words: dict[str, str]) -> str:
    """A claim as a line: its verdict, what it is about, the value and the bound."""
    about = ", ".join(str(claim[key]) for key in ABOUT if key in claim)
    text = f"{claim['verdict']:>8}  {words.get(claim['claim'], claim['claim'])}" + (f" ({about})" if about else "")
    if claim["value"] is not None:
        text += f": {claim['value']:.3g}"
        text += f" {claim['sense']} {claim['bound']:.3g}" if claim.get("bound") is not None else ""
    return text + (f" [{claim['why']}]" if claim.get("why") else "")


def check(output: Path) -> int:
    """Do the parts, print and write what they find. The exit status: 1 if a claim failed."""
    of_a_gpu = is_of_a_gpu(output)
    hardware = gpu()
    if hardware is None:
        print("no GPU: PyTorch sees none. What Triton's interpreter can run is checked, the rest is not run.")
    else:
        print(f"{hardware['name']}, {hardware['memory_gib']} GiB, CUDA {hardware['cuda']}")
    writes = hardware is not None or not of_a_gpu
    parts: dict[str, Any] = {}
    claims: list[dict[str, Any]] = []
    words: dict[str, str] = {}
    end = time.monotonic() + TOTAL
    for part in PARTS:
        words |= part.claims
        if hardware is None and part is not PARTS[0]:
            own, why, ran = [], "no GPU", False
            parts[part.name] = {"why": why, "seconds": 0.0, "rows": []}
        else:
            left = end - time.monotonic()
            seconds = left if part is PARTS[-1] else min(part.seconds, left)
            print(f"\n{part.name}: at most {seconds:.0f} s", flush=True)
            result = do(part, "cpu" if hardware is None else "cuda", seconds)
            own, why, ran = result.pop("claims"), result["why"], True
            parts[part.name] = result
        new = judged(part, own, why, ran)
        claims += new
        print("\n".join(sentence(claim, words) for claim in new), flush=True)
        if writes:
            write(output, {"gpu": hardware, "words": words, "parts": parts, "claims": claims})
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in ("pass", "fail", "not run")}
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"\n{total}" if hardware else f"\n{total}; no GPU")
    print(f"written to {shown(output)}" if writes else f"{shown(output)} is of a GPU: left as it is")
    return 1 if counts["fail"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh gpu-check",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(__doc__ or "").split("\n\n", 1)[0] + "\n\n" + (__doc__ or "").split("\n\n", 2)[2],
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE", help=f"default: {shown(RESULTS)}")
    parser.add_argument("--part", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        (part,) = (part for part in PARTS if part.name == options.part)
        return serve(part, options.found, options.device, options.seconds)
    return check(options.output)


if __name__ == "__main__":
    run(main)
