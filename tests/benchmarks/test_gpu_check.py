"""The check of a GPU, without one: what it judges by hand, its parts at small sizes, and what it needs of a Python."""

import dataclasses
import importlib.metadata as metadata
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_rhythm.signals import streaming
from attention_rhythm.signals.attention import Attention
from benchmarks import attention_cuda, gpu_attention, gpu_check, gpu_kernels, gpu_training, stand_ins
from benchmarks.attention import methods
from benchmarks.gpu_kernels import Case, Mismatch, share_of_bound
from pipeline import pages
from pipeline.manifest import ROOT
from tests.support.pretended_gpu import moved, pretended_gpu

LATER = math.inf  # a deadline
TINY_QWEN = dict(
    vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16,
)  # fmt: skip
TINY_LLAMA = dict(
    vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
)  # fmt: skip
TINY_LOOP = dict(prompts_per_step=2, samples_per_prompt=4, max_new_tokens=48)


def claims(facts):
    return [fact for fact in facts if "claim" in fact]


# -------------------------------------------------------------------------------------------- by hand


def test_an_error_is_a_share_of_its_bound():
    exact = torch.tensor([0.0, 10.0, float("nan")])
    assert share_of_bound(torch.tensor([0.5, 10.0, float("nan")]), exact, 1.0, 0.1) == pytest.approx(0.5)
    assert share_of_bound(torch.tensor([0.0, 14.0, float("nan")]), exact, 1.0, 0.1) == pytest.approx(2.0)
    with pytest.raises(Mismatch):
        share_of_bound(torch.tensor([0.0, 10.0, 3.0]), exact, 1.0, 0.1)


def test_dense_maps_of_every_rule_by_hand():
    """Scores 0 everywhere: each row spreads evenly over the keys that it sees."""
    case = Case(torch.float32, dim=2, heads=1, groups=1, batch=1, length=6)
    q = torch.zeros(1, 1, 6, 2)

    def last_row(rule):
        attention = gpu_kernels.attention_of(dataclasses.replace(case, rule=rule), "cpu")
        if attention.sinks is not None:
            attention = dataclasses.replace(attention, sinks=torch.tensor([math.log(2.0)]))  # as heavy as two keys
        if attention.bias is not None:
            attention = dataclasses.replace(attention, bias=torch.full((1, 1, 6, 6), 7.0))
        maps, _ = gpu_kernels.dense_maps(q, q, attention)
        assert not maps.triu(1).any()
        return maps[0, 0, 4].tolist()

    assert last_row(None) == pytest.approx([0.2] * 5 + [0])
    assert last_row("window") == pytest.approx([0, 0, 0, 0.5, 0.5, 0])
    assert last_row("chunk") == pytest.approx([0, 0, 0, 0, 1, 0])
    assert last_row("soft cap") == pytest.approx([0.2] * 5 + [0])
    assert last_row("bias") == pytest.approx([0.2] * 5 + [0])
    assert last_row("sinks") == pytest.approx([1 / 7] * 5 + [0])
    assert last_row("window, soft cap and sinks") == pytest.approx([0, 0, 0, 0.25, 0.25, 0])


def test_a_soft_cap_bounds_the_scores():
    q, k = torch.full((1, 1, 2, 1), 100.0), torch.tensor([[[[1.0], [-1.0]]]])
    attention = dataclasses.replace(gpu_kernels.attention_of(Case(torch.float32, 1, 1, 1, 1, 2), "cpu"), softcap=0.5)
    maps, _ = gpu_kernels.dense_maps(q, k, attention)
    assert maps[0, 0, 1].tolist() == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)])


def test_two_steps_differ_by_a_share_of_what_is_allowed():
    ours = {"loss": 1.0, "gone": None, "entropy": 0.5, "seconds_read": 1.0}
    found = gpu_training.differences(ours, {"loss": 1.0011, "gone": None, "entropy": None, "seconds_read": 9.0})
    assert found["loss"]["share_of_bound"] == pytest.approx(1.0, rel=1e-3)
    assert found["gone"]["share_of_bound"] == 0 and found["entropy"]["share_of_bound"] > 1e6
    assert "seconds_read" not in found


