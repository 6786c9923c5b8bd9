"""Problems, prompts and graders: one grader for accuracy and reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_rhythm.lazy import exports

if TYPE_CHECKING:
    from attention_rhythm.tasks.base import Problem
    from attention_rhythm.tasks.grading import Grade, grade
    from attention_rhythm.tasks.problems import load_problems

__all__ = ["Grade", "Problem", "grade", "load_problems"]
__getattr__ = exports(
    __name__,
    {
        "attention_rhythm.tasks.base": ["Problem"],
        "attention_rhythm.tasks.grading": ["Grade", "grade"],
        "attention_rhythm.tasks.problems": ["load_problems"],
    },
)
