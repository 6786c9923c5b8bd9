"""What verl loads in each of its processes: registers the engines and the trainer.

verl logs at debug level, and goes on, when a plugin fails to load. That cannot pass: without the trainer, verl refuses
`trainer_mode=rhythm`; without the engines, the trainer finds no signals in the queue.
"""

from attention_rhythm.integrations.verl import engine, trainer  # noqa: F401