def test_lengths_are_cut_to_the_time_that_is_left():
    rows = [{"length": 1000, "method": name, "rounds": [], "wall_seconds": 1.0} for name in ("logp", "fused")]
    rows.append({"length": 1000, "method": "eager", "out_of_memory": True})
    fit = attention_cuda.rounds_that_fit  # a round at 2000 takes at most 4 times 2 seconds, and one is thrown away
    assert fit(rows, 2000, 100.0, 5) == 5 and fit(rows, 2000, 40.0, 5) == 4
    assert fit(rows, 2000, 32.0, 5) == 3 and fit(rows, 2000, 31.0, 5) == 0 and fit(rows, 2000, -1.0, 5) == 0
    assert [attention_cuda.rounds_at(n * 1024, 5) for n in (1, 2, 4, 8, 16, 64)] == [25, 25, 20, 10, 5, 5]


def test_the_exponent_of_memory_is_a_slope_and_the_end_is_looked_at():
    lengths = [1024 * 2**i for i in range(7)]
    linear = [100.0 + n / 16 for n in lengths]
    square = [m + 4e-7 * n * n for m, n in zip(linear, lengths, strict=True)]  # a quarter more at 64k

    def found(memory):
        rows = [
            {"length": n, "method": "fused", "rounds": [1.0], "above_weights_mib": m}
            for n, m in zip(lengths, memory, strict=True)
        ]
        return {claim["claim"]: claim["held"] for claim in attention_cuda.claims(rows)}

    assert found(linear) == {"fused_memory_exponent": True, "fused_memory_exponent_at_the_end": True}
    assert found(square)["fused_memory_exponent_at_the_end"] is False
    assert attention_cuda.slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert attention_cuda.slope([1], [3.0]) is None and attention_cuda.slope([1, 2], [0.0, 1.0]) is None


PART = gpu_check.Part("some", "module:function", 1.0, {"one": "the first", "two": "the second"})


@pytest.mark.parametrize(
    ("why", "ran", "verdicts"),
    [
        (None, True, {"one": "pass", "two": "not run"}),
        ("stopped after 3 s", True, {"one": "pass", "two": "fail"}),
    ],
)
def test_a_part_that_breaks_fails_in_what_it_had_not_come_to(why, ran, verdicts):
    found = gpu_check.judged(PART, [{"claim": "one", "value": 1, "bound": 2, "held": True}], why, ran)
    assert {claim["claim"]: claim["verdict"] for claim in found} == verdicts


def test_verdicts():
    about = {"claim": "one", "value": 1.0, "sense": "<=", "bound": 0.5, "length": 2048}
    (failed, *_) = gpu_check.judged(PART, [{**about, "held": False}], None, True)
    assert gpu_check.sentence(failed, PART.claims) == "    fail  the first (2048): 1 <= 0.5"
    (measured, *_) = gpu_check.judged(PART, [{**about, "bound": None, "held": None}], None, True)
    assert measured["verdict"] == "measured"
    assert {c["verdict"] for c in gpu_check.judged(PART, [], "no GPU", False)} == {"not run"}
    both = [{"claim": name, "value": 1, "bound": 2, "held": True} for name in ("one", "two")]
    assert gpu_check.judged(PART, both, "its process ended with status -11", True)[-1]["verdict"] == "fail"


def test_the_times_of_the_parts_leave_a_fourth_of_it_to_the_last():
    assert gpu_check.TOTAL + gpu_check.GRACE < 540
    assert sum(part.seconds for part in gpu_check.PARTS[:-1]) < 0.75 * gpu_check.TOTAL


# ------------------------------------------------------------------------------------------- processes


