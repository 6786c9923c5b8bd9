"""Hostile completions, made at random from a seed. `python -m tests.support.hostile COUNT SEED` grades some of them.

Prints, as JSON, the slowest grading of each grader in seconds of a processor, and how many were right. test_outside.py
runs it where every call to the system is written down (audit/); tests/tasks/test_hostile.py holds the graders to their
time.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from attention_rhythm.tasks.math_judge import shared_judge

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


# What the rules of the graders look for. Over and over, each makes a rule slow that tries every way to split a text.
UNITS = (
    # what ends, joins and lists answers
    ". ", "a. ", ", ", ",", ";", ": ", "!? ", "? A", "...", "…", "1…", "\n", " ", "\t", "\f", "A or ", "or A ", "A ",
    "A) ", "(A) ", "(A", "A. B. ", "B, ", "and ", " or ", "maybe ", "not A ", "not ", "A is wrong. ", "n't ",
    "neither ", "no, ", "wait ", "wait, no ", "actually $", "since ", ", since ", " (since ", "because ", "who ",
    " in house ", "Arnold ", "Arnold, ", "House 1: ", "it is ", "is: ", "owned by ", "next to ", "Therefore, ", "'s ",
    " - ", '"', "'", "the answer is ", "the answer is 1. ", "answer: ", "Answer:\n", "option ", "choose ", "(about ",
    "(about 1)", "(≈",
    # marks
    "#", "#### ", "#### 1 ", "#### 1\n", "*", "* ", " * ", "**", "**1**", "_", "__", "`", "```\n", "$", "$$", "$1$",
    "$1$ and ", r"\(", r"\(1\)", r"\[", r"\]", "<think>", "</think>", "<think></think>", "[think]", "<think ",
    "◁think▷", "<|", "<|im_end|>", "</s>", "<|channel|>analysis", "<answer>", "</answer>", "<answer></answer>",
    "<answer>1</answer>", r"\boxed{", r"\boxed{1}", r"\boxed{1} and ", r"\boxed{}", r"\boxed 1 ", r"\fbox{", "<b>",
    "</b>", "\x01", "\x02",
    # numbers, units and what they are mistaken for
    "1,", "1, ", "1 000 ", "1.", ".1", "1e1", "1/", "1 / ", "1 1/2 ", "1 and 1/2 ", "(1)/(2)", ")/(", "^{1}/_{2}", "1½",
    "½", "√", "√(", "²", "²⁄", "×10^", "10^", r"\overline{", "0.1\\bar", "1_", "_{(base ", "base ①", "5 base ①", "①",
    "٤", "million ", "hundred ", "one hundred ", "twenty-", "half ", "third ", "cm ", "cm/", "m^2 ", "m^{2} ", "km/h ",
    "US$", "€ 1", "%", "1 %", "°", "^o", "degrees ", "out of ٤", "squared ", "pi ", "sqrt(", "sin ", "np.", "**2", "1*",
    "{,}",
    # LaTeX
    "{", "}", "{}", "{1}", "(", ")", "()", "(1)", "[", "[(", "-", "+", "=", "1=", "x", "x=", "x = 1, ", "x = 1 ", "x<",
    r"x \le ", r"\le ", "x > 1 and ", "x ∈ ", "∪", "∞", r"(1,2)\cup", "(1,2) ", r"\text{", r"\text{}", r"\text{ and }",
    r"\text{\text{a}}", r"\text{is}", r"\mathbf{", r"\bf ", r"\color{red}", r"\frac", r"\frac{", r"\frac{1}{2}",
    r"\over ", r"{1\over 2}", r"{1 \over ", r"\sqrt{", r"\left(", r"\right)", r"\begin{array}", r"(\begin{array}",
    r"\end{array}", r"\begin{pmatrix}", r"\begin{aligned}", "&", "\\", r"\\", r"\ ", r"\,", r"\!", r"\{", r"\}", r"\$",
    r"\approx ", r"\pmod{", r"\Omega", "^{", "^2", "_1", "x_{1}", "|", r"\mid",
)  # fmt: skip
NESTED = (
    ("(", ")"), ("{", "}"), ("[", "]"), (r"\text{", "}"), (r"\frac{1}{", "}"), ("{", r"\over 2}"), (r"\sqrt{", "}"),
    (r"\mathbf{", "}"), (r"\boxed{", "}"), ("<answer>", "</answer>"), ("<think>", "</think>"), ("(,x=", ")"),
    ("(1, as required, ", ")"), (r"\{", r"\}"), (r"\begin{aligned}", r"\end{aligned}"), ("**", "**"), ("$", "$"),
    (r"x \approx (", ")"), (r"\left(", r"\right)"), ("\x01", "\x02"), ("^{", "}"), ("|", "|"), ('"', '"'),
)  # fmt: skip
PLACES = (
    "@", r"\boxed{@}", r"\boxed{5 @}", r"\boxed{x @}", r"\boxed{(@)}", r"\boxed{\text{@}}", "<answer>@</answer>",
    "#### @", "<answer>a b c d e the answer is @</answer>", "The answer is @", "Answer: @\n", "The owner is @", "**@**",
    "$@$", "(A) @", "12 @ 34", "<think>@</think>", r"\boxed{1}@\boxed{2}",
)  # fmt: skip
LENGTHS = (1_900, 20_000, 100_000)  # the first is below what is read of an answer, and of a text without one


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


def aimed(rng: random.Random) -> str:
    """Units over and over, or in each other, up to 100,000 characters."""
    length = rng.choice(LENGTHS)
    if rng.random() < 0.3:
        pairs = rng.choices(NESTED, k=rng.choice((1, 1, 2)))
        before, after = "".join(pair[0] for pair in pairs), "".join(pair[1] for pair in reversed(pairs))
        times = length // len(before + after)
        text = before * times + rng.choice(UNITS) + after * times
    else:
        unit = "".join(rng.choices(UNITS, k=rng.choice((1, 1, 2, 3))))
        text = rng.choice(("", *UNITS)) + unit * (length // len(unit)) + rng.choice(("", "~", "x", ")", "}", " z", "."))
    return rng.choice(PLACES).replace("@", text)


def numbered(number: int) -> str:
    """The hostile text of a number, always the same: fragments in each other, or aimed at the rules, half and half."""
    rng = random.Random(number)
    return hostile(rng) if number % 2 else aimed(rng)


def processor_seconds() -> float:
    """What this process and the processes of its judge have taken of processor time; a busy machine adds nothing."""
    seconds = time.process_time()
    nursery = shared_judge()._nursery
    if nursery is not None:
        pid = nursery[0].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for name in (str(pid), *children):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and of children that ended
    return seconds


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
    assert grade(Problem("j", "?", "x + y", "math500"), r"\boxed{y + x}").correct  # the judge starts
    sitecustomize.armed = True
    rng = random.Random(seed)
    slowest = {problem.task: (0.0, "") for problem in problems}
    right = 0
    for _ in range(count):
        text = hostile(rng)
        for problem in problems:
            before = processor_seconds()
            verdict = grade(problem, text)
            slowest[problem.task] = max(slowest[problem.task], (processor_seconds() - before, text[:300]))
            assert isinstance(verdict.correct, bool) and 0 <= verdict.score <= 1, text
            right += verdict.correct
    sitecustomize.armed = False
    print(json.dumps({"count": count, "right": right, "slowest": slowest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
