"""Zebra puzzles: ZebraLogic's multiple-choice questions from the hub, reasoning-gym's puzzles offline."""

from __future__ import annotations

from attention_rhythm.tasks.base import (
    Generated,
    HubFile,
    Problem,
    Row,
    Task,
    id_field,
    rest_of,
    text_field,
    texts_field,
)

# reasoning-gym puzzles (4 houses, 4 characteristics, who lives in house 1): as many as ZebraLogic has grids. Each takes
# about 0.1 s to make, so only those that are asked for are made. The splits' seeds cannot meet.
SIZE = {"test": 1_000, "train": 5_000}
SEED = {"test": 0, "train": 1_000_000}


def parse_zebra(row: Row, index: int) -> Problem:
    """A row of ZebraLogic's mc_mode: `puzzle`, `question`, `choices` (texts), `answer` (the text of one of them).

    ValueError: a row whose answer is none of its choices.
    """
    question = text_field(row, "question")
    if row.get("puzzle"):
        question = f"{text_field(row, 'puzzle')}\n{question}"
    choices = texts_field(row, "choices") if row.get("choices") else None
    answer = text_field(row, "answer")
    if choices and answer not in choices:
        raise ValueError(f"'answer' {answer!r} is none of 'choices'")
    return Problem(
        id=id_field(row, f"zebra-{index}"),
        question=question,
        answer=answer,
        task="zebra",
        choices=choices,
        metadata=rest_of(row, "id", "puzzle", "question", "choices", "answer"),
    )


def generate_zebra(split: str) -> Generated:
    """reasoning-gym's zebra_puzzles at its default size."""
    from reasoning_gym import create_dataset

    items = create_dataset("zebra_puzzles", size=SIZE[split], seed=SEED[split])

    def make(index: int) -> Problem:
        item = items[index]
        return Problem(
            f"zebra-{split}-{index}", item["question"], item["answer"], "zebra", metadata=item["metadata"]["difficulty"]
        )

    return Generated(len(items), make, "reasoning-gym zebra_puzzles")


TASKS = (
    Task(
        "zebra",
        parse_zebra,
        files={"test": "zebra.jsonl"},
        hub={
            "test": HubFile(
                "WildEval/ZebraLogic",
                "0a473f5a0054835754ed156d5a79c6ce27178bb1",
                "mc_mode/test-00000-of-00001.parquet",
            )
        },
        generate=generate_zebra,
        generated_splits=("test", "train"),
    ),
)