def test_a_process_is_stopped_when_its_time_is_over():
    started = time.monotonic()
    assert gpu_check.ended_by([sys.executable, "-c", "import time; time.sleep(60)"], {}, 1.0) == "stopped after 1 s"
    assert time.monotonic() - started < 30
    assert (
        gpu_check.ended_by([sys.executable, "-c", "raise SystemExit(3)"], {}, 60) == "its process ended with status 3"
    )
    assert gpu_check.ended_by([sys.executable, "-c", ""], {}, 60) is None


def test_what_was_found_before_an_error_is_kept(tmp_path, monkeypatch):
    def breaks(device, deadline):
        yield {"claim": "one", "value": 1.0}
        raise ZeroDivisionError("no more\nof this")

    monkeypatch.setattr(gpu_check, "checks", lambda module, name: breaks)
    found = tmp_path / "found.jsonl"
    assert gpu_check.serve(PART, found, "cpu", 10) == 1
    found.write_text(found.read_text() + '{"claim": "half a li')  # as of a process that was killed
    assert list(gpu_check._facts(found)) == [{"claim": "one", "value": 1.0}, {"error": "ZeroDivisionError: no more"}]


def test_a_result_of_a_gpu_is_not_overwritten_without_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "PARTS", ())
    monkeypatch.setattr(gpu_check, "gpu", lambda: None)
    output = tmp_path / "gpu_check.json"
    assert gpu_check.check(output) == 0 and not output.exists()
    output.write_text('{"gpu": {"name": "H100"}}')
    assert gpu_check.check(output) == 0 and json.loads(output.read_text()) == {"gpu": {"name": "H100"}}
    said = capsys.readouterr().out
    assert "no GPU" in said and "left as it is" in said


def test_the_readme_gets_a_row_for_each_name_of_a_claim(tmp_path):
    assert pages.gpu(tmp_path) == "Not run yet: no GPU at hand."
    about = {"part": "attention", "claim": "fused_of_logp", "sense": "<=", "bound": 1.03}
    record = {
        "gpu": {"name": "NVIDIA H100", "memory_gib": 79.1, "cuda": "13.0"}, "words": {"fused_of_logp": "fused / plain"},
        "claims": [about | {"value": 1.01, "verdict": "pass"}, about | {"value": 1.05, "verdict": "fail"}],
        "environment": {"packages": {"torch": "2.13.0", "triton": "3.9.0"}},
    }  # fmt: skip
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "gpu_check.json").write_text(json.dumps(record))
    text = pages.gpu(tmp_path)
    assert re.search(r"\| fused / plain \| 1.05 +\| at most 1.03 \| 1 pass, 1 fail \|", text)
    assert "NVIDIA H100 (79.1 GiB), CUDA 13.0, torch 2.13.0, triton 3.9.0" in text


# ---------------------------------------------------------------------------------- parts, on this CPU


def test_tiles_and_models_equal_dense_maps():
    small = gpu_kernels.SMALL
    found = list(gpu_kernels._cases("tiles", gpu_kernels.tile_cases(small), "cpu", LATER, None))
    assert len(claims(found)) == 2 * len(gpu_kernels.RULES) and all(claim["held"] for claim in claims(found))
    for make in gpu_kernels.tiny_models(2).values():
        assert max(gpu_kernels.compare_model(make(), "cpu").values()) <= 1


def by_tiles(name):
    """A function of the kernels, in the tiles of a CPU."""

    def statistics(q, k, lse, scale, response, window=1, horizons=()):
        return streaming.band_tiles(q.float(), k.float(), lse, Attention(scale), response, window, horizons)

    return {
        "attention_and_span": lambda q, k, v, scale: streaming.tiled_attention(q, k, v, Attention(scale)),
        "waad_rows": lambda q, k, lse, scale, response, window: statistics(q, k, lse, scale, response, window)[0],
        "received_attention": lambda q, k, lse, scale, response, horizons: statistics(
            q, k, lse, scale, response, horizons=horizons
        )[1],
    }[name]


