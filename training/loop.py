"""Sec. 5 in one file: GRPO whose advantages are shaped by credit from attention.

One step, as in the paper's picture:

    actor_infer   G responses to each of P problems                                  generate
    actor_attn    WAAD, FAI, entropy and old log-probabilities of every token        read
    rewards       a grade for each response, advantages within its group (Eq. 6)     reward
    credit        gamma of every token (Eqs. 13-19), shaped advantages               credit
    actor_train   N gradient steps on the clipped loss (Eq. 12)                      update
    weights       go back to actor_infer and actor_attn                              update

What differs from the paper, or is ours where it is silent:

- One process and one module on one device. The paper's actors are three programs on many GPUs; here actor_attn reads
  the very module that is trained, and so does actor_infer unless it is given an engine of its own.
- `attn="fused"`, the default, records the signals inside the old-log-prob pass. The paper runs a pass of its own on an
  auxiliary model: "separate" (streaming, stops early) and "dense" (eager) are that. All three give the same gamma.
- The N mini-batches of a batch are drawn anew at each step, without replacement. Sequences without advantage count in
  the mean of the loss but are not computed: they have no gradient.
- Standard deviation over G - 1, plus 1e-6, as in verl; no dual clip; AdamW with linear warm-up, then a constant rate.
- Advantages are not whitened after gamma.
- Responses are sampled at T = 1 from a stream that depends on (seed, step, prompt, number of the sample) alone, so runs
  with one seed see the same problems in the same order, whatever their strategy.
- The Table 2 statistics of a batch use prominence peaks and the signals that credit sees (sampled layers, banded
  horizon), so they are for comparison over time, not with the table. Receiver heads are not tracked.

A run is a folder: metrics.jsonl (a line a step), checkpoints/, and TensorBoard's files if asked for. A run that was
killed goes on from its last checkpoint and, on a CPU, writes the same metrics to the last bit (seconds excepted).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attention_rhythm.credit import SIGNALS, CreditConfig, check_credited, credit_weights, shape_advantages
from attention_rhythm.errors import NotFinite, ReproError
from attention_rhythm.files import append_jsonl, read_jsonl, resume_jsonl, write_jsonl
from attention_rhythm.generation.base import Generator, SamplingConfig
from attention_rhythm.generation.conventions import repetition_penalty
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.grpo import AGGREGATIONS, group_advantages
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem, problems_sha256
from attention_rhythm.tasks.grading import grade
from training import checkpoint
from training.actors.attn import MODES, AttnActor, Reading
from training.actors.infer import InferActor, Rollout
from training.actors.train import DivergedError, OptimConfig, TrainActor, precision, save_batch
from training.metrics import batch_statistics, mean_of_updates, rhythm_statistics, sampler_gap

# Settings under which a run may go on although they have changed: they decide how far and how often, not what.
MAY_CHANGE = ("steps", "sampler_gap", "checkpoint_every", "keep_checkpoints", "tensorboard")


class StaleSamplerError(ReproError):
    """The engine of actor_infer does not have the weights that are trained."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run; the defaults are the paper's sizes where it gives them.

    Raises:
        ValueError: a field that is none of its options or outside its range; the message names the field.
    """

    # how the advantage of a response is spread over its tokens
    credit: CreditConfig = field(default_factory=CreditConfig)
    signals: SignalConfig = field(default_factory=SignalConfig)  # what WAAD and FAI are read from
    optim: OptimConfig = field(default_factory=OptimConfig)  # how the weights are updated
    steps: int = 500  # batches that are generated and learned from
    prompts_per_step: int = 64  # P: problems in a batch
    samples_per_prompt: int = 8  # G: responses to each problem, the group of Eq. 6
    gradient_steps: int = 16  # mini-batches that a batch is cut into, one AdamW step each
    max_new_tokens: int = 1024  # length at which a response is cut off
    clip_low: float = 0.2  # the ratio of Eq. 12 is clipped below 1 - clip_low
    clip_high: float = 0.2  # and above 1 + clip_high
    # token_mean: mean over all tokens of a mini-batch | sequence_mean: as Eq. 12 prints
    aggregation: str = "token_mean"
    attn: str = "fused"  # fused | separate | dense: how actor_attn reads the signals
    generation_batch: int = 512  # responses that are generated at once; changes memory and speed, not the result
    forward_batch: int = 64  # sequences in one pass of actor_attn; changes memory and speed, not the result
    rhythm_every: int = 1  # steps between two batches whose Table 2 statistics are logged; 0: never
    evaluate_every: int = 10  # steps between two calls of the evaluation; it is also called before the first and last
    checkpoint_every: int = 10  # steps between two checkpoints; the last step always makes one
    keep_checkpoints: int = 2  # checkpoints that are kept, the newest
    tensorboard: bool = False  # write the metrics for TensorBoard as well
    sampler_gap: float = 0.1  # nats: the run stops where actor_infer's log-probabilities differ more, on average
    seed: int = 0  # of the order of problems, the samples, the mini-batches and random credit

    def __post_init__(self) -> None:
        for name, least in {
            "steps": 1,
            "prompts_per_step": 1,
            "samples_per_prompt": 2,
            "gradient_steps": 1,
            "max_new_tokens": 1,
            "generation_batch": 1,
            "forward_batch": 1,
            "rhythm_every": 0,
            "evaluate_every": 1,
            "checkpoint_every": 1,
            "keep_checkpoints": 1,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name, options in {"aggregation": AGGREGATIONS, "attn": MODES}.items():
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(options)}, not {getattr(self, name)!r}")
        if self.gradient_steps > self.prompts_per_step * self.samples_per_prompt:
            raise ValueError(f"gradient_steps: {self.gradient_steps} mini-batches, but fewer responses")


# What a rollout's tokens weigh, (B, N), from the rollout and the problem of each row.
Shape = Callable[[Rollout, Sequence[Problem]], Tensor]


def graded(problem: Problem, text: str) -> float:
    """The default reward: the score of the task's grader, in [0, 1]."""
    return grade(problem, text).score


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    folder: Path | str,
    prompt: Callable[[Problem], Sequence[int]],
    reward: Callable[[Problem, str], float] = graded,
    config: TrainConfig = TrainConfig(),
    evaluate: Callable[[Generator], Mapping[str, float]] | None = None,
    generator: Generator | None = None,
    train_actor: Callable[..., TrainActor] = TrainActor,
    weights: Shape | None = None,
    advantages: Shape | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Train `model` in place and return the records of metrics.jsonl, one a step (and one of step 0 with `evaluate`).

    Args:
        model: a causal LM in float32 with plain softmax attention.
        problems: the training set; at least `config.prompts_per_step`. Every epoch is in an order of its own, and what
            does not fill a batch at its end is left out.
        folder: of the run: metrics.jsonl, checkpoints/.
        prompt: token ids of a problem's prompt.
        reward: of a problem and the text of a response.
        evaluate: called with a generator that has the newest weights; what it returns is logged as eval_NAME.
        generator: the engine of actor_infer; None: the module itself, by `HFGenerator`.
        train_actor: makes actor_train; takes what `TrainActor` takes and does what it does, by another engine.
        weights: gamma (B, N) of a rollout's tokens, 1 outside the response, in the place of what `config.credit` gives;
            called with the rollout and the problem of each row.
        advantages: A (B, N) of its tokens, 0 outside the response, in the place of gamma times the group's; called so.
        resume: go on from the newest whole checkpoint in `folder`, from the start if there is none.

    Raises:
        ReproError: the folder holds a run and `resume` is not set, or one of other settings, another model or other
            problems; TensorBoard is asked for and missing; the model's generation config penalises repetition.
        StaleSamplerError: actor_infer's engine does not have the weights that are trained.
        NoCreditError: a credit strategy has never given a gamma other than 1.
        DivergedError: NaN or inf in logits, attention, a reward, a loss or a gradient.
        OutOfMemory: a batch does not fit, nor do its halves.
        ValueError: too few problems, weights that are not float32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if len(problems) < config.prompts_per_step:
        raise ValueError(f"{len(problems)} problems do not fill a batch of {config.prompts_per_step}")
    run = _Run(model, tokenizer, problems, prompt, reward, config, folder, generator, train_actor, weights, advantages)
    try:
        fresh = not run.start(resume)
        log = _TensorBoard(folder) if config.tensorboard else None

        def keep(record: dict[str, Any]) -> None:
            append_jsonl(folder / "metrics.jsonl", record)
            if log:
                log.write(record)

        with tqdm(total=config.steps, initial=run.done, desc=config.credit.strategy, unit="step") as bar:
            if evaluate is not None and fresh:
                bar.set_postfix_str("first evaluation")
                keep({"step": 0, **run.evaluation(evaluate)})
            while run.done < config.steps:
                record = run.step()
                last = run.done == config.steps
                if evaluate is not None and (last or run.done % config.evaluate_every == 0):
                    record |= run.evaluation(evaluate)
                keep(record)
                if last or run.done % config.checkpoint_every == 0:
                    run.save()
                bar.set_postfix(reward=f"{record['reward_mean']:.3f}", tokens=f"{record['response_length']:.0f}")
                bar.update()
    finally:
        run.train.close()
    return read_jsonl(folder / "metrics.jsonl")


