r"""Where in a response its final answer stands. Text only: what the answer means is for the graders.

In this order: what a model thinks is no answer; the last <answer> or the last \boxed{...} (several side by side are one
list); a last `#### 18`; what is said to be the answer ("the answer is ..."); the last thing that is set as mathematics
or in bold, or the last number. docs/grading.md lists what was decided where people differ. All is linear in the text.
"""

from __future__ import annotations

import re

from attention_rhythm.tasks.quantities import SCALES

MAX_TAIL = 2_000  # characters searched for an answer that is neither boxed nor tagged
LAST_BOXES = 20  # how many unclosed boxes at the end of a text are passed over in search of one that closes

THINK = r"think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
THINK_TAG = re.compile(rf"(?:<|◁|\[)(/?)(?:{THINK})(?:>|▷|\])", re.IGNORECASE)
ANSWER_TAG = re.compile(r"<(/?)(?:final_)?answer>", re.IGNORECASE)
BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{")
BARE_BOX = re.compile(r"\\boxed\s+(-?\w)(?!\w)")
BETWEEN_BOXES = re.compile(r"(?:[\s$.,;&*]|\\[()\[\],;: ]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)*")
MARK = re.compile(r"^[ \t>*]*#{4}[ \t]+(.+?)[ \t*]*$", re.MULTILINE)
STATED = re.compile(
    r"\b(?:answer|option|choice)\b[^\n:.]{0,80}?(?:\bis\b|:)[\s*_]*(?:therefore|thus|then|indeed|simply|:)*"
    r"|^[ \t]*#+[ \t]*(?:final[ \t]+)?answer[ \t*]*$",
    re.IGNORECASE | re.MULTILINE,
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|(?<!\\)\$([^$\n]+?)(?<!\\)\$(?!\d)|\\\((.+?)\\\)", re.DOTALL)
BOLD = re.compile(r"\*\*([^*\n]+?)\*\*|__([^_\n]+?)__|`([^`\n]+?)`")
NUMBER = r"-?(?:[$€£]\s?)?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s?/\s?\d+)?"
A_NUMBER = re.compile(rf"(?<![\w.]){NUMBER}", re.ASCII)
JOINT = re.compile(r"(?:\s*[-+*/=×,]\s*|(?:\s[a-zA-Z]+)?,?\s+or\s+|,?\s+and\s+)")  # between numbers of one answer
ASIDE = re.compile(
    r"\((?:(?:or|which is|i\.e\.|that is),? )?(?:about|approximately|approx\.?|roughly|around|≈|\\approx)[^()\n]*\)"
)


def final_answer(response: str) -> str | None:
    """The text of the final answer, None where the response gives none. Mark-up inside the answer is kept."""
    response = without_thinking(response)
    boxed, tagged = last_boxes(response), last_tag(response)
    if tagged is not None and (boxed is None or tagged[0] > boxed[0]):
        return final_answer_of_tag(tagged[1])
    if boxed is not None:
        return boxed[1]
    prose = BOX.split(response, maxsplit=1)[0].rstrip()[-MAX_TAIL:]  # a box that is cut off is no answer
    for look in (marked, stated, shown):
        if (answer := look(prose)) is not None:
            return answer
    return None


def without_thinking(response: str) -> str:
    """What follows the last </think>; of thoughts that never end, what stands before them.

    >>> without_thinking("<think>7?</think> It is 8.")
    ' It is 8.'
    >>> without_thinking("It is 8. <think>Or 7")
    'It is 8. '
    >>> without_thinking("7? no.</think>It is 8.")  # the prompt had opened it
    'It is 8.'
    """
    tags = list(THINK_TAG.finditer(response))
    if not tags:
        return response
    closing = [tag for tag in tags if tag.group(1)]
    start = closing[-1].end() if closing else 0
    opened = next((tag.start() for tag in tags if not tag.group(1) and tag.start() >= start), len(response))
    return response[start:opened]


def last_tag(text: str) -> tuple[int, str] | None:
    """(where it opens, content) of the last <answer> that closes."""
    tags = list(ANSWER_TAG.finditer(text))
    for opening, closing in zip(tags[-2::-1], tags[:0:-1], strict=True):
        if not opening.group(1) and closing.group(1):
            return opening.start(), text[opening.end() : closing.start()].strip()
    return None


def final_answer_of_tag(content: str) -> str | None:
    """The content of an <answer>; what is boxed, marked or stated in it, where it is a text of several words."""
    boxed = last_boxes(content)
    if boxed is not None:
        return boxed[1]
    if len(content.split()) > 4 and (answer := stated(content)) is not None:
        return answer
    return content or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} whose braces balance, None where there is none.

    >>> last_boxed(r"\boxed{1} and \boxed{\frac{2}{3}}, \boxed{4")
    '\\frac{2}{3}'
    """
    boxes = _boxes(text, 1)
    return boxes[0][2] if boxes else None


def last_boxes(text: str) -> tuple[int, str] | None:
    """(where it starts, content) of the last box; boxes with nothing but "," or "and" between them are one list."""
    bare = None if BOX.search(text) else next(iter(reversed(list(BARE_BOX.finditer(text)))), None)
    if bare is not None:
        return bare.start(), bare.group(1)
    boxes = _boxes(text, LAST_BOXES)
    if not boxes:
        return None
    start, _, content = boxes[0]
    contents = [content]
    for earlier, end, content in boxes[1:]:
        if not BETWEEN_BOXES.fullmatch(text, end, start):
            break
        start = earlier
        if content not in contents:
            contents.insert(0, content)
    return start, ", ".join(contents)


def _boxes(text: str, most: int) -> list[tuple[int, int, str]]:
    """(start, end, content) of the last boxes that close, the last first; of nested ones the inner alone."""
    found: list[tuple[int, int, str]] = []
    for match in list(BOX.finditer(text))[: -LAST_BOXES - 1 : -1]:
        depth = 1
        for brace in re.finditer(r"\\.|[{}]", text[match.end() :], flags=re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)  # an escaped brace opens nothing
            if depth == 0:
                end = match.end() + brace.end()
                if not any(start < end and match.start() < start for start, _, _ in found):
                    found.append((match.start(), end, text[match.end() : end - 1].strip()))
                break
        if len(found) == most:
            break
    return found


def marked(prose: str) -> str | None:
    r"""GSM8K's last `#### 18`: of the last line, or of any line where a number follows and no heading's text.

    >>> marked("so\n#### 18 dollars\n\nBob has 3."), marked("#### 2. Solve it\nNow")
    ('18 dollars', None)
    """
    for match in reversed(list(MARK.finditer(prose))):
        content = match.group(1)
        last = not prose[match.end() :].strip()
        if last or re.fullmatch(rf"{NUMBER}%?(?: [a-z][\w ]*)?\.?", content):
            return content
    return None


def stated(prose: str) -> str | None:
    """What follows the last "the answer is", "Answer:" or heading "Answer": a formula, or the rest of the line.

    >>> stated("The answer is $5$. Since $1 < 2$."), stated("**Final Answer: 5 cm**")
    ('5', '5 cm')
    """
    for match in reversed(list(STATED.finditer(prose))):
        rest = prose[match.end() :].lstrip(" \t\r\n:*_")
        if prose[: len(prose) - len(rest)].endswith("**"):
            rest = rest.replace("**", "", 1)  # which closes what the statement opened
        if rest:
            return _first_answer(rest)
    return None


def _first_answer(text: str) -> str | None:
    """The formula (or formulas joined by "and") a text begins with, else its first line up to the sentence's end."""
    found, position = [], 0
    while match := FORMULA.match(text, position):
        found.append(next(filter(None, match.groups())).strip())
        joint = re.compile(r"(?:\s*,)?\s*(?:and|or|,)\s*(?=[$\\])").match(text, match.end())
        if joint is None:
            return ", ".join(found) + _meant(text[match.end() :])
        position = joint.end()
    line = text.split("\n", 1)[0]
    sentence = re.split(r"(?<![A-Z\s][A-Za-z]|\W[A-Z])\.\s+(?=[A-Z])|[!?]\s+(?=[A-Z][a-z]+ [a-z])", line, maxsplit=1)[0]
    return sentence.strip(" \t*_") or None


def _meant(rest: str) -> str:
    r"""What stands behind a formula and changes what it is worth: "$5$ million", "$5$ or more".

    >>> _meant(" million dollars."), _meant(" dollars, or so")
    (' \\text{million dollars}', '')
    """
    match = re.match(r"[\s*_]*(?:dollars\s+)?([a-z]+)\b[^.,;:\n$(]*", rest)
    word = match.group(1).removesuffix("s") if match else ""
    return rf" \text{{{match.group().strip()}}}" if match and (word in SCALES or word in ("or", "percent")) else ""


def shown(prose: str) -> str | None:
    r"""The last formula, bold text or number of a text that states no answer; its last sentences count alone.

    >>> shown(r"The probability is $\frac13$ (about 0.333)."), shown("So there are 73 people in total.")
    ('\\frac13', '73 people in total')
    """
    prose = ASIDE.sub("", prose).strip()
    last: tuple[int, str] | None = None
    for pattern in (FORMULA, BOLD):
        for match in reversed(list(pattern.finditer(prose))):
            content = next(filter(None, match.groups())).strip()
            if pattern is FORMULA or re.search(r"\d|\\", content) or not re.search(r"\d", prose[match.end() :]):
                if last is None or match.start() > last[0]:
                    last = match.end(), content + _meant(prose[match.end() :])
                break
    number = _last_number(prose)
    if number is not None and (last is None or _another_sentence(prose[last[0] : number[0]])):
        return number[1]
    return last[1] if last else None


def _last_number(prose: str) -> tuple[int, str] | None:
    """(start, text) of the last number with what is joined to it and the words up to the end of the clause."""
    numbers = list(A_NUMBER.finditer(prose))
    if not numbers:
        return None
    start, end = numbers[-1].span()
    for earlier in reversed(numbers[:-1]):
        if not JOINT.fullmatch(prose, earlier.end(), start):
            break
        start = earlier.start()
    clause = re.compile(r"[^\n]*?(?=[.;,!?:(](?:\s|\w|$)|\n|$)").match(prose, end)
    return start, prose[start : clause.end() if clause else end].strip(" *_`")


def _another_sentence(between: str) -> bool:
    return bool(re.search(r"[.!?\n]\s", between + " "))