def test_what_stands_for_the_kernels_is_asked_as_they_are():
    """Triton is not installed everywhere: here functions with their arguments stand in their place."""
    names = ("attention_and_span", "waad_rows", "received_attention")
    kernels = SimpleNamespace(**{name: by_tiles(name) for name in names})
    cases = [case for case in gpu_kernels.kernel_cases(gpu_kernels.SMALL) if case.dtype == torch.float32]
    found = claims(gpu_kernels._cases("kernels", cases, "cpu", LATER, kernels))
    assert {claim["heads_of"] for claim in found} == {64, 128, 192, 256} and all(claim["held"] for claim in found)
    assert gpu_kernels.repeats_differ(kernels, cases[0], "cpu") == 0
    assert gpu_kernels.far_keys(kernels, 200, "cpu") <= 1


def test_a_statistic_that_is_wrong_fails_its_claim_alone(monkeypatch):
    """A distance that is a thousandth too long, in windows; in chunks a fault that raises."""
    right = gpu_kernels.streaming.tiled_attention

    def wrong(q, k, v, attention):
        out, lse, distance = right(q, k, v, attention)
        if attention.chunk is not None:
            raise RuntimeError("an illegal memory access")
        return out, lse, distance * (1.001 if attention.window is not None else 1)

    monkeypatch.setattr(gpu_kernels.streaming, "tiled_attention", wrong)
    found = list(gpu_kernels._cases("tiles", gpu_kernels.tile_cases(gpu_kernels.SMALL), "cpu", LATER, None))
    held = {(claim["rule"], claim["held"]) for claim in claims(found)}
    windows = {"window", "window, soft cap and sinks"}
    assert held == {(rule, rule not in windows | {"chunk"}) for rule in gpu_kernels.RULES}
    assert any("illegal memory access" in claim.get("why", "") for claim in claims(found))


def test_cases_after_the_deadline_are_not_run():
    found = list(gpu_kernels._cases("tiles", gpu_kernels.tile_cases(gpu_kernels.SMALL), "cpu", 0.0, None))
    assert {(claim["held"], claim["why"]) for claim in found} == {(None, "no time left")}


def test_the_loop_is_the_same_here_and_here():
    found = list(gpu_training.check_loop("cpu", LATER, 2, TINY_LOOP))
    assert {claim["claim"]: claim["held"] for claim in claims(found)} == {
        "loop_steps": True, "loop_sampler_gap": True, "loop_responses": True, "loop_first_step": True,
    }  # fmt: skip
    (step,) = (fact["first_step"] for fact in found if "first_step" in fact)
    assert {"loss", "grad_norm", "gamma_mean", "entropy", "reward_mean"} <= set(step)
    assert step["grad_norm"]["here"] > 0 and step["gamma_mean"]["here"] > 1


def test_a_gpu_that_computes_something_else_fails(monkeypatch):
    """Its credit is twice what it should be."""
    from training import loop

    right, device = loop.credit_weights, iter([True, False])
    monkeypatch.setattr(loop, "credit_weights", lambda *a, **k: right(*a, **k) * (2 if next(device) else 1))
    found = {claim["claim"]: claim for claim in claims(gpu_training.check_loop("cpu", LATER, 1, TINY_LOOP))}
    assert found["loop_responses"]["held"] and found["loop_first_step"]["held"] is False


def test_a_step_of_a_model_and_what_signals_cost_in_it():
    rows = list(gpu_training.check_step("cpu", LATER, TINY_LLAMA, (2, 4, 6, 20), 3))
    (step,) = (row for row in rows if "phases" in row)
    assert set(step["phases"]) == {"generate", "read", "reward", "credit", "update"}
    assert step["step_seconds"] == pytest.approx(sum(step["phases"].values()))
    modes = [row["mode"] for row in rows if "signals_seconds" in row]
    assert modes == ["fused", "separate", "dense"]
    assert [c["claim"] for c in claims(rows)] == ["step_response_tokens", *["step_signals_and_credit"] * 3]
    assert claims(rows)[0]["held"]


