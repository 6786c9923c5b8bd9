"""Megatron-core against TrainActor in float32, its ranks forked from this process; run by ./reproduce.sh test engines.

Gradients are read from AdamW's first moments: after one step without clipping they are (1 - beta1) times the gradient,
whichever rank keeps them.
"""

import copy
import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import multiprocessing
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from attention_rhythm.credit import CreditConfig
from attention_rhythm.errors import UsageError
from attention_rhythm.files import read_jsonl
from attention_rhythm.generation.vllm import MissingEngine, VLLMGenerator
from attention_rhythm.models import load_model
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from pipeline.manifest import ROOT
from training import loop
from training.actors import megatron_ranks
from training.actors.megatron import Layout, MegatronTrainActor, check
from training.actors.megatron_ranks import MegatronProcesses, RankError
from training.actors.train import DivergedError, OptimConfig, TrainActor
from training.loop import TrainConfig
from training.measuring import correct
from training.run import main as command_line

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's, of deprecated names and of what is not installed
needs_megatron = pytest.mark.skipif(
    importlib.util.find_spec("megatron") is None, reason="Megatron-core is not installed: ./reproduce.sh test engines"
)

SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
}
OPTIM = OptimConfig(lr=1e-3, warmup=2, weight_decay=0.1, grad_clip=0.05, micro_batch=3)
PLAIN = {"gradient_checkpointing": False}  # of the reference
LAYOUTS = {  # and ranks in all
    "TP1": (Layout(), 1),
    "TP2": (Layout(tensor=2), 2),
    "TP2-sequence": (Layout(tensor=2, sequence_parallel=True), 2),
    "PP2": (Layout(pipeline=2), 2),
    "DP2": (Layout(), 2),
    "TP2xPP2": (Layout(tensor=2, pipeline=2), 4),
    "TP2xPP2-sequence": (Layout(tensor=2, pipeline=2, sequence_parallel=True), 4),
    "TP2xDP2": (Layout(tensor=2), 4),
}


@pytest.fixture(autouse=True)
def one_thread():
    """A process with running threads cannot be forked."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(family="qwen3", *, tied=False, seed=0, **changes):
    """Random weights, biases and norms included; queries and keys are scaled up, so that attention is not uniform."""
    network, config, extra = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(config(**{**SIZES, **extra, **changes}, tie_word_embeddings=tied)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
                elif "q_proj" in name or "k_proj" in name:
                    parameter.mul_(8)
    return model


def experience(seed=1, *, rows=8, length=24):
    """Sequences of several lengths, another policy's log-probabilities, advantages of both signs, one row of zeros."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (rows, length), generator=random)
    ends = torch.randint(8, length + 1, (rows, 1), generator=random)
    position = torch.arange(length)
    response = (position >= 5) & (position < ends)  # (B, N)
    old_logp = -4.6 + 0.3 * torch.randn(ids.shape, generator=random)
    advantages = torch.randn(ids.shape, generator=random)
    advantages[3] = 0
    return ids, response, torch.where(response, old_logp, float("nan")), advantages


