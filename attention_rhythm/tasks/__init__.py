"""Problems, prompts and graders: one grader for accuracy and reward."""

from attention_rhythm.tasks.base import Problem
from attention_rhythm.tasks.grading import Grade, grade
from attention_rhythm.tasks.problems import load_problems

__all__ = ["Grade", "Problem", "grade", "load_problems"]