def test_a_step_under_autocast_as_on_a_gpu(monkeypatch):
    """bfloat16 of the CPU in the place of CUDA's: every phase goes through it."""
    from training import loop
    from training.actors import attn, train

    for module in (loop, attn, train):
        monkeypatch.setattr(module, "precision", lambda model, bf16: torch.autocast("cpu", torch.bfloat16, bf16))
    rows = list(gpu_training.check_step("cpu", LATER, TINY_LLAMA, (2, 4, 6, 20), 1))
    assert claims(rows)[0]["held"] and len(claims(rows)) == 4


def test_time_and_memory_by_length():
    rows = list(gpu_attention.check("cpu", LATER, TINY_QWEN, (32, 64), 1))
    assert {(row["length"], row["method"]) for row in rows if "rounds" in row} == {
        (length, method) for length in (32, 64) for method in gpu_attention.METHODS
    }
    found = {(claim["claim"], claim.get("length")): claim for claim in claims(rows)}
    assert found["fused_of_logp", 64]["value"] > 0 and found["fused_memory_exponent", None]["held"] is None


def test_methods_that_do_not_fit_leave_and_the_others_go_on():
    def too_large(ids, response):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runs = {"eager": too_large, "logp": lambda ids, response: None}
    rows = attention_cuda.measure(runs, 97, 32, 2, "cpu")
    assert {row["method"]: row.get("out_of_memory", False) for row in rows} == {"eager": True, "logp": False}
    assert list(runs) == ["logp"]
    runs["broken"] = lambda ids, response: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        attention_cuda.measure(runs, 97, 32, 1, "cpu")


# -------------------------------------------------------------------------- parts, on a pretended GPU


@pytest.fixture
def pretended(monkeypatch):
    """Models and tensors on "cuda" refuse to meet those of the CPU; autocast and kernels are not pretended."""
    from training import checkpoint

    makers = [(gpu_training, "load_model"), (gpu_training, "random_model"), (attention_cuda, "random_model")]
    load, llama, qwen = (getattr(module, name) for module, name in makers)
    monkeypatch.setattr(gpu_attention, "methods", lambda model: methods(moved(model)))
    monkeypatch.setattr(attention_cuda, "random_model", lambda sizes, *_: qwen(sizes, "cpu", torch.float32))
    monkeypatch.setattr(gpu_training, "random_model", lambda sizes, _: moved(llama(sizes, "cpu")))

    def load_there(spec, device="cpu"):
        model, tokenizer = load(spec)
        return (moved(model) if device == "cuda" else model), tokenizer

    monkeypatch.setattr(gpu_training, "load_model", load_there)
    monkeypatch.setattr(streaming, "triton_kernels", lambda device: None)
    monkeypatch.setattr(checkpoint, "save", lambda *_, **__: None)  # safetensors looks at a tensor's memory
    with pretended_gpu(monkeypatch):
        yield


def test_tensors_of_two_devices_do_not_meet(pretended):
    there = torch.arange(3, device="cuda")
    assert there.device.type == "cuda" and (there + 1).tolist() == [1, 2, 3] and there.cpu().device.type == "cpu"
    for meet in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there], there.numpy):
        with pytest.raises((RuntimeError, TypeError)):
            meet()


def test_the_loop_lies_on_its_device(pretended):
    found = claims(gpu_training.check_loop("cuda", LATER, 2, TINY_LOOP))
    assert len(found) == 4 and all(claim["held"] for claim in found)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_step_and_its_ways_to_read_lie_on_their_device(pretended):
    found = claims(gpu_training.check_step("cuda", LATER, TINY_LLAMA, (2, 4, 6, 20), 1))
    assert [claim["value"] > 0 for claim in found] == [True] * 4


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_passes_of_every_length_lie_on_their_device(pretended):
    found = claims(gpu_attention.check("cuda", LATER, TINY_QWEN, (32, 64), 1))
    assert [claim["length"] for claim in found if claim["value"] is not None] == [32, 64]


