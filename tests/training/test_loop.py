"""The loop on tiny models: it learns, it logs what it says, runs repeat, and a run without credit is no credit run."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from attention_rhythm.credit import SIGNALS, CreditConfig, NoCreditError
from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_jsonl
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.tasks.base import Problem
from tests.support.training import PROBLEMS, SMALL, low_tokens, prompt, without_seconds
from training import loop
from training.actors.train import TrainActor
from training.loop import StaleSamplerError, TrainConfig, train


def run(new_model, letters, folder, config=SMALL, reward=low_tokens, model=None, **options):
    return train(
        model or new_model(), letters, PROBLEMS, folder=folder, prompt=prompt, reward=reward, config=config, **options
    )


def test_the_reward_rises(new_model, letters, tmp_path):
    config = replace(SMALL, steps=12, optim=replace(SMALL.optim, lr=1e-2), credit=CreditConfig())
    records = run(new_model, letters, tmp_path, config)
    assert records[-1]["reward_mean"] > records[0]["reward_mean"] + 0.3


@pytest.mark.parametrize("strategy", SIGNALS)
def test_every_strategy_credits_its_share(new_model, letters, tmp_path, strategy):
    records = run(new_model, letters, tmp_path, replace(SMALL, credit=CreditConfig(strategy)))
    assert [record["step"] for record in records] == [1, 2]
    for record in records:
        one_token = 1 / record["response_length"]  # ceil rounds up by less than one token a response
        if strategy == "uniform":
            assert record["gamma_coverage"] == 0 and record["gamma_mean"] == 1
            assert record["shaped_size"] == pytest.approx(record["advantage_size"])
        elif strategy in ("random", "entropy"):
            assert 0.4 <= record["gamma_coverage"] < 0.4 + one_token
            assert record["gamma_mean"] == pytest.approx(1 + 0.5 * record["gamma_coverage"])
        else:
            assert 0 < record["gamma_coverage"] < 0.8
        assert record["sampler_gap"] < 1e-4


def test_all_strategies_see_the_same_batches(new_model, letters, tmp_path):
    seen = {}
    for strategy in ("uniform", "random", "coupled_rhythm"):
        texts = []

        def remember(problem, text, texts=texts):
            texts.append((problem.id, text))
            return 0.0  # no spread: the weights stay, whatever the credit

        config = replace(SMALL, credit=CreditConfig(strategy), steps=4)
        run(new_model, letters, tmp_path / strategy, config, reward=remember)
        seen[strategy] = texts
    assert seen["uniform"] == seen["random"] == seen["coupled_rhythm"]
    order = [problem for problem, _ in seen["uniform"]][::4]
    assert len(order) == 16 and len(set(order[:8])) == 8 and len(set(order[8:])) == 8  # two epochs of two batches
    assert order[:8] != order[8:]


def test_a_problem_that_comes_again_gets_other_responses(new_model, letters, tmp_path):
    texts = []

    def remember(problem, text):
        texts.append(text)
        return 0.0

    all_at_once = replace(SMALL, prompts_per_step=len(PROBLEMS))  # each step is an epoch, and the weights stay
    run(new_model, letters, tmp_path, all_at_once, reward=remember)
    first, second = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert len(set(first) & set(second)) < len(first) / 2


def test_mini_batches_do_not_depend_on_the_strategy(new_model, letters, tmp_path):
    drawn = {}
    for strategy in ("uniform", "random"):
        config = replace(SMALL, credit=CreditConfig(strategy))
        inner = loop._Run(new_model(), letters, PROBLEMS, prompt, low_tokens, config, tmp_path, None, TrainActor)
        inner.step()
        drawn[strategy] = [rows.tolist() for rows in inner.mini_batches(7)]
    assert drawn["uniform"] == drawn["random"]
    assert sorted(i for rows in drawn["uniform"] for i in rows) == list(range(7)) and [
        len(d) for d in drawn["uniform"]
    ] == [4, 3]


def test_two_runs_of_one_seed_are_identical_and_another_seed_is_not(new_model, letters, tmp_path):
    config = replace(SMALL, credit=CreditConfig("random"))
    models = [new_model(), new_model(), new_model()]
    first, second, other = (
        without_seconds(run(new_model, letters, tmp_path / str(i), replace(config, seed=seed), model=models[i]))
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == second and first != other
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("attn", ["separate", "dense"])
def test_how_the_signals_are_read_does_not_matter(new_model, letters, tmp_path, attn):
    config = replace(SMALL, credit=CreditConfig(), steps=1)
    fused, other = (run(new_model, letters, tmp_path / a, replace(config, attn=a))[0] for a in ("fused", attn))
    for name in ("gamma_coverage", "gamma_mean", "shaped_mean", "entropy", "loss", "waad_peak_entropy_observed"):
        assert other[name] == pytest.approx(fused[name], abs=1e-5)


def test_table_2_of_the_batch_is_logged_as_often_as_asked(new_model, letters, tmp_path):
    every, second, never = (
        run(new_model, letters, tmp_path / str(n), replace(SMALL, rhythm_every=n, steps=3, max_new_tokens=30))
        for n in (1, 2, 0)
    )
    name = "waad_peak_entropy_lift"
    assert [name in record for record in every] == [True] * 3
    assert [name in record for record in second] == [True, False, True]
    assert [name in record for record in never] == [False] * 3
    lift = every[0]["waad_peak_entropy_observed"] / every[0]["waad_peak_entropy_chance"] - 1
    assert every[0][name] == pytest.approx(lift)
    assert every[0]["waad_peak_entropy_chance"] == pytest.approx(every[0]["entropy"], rel=1e-4)


def test_the_evaluation_is_logged_first_last_and_between(new_model, letters, tmp_path):
    asked = []

    def evaluate(generator):
        assert isinstance(generator, HFGenerator)
        asked.append(generator)
        return {"accuracy": 0.5}

    records = run(new_model, letters, tmp_path, replace(SMALL, steps=5, evaluate_every=2), evaluate=evaluate)
    assert [r["step"] for r in records if "eval_accuracy" in r] == [0, 2, 4, 5]
    assert len(asked) == 4


def test_an_engine_of_its_own_follows_the_trained_weights(new_model, letters, tmp_path):
    trained, engine = new_model(), HFGenerator(new_model(), letters)
    records = run(new_model, letters, tmp_path, model=trained, generator=engine)
    assert max(record["sampler_gap"] for record in records) < 1e-5
    for one, two in zip(trained.parameters(), engine.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_responses_are_drawn_from_the_policy_itself(new_model, letters, tmp_path):
    model = new_model()
    model.generation_config.repetition_penalty = 1.1
    with pytest.raises(ReproError, match=r"a repetition_penalty of 1.1: .*set it to 1 in generation_config.json"):
        run(new_model, letters, tmp_path, model=model)


def test_an_engine_with_old_weights_stops_the_run(new_model, letters, tmp_path):
    engine = HFGenerator(new_model(), letters)
    engine.update_weights = lambda named_tensors: None
    config = replace(SMALL, steps=5, optim=replace(SMALL.optim, lr=0.1), sampler_gap=0.01)
    with pytest.raises(StaleSamplerError, match=r"step 2: .* over the limit of 0.01"):
        run(new_model, letters, tmp_path, config, generator=engine)


@pytest.mark.parametrize("fails", [False, True])
def test_another_engine_may_train_and_is_closed_at_the_end(new_model, letters, tmp_path, fails):
    made = []

    class Engine(TrainActor):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.closed = False
            made.append(self)

        def step(self, *arguments):
            if fails:
                raise KeyboardInterrupt
            return super().step(*arguments)

        def close(self):
            self.closed = True

    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        run(new_model, letters, tmp_path, train_actor=Engine)
    assert [engine.closed for engine in made] == [True]
    assert made[0].steps == (0 if fails else 4)


def test_metrics_are_lines_of_plain_json(new_model, letters, tmp_path):
    records = run(new_model, letters, tmp_path, reward=lambda problem, text: 1.0)
    assert read_jsonl(tmp_path / "metrics.jsonl") == records
    json.dumps(records, allow_nan=False)
    first = records[0]
    # no group has spread: no gradient, and no ratio was computed
    assert first["useful_groups"] == 0 and first["grad_norm"] == 0 and first["clip_share"] is None
    phases = ("generate", "read", "reward", "credit", "update")
    assert all(first[f"seconds_{phase}"] > 0 for phase in phases)


def test_a_credit_run_that_never_credits_stops(new_model, letters, tmp_path):
    no_future = replace(SMALL, credit=CreditConfig(), signals=replace(SMALL.signals, horizon=(50, 100)))
    with pytest.raises(NoCreditError, match=r"coupled_rhythm.*has credited no token"):
        run(new_model, letters, tmp_path / "a", no_future)
    with pytest.raises(NoCreditError):
        run(new_model, letters, tmp_path / "b", replace(SMALL, credit=CreditConfig("random", amplification=1.0)))


def test_a_folder_with_a_run_is_not_overwritten(new_model, letters, tmp_path):
    run(new_model, letters, tmp_path / "run")
    with pytest.raises(ReproError, match="run: holds a run already"):
        run(new_model, letters, tmp_path / "run")


def test_a_reward_that_is_no_number_stops_the_run(new_model, letters, tmp_path):
    with pytest.raises(ValueError, match="reward is NaN"):
        run(new_model, letters, tmp_path, reward=lambda problem, text: math.nan)


def test_too_few_problems_are_refused(new_model, letters, tmp_path):
    with pytest.raises(ValueError, match="10 problems do not fill a batch of 11"):
        run(new_model, letters, tmp_path, replace(SMALL, prompts_per_step=11))


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"samples_per_prompt": 1}, {"attn": "x"}, {"aggregation": "sum"}, {"gradient_steps": 1000}],
    ids=str,
)
def test_settings_that_make_no_sense_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainConfig(**options)


def test_the_default_reward_is_the_grade(letters):
    problem = Problem("1", "reach 6 from 1, 2, 3", "6", "countdown", metadata={"numbers": [1, 2, 3], "target": 6})
    assert loop.graded(problem, "<answer> 1 + 2 + 3 </answer>") == 1.0
    assert loop.graded(problem, "six") == 0.0


def test_the_paper_s_sizes_are_the_defaults():
    config = TrainConfig()
    assert config.prompts_per_step * config.samples_per_prompt == 512
    assert (config.gradient_steps, config.optim.micro_batch, config.optim.lr) == (16, 32, 1e-6)


def test_tensorboard_that_is_missing_is_named(new_model, letters, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    with pytest.raises(ReproError, match="pip install tensorboard"):
        run(new_model, letters, tmp_path, replace(SMALL, tensorboard=True))


def test_tensorboard_gets_the_same_numbers(new_model, letters, tmp_path):
    run(new_model, letters, tmp_path, replace(SMALL, tensorboard=True))
    assert list((tmp_path / "tensorboard").iterdir())


def test_bfloat16_autocast_goes_through_every_actor(new_model, letters, tmp_path, monkeypatch):
    """On a CPU, to show that no tensor of another type meets another: autocast is meant for CUDA."""
    for module in ("training.loop", "training.actors.attn", "training.actors.train"):
        monkeypatch.setattr(f"{module}.precision", lambda model, bf16: torch.autocast("cpu", torch.bfloat16))
    records = run(new_model, letters, tmp_path, replace(SMALL, credit=CreditConfig()))
    assert all(record["sampler_gap"] < 0.1 and record["grad_norm"] > 0 for record in records)
