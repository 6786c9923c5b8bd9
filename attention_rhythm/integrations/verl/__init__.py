"""The method inside verl: credit from attention for GRPO on many GPUs, without an edit of verl.

verl loads `plugin` in each of its processes through the entry point `verl.plugins` (or VERL_USE_EXTERNAL_MODULES). The
signals come from attention_rhythm/signals, gamma from attention_rhythm/credit.py: nothing here does mathematics.

    settings.py  what a user may set (algorithm.rhythm), and what is refused
    engine.py    actor_attn: FSDP that records signals inside the old-log-prob pass; for engines without a hook
                 (Megatron), a pass of its own over an exported copy of the weights
    recording.py what of a model the hook may be in
    trainer.py   the trainer that shapes the advantages
    data.py      problems as parquet;  reward.py: the graders
    launch.py    compose, check and start a run;  plan.py: what it will need
    configs/     on top of verl's own ppo_trainer
    cpu.py       adapters for machines without a GPU, for tests;  cpu_hf.py: a rollout server for them
"""
