"""The Triton kernels equal the equations on dense maps and the streaming path of a CPU.

Without a GPU the kernels run on the CPU, by Triton's interpreter, in a process of its own (the interpreter has to be
chosen before triton is first imported): one test here starts this very file there. With a GPU everything below runs on
it as well. Triton is in .venv-engines: ./reproduce.sh test engines.

Bounds on float32 inputs: WAAD 1e-4 tokens, FAI 1e-6, span 1e-5 relative, as in test_streaming.py.
"""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention_rhythm.signals import dense, streaming
from attention_rhythm.signals.attention import described_attention
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from benchmarks import gpu_kernels

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="runs in the interpreter's process")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")

HEADS = {"mha": (4, 4), "gqa": (4, 2), "mqa": (4, 1)}
HORIZONS = [(0, None), (10, 100), (3, 3), (7, None), (200, 300)]


@pytest.fixture(scope="module")
def kernels():
    from attention_rhythm.signals import streaming_triton

    if INTERPRETED:
        gpu_kernels.teach_the_interpreter_bfloat16()
    return streaming_triton


def drawn(length, dim=16, sharing="gqa", batch=2, width=None, dtype=torch.float32, spread=2.0):
    """q, k, v on DEVICE (q is spread out, so that attention is far from uniform), and a response mask (B, T)."""
    torch.manual_seed(length * dim)
    heads, groups = HEADS[sharing]
    sizes = [(batch, heads, length, dim), (batch, groups, length, dim), (batch, groups, length, width or dim)]
    q, k, v = (torch.randn(size) * scale for size, scale in zip(sizes, (spread, 1.0, 1.0), strict=True))
    starts = torch.arange(batch)[:, None] * length // (batch + 1)  # every sequence has a response of its own
    position = torch.arange(length)
    response = (position >= starts) & (position < length - starts // 2)
    return *(x.to(DEVICE, dtype) for x in (q, k, v)), response.to(DEVICE)


def dense_maps(q, k, scale):
    """(B, H, T, T) attention weights and (B, H, T) log-sum-exp, in float64."""
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    position = torch.arange(q.shape[2], device=q.device)
    scores = (q @ k.mT * scale).masked_fill(position > position[:, None], -torch.inf)
    return scores.softmax(-1), scores.logsumexp(-1)


def assert_equal_to_dense(kernels, q, k, v, response, window=10, horizons=HORIZONS, tolerance=None):
    """`tolerance`: of the output; the statistics are held to the bounds of float32 whatever the inputs are."""
    scale = q.shape[-1] ** -0.5
    out, lse, distance = kernels.attention_and_span(q, k, v, scale)
    waad = kernels.waad_rows(q, k, lse, scale, response, window)
    received = kernels.received_attention(q, k, lse, scale, response, horizons)

    maps, exact = dense_maps(q, k, scale)
    values = v.double().repeat_interleave(q.shape[1] // v.shape[1], 1)
    torch.testing.assert_close(out.double(), maps @ values, **tolerance or {"atol": 1e-5, "rtol": 1e-5})
    torch.testing.assert_close(lse.double(), exact, atol=2e-5, rtol=1e-6)
    position = torch.arange(q.shape[2], device=q.device)
    away = (maps * (position[:, None] - position)).sum(-1)
    torch.testing.assert_close(distance.double(), away, atol=1e-5, rtol=1e-5)
    rows = response | response.roll(-1, 1)  # the row before the first one, too: it predicted the first token
    rows[:, -1] = response[:, -1]
    rows = rows[:, None].expand_as(waad)
    torch.testing.assert_close(waad[rows].double(), dense.waad(maps, window)[rows], atol=1e-4, rtol=0)
    for total, horizon in zip(received, horizons, strict=True):
        fai = streaming.mean_received(total, response, horizon)
        expected = dense.fai(maps[:, None], response, horizon)[:, 0]
        torch.testing.assert_close(fai.double(), expected, atol=1e-6, rtol=0, equal_nan=True)
    return out, lse, distance, waad, received


@runs_kernels
@pytest.mark.parametrize("length", [1, 5, 17, 130])
@pytest.mark.parametrize("sharing", list(HEADS))
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_kernels_equal_dense_maps(kernels, dim, sharing, length):
    assert_equal_to_dense(kernels, *drawn(length, dim, sharing))


@runs_kernels
@pytest.mark.parametrize("window", [1, 3, 64, 1000])
def test_every_window(kernels, window):
    assert_equal_to_dense(kernels, *drawn(150), window=window)


@runs_kernels
@pytest.mark.parametrize("dim, width", [(48, 16), (24, 40), (8, 8), (192, 128)])
def test_sizes_that_are_no_powers_of_two_and_values_of_another_size(kernels, dim, width):
    assert_equal_to_dense(kernels, *drawn(40, dim, width=width, batch=1))


@runs_kernels
@pytest.mark.parametrize("dtype, step", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
@pytest.mark.parametrize("length", [17, 200])
def test_short_floats_are_read_as_they_are_and_summed_in_float32(kernels, dtype, step, length):
    """The output is as exact as its dtype; the statistics as if q and k had been float32."""
    q, k, v, response = drawn(length, 64, dtype=dtype)
    tolerance = {"atol": 4 * step, "rtol": 2 * step}
    out, lse, *_ = assert_equal_to_dense(kernels, q, k, v, response, tolerance=tolerance)
    assert out.dtype == dtype and lse.dtype == torch.float32


@runs_kernels
def test_the_tiles_of_a_cpu_say_the_same(kernels):
    q, k, v, _ = (x.cpu() for x in drawn(140))
    here = [x.to(DEVICE) for x in (q, k, v)]
    for ours, theirs in zip(
        kernels.attention_and_span(*here, 0.3), streaming.attention_and_span(q, k, v, 0.3), strict=True
    ):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-5)


@runs_kernels
def test_tensors_as_a_model_lays_them_out_are_read_in_place(kernels):
    """Heads behind tokens, as projections give them, and values whose last axis is not contiguous: the same bits."""
    q, k, v, _ = drawn(70)
    plain = kernels.attention_and_span(q, k, v, 0.2)
    moved = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]
    odd = v.mT.contiguous().mT
    assert odd.stride(-1) != 1 and not moved[0].is_contiguous()
    for one, other in zip(plain, kernels.attention_and_span(*moved, odd, 0.2), strict=True):
        assert torch.equal(one, other)


@runs_kernels
def test_a_repeated_call_gives_the_same_bits(kernels):
    inputs = drawn(130)
    first, second = ([*r[:4], *r[4]] for r in (assert_equal_to_dense(kernels, *inputs) for _ in range(2)))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@runs_kernels
@pytest.mark.parametrize("row", ["token", "predictor"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_signals_of_a_model(kernels, new_model, batch, monkeypatch, kind, side, row):
    """The whole way, with the kernels where the recorder chooses its path."""
    monkeypatch.setattr(streaming, "triton_kernels", lambda device: kernels)
    model = new_model(kind).to(DEVICE)
    inputs = [x.to(DEVICE) for x in batch([(5, 40), (1, 7), (12, 25), (3, 1)], side)]
    config = SignalConfig(horizon=(2, 9), row=row)
    ours, exact = (attention_signals(model, *inputs, config, method=m) for m in ("streaming", "dense"))
    torch.testing.assert_close(ours.waad, exact.waad, atol=1e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(ours.fai, exact.fai, atol=1e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(ours.head_span, exact.head_span, atol=0, rtol=1e-5)
    assert torch.equal(ours.local_heads, exact.local_heads) and torch.equal(ours.global_heads, exact.global_heads)


@runs_kernels
def test_autocast_is_followed_not_undone(kernels, new_model, batch, monkeypatch):
    """Under bfloat16 autocast the layers that are read compute what the layers that are not would."""
    monkeypatch.setattr(streaming, "triton_kernels", lambda device: kernels)
    model = new_model("llama", num_hidden_layers=2).to(DEVICE)
    ids, _, response = (x.to(DEVICE) for x in batch([(8, 60)]))
    seen = []
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast(DEVICE, torch.bfloat16):
        for layers in ([0], [1]):  # layer 0 is read, then it is not
            recorder = streaming.SignalRecorder(layers, response, 10, [(2, 9)])
            with described_attention(model, recorder), torch.no_grad():
                model(input_ids=ids, use_cache=False)
    assert seen[0].dtype == seen[1].dtype == torch.bfloat16
    torch.testing.assert_close(seen[0], seen[1], atol=2e-2, rtol=2e-2)


@runs_kernels
def test_the_check_of_a_gpu(kernels):
    """`./reproduce.sh gpu-check`, its part `kernels`: every claim is held, at the sizes that an interpreter can do."""
    found = list(gpu_kernels.check(DEVICE, math.inf, gpu_kernels.SMALL if INTERPRETED else gpu_kernels.Sizes()))
    held = [(fact["claim"], fact["held"]) for fact in found if "claim" in fact]
    assert {claim for claim, _ in held} >= {"kernels_equal_dense", "kernels_repeat_bits", "kernels_far_keys"}
    assert all(answer for _, answer in held), [fact for fact in found if fact.get("held") is False]


@pytest.mark.skipif(INTERPRETED, reason="there is no compiler in the interpreter")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_kernels_compile_for_gpus_that_are_not_here(kernels, dim, dtype, architecture):
    """Triton brings its compiler along: an A100's and an H100's code is made without one, and fits their memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = kernels.tiles({"bf16": torch.bfloat16, "fp32": torch.float32}[dtype], dim)
    fixed = {"D": dim, "V": dim, "D_PAD": dim, "V_PAD": dim, "ROWS": tile.rows, "KEYS": tile.keys}
    fixed["PRECISION"] = "ieee" if dtype == "fp32" else "tf32"
    types = {"first_ptr": "*i32", "last_ptr": "*i32", "response_ptr": "*i1", "scale": "fp32"}
    types |= dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), f"*{dtype}")
    for kernel in (kernels._forward_kernel, kernels._waad_kernel, kernels._fai_kernel):
        names = kernel.arg_names
        default = {n: "*fp32" if n.endswith("_ptr") else "i32" for n in names}
        signature = {n: "constexpr" if n in fixed else types.get(n, default[n]) for n in names}
        aligned = [i for i, n in enumerate(names) if n.endswith("_ptr") or re.fullmatch(r"(q|k|v|out)_[bht]", n)]
        compiled = triton.compile(
            ASTSource(
                kernel,
                signature,
                {n: value for n, value in fixed.items() if n in names},
                {(i,): [["tt.divisibility", 16]] for i in aligned},
            ),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        )
        assert compiled.asm["cubin"] and compiled.metadata.shared <= 100 * 1024


@needs_gpu
@pytest.mark.parametrize("length", [1000, 4096])
def test_long_sequences_on_the_gpu(kernels, length):
    assert_equal_to_dense(kernels, *drawn(length, 128, batch=1))


@needs_gpu
def test_far_keys_keep_their_digits(kernels):
    """Uniform attention over 32,768 tokens: the mean distance is t / 2, exactly."""
    n = 32_768
    k = torch.randn(1, 1, n, 64, device=DEVICE, dtype=torch.bfloat16)
    _, _, distance = kernels.attention_and_span(torch.zeros_like(k), k, k, 1.0)
    torch.testing.assert_close(distance[0, 0], torch.arange(n, device=DEVICE) / 2, rtol=1e-5, atol=1e-3)


@needs_gpu
def test_the_gpu_path_is_taken_by_itself(kernels):
    assert streaming.triton_kernels(torch.device("cuda")) is kernels


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.slow
def test_on_a_cpu_by_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__).resolve())]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\b[3-9]\d passed", done.stdout), done.stdout[
        -300:
    ]  # none was skipped for want of an interpreter
