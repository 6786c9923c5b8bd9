r"""Are two mathematical answers the same? Exact arithmetic for numbers, words for words, math-verify for the rest.

The gold answer says which it is. math-verify drops the words of an answer (`5\text{ or }6` is 56 to it), so what it is
asked has none left: units are taken away, "and" and "or" make lists, and an answer with any other word is not the same
as one without. What was decided where people differ: docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attention_rhythm.tasks.latex import plain_latex
from attention_rhythm.tasks.quantities import MEANINGS, is_unit, read_number

Judge = Callable[[str, str], bool]

AND_OR = re.compile(
    r"\\text\{\s*,?\s*(?:and|or)\s*\}|\\(?:lor|vee|land)(?![a-zA-Z])|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
)
NAME = re.compile(
    r"[a-zA-Z]\s*\\(?:approx|simeq)(?![a-zA-Z])\s*"
    r"|(?:\\text\{[^{}]*\}|[a-zA-Z](?:_\{?\w+\}?|')?(?:\([a-zA-Z](?:, ?[a-zA-Z])*\))?|\\[a-zA-Z]+|[A-Z]{2,3}"
    r"|\\angle [A-Z]+"
    r"|\([a-zA-Z](?:_\w)?(?:, ?[a-zA-Z](?:_\w)?)+\))\s*(?:=|:|\\in(?![a-zA-Z])|\\to(?![a-zA-Z]))\s*"
)
LABEL = re.compile(
    r"\\text\{\s*[^{}]*?(?:is|:|=)\s*\}\s*|(?:\\text\{\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:=]?\s*\}?\s*",
    re.IGNORECASE,
)
APPROXIMATELY = re.compile(r"^\\(?:approx|sim|simeq)(?![a-zA-Z])\s*")
REMARK = re.compile(
    r"\s*\\text\{\s*(?:for (?:all|any|every|each|some|integers?)|where|with|as required)\b.*$",
    re.IGNORECASE | re.DOTALL,
)
UNIT_AT_END = re.compile(r"(?:\\cdot\s*)?\\text\{([^{}]*)\}(?:\s*/\s*\\text\{[^{}]*\})?\s*(?:\^\s*\{?-?[1-4]\}?)?$")
INTERVAL = re.compile(r"^[\[(][^()\[\],]*,[^()\[\]]*[\])](?:\s*\\cup\s*[\[(][^()\[\],]*,[^()\[\]]*[\])])*$")
UNION = re.compile(
    r"(?<=[)\]])\s*(?:,|U|\\bigcup|\\text\{\s*(?:or|and|U)\s*\}|\b(?:or|and)\b)\s*(?:x\s*\\in\s*)?(?=[(\[])"
)
EQUALS = re.compile(r"(?<![<>\\!])=")
GLUED_LETTER = re.compile(r"^-?[\d.,]+\s?[a-zA-Z](?![a-zA-Z])")  # 3R^2, 6m: a variable
GLUE = re.compile(r"(?<=\d)\s?(?=[a-zA-Z](?![a-zA-Z]))")
PAIR = re.compile(r"^([(\[])[^()\[\],]*,[^()\[\]]*([)\]])$")
IN_A_SET = re.compile(r"^[a-zA-Z]\s*\\in(?![a-zA-Z])\s*(?=[(\[])")
LETTER_FIRST = re.compile(r"^(?:\\text\{\s*\([A-E]\)\s*\}|\{?\([A-E]\)\}?)\s*(?=[\w\\(\[.-])")
LETTER_LAST = re.compile(r"(?:\\text\{\s*\([A-E]\)\s*\}|\(\\text\{[A-E]\}\)|\s\([A-E]\))$")
RELATION = r"(\\(?:le|ge|lt|gt)(?![a-zA-Z])|[<>])"
BETWEEN = re.compile(rf"^(.+?){RELATION}\s*[a-zA-Z](?:\([a-z]\))?\s*{RELATION}\s*(.+)$")
ONE_SIDE = re.compile(rf"^([a-zA-Z])\s*{RELATION}\s*(.+)$|^(.+?){RELATION}\s*([a-zA-Z])$")
BOTH = re.compile(r"^(.+?)(?:\\text\{\s*and\s*\}|\band\b|\\land(?![a-zA-Z]))(.+)$")
COLUMN = re.compile(r"\\begin\{[pb]matrix\}([^&]*?)\\end\{[pb]matrix\}")
NEW_ROW = r"\\"
MAX_NESTED = 3  # brackets around an answer and remarks beside it, in each other
ARRAY = re.compile(r"[(\[]\s*\\begin\{array\}(?:\{[^{}]*\})?(.*?)\\end\{array\}\s*[)\]]", re.DOTALL)


def same_answer(gold: str, answer: str, judge: Judge) -> bool:
    """Whether `answer` is the gold answer. `judge(gold, answer)` compares two expressions (math_judge.py)."""
    gold, answer = plain_latex(gold), plain_latex(answer)
    if not answer:
        return False
    if _key(gold) == _key(answer):
        return True
    if not is_text(gold):
        answer = LETTER_LAST.sub("", LETTER_FIRST.sub("", answer)).rstrip()
    if (number := read_number(gold)) is not None and not GLUED_LETTER.search(gold):
        return any(_is_worth(number, gold, reading, judge) for reading in readings(answer))
    if is_text(gold):
        return any(_words(reading) == _words(gold) for reading in _texts(answer))
    return _same_expression(gold, answer, judge)


def _key(text: str) -> str:
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"\s+", "", text))


# --- numbers ----------------------------------------------------------------------------------------------------------


def _is_worth(number, gold: str, answer: str, judge: Judge, nested: int = MAX_NESTED) -> bool:
    found = read_number(answer)
    if found is not None:
        return number.is_worth(found)
    parts = [part for part in items(answer) if not _is_remark(part)]
    if len(parts) != 1:  # "15 39/40 or 639/40" is one answer
        return len(parts) > 1 and all((part := read_number(text)) and number.is_worth(part) for text in parts)
    if parts[0] != answer:
        deeper = readings(parts[0]) if nested else []
        return any(_is_worth(number, gold, reading, judge, nested - 1) for reading in deeper)
    answer = without_units(answer)
    return not has_words(answer) and judge(gold, answer)


def readings(answer: str) -> list[str]:
    r"""An answer as it is, without a name before it, the last of a chain of equals, and what is said to be about it.

    >>> readings(r"x = \frac{1}{2} \approx 0.5")
    ['x = \\frac{1}{2} \\approx 0.5', '\\frac{1}{2} \\approx 0.5', '\\frac{1}{2}']
    """
    found = [answer]
    answer = without_brackets(REMARK.sub("", answer))
    if len(items(answer)) > 1 and read_number(answer) is None:
        return found
    answer = without_brackets(APPROXIMATELY.sub("", without_name(answer)))
    found.append(answer)
    found.append(split_outside(answer, re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"))[0])
    parts = split_outside(found[-1], re.compile(r"(?<![<>\\!])=(?![=])"))
    found.append(parts[-1])
    return list(dict.fromkeys(part.strip() for part in found if part.strip()))


def without_brackets(answer: str) -> str:
    r"""An answer without brackets or braces of a set around all of it, where they hold one thing.

    >>> [without_brackets(text) for text in ("(x + 1)", r"\{10,080\}", "(1, 2)", "(1)(2)")]
    ['x + 1', '10,080', '(1, 2)', '(1)(2)']
    """
    match = re.fullmatch(r"\((.*)\)|\\\{(.*)\\\}", answer)
    inner = match and (match.group(1) or match.group(2) or "").strip()
    if not inner or not _balanced(inner):
        return answer
    return inner if len(items(inner)) == 1 or read_number(inner) is not None else answer


def _balanced(text: str) -> bool:
    """Whether every bracket that a text closes it has opened before."""
    depth = 0
    for bracket in re.findall(r"[()]", text):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            return False
    return depth == 0


def without_name(answer: str) -> str:
    r"""An answer without "x =", "f(x) =", "\text{Answer:}", "x \in" before it.

    >>> without_name(r"\text{Answer: } x = 5"), without_name(r"(x, y) = (1, 2)"), without_name("1 = x")
    ('5', '(1, 2)', '1 = x')
    """
    for _ in range(3):
        for pattern in (LABEL, NAME):
            match = pattern.match(answer)
            if match and match.end() < len(answer):
                answer = answer[match.end() :]
    return answer


def items(text: str) -> list[str]:
    r"""The parts of a list: what stands between commas, semicolons, "and" and "or" outside all brackets.

    >>> items(r"1, (2,3) \text{ and } \frac{1}{2}"), items("5")
    (['1', '(2,3)', '\\frac{1}{2}'], ['5'])
    """
    parts = split_outside(text, re.compile(rf"[,;]|{AND_OR.pattern}"))
    return [part.strip() for part in parts if part.strip()]


def split_outside(text: str, separator: re.Pattern) -> list[str]:
    """Split where no bracket or brace is open."""
    token = re.compile(rf"(?P<cut>{separator.pattern})|\\begin\{{|\\end\{{|\\.|[()\[\]{{}}]", re.DOTALL)
    parts, depth, start = [], 0, 0
    for match in token.finditer(text):
        symbol = match.group()
        if match.group("cut"):
            if depth <= 0:
                parts.append(text[start : match.start()])
                start = match.end()
        elif symbol in ("(", "[", "{", r"\{", r"\begin{"):
            depth += 2 if symbol == r"\begin{" else 1
        elif symbol in (")", "]", "}", r"\}"):
            depth -= 1
    return [*parts, text[start:]]


def _is_remark(part: str) -> bool:
    """Words that neither give a value nor condition one: "as required"."""
    words = re.findall(r"[a-zA-Z]+", part.replace(r"\text", ""))
    return (
        len(words) > 1
        and not re.search(r"[\d\\]", part.replace(r"\text", ""))
        and not MEANINGS & {w.lower() for w in words}
    )


def has_words(text: str) -> bool:
    """Whether an expression has words that math-verify would drop or take for variables."""
    return r"\text" in text or bool(re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}(?![a-zA-Z]*[}(])", text))


# --- words ------------------------------------------------------------------------------------------------------------


def is_text(gold: str) -> bool:
    r"""Whether an answer is words alone: \text{Evelyn}, \text{(B)}, odd.

    >>> is_text(r"\text{(B)}"), is_text("Evelyn"), is_text("2xy"), is_text(r"3 \text{ or } 4")
    (True, True, False, False)
    """
    outside = re.sub(r"\\text\{[^{}]*\}", "", gold)
    if outside != gold:
        return not re.search(r"[\w\\]", outside) and bool(re.search(r"[a-zA-Z]", gold.replace(r"\text", "")))
    return bool(re.fullmatch(r"\(?[A-Z]\)|[A-Za-z][a-z]{2,}(?:[ -][A-Za-z]+)*", gold))


def _texts(answer: str) -> list[str]:
    """A text as it is, without a label, and the letter of a choice that its value follows."""
    found = [answer, without_name(answer)]
    found.append(
        re.sub(
            r"^((?:\\text\{)?\s*)(?:option|choice|graph|figure|statement)\s+(?=\(?[A-Z]\b)", r"\1", answer, flags=re.I
        )
    )
    match = re.match(r"(?:\\text\{)?\s*\(([A-Z])\)", answer)
    if match and not re.search(r"\([A-Z]\)|\b(?:or|and|not|nor)\b", answer[match.end() :]):
        found.append(match.group(1))
    return found


def _words(text: str) -> str:
    r"""Words without case, LaTeX, brackets and articles.

    >>> _words(r"\text{An ellipse.}"), _words(r"\text{(B)}")
    ('ellipse', 'b')
    """
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).casefold()
    text = " ".join(re.sub(r"[\\{}~]", " ", text).split()).strip(" .,;:!?\"'()")
    return re.sub(r"^(?:an?|the) ", "", text)


# --- expressions ------------------------------------------------------------------------------------------------------


def _same_expression(gold: str, answer: str, judge: Judge) -> bool:
    gold = IN_A_SET.sub("", gold)
    answer = APPROXIMATELY.sub("", LABEL.sub("", answer, count=1) if LABEL.match(answer) else answer)
    answer = REMARK.sub("", answer) if not REMARK.search(gold) else answer
    gold, answer = (without_units(without_brackets(arrays_as_matrices(text))) for text in (gold, answer))
    if GLUED_LETTER.search(gold):  # math-verify drops the "m" of 6m as a unit
        gold, answer = (GLUE.sub(r"\\cdot ", text) for text in (gold, answer))
    for reading in dict.fromkeys((answer, *as_gold_is_written(gold, answer))):
        if _key(gold) == _key(reading):
            return True
        if _word_set(reading) == _word_set(gold) and _fits(gold, reading) and judge(as_list(gold), as_list(reading)):
            return True
    return False


def _fits(gold: str, reading: str) -> bool:
    """Whether an answer to a gold point or interval has its brackets: a list is neither, nor is [0, 1] the point."""
    ends = PAIR.match(gold)
    if ends is None:
        return True
    if reading.startswith(r"\{"):
        return False
    found = PAIR.match(reading)
    return len(items(reading)) == 1 and (found is None or found.groups() == ends.groups())


def _word_set(text: str) -> frozenset[str]:
    words = " ".join(re.findall(r"\\text\{([^{}]*)\}", AND_OR.sub(",", text)))
    return frozenset(words.lower().split())


def as_gold_is_written(gold: str, answer: str) -> list[str]:
    """The answer in the form of the gold answer: without names, as a tuple, an interval, a list."""
    if EQUALS.search(gold):  # "x = M = 2n": what is left of a name must still be an equation
        rest = NAME.sub("", answer, count=1) if NAME.match(answer) else answer
        return [answer, *([rest] if EQUALS.search(rest) else [])]
    bare = re.sub(r"^\\\{(.*)\\\}$", r"\1", without_name(answer))
    found = [bare]
    if PAIR.match(gold):
        found.append(re.sub(r"^[A-Z]\s*(?=\()", "", bare))  # P(1, 2)
    if r"\cup" in gold:
        found.append(UNION.sub(r" \\cup ", bare))
    parts = items(answer)
    if all(NAME.match(part) for part in parts):
        values = [without_name(part) for part in parts]
        names = [part[: len(part) - len(value)].rstrip("= ") for part, value in zip(parts, values, strict=True)]
        if re.match(r"^[(\[]|\\begin", gold) and len(set(names)) == len(names) > 1:
            found.append(f"({', '.join(value for _, value in sorted(zip(names, values, strict=True)))})")
        elif len(set(names)) == 1:
            found.append(", ".join(values))
    if INTERVAL.match(gold) and (interval := as_interval(bare)):
        found.append(interval)
    if len(items(bare)) == 1:
        found += readings(bare)
    if COLUMN.fullmatch(gold) and "&" not in answer:
        found.append(_as_column(bare))
    elif "matrix" not in gold and (column := COLUMN.fullmatch(bare)):
        found.append(f"({', '.join(row.strip() for row in column.group(1).split(NEW_ROW))})")
    return [part for part in found if part]


def _as_column(answer: str) -> str:
    match = re.fullmatch(r"[(\[](.*)[)\]]", answer)
    if match is None:
        return ""
    rows = r" \\ ".join(items(match.group(1)))
    return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"


def arrays_as_matrices(text: str) -> str:
    r"""(\begin{array}...\end{array}) as a matrix, and every matrix in round brackets.

    >>> arrays_as_matrices(r"(\begin{array}{cc}1 & 2\end{array})"), arrays_as_matrices(r"\begin{bmatrix}1\end{bmatrix}")
    ('\\begin{pmatrix}1 & 2\\end{pmatrix}', '\\begin{pmatrix}1\\end{pmatrix}')
    """
    text = ARRAY.sub(lambda match: rf"\begin{{pmatrix}}{match.group(1)}\end{{pmatrix}}", text)
    return re.sub(r"\\(begin|end)\{(?:b|small|)matrix\}", r"\\\1{pmatrix}", text)


def as_interval(text: str) -> str | None:
    r"""Inequalities in one variable as intervals, None where they are none.

    >>> as_interval(r"0 < x \le 12.5"), as_interval("x<3"), as_interval(r"x \le 1 \text{ or } x > 2")
    ('(0,12.5]', '(-\\infty,3)', '(-\\infty,1]\\cup(2,\\infty)')
    """
    text = re.sub(r"^(?:\\\{)?\s*[a-z]\s*(?:\\mid|\\vert|[|:])\s*|\\\}$|^\\text\{\s*all\s*\}\s*", "", text)
    if match := re.fullmatch(r"([\[\]])([^()\[\],]+,[^()\[\]]+)([\[\]])", text):  # ]2, 3[, as in French
        return ("(" if match[1] == "]" else "[") + match[2] + (")" if match[3] == "[" else "]")
    if (both := BOTH.match(text)) and (joined := _between(*both.groups())):
        text = joined
    found = []
    for part in split_outside(text, re.compile(rf"[,;]|\\cup|{AND_OR.pattern}")):
        part = part.strip()
        if match := BETWEEN.match(part):
            low, first, second, high = match.groups()
            if first in (r"\ge", ">", r"\gt"):
                low, first, second, high = high, _flipped(second), _flipped(first), low
            if second not in (r"\le", "<", r"\lt"):
                return None
            found.append(
                ("[" if first == r"\le" else "(") + f"{low.strip()},{high.strip()}" + ("]" if second == r"\le" else ")")
            )
        elif match := ONE_SIDE.match(part):
            _, relation, bound, left_bound, left_relation, _ = match.groups()
            relation, bound = (relation, bound) if relation else (_flipped(left_relation), left_bound)
            if relation in (r"\le", "<", r"\lt"):
                found.append(rf"(-\infty,{bound.strip()}" + ("]" if relation == r"\le" else ")"))
            else:
                found.append(("[" if relation == r"\ge" else "(") + rf"{bound.strip()},\infty)")
        else:
            return None
    return r"\cup".join(found)


def _between(first: str, second: str) -> str | None:
    r"""Two inequalities that both hold as one.

    >>> _between("x > 3", r"x \le 4")
    '3 < x \\le 4'
    """
    bounds = {}
    for part in (first.strip(), second.strip()):
        match = ONE_SIDE.match(part)
        if match is None:
            return None
        name, relation, bound, left_bound, left_relation, right_name = match.groups()
        name, relation, bound = (
            (name, relation, bound) if name else (right_name, _flipped(left_relation), left_bound.strip())
        )
        upper = relation in (r"\le", "<", r"\lt")
        bounds[upper] = f"{name} {relation} {bound}" if upper else f"{bound} {_flipped(relation)} "
    return bounds[False] + bounds[True] if len(bounds) == 2 else None


def _flipped(relation: str) -> str:
    return {r"\le": r"\ge", r"\ge": r"\le", "<": ">", ">": "<", r"\lt": ">", r"\gt": "<"}[relation]


def without_units(text: str) -> str:
    r"""An expression without the unit at its end, a degree sign or a currency.

    >>> without_units(r"3\sqrt{13} \text{ cm}^2"), without_units(r"2\pi \text{ if odd}"), without_units(r"\pi^\circ")
    ('3\\sqrt{13}', '2\\pi \\text{ if odd}', '\\pi')
    """
    match = UNIT_AT_END.search(text)
    if match and text[: match.start()].strip() and is_unit(match.group(1)):
        text = text[: match.start()]
    return re.sub(r"\^\\circ(?![a-zA-Z])|^\\\$\s*|\s*\\\$$", "", text).strip()


def as_list(text: str) -> str:
    """ "and" and "or" between answers as commas."""
    return re.sub(r",\s*,", ",", AND_OR.sub(",", text))
