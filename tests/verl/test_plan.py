"""The plan of a run: hand-computed parts, and what it says of the runs that are shipped."""

from dataclasses import replace
from pathlib import Path

import pytest

from attention_rhythm.integrations.verl.plan import (
    BEYOND,
    SHIPPED,
    Job,
    Shape,
    cost,
    fits,
    hours,
    memory,
    peaks,
    seconds_per_step,
    table,
)

SMALL = Job(Shape("small", 1e9, 10, 1000, 8, 2, 100, 50_000), 10, 0, 1000, 1000, 100, rollout_tensor_parallel=2)


def test_memory_by_hand():
    parts = memory(SMALL)
    assert parts["weights"] == pytest.approx(0.4)  # 1e9 x 4 bytes / 10 GPUs
    assert parts["optimizer"] == pytest.approx(0.8)
    assert parts["unsharded"] == pytest.approx(0.4)  # two layers of 1e8 in bfloat16
    assert parts["activations"] == pytest.approx(0.048)  # 1000 tokens x 1000 x 24 x 2 bytes
    assert parts["logits"] == pytest.approx(0.6)  # 1000 x 50,000 x 12 bytes
    assert parts["rollout weights"] == pytest.approx(1.0)
    assert parts["rollout weights"] + parts["KV cache"] == pytest.approx(48)  # 0.6 of 80 GB


def test_an_exported_copy_costs_the_whole_model_on_every_gpu():
    assert memory(replace(SMALL, attn="exported"))["signals"] - memory(SMALL)["signals"] == pytest.approx(2.0)


def test_signals_are_linear_in_tokens_and_small():
    for job in SHIPPED.values():
        twice = replace(job, tokens_per_gpu=2 * job.tokens_per_gpu)
        assert memory(twice)["signals"] == pytest.approx(2 * memory(job)["signals"])
        assert memory(job)["signals"] < 0.05 * peaks(job)["update"]


@pytest.mark.parametrize("name, seconds", [("Qwen3-4B, 1K", 72), ("Qwen3-4B, 8K", 300), ("Qwen3-8B, 1K", 87)])
def test_the_papers_own_runs_take_the_time_that_it_measured(name, seconds):
    job = SHIPPED[name]
    assert seconds_per_step(job) == seconds
    assert hours(job) == pytest.approx(seconds * job.steps / 3600)
    assert cost(job) == pytest.approx(hours(job) * job.gpus * 2.5)


def test_twice_the_gpus_half_the_time():
    job = BEYOND["70B, 8K"]
    assert seconds_per_step(replace(job, gpus=2 * job.gpus)) == pytest.approx(seconds_per_step(job) / 2)


def test_everything_planned_fits():
    assert all(fits(job) for job in (SHIPPED | BEYOND).values())


def test_what_does_not_fit_is_said_not_to():
    assert not fits(replace(BEYOND["70B, 32K"], fused_kernels=False))
    assert not fits(replace(BEYOND["70B, 8K"], rollout_tensor_parallel=1))


def test_the_documentation_has_this_table():
    assert table(SHIPPED | BEYOND) in (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
