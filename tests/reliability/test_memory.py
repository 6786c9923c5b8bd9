"""Out of memory: the batch is halved and tried once more, with the same results, and then there is a clear error."""

import logging

import pytest
import torch

from analysis import read_signals
from analysis.settings import SignalsSettings
from attention_rhythm.files import write_jsonl
from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.memory import OutOfMemory, halved_once, in_halves, is_out_of_memory
from attention_rhythm.signals.attention import check_implementation
from attention_rhythm.signals.forward import batches_without_padding
from attention_rhythm.signals.reading import SignalConfig
from evaluation.settings import ModelSettings, Run
from tests.support.models import Letters
from tests.support.models import build_trained as build
from training.actors.attn import AttnActor
from training.actors.infer import InferActor
from training.actors.train import OptimConfig, TrainActor

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12], [13, 14], [15]]
SAMPLING = SamplingConfig(max_new_tokens=20)


def room_for(rows: int):
    """A forward hook: memory suffices for so many sequences and no more."""

    def check(module, arguments, options):
        if len(options["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    return check


def limited(rows: int):
    model = build()
    model.get_decoder().register_forward_pre_hook(room_for(rows), with_kwargs=True)
    return model


# --- the helper -----------------------------------------------------------------------------------------------------


def test_what_fits_is_done_once_and_in_one_piece():
    sizes = []
    assert halved_once(lambda size: sizes.append(size) or "done", 7, "batch_size") == "done"
    assert sizes == [7]


@pytest.mark.parametrize(("size", "half"), [(2, 1), (7, 4), (8, 4)])
def test_what_does_not_fit_is_halved_once(size, half, caplog):
    tried = []

    def work(most):
        tried.append(most)
        raise MemoryError if most > half - 1 else None

    with pytest.raises(OutOfMemory, match=rf"out of memory with {half} at a time \(MemoryError\); lower batch_size"):
        halved_once(work, size, "batch_size")
    assert tried == [size, half]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_a_single_item_has_no_halves():
    with pytest.raises(OutOfMemory, match="with 1 at a time"):
        in_halves(lambda few: bytearray(1 << 60), ["one"], "batch_size")
    assert in_halves(lambda few: few, [], "batch_size") == []


def test_results_come_in_order_whatever_the_size():
    def work(few):
        if len(few) > 3:
            raise MemoryError
        return [2 * x for x in few]

    assert in_halves(work, range(6), "batch_size") == [0, 2, 4, 6, 8, 10]


def test_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    for error in (ValueError("memory"), RuntimeError("mat1 and mat2 shapes")):
        with pytest.raises(type(error)):
            halved_once(lambda size, error=error: (_ for _ in ()).throw(error), 4, "batch_size")


# --- where batches are worked on --------------------------------------------------------------------------------------


def test_responses(tmp_path):
    requests = [Request(str(number), prompt) for number, prompt in enumerate(PROMPTS)]
    expected = complete(HFGenerator(build(), Letters()), requests, SAMPLING, tmp_path / "a", 4, "t")
    records = complete(HFGenerator(limited(2), Letters()), requests, SAMPLING, tmp_path / "b", 4, "t")
    assert [r["token_ids"] for r in records] == [r["token_ids"] for r in expected]
    with pytest.raises(OutOfMemory, match=r"with 2 at a time \(CUDA out of memory.*\); lower batch_size"):
        complete(HFGenerator(limited(1), Letters()), requests, SAMPLING, tmp_path / "c", 4, "t")


def rollout(model):
    return InferActor(HFGenerator(model, Letters()), pad_id=0, batch=4).rollout(PROMPTS, SAMPLING)


def test_rollouts():
    torch.testing.assert_close(rollout(limited(2)).input_ids, rollout(build()).input_ids)
    with pytest.raises(OutOfMemory, match="generation_batch"):
        rollout(limited(1))


def test_signals_of_a_rollout():
    batch = rollout(build())

    def read(model):
        return AttnActor(model, SignalConfig(window=4, horizon=(2, 9)), "fused", batch=6).read(batch)

    expected, halved = read(build()), read(limited(3))
    for name in ("old_logp", "entropy"):
        torch.testing.assert_close(getattr(halved, name), getattr(expected, name), equal_nan=True)
    torch.testing.assert_close(halved.signals.waad, expected.signals.waad, equal_nan=True)
    with pytest.raises(OutOfMemory, match="forward_batch"):
        read(limited(2))


def test_a_gradient_step(tmp_path):
    batch = rollout(build())
    advantages = torch.linspace(-1, 1, len(PROMPTS))[:, None].expand(batch.input_ids.shape)
    experience = (batch.input_ids, batch.response, batch.sampled_logp, advantages)

    def step(model):
        metrics = TrainActor(model, OptimConfig(lr=1e-2, micro_batch=64), tmp_path).step(*experience)
        return metrics["grad_norm"], torch.cat([p.detach().flatten() for p in model.parameters()])

    norm, weights = step(limited(3))
    expected_norm, expected = step(build())
    assert norm == pytest.approx(expected_norm, rel=1e-4)  # not one and a half times, of a half that was done twice
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
    with pytest.raises(OutOfMemory, match="micro_batch"):
        step(limited(2))


def test_a_gradient_step_that_ran_out_of_memory_half_way_counts_nothing_twice(tmp_path):
    batch = rollout(build())
    advantages = torch.linspace(-1, 1, len(PROMPTS))[:, None].expand(batch.input_ids.shape)
    experience = (batch.input_ids, batch.response, batch.sampled_logp, advantages)

    def step(model):
        return TrainActor(model, OptimConfig(micro_batch=4), tmp_path).step(*experience)

    broken, calls = build(), []
    check_implementation(broken)  # what a model is made of is found out in passes of their own, once
    batches_without_padding(broken, torch.tensor([2]), 2)

    def out_of_memory_once(module, arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the gradient of the first micro-batch is there
            raise torch.OutOfMemoryError("CUDA out of memory.")

    broken.get_decoder().layers[0].register_forward_pre_hook(out_of_memory_once)
    metrics, expected = step(broken), step(build())
    assert len(calls) == 2 + 3
    for name in ("loss", "grad_norm", "tokens", "ratio_mean"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-4), name


def test_the_signals_stage(tmp_path, tiny_model_folder, monkeypatch):
    rows = [{"id": f"sampled/{n}", "problem_id": str(n), "kind": "sampled", "prompt_ids": [5, 6, 7][: n + 1],
             "response_ids": list(range(10, 30 + n))} for n in range(3)]  # fmt: skip
    read = read_signals.read
    most = 3

    def read_at_most(model, few, horizons):
        if len(few) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(model, few, horizons)

    def stage(folder):
        run = Run(tmp_path / folder, model=ModelSettings(tiny_model_folder))
        write_jsonl(run.path("responses.jsonl"), rows)
        read_signals.stage(run, SignalsSettings(batch_size=3))
        return read_signals.load(run.path("signals"))

    monkeypatch.setattr(read_signals, "read", read_at_most)
    whole = stage("whole")
    most = 2
    halved = stage("halved")
    for one, two in zip(whole, halved, strict=True):
        for name in ("waad", "fai_band", "entropy"):
            torch.testing.assert_close(torch.from_numpy(one[name]), torch.from_numpy(two[name]), equal_nan=True)
    most = 1
    with pytest.raises(OutOfMemory, match="batch_size"):
        stage("no room")
    assert not (tmp_path / "no room" / "signals").exists()
