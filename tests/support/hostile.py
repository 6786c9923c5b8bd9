"""Grade hostile completions, made at random from a seed: `python -m tests.support.hostile COUNT SEED`.

Prints, as JSON, the slowest grading of each grader and how many were right. test_outside.py runs it where every call
to the system is written down (audit/).
"""

from __future__ import annotations

import json
import random
import sys
import time

TEXT = (
    "42", "-7", "3.14", "1,000", "x", "y^2", "B", "arnold", "the answer is", "Answer:", "####", "\n", " ", "= ",
    "50\\%", "٤٢", "４２", "𝟒𝟐", "½", "\u202e42", "\x00", "\ud800", "e\u0301", "\U0001f600" * 3,
)  # fmt: skip
LATEX = (
    r"\frac{1}{2}", r"\sqrt[3]{2}", r"\left(", r"\right)", r"\text{cm}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    r"\cup", r"\int_0^1 x\,dx", r"\sum_{k=1}^{9} k", r"\lim_{x\to 0}", r"\in", r"\{1,2\}", r"\overline{3}",
    r"\times 10^{3}", r"^{\circ}", r"\pi", r"\def\x{\x\x}\x", r"\newcommand{\a}{\a\a}\a", r"\input{/etc/passwd}",
    r"\write18{touch SENTINEL}", r"\href{javascript:x}{1}", r"\verb|x|",
)  # fmt: skip
CODE = (
    "__import__('os').system('touch SENTINEL')", "open('SENTINEL', 'w').write('x')", "exec('import os')", "eval('1')",
    "().__class__.__bases__[0].__subclasses__()", "(lambda: 42)()", "import os; os.system('touch SENTINEL')", "exit()",
    "$(touch SENTINEL)", "`touch SENTINEL`", "{{7*7}}", "%s%n%n", "f'{open(1)}'", "Symbol('x').__class__",
    "sympify(\"__import__('os').system('touch SENTINEL')\")", "\\text{__import__('os').system('touch SENTINEL')}",
    "subprocess.run(['touch', 'SENTINEL'])", "breakpoint()", "'; DROP TABLE x; --",
)  # fmt: skip
LARGE = (
    "9" * 400, "1e400", "10^{400}", "2^{3^{2}}", "12!", "((" * 20 + "1" + "))" * 20, "{" * 60, "}" * 60, r"\frac{" * 30,
    "(" * 200, "-" * 150, "1+" * 100 + "1", "x" * 500, "$" * 101, r"\boxed{" * 25, "<answer>" * 50, "\\" * 99,
)  # fmt: skip
BOMBS = (  # a second each, so there are few of them
    "9**9**9**9", "9^{9^{9^{9}}}", r"\binom{10^9}{10^8}", "(10^6)!", r"\prod_{k=1}^{10^8} k", "x^{10^9}-1=0",
    r"\int_0^1 x^{x^{x^x}}dx",
)  # fmt: skip
WRAPS = (
    r"\boxed{%}", "$%$", r"\[%\]", "<answer>%</answer>", "The answer is %.", "\n%", "#### %", "(%)", "{%}", r"\sqrt{%}",
    r"\frac{%}{2}", r"\text{%}", "```python\n%\n```", "-%", "%^2",
)  # fmt: skip


def hostile(rng: random.Random) -> str:
    """Fragments, wrapped in each other, some of it cut, moved or struck."""
    text = ""
    for _ in range(rng.randrange(1, 6)):
        text += rng.choice(rng.choices((TEXT, LATEX, CODE, LARGE), (35, 30, 25, 10))[0])
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            text = rng.choice(WRAPS).replace("%", text)
    if rng.random() < 0.002:
        text = rng.choice(WRAPS).replace("%", text + rng.choice(BOMBS))
    if rng.random() < 0.3:
        start = rng.randrange(len(text))
        end = start + rng.randrange(1, 8)
        stray = chr(rng.randrange(1, 0x3000))
        text = rng.choice((text[:start] + text[end:], text[end:] + text[:end], text[:start], text[:start] + stray))
    return text


def main(count: int, seed: int) -> None:
    import sitecustomize

    from attention_rhythm.tasks.base import Problem
    from attention_rhythm.tasks.grading import grade

    problems = [
        Problem("m", "?", "123456789", "math500"),
        Problem("n", "?", "42", "countdown", metadata={"numbers": [40, 2], "target": 42}),
        Problem("c", "?", "B", "crossthink_qa", choices=("first", "second")),
        Problem("z", "?", "arnold", "zebra"),
    ]
    for problem in problems:
        grade(problem, r"\boxed{1}")  # the judge starts
    sitecustomize.armed = True
    rng = random.Random(seed)
    slowest = {problem.task: (0.0, "") for problem in problems}
    right = 0
    for _ in range(count):
        text = hostile(rng)
        for problem in problems:
            started = time.monotonic()
            verdict = grade(problem, text)
            slowest[problem.task] = max(slowest[problem.task], (time.monotonic() - started, text[:300]))
            assert isinstance(verdict.correct, bool) and 0 <= verdict.score <= 1, text
            right += verdict.correct
    sitecustomize.armed = False
    print(json.dumps({"count": count, "right": right, "slowest": slowest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