@pytest.fixture
def processes(tmp_path):
    """`processes(model, "TP2")`: the front end; its processes end with the test."""
    importlib.import_module("training.actors.megatron_model")  # once here, not in each process: it takes seconds
    made = []

    def start(model, layout, optim=OPTIM, **options):
        layout, ranks = LAYOUTS[layout]
        made.append(MegatronProcesses(model, optim, tmp_path, layout=layout, ranks=ranks, start="fork", **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def largest_difference(ours, theirs):
    """Over tensors: the largest difference, and the largest in units of its tensor's largest entry."""
    assert ours.keys() == theirs.keys()
    gaps = [(ours[name] - theirs[name]).abs().max().item() for name in theirs]
    sizes = [theirs[name].abs().max().item() for name in theirs]
    return max(gaps), max(gap / size for gap, size in zip(gaps, sizes, strict=True))


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# --- weights ----------------------------------------------------------------------------------------------------------


@needs_megatron
@pytest.mark.parametrize("layout", ["TP1", "TP2xPP2"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_to_the_last_bit(processes, family, tied, layout):
    model = make(family, tied=tied)
    found = processes(model, layout)._call("export")
    assert found.keys() == weights(model).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(model).items())


# --- a step -----------------------------------------------------------------------------------------------------------


def compare(processes, tmp_path, layout, *, family="qwen3", tied=False, aggregation="token_mean", **changes):
    """One unclipped step for the gradients, then three clipped ones."""
    batches = [experience(seed) for seed in (1, 2, 3)]
    clipped = replace(OPTIM, **changes)
    free = replace(clipped, grad_clip=float("inf"))
    model, options = make(family, tied=tied), {"aggregation": aggregation}

    theirs = copy.deepcopy(model)
    reference = TrainActor(theirs, replace(free, **PLAIN), tmp_path, **options)
    expected = reference.step(*batches[0])
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    ours = processes(copy.deepcopy(model), layout, free, **options)
    found = ours.step(*batches[0])
    moments = ours.state_dict()["optimizer"]["exp_avg"]
    ours.close()
    gaps = {"loss": abs(found["loss"] - expected["loss"]), "norm": abs(found["grad_norm"] / expected["grad_norm"] - 1)}
    gaps["gradient"] = largest_difference({n: m / (1 - 0.9) for n, m in moments.items()}, gradients)[1]

    theirs, mine = copy.deepcopy(model), copy.deepcopy(model)
    reference = TrainActor(theirs, replace(clipped, **PLAIN), tmp_path, **options)
    ours = processes(mine, layout, clipped, **options)
    for number, batch in enumerate(batches):
        expected, found = reference.step(*batch), ours.step(*batch)
        assert expected["grad_norm"] > OPTIM.grad_clip  # so that the clip is part of the test
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-4)
        if number == 0:
            gaps["clipped step"] = largest_difference(weights(mine), weights(theirs))[0]
    gaps["weights"] = largest_difference(weights(mine), weights(theirs))[0]
    moved = largest_difference(weights(mine), weights(model))[0]
    print(layout, family, "tied" if tied else "untied", {name: f"{gap:.1e}" for name, gap in gaps.items()}, moved)
    assert gaps["loss"] < 1e-6
    assert gaps["norm"] < 1e-5
    assert gaps["gradient"] < 1e-4
    assert gaps["clipped step"] < 2e-5
    assert gaps["weights"] < 2e-5
    assert moved > 1e-3


@needs_megatron
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_the_torch_actor(processes, tmp_path, layout, tied):
    compare(processes, tmp_path, layout, tied=tied)


@needs_megatron
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_so_are_those_of_the_other_families(processes, tmp_path, family):
    compare(processes, tmp_path, "TP2xPP2", family=family, tied=family == "qwen2")


@needs_megatron
def test_so_are_those_with_recomputed_activations(processes, tmp_path):
    compare(processes, tmp_path, "TP2xPP2-sequence", gradient_checkpointing=True)


@needs_megatron
def test_so_are_those_of_a_mean_over_sequences(processes, tmp_path):
    compare(processes, tmp_path, "DP2", aggregation="sequence_mean")


@needs_megatron
@pytest.mark.parametrize("layout", ["PP2", "DP2"])
def test_fewer_sequences_than_ranks_and_none_at_all(processes, tmp_path, layout):
    ids, response, old, advantages = experience()
    model = make()
    theirs = copy.deepcopy(model)
    reference, ours = TrainActor(theirs, OPTIM, tmp_path), processes(model, layout)
    for rows in (1, 0):  # with an advantage; momentum moves the weights where there is none
        some = torch.where(torch.arange(len(ids))[:, None] < rows, advantages, 0)
        expected, found = (actor.step(ids, response, old, some) for actor in (reference, ours))
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-4, nan_ok=True)
        assert largest_difference(weights(model), weights(theirs))[0] < 2e-5


# --- state, errors ----------------------------------------------------------------------------------------------------


@needs_megatron
def test_the_state_goes_on_under_another_layout(processes):
    batches = [experience(seed) for seed in (1, 2, 3)]
    straight, stopped = make(tied=True), make(tied=True)
    actor = processes(straight, "TP2")
    for batch in batches:
        actor.step(*batch)
    first = processes(stopped, "TP2xDP2")
    for batch in batches[:2]:
        first.step(*batch)
    state = first.state_dict()
    assert state["steps"] == 2 and state["optimizer"]["exp_avg"].keys() == weights(stopped).keys()
    second = processes(make(tied=True, seed=5), "PP2")
    second.model.load_state_dict(stopped.state_dict())
    second.load_state_dict(state)
    second.step(*batches[2])
    assert largest_difference(weights(second.model), weights(straight))[0] < 2e-5


@needs_megatron
def test_a_fresh_state_can_be_loaded(processes):
    model = make()
    actor = processes(model, "TP2")
    actor.load_state_dict(actor.state_dict())
    assert actor.step(*experience())["grad_norm"] > 0


@needs_megatron
@pytest.mark.parametrize("where", [2, 3], ids=["old_logp", "advantages"])
def test_nan_stops_the_step_on_all_ranks(processes, tmp_path, where):
    model, batch = make(), experience()
    before = weights(model)
    batch[where][1, 6] = float("nan")
    actor = processes(model, "TP2xPP2")
    with pytest.raises(DivergedError, match=r"NaN or inf in the loss; its batch is in diverged-000000.safetensors"):
        actor.step(*batch)
    assert set(load_file(tmp_path / "diverged-000000.safetensors")) == {
        "input_ids", "response", "old_logp", "advantages",
    }  # fmt: skip
    assert largest_difference(weights(model), before)[0] == 0
    with pytest.raises(RankError, match="have ended"):
        actor.step(*experience())


@needs_megatron
def test_a_rank_that_dies_ends_the_run(processes):
    actor = processes(make(), "TP2")
    actor.processes[1].kill()
    with pytest.raises(RankError, match="process of rank"):
        for _ in range(2):
            actor.step(*experience())
    assert not any(process.is_alive() for process in actor.processes)


def rope(kind, **settings):
    return {"rope_type": kind, "rope_theta": 10000.0, **settings}


def windowed():
    """Told by its layers' types alone."""
    types = ["full_attention", "sliding_attention"] * 2
    return make("qwen2", use_sliding_window=True, sliding_window=8, layer_types=types)


def rescaled(model, scale):
    for layer in model.model.layers:
        layer.self_attn.scaling = scale
    return model


REFUSED = {
    "4 attention heads over 3 tensor-parallel ranks": (make, Layout(tensor=3), 3),
    "2 key-value heads over 4 tensor-parallel ranks": (make, Layout(tensor=4), 4),
    "97 vocabulary entries over 2 tensor-parallel ranks": (lambda: make(vocab_size=97), Layout(tensor=2), 2),
    "33 MLP units over 2 tensor-parallel ranks": (lambda: make(intermediate_size=33), Layout(tensor=2), 2),
    "4 layers over 3 pipeline ranks": (make, Layout(pipeline=3), 3),
    "3 ranks, which tensor x pipeline = 2 x 1 does not divide": (make, Layout(tensor=2), 3),
    "context parallelism over 2 ranks": (make, Layout(context=2), 2),
    "sequence parallelism without tensor parallelism": (make, Layout(sequence_parallel=True), 1),
    "biases in attention or MLP": (lambda: make("llama", attention_bias=True), Layout(), 1),
    "attention_dropout=0.1": (lambda: make(attention_dropout=0.1), Layout(), 1),
    "attention with a sliding window of 8": (windowed, Layout(), 1),
    r"scores scaled by 0\.1": (lambda: rescaled(make(), 0.1), Layout(), 1),
    "rotary positions of type dynamic": (lambda: make(rope_parameters=rope("dynamic", factor=2.0)), Layout(), 1),
    "rotary positions of a part of a head": (
        lambda: make(rope_parameters=rope("default", partial_rotary_factor=0.5)), Layout(), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_supported_is_refused_by_its_numbers(message):
    build, layout, ranks = REFUSED[message]
    with pytest.raises(UsageError, match=message) as caught:
        check(build(), layout, ranks)
    assert caught.value.exit_status == 2


def test_weights_too_short_to_be_trained_are_refused():
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        check(make().to(torch.bfloat16), Layout(), 1)


def test_where_megatron_is_missing_the_message_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "megatron", None)
    with pytest.raises(MissingEngine, match=r"reproduce.sh setup-engines.* environment.yml") as caught:
        MegatronProcesses(make(), OPTIM, tmp_path, layout=Layout())
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


# --- torchrun ---------------------------------------------------------------------------------------------------------


def as_torchrun_does(rank, port, model, batches, folder):
    """A process with the environment that torchrun gives it; rank 0 leaves the weights in a file."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    layout = Layout(tensor=2)
    if megatron_ranks.join(model, layout) > 0:
        return megatron_ranks.follow(MegatronTrainActor(model, OPTIM, folder, layout=layout))
    leader = megatron_ranks.MegatronLeader(model, OPTIM, folder, layout=layout)
    for batch in batches:
        leader.step(*batch)
    leader.load_state_dict(leader.state_dict())
    leader.close()
    save_file(weights(model), folder / "leader.safetensors")


@needs_megatron
def test_rank_0_leads_and_the_others_follow(processes, tmp_path):
    batches = [experience(seed) for seed in (1, 2)]
    model = make()
    actor = processes(model, "TP2")
    for batch in batches:
        actor.step(*batch)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    multiprocessing.start_processes(
        as_torchrun_does, (port, make(), batches, tmp_path), nprocs=2, start_method="fork"
    )  # returns when all have ended
    assert largest_difference(load_file(tmp_path / "leader.safetensors"), weights(model))[0] < 1e-7


@needs_megatron
@pytest.mark.slow
def test_the_command_line_under_torchrun(tiny_model_folder, tmp_path):
    """A run of two steps ends with a model; what cannot be divided is refused."""
    arguments = [
        *("--model", tiny_model_folder, "--credit.strategy", "uniform", "--steps", "2"),
        *("--prompts-per-step", "2", "--samples-per-prompt", "2"),
        *("--gradient-steps", "1", "--max-new-tokens", "12", "--held-out", "2", "--device", "cpu"),
        *("--train", "megatron"),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "training.run", *arguments, "--pipeline-parallel", "2", "--out", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 3
    assert command_line([*arguments, "--tensor-parallel", "2", "--out", str(tmp_path / "refused")]) == 2


# --- all three engines ------------------------------------------------------------------------------------------------

CHARACTERS = "0123456789+-*/()= \n"  # of puzzles; the other tokens are letters


class Characters:
    """A tokenizer that is enough for a generator and for puzzles."""

    eos_token_id = SIZES["vocab_size"] - 1
    pad_token_id = 0

    def encode(self, text):
        return [1 + CHARACTERS.index(character) for character in text]

    def decode(self, ids, skip_special_tokens=True):
        ids = [i for i in ids if not (skip_special_tokens and i in (self.pad_token_id, self.eos_token_id))]
        return "".join(CHARACTERS[i - 1] if i <= len(CHARACTERS) else "x" for i in ids)


def prompt(problem):
    return Characters().encode(problem.question)


def named_numbers(problem, text):
    """The share of a puzzle's digits that a response has, for a policy that knows nothing yet."""
    digits = {character for character in problem.question if character.isdigit()}
    return len(digits & set(text)) / len(digits)


class Recorded:
    """Keeps what an engine generated."""

    def __init__(self, engine):
        self.engine, self.update_weights, self.batches = engine, engine.update_weights, []

    def generate(self, prompts, sampling):
        self.batches.append((prompts, self.engine.generate(prompts, sampling)))
        return self.batches[-1][1]


class Replayed:
    """Generates what was recorded; the log-probabilities are the recorded ones, and the loop checks them."""

    def __init__(self, model, batches):
        self.model, self.batches = model, iter(batches)

    def generate(self, prompts, sampling):
        asked, completions = next(self.batches)
        assert prompts == asked
        return completions


def train_twice(folder, monkeypatch, *, model, reference, tokenizer, config, **what):
    """Three steps by vLLM, fused signals and Megatron's TP2; then the same responses through dense signals and torch.

    what: problems, prompt and reward. Returns the records and the gammas of both.
    """
    gammas, credit_weights = [], loop.credit_weights

    def recorded(*arguments, **options):
        gammas.append(credit_weights(*arguments, **options))
        return gammas[-1]

    def run(model, name, attn, generator, **options):
        return loop.train(
            model, tokenizer, folder=folder / name, config=replace(config, attn=attn), generator=generator,
            **what, **options,
        )  # fmt: skip

    monkeypatch.setattr(loop, "credit_weights", recorded)
    model.save_pretrained(folder / "model")
    engine = Recorded(VLLMGenerator(folder / "model", tokenizer, block_size=32))
    megatron = partial(MegatronProcesses, layout=Layout(tensor=2))
    found = run(model, "engines", "fused", engine, train_actor=megatron)
    engine.engine.close()
    ours = gammas.copy()
    gammas.clear()
    expected = run(reference, "reference", "dense", Replayed(reference, engine.batches))
    return found, expected, ours, gammas


def assert_same_training(found, expected, ours, gammas, model, reference):
    assert len(ours) == len(gammas) == 3
    assert all(torch.equal(a, b) for a, b in zip(ours, gammas, strict=True))
    assert all((gamma != 1).any() for gamma in gammas)
    gaps = {
        name: max(abs(a[name] - b[name]) for a, b in zip(found, expected, strict=True))
        for name in ("reward_mean", "reward_std", "loss", "grad_norm", "entropy", "approx_kl", "shaped_size")
    }
    gaps["weights"] = largest_difference(weights(model), weights(reference))[0]
    print({name: f"{gap:.1e}" for name, gap in gaps.items()}, [record["loss"] for record in found])
    assert gaps["reward_mean"] == gaps["reward_std"] == 0
    assert gaps["loss"] < 1e-6 and gaps["approx_kl"] < 1e-6
    assert gaps["grad_norm"] < 1e-4 and gaps["entropy"] < 1e-5
    assert gaps["weights"] < 1e-4
    assert all(record["grad_norm"] > 0 for record in found)


needs_all = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@needs_megatron
@needs_all
@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_all_three_engines_train_as_transformers_and_torch_do(tmp_path, monkeypatch, tied):
    config = TrainConfig(
        credit=CreditConfig("coupled_rhythm"),
        signals=SignalConfig(window=4, horizon=(2, 9), layers="all", num_layers=None),
        optim=replace(OPTIM, lr=3e-3, grad_clip=1.0),
        steps=3,
        prompts_per_step=4,
        samples_per_prompt=4,
        gradient_steps=2,
        max_new_tokens=24,
        sampler_gap=1e-4,  # vLLM's log-probabilities are the trained model's at every step
    )
    puzzles = [
        Problem(str(i), " ".join(map(str, numbers)) + f" = {sum(numbers)}\n", "", "countdown")
        for i, numbers in enumerate([(19, 36), (55, 7), (8, 3, 21), (40, 2), (64, 11), (5, 90, 1)])
    ]
    sizes = {"head_dim": 32, "eos_token_id": Characters.eos_token_id}  # the smallest that vLLM's attention on a CPU has
    model, reference = make(tied=tied, **sizes), make(tied=tied, **sizes)
    runs = train_twice(
        tmp_path, monkeypatch, model=model, reference=reference, tokenizer=Characters(), config=config,
        problems=puzzles, prompt=prompt, reward=named_numbers,
    )  # fmt: skip
    assert_same_training(*runs, model, reference)
    assert largest_difference(weights(model), weights(make(tied=tied, **sizes)))[0] > 5e-3


@needs_megatron
@needs_all
@pytest.mark.slow
def test_all_three_engines_train_the_countdown_policy(tmp_path, monkeypatch):
    """The embedded experiment's policy, puzzles, prompts and reward, in smaller batches."""
    folder = str(ROOT / "training" / "checkpoints" / "countdown-policy")
    (model, tokenizer), (reference, _) = load_model(folder), load_model(folder)
    config = TrainConfig(
        credit=CreditConfig("coupled_rhythm"),
        signals=SignalConfig(horizon=(5, 40)),
        optim=OptimConfig(lr=1e-4, warmup=1, betas=(0.9, 0.99), micro_batch=16),
        steps=3,
        prompts_per_step=8,
        samples_per_prompt=8,
        gradient_steps=2,
        max_new_tokens=96,
        sampler_gap=1e-4,
    )
    runs = train_twice(
        tmp_path, monkeypatch, model=model, reference=reference, tokenizer=tokenizer, config=config,
        problems=load_puzzles("train")[:24], prompt=lambda problem: build_prompt_ids(problem, tokenizer),
        reward=correct,
    )  # fmt: skip
    assert all(record["reward_mean"] > 0 for record in runs[0])
    assert_same_training(*runs, model, reference)
