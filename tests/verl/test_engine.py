"""verl's own FSDP2 engine with our hook in it: the signals of each token land at that token.

The yardstick is the dense form of the equations, one sequence at a time, in a model that knows nothing of verl.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("verl")

from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig, attention_signals

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "training/checkpoints/countdown-policy"
CONFIG = SignalConfig(horizon=(5, 40))
PASSES = ("fused", "separate", "exported")
LAYOUTS = {
    "padded, in pairs": {"use_remove_padding": False},
    "packed, in pairs": {"use_remove_padding": True},
    "padded, sorted by length": {"use_remove_padding": False, "use_dynamic_bsz": True},
    "packed, sorted by length": {"use_remove_padding": True, "use_dynamic_bsz": True},
}
CASES = {
    (name, layout): ({"attn": name, "signals": asdict(CONFIG)} if name else None, settings)
    for name, (layout, settings) in itertools.product((None, *PASSES), LAYOUTS.items())
}


def random_sequences(lengths, seed):
    draw = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 80, (n,), generator=draw).tolist() for n in pair) for pair in lengths]


SHARES = [
    random_sequences([(5, 20), (8, 7), (3, 33), (6, 12)], seed=0),
    random_sequences([(4, 9), (9, 40), (7, 1), (5, 18)], seed=1),
]


@pytest.fixture(scope="module")
def expected():
    """For each rank and sequence, WAAD and FAI of the response."""
    model, _ = load_model(str(POLICY))

    def alone(prompt, response):
        ids = torch.tensor([prompt + response])
        own = torch.arange(ids.shape[1])[None] >= len(prompt)
        signals = attention_signals(model, ids, torch.ones_like(own), own, CONFIG, method="dense")
        return {"waad": signals.waad[own], "fai": signals.fai[own]}

    return [[alone(*pair) for pair in share] for share in SHARES]


@pytest.fixture(
    scope="module",
    params=[(1, False), (2, False), (1, True)],
    ids=["one rank", "two ranks", "fused kernels for the output"],
)
def given(request, tmp_path_factory):
    """For each rank, the answers by case: a tensor a sequence by name."""
    folder, ranks, fused_kernels = tmp_path_factory.mktemp("ranks"), range(request.param[0]), request.param[1]
    spec = {"model": POLICY, "shares": SHARES[: len(ranks)], "cases": [*CASES.values()]}
    torch.save(spec | {"fused_kernels": fused_kernels}, folder / "spec.pt")
    command = [sys.executable, ROOT / "tests/verl/engine_ranks.py", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(len(ranks))}
    running = [subprocess.Popen([*command, str(r)], cwd=ROOT, env=environment | {"RANK": str(r)}) for r in ranks]
    try:
        assert [process.wait(timeout=300) for process in running] == [0] * len(ranks)
    finally:
        for process in running:
            process.kill()
    return [dict(zip(CASES, torch.load(folder / f"rank{rank}.pt"), strict=True)) for rank in ranks]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attn", PASSES)
def test_signals_are_those_of_each_sequence_alone(given, expected, attn, layout):
    for rank, answer in enumerate(given):
        for name, tolerance in (("waad", 1e-4), ("fai", 1e-6)):
            for own, wanted in zip(answer[attn, layout][name], expected[rank], strict=True):
                torch.testing.assert_close(own, wanted[name], atol=tolerance, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fused_pass_leaves_log_probabilities_and_entropy_as_they_are(given, layout):
    for answer in given:
        for name in ("log_probs", "entropy"):
            for own, without in zip(answer["fused", layout][name], answer[None, layout][name], strict=True):
                torch.testing.assert_close(own, without, atol=2e-6, rtol=1e-5)


def test_a_pass_that_is_not_asked_for_signals_gives_none(given):
    for answer in given:
        for layout in LAYOUTS:
            assert set(answer[None, layout]) == {"log_probs", "entropy"}
