"""The mathematics benchmarks: one reader for all, since they differ only in the names of their columns.

Hub revisions are commits of the dataset repositories. Names of columns: `question`, `problem` or `prompt`; `answer` or
`final_answer` (OlympiadBench: a list). GSM8K's `answer` on the hub is its solution, which ends in `#### 18`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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

# DAPO-Math-17k on the hub wraps each question in its own instruction and repeats every row a hundred times.
DAPO_PREFIX_END = "answer to the problem.\n\n"
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

# GSM-Symbolic problems: as many as GSM8K has in each split; the splits' seeds cannot meet.
SYMBOLIC_SIZE = {"test": 1319, "train": 7473}
SYMBOLIC_SEED = {"test": 0, "train": 1_000_000}


def parse_math(row: Row, index: int, *, task: str) -> Problem:
    """A row of any mathematics file. ValueError where it has no question or no answer."""
    column = "answer" if row.get("answer") is not None else "final_answer"
    if isinstance(row.get(column), Sequence) and not isinstance(row[column], str):
        answer = ", ".join(texts_field(row, column))
        if not answer:
            raise ValueError(f"no text in {column!r}")
    else:
        answer = text_field(row, "answer", "final_answer")
    metadata = rest_of(row, "id", "unique_id", "question", "problem", "prompt", "answer", "final_answer")
    if "####" in answer:
        metadata["solution"] = answer
        answer = answer.rsplit("####", 1)[1].strip().replace(",", "")
    return Problem(
        id=id_field(row, f"{task}-{index}", "id", "unique_id"),
        question=text_field(row, "question", "problem", "prompt"),
        answer=answer,
        task=task,
        metadata=metadata,
    )


def select_dapo(rows: Sequence[Row], split: str) -> list[Row]:
    """The distinct questions of the hub's DAPO-Math-17k, without the instruction they come wrapped in."""
    distinct: dict[str, Row] = {}
    for row in rows:
        text = row["prompt"][-1]["content"]
        question = text.split(DAPO_PREFIX_END, 1)[-1].removesuffix(DAPO_SUFFIX).strip()
        answer = row["reward_model"]["ground_truth"]
        distinct.setdefault(question, {"id": f"dapo-{len(distinct)}", "question": question, "answer": answer})
    return list(distinct.values())


def generate_symbolic(split: str) -> Generated:
    """GSM-Symbolic-style word problems of reasoning-gym: templates of GSM8K with new names and numbers."""
    from reasoning_gym import create_dataset

    items = create_dataset("gsm_symbolic", size=SYMBOLIC_SIZE[split], seed=SYMBOLIC_SEED[split])

    def make(index: int) -> Problem:
        item = items[index]
        return Problem(
            id=f"gsm-symbolic-{split}-{index}",
            question=item["question"],
            answer=item["answer"],
            task="gsm_symbolic",
            metadata={"solution": item["metadata"]["answer_cot"]},
        )

    return Generated(len(items), make, "reasoning-gym gsm_symbolic")


def _task(name: str, files: dict[str, str], hub: dict[str, HubFile], **more) -> Task:
    return Task(name, partial(parse_math, task=name), files, hub, **more)


GSM8K_REVISION = "740312add88f781978c0658806c59bc2815b9866"

TASKS = (
    _task(
        "gsm8k",
        {"test": "gsm8k_test.jsonl", "train": "gsm8k_train_1k.jsonl"},
        {
            "test": HubFile("openai/gsm8k", GSM8K_REVISION, "main/test-00000-of-00001.parquet"),
            "train": HubFile("openai/gsm8k", GSM8K_REVISION, "main/train-00000-of-00001.parquet"),
        },
        generate=generate_symbolic,
    ),
    _task("gsm_symbolic", {}, {}, generate=generate_symbolic, generated_splits=("test", "train")),
    _task(
        "math500",
        {"test": "math500.jsonl"},
        {"test": HubFile("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test.jsonl")},
    ),
    _task(
        "aime24",
        {"test": "aime24.jsonl"},
        {
            "test": HubFile(
                "HuggingFaceH4/aime_2024",
                "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
                "data/train-00000-of-00001.parquet",
            )
        },
    ),
    _task(
        "aime25",
        {"test": "aime25.jsonl"},
        {"test": HubFile("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test.jsonl")},
    ),
    _task(
        "amc23",
        {"test": "amc23.jsonl"},
        {"test": HubFile("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test-00000-of-00001.parquet")},
    ),
    _task(
        "olympiadbench",
        {"test": "olympiadbench.jsonl"},
        {"test": HubFile("math-ai/olympiadbench", "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84", "test.parquet")},
    ),
    _task(
        "minerva",
        {"test": "minerva_math.jsonl"},
        {"test": HubFile("math-ai/minervamath", "ee46ddc498933b1977577953250ca5c66be64f96", "test.jsonl")},
    ),
    _task(
        "dapo_math",
        {"train": "dapo_math_4k.jsonl"},
        {
            "train": HubFile(
                "BytedTsinghua-SIA/DAPO-Math-17k",
                "65877096c24ffa7abc4e4fa5edb95cf3413a5674",
                "data/dapo-math-17k.parquet",
            )
        },
        select=select_dapo,
    ),
)
