"""Problems, settings and a reward for training a tiny model, and a run that can be killed."""

from __future__ import annotations

from attention_rhythm.credit import CreditConfig
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem
from training.actors.train import OptimConfig
from training.loop import TrainConfig, train

PROBLEMS = [Problem(str(i), f"problem {i}", "", "countdown") for i in range(10)]
SMALL = TrainConfig(
    credit=CreditConfig("uniform"),
    signals=SignalConfig(window=4, horizon=(2, 9), layers="all", num_layers=None),
    optim=OptimConfig(lr=1e-3, warmup=2, micro_batch=4),
    steps=2,
    prompts_per_step=4,
    samples_per_prompt=4,
    gradient_steps=2,
    max_new_tokens=12,
    forward_batch=8,
)


def prompt(problem):
    return [1, 2, 3 + int(problem.id)]


def low_tokens(problem, text):
    """The share of token ids below 10."""
    return sum(int(word) < 10 for word in text.split()) / max(1, len(text.split()))


CONFIG = TrainConfig(
    credit=CreditConfig("random"),  # the strategy with a random state of its own
    signals=SignalConfig(horizon=(2, 9)),
    optim=OptimConfig(lr=1e-3, warmup=8),
    steps=6,
    prompts_per_step=4,
    samples_per_prompt=4,
    gradient_steps=2,
    max_new_tokens=10,
    checkpoint_every=3,
)


class Killed(Exception):
    """Stands for kill -9: whatever was not on disk is lost."""


def run(model, letters, folder, config=CONFIG, kill_at=None, **options):
    """Train; `kill_at` ends the run while the rewards of that step are given."""
    calls = 0

    def reward(problem, text):
        nonlocal calls
        calls += 1
        if kill_at is not None and calls > 16 * kill_at:
            raise Killed
        return (sum(map(int, text.split())) % 7) / 7

    return train(model, letters, PROBLEMS, folder=folder, prompt=prompt, reward=reward, config=config, **options)


def without_seconds(records):
    return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in records]