class _Run:
    """The three actors and what a checkpoint holds of them."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[Problem],
        prompt: Callable[[Problem], Sequence[int]],
        reward: Callable[[Problem, str], float],
        config: TrainConfig,
        folder: Path,
        generator: Generator | None,
        train_actor: Callable[..., TrainActor],
        weights: Shape | None = None,
        advantages: Shape | None = None,
    ):
        _check_policy(model)
        self.model, self.problems, self.prompt, self.reward = model, problems, prompt, reward
        self.config, self.folder, self.weights, self.advantages = config, folder, weights, advantages
        # padding is on the right and never read: without a token for it or for the end, any will do
        pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        self.infer = InferActor(generator or HFGenerator(model, tokenizer), pad_id, config.generation_batch)
        self.attn = AttnActor(model, config.signals, config.attn, config.forward_batch, bf16=config.optim.bf16)
        self.train = train_actor(
            model,
            config.optim,
            folder,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            aggregation=config.aggregation,
        )
        self.model_sha256 = checkpoint.weights_sha256(model)  # of the model that the run begins with
        # two streams: random credit must not change the mini-batches, which all strategies share
        self.random = {name: torch.Generator().manual_seed(config.seed) for name in ("mini_batches", "credit")}
        self.done = 0  # steps
        self.credited = False  # whether gamma has ever differed from 1

    # ----------------------------------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """One step; the record of it. DivergedError, and its batch beside the metrics, where NaN or inf turns up."""
        batch: dict[str, Tensor] = {}
        try:
            return self.step_on(batch)
        except DivergedError:
            raise  # actor_train has saved its mini-batch
        except NotFinite as error:
            path = save_batch(self.folder / f"diverged-step-{self.done + 1:06d}.safetensors", batch)
            raise DivergedError(f"step {self.done + 1}: {error}; its batch is in {path.name}") from error

    def step_on(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Generate, read, reward, credit, update. `batch` is given what the step works on, as it comes to be."""
        config, seconds = self.config, {}
        problems = self.batch_of_problems()
        sampling = SamplingConfig(config.max_new_tokens, samples=config.samples_per_prompt, seed=self.sampling_seed())
        with self.phase("generate", seconds), precision(self.model, config.optim.bf16):
            prompts = [self.prompt(p) for p in problems]
            batch["prompts"] = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True, padding_value=-1)
            rollout = self.infer.rollout(prompts, sampling).to(self.model.device)
            batch |= {name: getattr(rollout, name) for name in ("input_ids", "response", "sampled_logp")}

        rhythm_wanted = config.rhythm_every > 0 and self.done % config.rhythm_every == 0
        needed = rhythm_wanted or bool({"waad", "fai"} & set(SIGNALS[config.credit.strategy]))
        with self.phase("read", seconds):
            reading = self.attn.read(rollout, signals=needed)

        gap = sampler_gap(rollout, reading)
        if not gap <= config.sampler_gap:
            raise StaleSamplerError(
                f"step {self.done + 1}: the engine's log-probabilities are {gap:.3f} nats off the trained model's on"
                f" average, over the limit of {config.sampler_gap}: it runs on old or other weights"
            )

        with self.phase("reward", seconds):
            asked = [problem for problem in problems for _ in range(config.samples_per_prompt)]
            rewards = torch.tensor([float(self.reward(*pair)) for pair in zip(asked, rollout.texts, strict=True)])
            batch["rewards"] = rewards
            groups = torch.arange(len(problems)).repeat_interleave(config.samples_per_prompt)  # (B,)
            raw = group_advantages(rewards, groups).to(self.model.device)  # (B,)

        with self.phase("credit", seconds):
            gamma = self.gamma(rollout, reading, asked)  # (B, N)
            self.credited = check_credited(self.credited, gamma, config.credit, config.signals.horizon[0])
            shaped = shape_advantages(raw, gamma, config.credit.sign)  # (B, N)
            if self.advantages is not None:
                shaped = self.advantages(rollout, asked)
            rhythm = rhythm_statistics(reading, rollout.response) if rhythm_wanted else {}

        with self.phase("update", seconds):
            updates = [
                self.train.step(*(x[rows] for x in (rollout.input_ids, rollout.response, reading.old_logp, shaped)))
                for rows in self.mini_batches(len(rewards))
            ]
            self.infer.sync(self.model)

        self.done += 1
        return {
            "step": self.done,
            "epoch": (self.done - 1) // (len(self.problems) // config.prompts_per_step),
            **batch_statistics(rollout, reading, rewards, raw, gamma, shaped),
            **rhythm,
            **mean_of_updates(updates),
            **{f"seconds_{name}": value for name, value in seconds.items()},
        }

    def gamma(self, rollout: Rollout, reading: Reading, problems: Sequence[Problem]) -> Tensor:
        """The factor on the advantage of each token, (B, N)."""
        if self.weights is not None:
            return self.weights(rollout, problems)
        return credit_weights(
            rollout.response,
            self.config.credit,
            waad=reading.signals and reading.signals.waad,
            fai=reading.signals and reading.signals.fai,
            entropy=reading.entropy,
            generator=self.random["credit"],
        )

    def batch_of_problems(self) -> list[Problem]:
        """The problems of the next step; the position in the data is the number of steps done, and nothing else."""
        size = self.config.prompts_per_step
        epoch, place = divmod(self.done, len(self.problems) // size)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.problems))
        return [self.problems[index] for index in order[place * size : (place + 1) * size]]

    def sampling_seed(self) -> int:
        """Another one for each step: a generator draws the same for the same prompt and seed."""
        return int(np.random.SeedSequence([self.config.seed, self.done]).generate_state(1)[0])

    def mini_batches(self, responses: int) -> list[Tensor]:
        """Indices of the responses of each gradient step, on the model's device; sizes differ by at most one."""
        order = torch.randperm(responses, generator=self.random["mini_batches"])
        return [rows.to(self.model.device) for rows in order.tensor_split(self.config.gradient_steps)]

    @contextmanager
    def phase(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started

    def evaluation(self, evaluate: Callable[[Generator], Mapping[str, float]]) -> dict[str, float]:
        seconds: dict[str, float] = {}
        with self.phase("evaluate", seconds), precision(self.model, self.config.optim.bf16):
            result = evaluate(self.infer.generator)
        return {f"eval_{name}": value for name, value in result.items()} | {"seconds_evaluate": seconds["evaluate"]}

    # --------------------------------------------------------------------------------- start and resume

    def start(self, resume: bool) -> bool:
        """Whether the run goes on from a checkpoint; metrics.jsonl then ends where the checkpoint was made."""
        path, checkpoints = self.folder / "metrics.jsonl", self.folder / "checkpoints"
        if not resume and (path.exists() or checkpoint.steps(checkpoints)):
            raise ReproError(f"{self.folder.name}: holds a run already; resume it, or choose another folder")
        state = checkpoint.load_latest(checkpoints, self.model)
        records = resume_jsonl(path)
        if state is None:
            if records:  # killed before its first checkpoint
                write_jsonl(path, [])
            return False
        if state["settings"] != (settings := self.settings()):
            changed = sorted(name for name in settings if state["settings"].get(name) != settings[name])
            others = ", ".join(name for name in changed if name != "model")
            what = " and ".join(["another model"] * ("model" in changed) + [f"other {others}"] * bool(others))
            raise ReproError(f"{self.folder.name}: its checkpoint is of a run with {what}; choose another folder")
        self.done, self.credited = state["step"], state["credited"]
        self.train.load_state_dict(state["train"])
        checkpoint.restore_random_states(state["random"], self.random)
        self.infer.sync(self.model)
        write_jsonl(path, [r for r in records if r["step"] <= self.done])  # what came after is done again
        return True

    def save(self) -> None:
        state = {
            "step": self.done,
            "credited": self.credited,
            "settings": self.settings(),
            "train": self.train.state_dict(),
            "random": checkpoint.random_states(self.random),
        }
        keep = self.config.keep_checkpoints
        checkpoint.save(self.folder / "checkpoints", self.done, self.model, state, keep=keep)

    def settings(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the run that goes on from it."""
        described = {name: value for name, value in asdict(self.config).items() if name not in MAY_CHANGE}
        return {**described, "model": self.model_sha256, "problems": problems_sha256(self.problems)}


# ------------------------------------------------------------------------------------------- TensorBoard


def _check_policy(model: PreTrainedModel) -> None:
    """ReproError: what is sampled would not be drawn from the policy that is trained."""
    penalty = repetition_penalty(model.generation_config)
    if penalty != 1:
        raise ReproError(
            f"the model's generation config has a repetition_penalty of {penalty}: responses would not be drawn from"
            " the policy itself; set it to 1 in generation_config.json"
        )


class _TensorBoard:
    """The same numbers for TensorBoard."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ReproError("TensorBoard is asked for but not installed: pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()