def test_tiles_and_models_lie_on_their_device(pretended):
    small = gpu_kernels.SMALL
    found = claims(gpu_kernels._cases("tiles", gpu_kernels.tile_cases(small), "cuda", LATER, None))
    assert all(claim["held"] for claim in found)
    for make in gpu_kernels.tiny_models(2).values():
        assert max(gpu_kernels.compare_model(moved(make()), "cuda").values()) <= 1


# ------------------------------------------------------------------------------------- what it needs

NEEDED = ("torch", "transformers", "triton", "numpy", "safetensors")
WITHOUT = """
import sys

BLOCKED = {blocked!r}

class Less:
    '''A finder that does not find what is not to be there.'''

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Less(finder) for finder in sys.meta_path]
"""


def with_what_they_need(names):
    """The distributions of some names and all that they require without extras, by their canonical names."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Environment variables of a Python that has nothing but NEEDED and what these require."""
    allowed = with_what_they_need(NEEDED)
    blocked = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & allowed
    }
    assert {"jaxtyping", "pandas", "scipy", "pytest"} <= blocked and not {"torch", "numpy", "tqdm"} & blocked
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(WITHOUT.format(blocked=blocked))
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def test_the_command_needs_no_other_package(bare, tmp_path):
    """Without a GPU: it says so, checks what it can, and its exit status is 0."""
    done = subprocess.run(
        ["bash", str(ROOT / "reproduce.sh"), "gpu-check", "--python", sys.executable, "--output", "found.json"],
        cwd=tmp_path, env=bare | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "no GPU" in done.stdout and re.search(r"\d\d pass, 0 fail", done.stdout)
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["gpu"] is None and record["environment"]["packages"]["torch"]
    verdicts = {(claim["part"], claim["verdict"]) for claim in record["claims"]}
    assert ("kernels", "pass") in verdicts and {v for part, v in verdicts if part != "kernels"} == {"not run"}


def test_every_part_needs_no_other_package(bare):
    """On a CPU, at small sizes, in a process where nothing else can be imported."""
    code = f"""
from benchmarks import gpu_check
import jaxtyping, math
assert jaxtyping.__spec__ is None, "the stand-in"
from benchmarks import gpu_attention, gpu_training
facts = [*gpu_attention.check("cpu", math.inf, {TINY_QWEN!r}, (32,), 1)]
facts += gpu_training.check_loop("cpu", math.inf, 1, {TINY_LOOP!r})
facts += gpu_training.check_step("cpu", math.inf, {TINY_LLAMA!r}, (2, 4, 6, 20), 1)
print(len([fact for fact in facts if "claim" in fact]), "claims")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("11 claims\n"), done.stdout[-500:] + done.stderr[-2000:]


def test_the_stand_in_is_not_used_where_jaxtyping_is():
    import jaxtyping

    stand_ins.install()
    assert sys.modules["jaxtyping"] is jaxtyping and jaxtyping.__spec__ is not None


def test_without_torch_the_script_says_what_is_missing(tmp_path):
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    other.chmod(0o755)
    for command in (["--python", str(other)], ["--python"]):
        done = subprocess.run(
            ["bash", str(ROOT / "reproduce.sh"), "gpu-check", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode and ("with torch and transformers" in done.stderr or "usage" in done.stderr)


def test_the_active_python_is_the_first_that_has_torch(tmp_path):
    """`python` starts but has no packages, as that of a system may; `python3` is the one of an environment."""
    for name, option in (("python", "-S"), ("python3", "")):
        shim = tmp_path / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {option} "$@"\n')
        shim.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "reproduce.sh"), "gpu-check", "--help"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "--output FILE" in done.stdout and "--part" not in done.stdout, done.stderr


def test_the_checkout_is_at_most_60_mib():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    assert sum(Path(file).lstat().st_size for file in files if file.exists()) < 60 * 2**20
