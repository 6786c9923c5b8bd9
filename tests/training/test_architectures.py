"""The policy in three architectures: alike in size, resumable, read as analysis reads."""

import numpy as np
import pytest
import torch

from analysis.read_signals import HORIZONS, WINDOW
from attention_rhythm.signals import forward
from training import architectures, checkpoint
from training.architectures import ARCHITECTURES, READINGS, Settings


@pytest.fixture(scope="module")
def untrained():
    return {name: architectures.build(name, seed=0).eval() for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def texts():
    return architectures.shared_texts(Settings(problems=3))


def test_the_three_are_alike_in_size(untrained):
    sizes = [sum(p.numel() for p in model.parameters()) for model in untrained.values()]
    assert max(sizes) < 1.07 * min(sizes)


@pytest.mark.parametrize(
    ("reading", "shape"),
    [
        ("softmax", (6, 4)),
        ("hybrid, gated DeltaNet layers", (4, 4)),
        ("hybrid, softmax layers", (2, 4)),
        ("mamba2", (6, 4)),
    ],
)
def test_a_reading_is_what_the_analysis_expects(untrained, texts, reading, shape):
    policy = untrained[READINGS[reading][0]]
    for row, arrays in zip(texts, architectures.read(policy, reading, texts, 4, policy), strict=True):
        n = len(row["response_ids"])
        assert arrays["span"].shape == shape and arrays["waad"].shape == (*shape, n + 1)
        assert all(arrays[name].shape == (*shape, n) for name in (*HORIZONS, "fai_receiver"))
        assert arrays["token_ids"].tolist() == row["response_ids"] and not np.isnan(arrays["entropy"]).any()
        assert not np.isnan(arrays["waad"][..., 1:]).any()


def test_softmax_is_read_as_the_streaming_pass_reads_it(untrained, texts):
    ids, response = architectures.padded(texts)
    read = architectures.statistics_of(untrained["softmax"], "softmax", ids, response, 4)
    streamed = forward.head_statistics(
        untrained["softmax"], ids, response, range(6), WINDOW, [*HORIZONS.values(), (4, None)]
    )
    torch.testing.assert_close(read.span, streamed.span, rtol=1e-4, atol=1e-4)
    for own, other in zip(read.fai, streamed.fai, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_a_warm_start_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "CHECKPOINT_STEPS", 1)
    whole = architectures.warm_started("softmax", Settings(steps=2), tmp_path / "whole").state_dict()
    save = checkpoint.save

    def stopped(folder, step, *rest, **options):
        save(folder, step, *rest, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", stopped)
        architectures.warm_started("softmax", Settings(steps=2), tmp_path / "stopped")
    resumed = architectures.warm_started("softmax", Settings(steps=2), tmp_path / "stopped").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("interval", "untrained", "there"),
    [([2.0, 9.0], 1.0, True), ([-1.0, 9.0], -5.0, False), ([2.0, 9.0], 4.0, False), ([2.0, 9.0], float("nan"), True)],
)
def test_a_coupling_is_there_above_chance_and_above_the_untrained_network(interval, untrained, there):
    assert architectures.verdict({"lift_ci": interval}, {"lift": untrained}) is there
