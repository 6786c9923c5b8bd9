"""The same seed gives the same files; batches, padding and neighbours change nothing but rounding."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from analysis import read_signals
from analysis.settings import SignalsSettings
from attention_rhythm.credit import SIGNALS, CreditConfig, credit_weights
from attention_rhythm.files import read_jsonl, write_jsonl
from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig, attention_signals
from evaluation.settings import ModelSettings, Run
from pipeline.manifest import ROOT
from tests.support.models import Letters
from tests.support.models import build_trained as build
from training.actors.attn import AttnActor
from training.actors.infer import InferActor

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]
CONFIG = SignalConfig(window=4, horizon=(2, 9), layers="all", num_layers=None)

STAGES = """
import sys
from pathlib import Path
import dataclasses
from pipeline.profiles import load_profile
from pipeline.stages import STAGES
from evaluation.settings import ModelSettings, Run
import importlib, torch

torch.set_num_threads(1)
tables = dict(load_profile("smoke").tables)
for name, items in {"responses": {"task": "countdown", "problems": 3, "max_new_tokens": 40},
                    "perturbation": {"problems": 2}, "evaluation": {"max_new_tokens": 24}}.items():
    tables[name] = dataclasses.replace(tables[name], **items)
run = Run(Path(sys.argv[1]), "smoke", ModelSettings(sys.argv[2]), mark="f" * 64)
for stage in STAGES:
    if stage.name in ("model", "responses", "signals", "couplings", "perturbation", "evaluation"):
        module, _, function = stage.function.partition(":")
        getattr(importlib.import_module(module), function)(run, *(tables[table] for table in stage.settings))
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_two_processes(tmp_path, tiny_model_folder):
    """Also where Python hashes texts differently: no result depends on the order of a set."""
    environment = {name: value for name, value in os.environ.items() if name != "DATA_DIR"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGES, str(tmp_path / hash_seed), tiny_model_folder], cwd=ROOT, text=True,
            env=environment | {"PYTHONHASHSEED": hash_seed, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE,
        )
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("1", "2")
    )
    assert one.keys() == two.keys()
    assert {path.suffix for path in one} >= {".json", ".jsonl", ".csv", ".npz", ".parquet"}
    # a partial file says in which order the batches ended, and no more than the whole one
    assert [str(path) for path in one if one[path] != two[path]] == []
    json.loads(one[next(path for path in one if path.name == "perturbation.json")])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_completion_is_the_same_in_every_batch_and_order(tmp_path, temperature):
    generator = HFGenerator(build(), Letters())
    sampling = SamplingConfig(max_new_tokens=24, temperature=temperature, samples=2, seed=3)
    requests = [Request(str(number), prompt) for number, prompt in enumerate(PROMPTS)]
    whole = complete(generator, requests, sampling, tmp_path / "whole", 100, "t")
    for size in (1, 2, 4, 7):
        batches = complete(generator, requests, sampling, tmp_path / str(size), size, "t")
        assert [r["token_ids"] for r in batches] == [r["token_ids"] for r in whole]
        for one, two in zip(batches, whole, strict=True):
            np.testing.assert_allclose(one["logprobs"], two["logprobs"], atol=1e-4)
    backwards = complete(generator, requests[::-1], sampling, tmp_path / "backwards", 3, "t")
    by_id = {(r["id"], r["sample"]): r["token_ids"] for r in backwards}
    assert all(by_id[r["id"], r["sample"]] == r["token_ids"] for r in whole)


@pytest.fixture(scope="module")
def rollout():
    sampling = SamplingConfig(max_new_tokens=24, samples=2)
    return InferActor(HFGenerator(build(), Letters()), 0, 64).rollout(PROMPTS, sampling)


@pytest.mark.parametrize("mode", ["fused", "separate", "dense"])
def test_signals_and_credit_do_not_depend_on_the_batch(rollout, mode):
    def credit(batch):
        reading = AttnActor(build(), CONFIG, mode, batch).read(rollout)
        return reading, {
            strategy: credit_weights(
                rollout.response, CreditConfig(strategy), waad=reading.signals.waad, fai=reading.signals.fai,
                entropy=reading.entropy, generator=torch.Generator().manual_seed(0),
            )
            for strategy in SIGNALS
        }  # fmt: skip

    whole, gamma = credit(64)
    for batch in (1, 5):
        reading, own = credit(batch)
        for one, two in ((reading.signals.waad, whole.signals.waad), (reading.signals.fai, whole.signals.fai),
                         (reading.old_logp, whole.old_logp), (reading.entropy, whole.entropy)):  # fmt: skip
            torch.testing.assert_close(one, two, equal_nan=True, atol=1e-5, rtol=1e-4)
        for strategy, weights in own.items():
            assert torch.equal(weights, gamma[strategy]), strategy


@pytest.mark.parametrize("method", ["streaming", "dense"])
def test_signals_do_not_depend_on_the_side_of_the_padding_or_on_neighbours(rollout, method):
    model, ids, attention, response = build(), rollout.input_ids, rollout.attention, rollout.response
    right = attention_signals(model, ids, attention, response, CONFIG, method=method)
    room = (~attention).sum(1)
    place = (torch.arange(ids.shape[1]) - room[:, None]) % ids.shape[1]  # each row shifted to the right end
    left = attention_signals(model, *(x.gather(1, place) for x in (ids, attention, response)), CONFIG, method=method)
    for row, length in enumerate(attention.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = attention_signals(
            model, ids[one, :length], attention[one, :length], response[one, :length], CONFIG, method=method
        )
        for name in ("waad", "fai"):
            expected = getattr(right, name)[row, :length]
            for other in (getattr(left, name)[row, -length:], getattr(alone, name)[0]):
                torch.testing.assert_close(other, expected, equal_nan=True, atol=1e-5, rtol=1e-4)


def test_the_signals_stage_does_not_depend_on_its_batch_size(tmp_path, tiny_model_folder):
    model, tokenizer = load_model(tiny_model_folder)
    sampling = SamplingConfig(max_new_tokens=30, seed=1)
    completions = HFGenerator(model, tokenizer).generate(PROMPTS, sampling)
    rows = [{"id": f"sampled/{n}", "problem_id": str(n), "kind": "sampled", "prompt_ids": prompt,
             "response_ids": completion.token_ids}
            for n, (prompt, completion) in enumerate(zip(PROMPTS, completions, strict=True))]  # fmt: skip
    written = []
    for size in (1, 4):
        run = Run(tmp_path / str(size), model=ModelSettings(tiny_model_folder))
        write_jsonl(run.path("responses.jsonl"), rows)
        read_signals.stage(run, SignalsSettings(batch_size=size))
        assert read_jsonl(run.path("responses.jsonl")) == rows
        written.append(read_signals.load(run.path("signals")))
    for one, four in zip(*written, strict=True):
        assert one.keys() == four.keys() and one["token_ids"].tolist() == four["token_ids"].tolist()
        for name in ("span", "waad", "fai_open", "fai_band", "fai_receiver", "entropy", "logprob"):
            np.testing.assert_allclose(one[name], four[name], atol=1e-5, rtol=1e-4)
