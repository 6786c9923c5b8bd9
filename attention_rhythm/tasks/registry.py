"""The registry of benchmarks: a task that is not here cannot be loaded or graded."""

from attention_rhythm.tasks import countdown, crossthink, math, zebra
from attention_rhythm.tasks.base import Task

MATH_TASKS = frozenset(task.name for task in math.TASKS)
TASKS: dict[str, Task] = {task.name: task for task in (*math.TASKS, *countdown.TASKS, *crossthink.TASKS, *zebra.TASKS)}
