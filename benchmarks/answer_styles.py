r"""The ways in which models write a final answer, right and wrong, as functions of the gold answer.

A style rewrites a gold answer into a response that a careful person accepts; a wrong form makes one that nobody should.
Both return None where they do not apply. DOCUMENTED names the styles of which some answers are refused, and says why.
The grader is held to them by tests/tasks/test_answer_styles.py and measured beside others by benchmarks/grading.py.

A response is made from a template, in which @ stands for the answer, or by a function.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

Rewrite = Callable[[str], str | None]

DECIMAL = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")
INTEGER = re.compile(r"-?\d+")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
THOUSANDS = re.compile(r"-?\d{1,3}(?:,(?:\\!\s*)?\d{3})+")
FLAT_LIST = re.compile(r"[^()\[\]{}A-Za-z=]*,[^()\[\]{}A-Za-z=]*")
PAIR = re.compile(r"(?:\\left)?\(\s*([^(),]*?)\s*,\s*([^(),]*?)\s*(?:\\right)?\)")
INTERVAL = re.compile(r"(?:\[[^,]*,[^,]*[\])]|\([^,]*,[^,]*\]|.*\\cup.*)")
WORD = re.compile(r"\\text\{[^{}]*\}")
LETTER = re.compile(r"\\text\{\(([A-Z])\)\}")
IN_BASE = re.compile(r"(\d+)_\{?(\d+)\}?")
COLUMN = re.compile(r"\\begin\{pmatrix\}([^&]*?)\\end\{pmatrix\}")

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VULGAR = {
    (1, 2): "½", (1, 3): "⅓", (2, 3): "⅔", (1, 4): "¼", (3, 4): "¾", (1, 5): "⅕", (1, 6): "⅙", (1, 8): "⅛", (3, 8): "⅜",
}  # fmt: skip


def boxed(content: str) -> str:
    """A last sentence with `content` in its box."""
    return rf"So the final answer is $\boxed{{{content}}}$."


def bare(gold: str) -> str:
    """A gold answer without the dollars of math mode."""
    return re.sub(r"(?<!\\)\$", "", gold).strip()


def in_words(number: int) -> str:
    """A number from 0 to 99."""
    tens, ones = divmod(number, 10)
    return ONES[number] if number < 20 else TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")


# --- which answers a rewriting is for ---------------------------------------------------------------------------------


def any_answer(template: str) -> Rewrite:
    """The gold answer as the source writes it, in the place of @."""
    return lambda gold: template.replace("@", gold)


def any_bare_answer(template: str) -> Rewrite:
    """The gold answer without dollars, in the place of @."""
    return lambda gold: template.replace("@", bare(gold))


def for_number(template: str) -> Rewrite:
    """A whole or decimal number in the place of @."""
    return lambda gold: template.replace("@", bare(gold)) if DECIMAL.fullmatch(bare(gold)) else None


def for_natural(template: str) -> Rewrite:
    """A whole number that is not negative in the place of @."""
    return lambda gold: template.replace("@", bare(gold)) if bare(gold).isdecimal() else None


def of_integer(write: Callable[[int], str | None], least: int = 0) -> Rewrite:
    """Whole numbers of at least this size."""

    def rewrite(gold: str) -> str | None:
        if not INTEGER.fullmatch(bare(gold)) or abs(int(bare(gold))) < least:
            return None
        return write(int(bare(gold)))

    return rewrite


def of_fraction(write: Callable[[str, int, int], str | None]) -> Rewrite:
    r"""\frac{a}{b}: `write` is given the sign, a and b."""

    def rewrite(gold: str) -> str | None:
        match = FRACTION.fullmatch(bare(gold))
        return write(match.group(1), int(match.group(2)), int(match.group(3))) if match else None

    return rewrite


def replacing(pattern: str, replacement: str | Callable[[re.Match], str]) -> Rewrite:
    """What the pattern finds is replaced; for the answers that this changes."""

    def rewrite(gold: str) -> str | None:
        before = bare(gold)
        after = re.sub(pattern, replacement, before)
        return boxed(after) if after != before else None

    return rewrite


def where(form: re.Pattern, write: Callable[[str], str]) -> Rewrite:
    """Answers that have this form as a whole."""

    def rewrite(gold: str) -> str | None:
        answer = bare(gold)
        return boxed(write(answer)) if form.fullmatch(answer) else None

    return rewrite


def of_list(write: Callable[[list[str]], str]) -> Rewrite:
    """Lists without brackets; a number with separated thousands is none."""

    def rewrite(gold: str) -> str | None:
        answer = bare(gold)
        if not FLAT_LIST.fullmatch(answer) or THOUSANDS.search(answer):
            return None
        return boxed(write([part.strip() for part in answer.split(",")]))

    return rewrite


# --- any answer -------------------------------------------------------------------------------------------------------

IN_A_BOX = {
    "boxed": r"So the final answer is $\boxed{@}$.",
    r"boxed in \[ \]": "Hence\n\\[\n\\boxed{@}\n\\]",
    "boxed, dollars inside": r"So \boxed{$@$}",
    r"boxed, \displaystyle": boxed(r"\displaystyle @"),
    "boxed, a box inside": boxed(r"\boxed{@}"),
    "boxed, x = ": boxed("x = @"),
    r"boxed, \text{Answer: }": boxed(r"\text{Answer: } @"),
    r"boxed, \mathbf": boxed(r"\mathbf{@}"),
    "boxed, **bold** inside": r"\boxed{**@**}",
    r"boxed, \( \) inside": r"\boxed{\(@\)}",
    "boxed, space after it": boxed(r"@\;"),
    r"boxed, \bf": boxed(r"\bf @"),
    r"boxed, \Large": boxed(r"\Large @"),
    r"\fbox": r"\fbox{@}",
}
WITHOUT_A_BOX = {
    "The answer is $@$.": "The answer is $@$.",
    "The answer is @.": "The answer is @.",
    "The answer is **$@$**.": "The answer is **$@$**.",
    "**Final Answer: @**": "So we are done.\n\n**Final Answer: @**",
    "#### @": "So we are done.\n#### @",
    "Answer: @": "So we are done.\nAnswer: @",
    "Answer: $@$": "So we are done.\nAnswer: $@$",
    r"\[ @ \] at the end": "Therefore the value is\n\\[ @ \\]",
    r"\( @ \) at the end": r"Therefore the value is \( @ \).",
    "as Minerva was asked to": "Final Answer: The final answer is $@$. I hope it is correct.",
    "a sentence with numbers after it": "The answer is $@$. This follows since $1 < 2$ and there are 3 cases.",
    "$$x = @$$": "We get $$x = @$$",
    r"\textbf{@}": r"The answer is \textbf{@}.",
    "### Answer": "### Answer\n\n@",
    "a list after it": "Therefore, the answer is $@$.\n\n---\n\n1. First step\n2. Second step",
}
ANY_ANSWER = {name: any_answer(template) for name, template in IN_A_BOX.items()} | {
    name: any_bare_answer(template) for name, template in WITHOUT_A_BOX.items()
}

# --- numbers ----------------------------------------------------------------------------------------------------------


def scientific(number: int) -> str:
    r"""12300 as 1.23 \times 10^{4}."""
    power = len(str(abs(number))) - 1
    return rf"{number / 10**power:.15g} \times 10^{{{power}}}"


NUMBER_TEMPLATES = {
    "≈ before a number": boxed(r"\approx @"),
    r"number \text{ units}": boxed(r"@ \text{ units}"),
    r"number \mathrm{cm}^2": boxed(r"@\,\mathrm{cm}^2"),
    r"number \text{ square units}": boxed(r"@ \text{ square units}"),
    "number dollars": boxed("@ dollars"),
    "number cm^2": boxed("@ cm^2"),
    r"number ^\circ": boxed(r"@^\circ"),
    "number degrees": boxed("@ degrees"),
    "number %": boxed("@%"),
    r"number \text{ percent}": boxed(r"@\text{ percent}"),
    r"\text{number}": boxed(r"\text{@}"),
    r"m = number \text{ units}": boxed(r"m = @ \text{ units}"),
    "number and a noun, no box": "So there are @ people in total.",
    "**number**, no box": "So the total is **@**.",
    "**number** and a noun, no box": "So the total is **@** eggs.",
    "**number and a noun**, no box": "So the total is **@ eggs**.",
    "*number*, no box": "So the total is *@*.",
    "number miles per hour": boxed("@ miles per hour"),
    "a phrase after it": "Hence $N = @$, as required.",
    "#### number dollars": "So\n#### @ dollars",
    "#### number%": "So\n#### @%",
    r"number \text{-dimensional}": boxed(r"@\text{-dimensional}"),
    r"number \frac{m}{s}": boxed(r"@ \, \frac{\text{m}}{\text{s}}"),
    "number and cm without a space": boxed("@cm"),
}
MONEY_TEMPLATES = {
    "$number, no box": "So the total is $@.",
    "**$number**, no box": "So she makes **$@**.",
    r"\$number": boxed(r"\$@"),
    r"number\$": boxed(r"@\$"),
    "number USD": boxed(r"@ \text{ USD}"),
    "€number": boxed("€@"),
}
NUMBERS = {name: for_number(template) for name, template in NUMBER_TEMPLATES.items()} | {
    name: for_natural(template) for name, template in MONEY_TEMPLATES.items()
}
NUMBERS |= {
    "box of one digit without braces": of_integer(lambda n: rf"\boxed {n}" if 0 <= n < 10 else None),
    "number.0": of_integer(lambda n: boxed(f"{n}.0")),
    "1,234": of_integer(lambda n: boxed(f"{n:,}"), least=1000),
    r"1\ 234": of_integer(lambda n: boxed(f"{n:,}".replace(",", r"\ ")), least=1000),
    "1 234": of_integer(lambda n: boxed(f"{n:,}".replace(",", " ")), least=1000),
    "1 234 with a narrow space": of_integer(lambda n: boxed(f"{n:,}".replace(",", "\u202f")), least=1000),
    "#### 1,234": of_integer(lambda n: f"So\n#### {n:,}", least=1000),
    r"1.234 \times 10^3": of_integer(lambda n: boxed(scientific(n)), least=1000),
    "in words": of_integer(lambda n: boxed(rf"\text{{{in_words(n)}}}") if 0 <= n < 100 else None),
    r"number \times 1 = number": of_integer(lambda n: boxed(rf"{n} \times 1 = {n}")),
}

# --- fractions --------------------------------------------------------------------------------------------------------


def is_short(a: int, b: int) -> bool:
    """Whether a/b has at most eight decimals."""
    return (10**8 * a) % b == 0


def vulgar(sign: str, a: int, b: int) -> str | None:
    """As one character of unicode."""
    return boxed(sign + VULGAR[a, b]) if (a, b) in VULGAR else None


FRACTION_WRITERS: dict[str, Callable[[str, int, int], str | None]] = {
    r"\cfrac": lambda sign, a, b: boxed(rf"{sign}\cfrac{{{a}}}{{{b}}}"),
    r"\frac a{b}": lambda sign, a, b: boxed(rf"{sign}\frac{a}{{{b}}}") if a < 10 else None,
    r"\frac{a}b": lambda sign, a, b: boxed(rf"{sign}\frac{{{a}}}{b}") if b < 10 else None,
    r"{a \over b}": lambda sign, a, b: boxed(rf"{sign}{{{a} \over {b}}}"),
    "exact decimal": lambda sign, a, b: boxed(f"{sign}{a / b:.10g}") if is_short(a, b) else None,
    "four decimals of a longer decimal": lambda sign, a, b: None if is_short(a, b) else boxed(f"{sign}{a / b:.4f}"),
    "exact percentage": lambda sign, a, b: boxed(rf"{sign}{100 * a / b:.10g}\%") if (10**6 * a) % b == 0 else None,
    "mixed number 1 1/2": lambda sign, a, b: boxed(f"{sign}{a // b} {a % b}/{b}") if a > b else None,
    "ratio a:b": lambda sign, a, b: boxed(f"{sign}{a}:{b}"),
    r"\frac{-a}{b}": lambda sign, a, b: boxed(rf"\frac{{-{a}}}{{{b}}}") if sign else None,
    "a/b, no box": lambda sign, a, b: f"The probability is {sign}{a}/{b}.",
    "a out of b": lambda sign, a, b: None if sign else boxed(rf"{a} \text{{ out of }} {b}"),
    "≈ decimal after it": lambda sign, a, b: boxed(rf"{sign}\frac{{{a}}}{{{b}}} \approx {sign}{a / b:.3f}"),
    "= decimal after it": lambda sign, a, b: (
        boxed(rf"{sign}\frac{{{a}}}{{{b}}} = {sign}{a / b:.10g}") if is_short(a, b) else None
    ),
    "not reduced": lambda sign, a, b: boxed(rf"{sign}\frac{{{2 * a}}}{{{2 * b}}}"),
    r"\left( \frac \right)": lambda sign, a, b: boxed(rf"{sign}\left(\frac{{{a}}}{{{b}}}\right)"),
    r"\nicefrac": lambda sign, a, b: boxed(rf"{sign}\nicefrac{{{a}}}{{{b}}}"),
    "^a/_b": lambda sign, a, b: boxed(rf"{sign}{{}}^{{{a}}}/_{{{b}}}"),
    r"a \cdot b^{-1}": lambda sign, a, b: boxed(rf"{sign}{a} \cdot {b}^{{-1}}"),
    "½": vulgar,
    "decimal in brackets after it, no box": lambda sign, a, b: (
        rf"The value is ${sign}\frac{{{a}}}{{{b}}}$ (about {sign}{a / b:.3f})."
    ),
}
FRACTIONS = {name: of_fraction(write) for name, write in FRACTION_WRITERS.items()}

# --- expressions, lists, tuples, intervals, matrices ------------------------------------------------------------------


def array(match: re.Match) -> str:
    r"""A matrix in brackets of \left and \right."""
    return rf"\left(\begin{{array}}{{cc}}{match.group(1)}\end{{array}}\right)"


def as_tuple(match: re.Match) -> str:
    """A column as a tuple."""
    return "(" + re.sub(r"\s*\\\\\s*", ", ", match.group(1).strip()) + ")"


def named_coordinates(gold: str) -> str:
    """(1, 2) as x = 1, y = 2."""
    first, second = PAIR.fullmatch(gold).groups()
    return f"x = {first}, y = {second}"


ONE_EXPRESSION = re.compile(r"(?=.*[+a-z])(?!.*\.$)[^,;=]*(?:\([^()]*\)[^,;=]*)*")
MONOMIALS = re.compile(r"(?!.*\de-?\d)[0-9a-z^{} +-]*\d[a-z][0-9a-z^{} +-]*")

EXPRESSIONS = {
    r"\dfrac": replacing(r"\\frac", r"\\dfrac"),
    "(a)/(b)": replacing(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    "x^2 without braces": replacing(r"\^\{(\d)\}", r"^\1"),
    "x**2": replacing(r"\^(?:\{(\d+)\}|(\d)(?!\d))(?![a-zA-Z(\\])", r"**\1\2"),
    "x²": replacing(r"\^(?:\{([23])\}|([23])(?!\d))", lambda match: "²³"[int(match.group(1) or match.group(2)) - 2]),
    "∞": replacing(r"\\infty", "∞"),
    "∪": replacing(r"\\cup", "∪"),
    r"\times for \cdot": replacing(r"\\cdot", r"\\times"),
    "* for \\cdot": replacing(r"\\cdot", "*"),
    "no fine spaces": replacing(r"\\[,!;:]", ""),
    "no spaces": replacing(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", ""),
    "minus of unicode": replacing("-", "−"),
    "bmatrix": replacing("pmatrix", "bmatrix"),
    "column as a tuple": replacing(COLUMN.pattern, as_tuple),
    "matrix as an array": replacing(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", array),
    r"\langle \rangle": replacing(r"^(?:\\left)?\(\s*([^()]*,[^()]*?)\s*(?:\\right)?\)$", r"\\langle \1 \\rangle"),
    r"x \in interval": where(INTERVAL, lambda answer: rf"x \in {answer}"),
    "a and b": of_list(lambda parts: ", ".join(parts[:-1]) + r" \text{ and } " + parts[-1]),
    "a or b": of_list(lambda parts: ", ".join(parts[:-1]) + r" \text{ or } " + parts[-1]),
    "x = a, x = b": of_list(lambda parts: ", ".join(f"x = {part}" for part in parts)),
    "list reversed": of_list(lambda parts: ", ".join(reversed(parts))),
    r"x \in \{a, b\}": of_list(lambda parts: r"x \in \{" + ", ".join(parts) + r"\}"),
    "(x, y) = (a, b)": where(PAIR, lambda answer: f"(x, y) = {answer}"),
    "x = a, y = b": where(PAIR, named_coordinates),
    "no degrees": replacing(r"\^\{?\\circ\}?", ""),
    "°": replacing(r"\s*\^\{?\\circ\}?", "°"),
    "degrees": replacing(r"\s*\^\{?\\circ\}?", " degrees"),
    "no percent sign": replacing(r"\\%", ""),
    "percent sign without backslash": replacing(r"\\%", "%"),
    "base in braces": replacing(r"_(\d)$", r"_{\1}"),
    "base left out": where(IN_BASE, lambda answer: IN_BASE.fullmatch(answer).group(1)),
    "base in words": where(
        IN_BASE, lambda answer: IN_BASE.sub(lambda m: rf"{m.group(1)}_{{\text{{{in_words(int(m.group(2)))}}}}}", answer)
    ),
    "right-hand side alone": where(
        re.compile(r"[a-zA-Z](\([a-z]\))?\s*=[^=]*"), lambda answer: answer.split("=", 1)[1].strip()
    ),
    "2*x": where(MONOMIALS, lambda answer: re.sub(r"(\d)([a-z])", r"\1*\2", answer)),
    "in brackets": where(ONE_EXPRESSION, lambda answer: rf"\left({answer}\right)"),
    "for all x": where(re.compile(r".*=.*", re.DOTALL), lambda answer: rf"{answer} \text{{ for all }} x"),
    r"\exp": replacing(r"\be\^\{([^{}]*)\}", r"\\exp(\1)"),
    r"\leq": replacing(r"\\le(?![a-z])", r"\\leq"),
    "≤": replacing(r"\\leq?(?![a-z])", "≤"),
    "×": replacing(r"\\times", "×"),
    r"\log_{2}": replacing(r"(?<=\\log)_(\d)", r"_{\1}"),
}

# --- words and the letters of choices ---------------------------------------------------------------------------------

WORDS = {
    r"word without \text": where(WORD, lambda answer: re.sub(r"\\text\{([^{}]*)\}", r"\1", answer)),
    r"\textbf{word}": where(WORD, lambda answer: answer.replace(r"\text", r"\textbf")),
    r"\mathrm{word}": where(WORD, lambda answer: answer.replace(r"\text", r"\mathrm")),
    "lower case": where(re.compile(r"\\text\{[^{}]*[A-Z][^{}]*\}"), str.lower),
}
CHOICES = {
    "B for (B)": where(LETTER, lambda answer: LETTER.sub(r"\1", answer)),
    r"\textbf{(B)}": where(LETTER, lambda answer: LETTER.sub(r"\\textbf{(\1)}", answer)),
}

STYLE_GROUPS: dict[str, dict[str, Rewrite]] = {
    "any answer": ANY_ANSWER, "numbers": NUMBERS, "fractions": FRACTIONS, "expressions": EXPRESSIONS, "words": WORDS,
    "choices": CHOICES,
}  # fmt: skip
STYLES: dict[str, Rewrite] = {name: style for group in STYLE_GROUPS.values() for name, style in group.items()}

DOCUMENTED = {
    "four decimals of a longer decimal": "A decimal of fewer than six significant digits is a number of its own.",
}


# --- wrong forms ------------------------------------------------------------------------------------------------------


# one expression: no equation, list, words, relation
EXPRESSION = re.compile(
    r"(?:\\(?:[dt]?frac|sqrt|pi|cdot|left|right|times|binom)(?![a-zA-Z])|\d|[a-zA-Z](?![a-zA-Z])|[-+^{}()/! ])+"
)


def value(gold: str) -> Fraction | None:
    r"""What a plain number or \frac{a}{b} is worth, None for any other answer."""
    answer = bare(gold)
    if DECIMAL.fullmatch(answer):
        return Fraction(answer)
    match = FRACTION.fullmatch(answer)
    return Fraction(f"{match.group(1)}{match.group(2)}/{match.group(3)}") if match else None


def shown(number: Fraction) -> str:
    r"""A number as a whole number, an exact decimal, or \frac{a}{b}."""
    if number.denominator == 1:
        return str(number.numerator)
    if is_short(number.numerator, number.denominator):
        return f"{float(number):.15g}"
    return rf"{'-' if number < 0 else ''}\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


def another_number(change: Callable[[Fraction], Fraction]) -> Rewrite:
    """A number of another value in the box."""

    def rewrite(gold: str) -> str | None:
        number = value(gold)
        return None if number is None or change(number) == number else boxed(shown(change(number)))

    return rewrite


def wrong_number(template: str) -> Rewrite:
    """A number that is not 0 in the place of @, its successor in that of &."""

    def rewrite(gold: str) -> str | None:
        number = value(gold)
        return template.replace("@", bare(gold)).replace("&", shown(number + 1)) if number else None

    return rewrite


def except_of(exceptions: Sequence[int], rewrite: Rewrite) -> Rewrite:
    """Not of these numbers, of which it would be right."""
    return lambda gold: None if value(gold) in exceptions else rewrite(gold)


def of_expression(template: str) -> Rewrite:
    """An expression that is no plain number in the place of @."""

    def rewrite(gold: str) -> str | None:
        answer = bare(gold)
        return boxed(template.replace("@", answer)) if value(gold) is None and EXPRESSION.fullmatch(answer) else None

    return rewrite


def pair_swapped(gold: str) -> str | None:
    """(2, 1) for (1, 2)."""
    match = PAIR.fullmatch(bare(gold))
    if match is None or match.group(1) == match.group(2):
        return None
    return boxed(f"({match.group(2)}, {match.group(1)})")


def end_open_or_closed(gold: str) -> str | None:
    """(1, 2) for (1, 2], [1, 2] for [1, 2)."""
    match = re.fullmatch(r"([\[(])([^,()\[\]]*),([^,()\[\]]*)([\])])", bare(gold))
    if match is None or match.group(1) + match.group(4) == "()" or r"\infty" in match.group(3):
        return None
    return boxed(f"{match.group(1)}{match.group(2)},{match.group(3)}{')' if match.group(4) == ']' else ']'}")


def number_left_out(gold: str) -> str | None:
    """A list without its first number, where that does not come twice."""
    return of_list(lambda parts: ", ".join(parts[1:]))(gold) if bare(gold).split(",")[0] not in bare(gold)[1:] else None


def another_base(gold: str) -> str | None:
    """The same digits in the next base."""
    match = IN_BASE.fullmatch(bare(gold))
    return boxed(f"{match.group(1)}_{{{int(match.group(2)) + 1}}}") if match else None


def all_letters(gold: str) -> str | None:
    """Every letter, the right one among them."""
    return boxed(r"\text{A, B, C, D, E}") if LETTER.fullmatch(bare(gold)) else None


def two_words(gold: str) -> str | None:
    """The right word or another."""
    if not WORD.fullmatch(bare(gold)) or LETTER.fullmatch(bare(gold)):
        return None
    word = bare(gold)[len(r"\text{") : -1]
    return boxed(rf"\text{{{word} or neither}}")


def inverted(number: Fraction) -> Fraction:
    """b/a for a/b."""
    return 1 / number if number else number


def two_decimals(gold: str) -> str | None:
    """A fraction rounded to two decimals, where that is another number."""
    match = FRACTION.fullmatch(bare(gold))
    if match is None or (100 * int(match.group(2))) % int(match.group(3)) == 0:
        return None
    return boxed(f"{float(value(gold)):.2f}")


NO_ANSWER: dict[str, Rewrite] = {
    "box in thoughts alone": any_answer(r"<think>It must be \boxed{@}.</think> I am not sure."),
    "box in thoughts that are cut off": any_answer(r"<think>So \boxed{@}. Wait, let me check: "),
    "stated in thoughts that are cut off": any_bare_answer("<think>The answer is $@$. Or is it"),
    "box in thoughts, another number after them": wrong_number(r"<think>\boxed{@}?</think> The answer is $&$."),
    "box that is cut off": any_bare_answer(r"Therefore it is $\boxed{@"),
    "box taken back": wrong_number(r"\boxed{@}. No, I forgot one: \boxed{&}."),
    "tag taken back": wrong_number("<answer>@</answer> No, I forgot one: <answer>&</answer>"),
}
ANOTHER_NUMBER: dict[str, Rewrite] = {
    "one more": another_number(lambda number: number + 1),
    "one less": another_number(lambda number: number - 1),
    "sign flipped": another_number(lambda number: -number),
    "ten times": another_number(lambda number: 10 * number),
    "a tenth": another_number(lambda number: number / 10),
    "inverted": another_number(inverted),
    "two decimals of a fraction": two_decimals,
    "a digit more": except_of((0,), of_integer(lambda n: boxed(f"{n}7"))),
    r"number \text{ thousand}": wrong_number(boxed(r"@ \text{ thousand}")),
    r"number \text{ million}": wrong_number(boxed(r"@ \text{ million}")),
    r"$number \text{ billion}": wrong_number(boxed(r"\$@ \text{ billion}")),
    r"number \text{ dozen}": wrong_number(boxed(r"@ \text{ dozen}")),
    "number million, no box": wrong_number("So the total is @ million."),
    r"number \times 10^6": wrong_number(boxed(r"@ \times 10^6")),
    "numberK": wrong_number(boxed(r"@\text{K}")),
    "number i": wrong_number(boxed("@i")),
    r"number \mathrm{i}": wrong_number(boxed(r"@\mathrm{i}")),
    "number x": wrong_number(boxed("@x")),
    r"number \pi": wrong_number(boxed(r"@\pi")),
    r"\sqrt{number}": except_of((0, 1), for_number(boxed(r"\sqrt{@}"))),
    "number^2": except_of((0, 1), for_natural(boxed("@^2"))),
    r"number \text{ squared}": except_of((0, 1), for_number(boxed(r"@ \text{ squared}"))),
    "number!": except_of((1, 2), of_integer(lambda n: boxed(f"{n}!") if 0 <= n < 100 else None)),
    "another base": another_base,
}
TWO_ANSWERS: dict[str, Rewrite] = {
    "a or b": wrong_number(boxed(r"@ \text{ or } &")),
    "a and b": wrong_number(boxed(r"@ \text{ and } &")),
    "a, b": wrong_number(boxed("@, &")),
    "a cm or b cm": wrong_number(boxed(r"@\text{ cm or }&\text{ cm}")),
    "a or more": wrong_number(boxed(r"@\text{ or more}")),
    "a if, b otherwise": wrong_number(boxed(r"@\text{ if }n\text{ is odd, }&\text{ otherwise}")),
    "a or b, no box": wrong_number("The answer is @ or &."),
    "two boxes": wrong_number(r"\boxed{@} or \boxed{&}"),
    r"\pm": wrong_number(boxed(r"\pm @")),
    "a to b": wrong_number(boxed(r"@ \text{ to } &")),
}
ANOTHER_EXPRESSION: dict[str, Rewrite] = {
    "expression + 1": of_expression("@ + 1"),
    "2 expression": except_of((0,), of_expression(r"2\left(@\right)")),
    "- expression": of_expression(r"-\left(@\right)"),
    "i expression": of_expression(r"i\left(@\right)"),
    "pair swapped": pair_swapped,
    "interval with another end": end_open_or_closed,
    "a number more in the list": of_list(lambda parts: ", ".join([*parts, "987654"])),
    "a number less in the list": number_left_out,
    "another word": where(WORD, lambda answer: r"\text{nothing of the kind}"),
    "not this word": where(WORD, lambda answer: answer.replace(r"\text{", r"\text{not }")),
    "two words": two_words,
    "all letters": all_letters,
}
WRONG_GROUPS = {
    "no answer": NO_ANSWER, "another number": ANOTHER_NUMBER, "two answers": TWO_ANSWERS,
    "another expression, list or word": ANOTHER_EXPRESSION,
}  # fmt: skip
WRONG_FORMS: dict[str, Rewrite] = {name: form for group in WRONG_GROUPS.values() for name, form in group.items()}


def of_other_problems(golds: Sequence[str], seed: int = 0) -> list[tuple[str, str]]:
    """(gold answer, the gold answer of another problem in a box), where the two are worth other numbers, a percentage
    its hundredth part too, or have other digits and letters right of an equals sign.
    """
    others = list(golds)
    random.Random(seed).shuffle(others)
    return [(gold, boxed(bare(other))) for gold, other in zip(golds, others, strict=True) if _differ(gold, other)]


def _differ(gold: str, other: str) -> bool:
    gold, other = (bare(answer.split("=")[-1]) for answer in (gold, other))
    first, second = (value(re.sub(r"\\?%|\^\\circ", "", answer)) for answer in (gold, other))
    if first is not None and second is not None:
        return second not in (first, 100 * first, first / 100)
    return _symbols(gold) != _symbols(other)


def _symbols(answer: str) -> list[str]:
    return sorted(re.sub(r"\\(?:left|right|[dt]?frac|text|mathrm)|\W", "", answer).lower())
