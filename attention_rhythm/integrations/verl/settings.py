"""`algorithm.rhythm` of a verl configuration: the credit, the signals, and which pass reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from attention_rhythm.credit import SIGNALS, CreditConfig
from attention_rhythm.signals.reading import SignalConfig

TRAINER = "rhythm"  # trainer.v1.trainer_mode
ATTN = ("fused", "separate", "exported")
HOOKED = ("fsdp", "fsdp2")  # engines whose attention can be recorded


class RhythmConfigError(ValueError):
    """A configuration under which the signals or the credit would be wrong; the message names the setting to change."""


@dataclass(frozen=True)
class RhythmConfig:
    """What algorithm.rhythm holds.

    Raises:
        RhythmConfigError: a key that does not exist or a value outside its range.
    """

    credit: CreditConfig = field(default_factory=CreditConfig)
    signals: SignalConfig = field(default_factory=SignalConfig)
    # fused: inside the old-log-prob pass | separate: a pass of its own, the paper's | exported: the same over a copy of
    # the weights, which needs no hook in the engine (Megatron)
    attn: str = "fused"
    seed: int = 0  # of random credit

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> RhythmConfig:
        """From plain keys: those of CreditConfig, a table `signals`, `attn`, `seed`.

        Raises:
            RhythmConfigError: a key that does not exist, or an `attn` that is none of ATTN; the message names it.
        """
        given = dict(table)
        signals = {name: _tuples(value) for name, value in dict(given.pop("signals", {})).items()}
        own = {name: given.pop(name) for name in ("attn", "seed") if name in given}
        for name, known, keys in (
            ("algorithm.rhythm", CreditConfig, given),
            ("algorithm.rhythm.signals", SignalConfig, signals),
        ):
            if unknown := sorted(set(keys) - {f.name for f in fields(known)}):
                raise RhythmConfigError(f"{name} has no key {unknown[0]!r}")
        if own.get("attn", "fused") not in ATTN:
            raise RhythmConfigError(f"algorithm.rhythm.attn must be one of {', '.join(ATTN)}, not {own['attn']!r}")
        try:
            return cls(CreditConfig(**given), SignalConfig(**signals), **own)
        except (TypeError, ValueError) as error:
            raise RhythmConfigError(f"algorithm.rhythm: {error}") from error

    @property
    def needed(self) -> tuple[str, ...]:
        """The attention signals that the strategy reads: waad, fai, both or neither."""
        return tuple(name for name in SIGNALS[self.credit.strategy] if name != "entropy")


def check(config: Any, rhythm: RhythmConfig) -> None:
    """Refuse a verl configuration (the whole, a DictConfig) under which gamma cannot be right.

    Raises:
        RhythmConfigError: names what is set and what to set instead.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout

    def refuse(reason: str, instead: str) -> None:
        raise RhythmConfigError(f"{reason}; set {instead}")

    if (rollout.get("multi_turn") or {}).get("enable"):
        refuse("credit is defined on one unbroken response", "actor_rollout_ref.rollout.multi_turn.enable=False")
    if rhythm.credit.strategy == "entropy" and _bypassed(config):
        refuse("bypass mode skips the pass that gives the entropy", "algorithm.rollout_correction.bypass_mode=False")
    if not rhythm.needed:
        return
    if actor.strategy == "megatron":
        if rhythm.attn != "exported":
            refuse("the attention of verl's Megatron engine cannot be recorded", "algorithm.rhythm.attn=exported")
        parallel = actor.megatron.context_parallel_size
    elif actor.strategy in HOOKED:
        parallel = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
    else:
        refuse(f"signals cannot be read from the engine {actor.strategy}", "actor_rollout_ref.actor.strategy=fsdp2")
    if parallel > 1:
        refuse(
            f"sequences are cut into {parallel} parts, and no part holds the attention of the whole",
            "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=1 (Megatron: context_parallel_size=1)",
        )
    if actor.get("use_prefix_grouper"):
        refuse("prefix grouping shares prompts between sequences", "actor_rollout_ref.actor.use_prefix_grouper=False")
    if rhythm.attn == "fused" and _bypassed(config):
        refuse(
            "bypass mode skips the old-log-prob pass, in which the signals are recorded",
            "algorithm.rhythm.attn=separate or algorithm.rollout_correction.bypass_mode=False",
        )


def _bypassed(config: Any) -> bool:
    return bool((config.algorithm.get("rollout_correction") or {}).get("bypass_mode"))


def _tuples(value: Any) -> Any:
    """YAML has lists where the dataclasses have tuples."""
    return tuple(value) if not isinstance(value, str) and hasattr(value, "__iter__") else value
