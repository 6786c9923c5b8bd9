r"""Where in a response its final answer stands. Text only: what the answer means is for the graders.

In this order: what a model thinks is no answer; the last <answer> or the last \boxed{...} (several side by side are one
list); a last `#### 18`; what is said to be the answer ("the answer is ..."); the last thing that is set as mathematics
or in bold, or the last number. docs/grading.md lists what was decided where people differ. Time is linear
in a text.
"""

from __future__ import annotations

import re

from attention_rhythm.tasks.latex import BRACE
from attention_rhythm.tasks.quantities import SCALES

MAX_TAIL = 2_000  # characters searched for an answer that is neither boxed nor tagged
LAST_BOXES = 20  # how many unclosed boxes at the end of a text are passed over in search of one that closes

THINK = (
    "think|thinking|thought|thoughts|reason|reasoning|reflection|scratchpad|scratch|analysis|cot|planning|inner_monologue"
    "|antThinking|longcat_think|think_fast"
)
THINK_TAG = re.compile(rf"(?:<\|?|◁|\[)(/?)(?:\w{{1,20}}:)?(?:{THINK})(?:\s[^<>]{{0,40}})?(?:\|?>|▷|\])", re.IGNORECASE)
OTHER_THOUGHTS = (  # of models that mark thoughts otherwise
    (re.compile(r"<\|begin_of_thought\|>|<\|channel\|>analysis\b"), "<think>"),
    (re.compile(r"<\|end_of_thought\|>|<\|channel\|>final<\|message\|>"), "</think>"),
)
MAX_END = 2000  # characters at the end of a response in which its special tokens stand
SPECIAL_END = re.compile(r"(?:<\|[\w ]{1,30}\|>|<｜[^｜<>]{1,30}｜>|</s>|<eos>|<end_of_turn>)$")
ANSWER_TAG = re.compile(r"<(/?)(?:final_)?answer>", re.IGNORECASE)
BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{")
BARE_BOX = re.compile(r"\\boxed(?:\s+(-?\w)(?!\w)|(\d+))")
BETWEEN_BOXES = re.compile(
    r"(?:[\s$.,;&*]|\b[a-zA-Z]\s*=|\b(?:maybe|else)\b|\\[()\[\],;: ]|\\q?quad"
    r"|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)*"
)
MARK = re.compile(r"^[ \t>*]*#{4}[ \t]+(.+?)[ \t*]*$", re.MULTILINE)
STATED = re.compile(
    r"\b(?:answers?|options?|choices?|ans)\b[^\n:.]{0,80}?(?:\b(?:is|are)\b|:)[\s*_]*"
    r"(?:therefore|thus|then|indeed|simply|:)*|\b(?:solutions|values|roots|zeros)\b[^\n:.]{0,40}?\bare\b[\s*_:]*"
    r"|^[ \t]*#+[ \t]*(?:final[ \t]+)?answer[ \t*]*$",
    re.IGNORECASE | re.MULTILINE,
)
CHANGED = re.compile(  # "No wait, it is 25/36": the last word counts
    r"\b(?:wait|actually|correction|on second thought|i mean|scratch that|rather)\b[\s,:.!\-–—]*"
    r"(?:(?:no|it|that|the answer|it's)\b[\s,]*)*(?:(?:is|are|must be|should be)\s+)?(?=\*{0,2}[\d$\\(-])",
    re.IGNORECASE,
)
REASON = re.compile(
    r",\s*(?:since|because|as|so|which|given|where)\b.*$|\s*\((?:not|since|because|as|which|given)\b[^()]*\)", re.DOTALL
)
SAID_AFTER = re.compile(r"\s+(?:is|are|was)\s+(?:the|our|my)\s+(?:final\s+|correct\s+)?answers?\b.*$")
EMPHASIS_TAG = re.compile(r"</?(?:b|strong|em|i|u|code)>", re.IGNORECASE)
PROOF_END = re.compile(r"\$?\s*\\(?:blacksquare|square|Box|checkmark|qed)(?![a-zA-Z])\s*\$?")
FENCE = re.compile(r"```\w*\s*")
BULLET = re.compile(r"-\s+")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|(?<!\\)\$([^$\n]+?)(?<!\\)\$(?!\d)|\\\((.+?)\\\)", re.DOTALL)
BOLD = re.compile(r"\*\*([^*\n]+?)\*\*|__([^_\n]+?)__|`([^`\n]+?)`")
NUMBER = r"-?(?:[$€£]\s?)?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s?/\s?\d+)?"
A_NUMBER = re.compile(rf"(?<![\w.]){NUMBER}", re.ASCII)
JOINED = re.compile(r"\W*(?:\band\b|\bor\b)\W*", re.ASCII)  # between formulas of one answer
# what an expression in prose is made of, token by token: 6.63 × 10^{-34}, x = 1 or x = -2, (-∞, 2) ∪ (3, ∞)
PART = re.compile(
    r"\d+(?:st|nd|rd|th)?|[-+*/×·⋅÷=<>≤≥≈±√π∞∪∩^{}()\[\]|%°²³,−–½¼¾]|\.(?=\d)|\\(?:times|cdot|frac|sqrt|pi|infty|cup|pm)\b"
    r"|(?<![a-zA-Z\\])(?:or|and|sqrt|pi|[a-zA-Z])(?![a-zA-Z])|[ \t]+"
)
CONDITION = re.compile(r"\b(?:for|when|if|at|with|given)\s+$", re.IGNORECASE)  # For x = 3, y = 5
CONDITIONED = re.compile(r"^[a-zA-Z]\s*=[^=,]*,\s*(?=[a-zA-Z]\s*=)")
OUTER = re.compile(r"^(?:and|or)\b|^[a-zA-Z](?!\s*[=<>≤≥≈^(\d])|^[\s,=+*/×·)\]}|%]|^[-−–](?=\s)")
OPEN_END = " \t,=("  # with which no expression ends
JOINT_AT_END = re.compile(r"(?<![a-zA-Z])(?:and|or)$")
ASIDE = re.compile(
    r"\((?:(?:or|which is|i\.e\.|that is),? )?(?:about|approximately|approx\.?|roughly|around|≈|\\approx)[^()\n]*\)"
)


def final_answer(response: str) -> str | None:
    """The text of the final answer, None where the response gives none. Mark-up inside the answer is kept."""
    response = without_thinking(without_end(response))
    boxed, tagged = last_boxes(response), last_tag(response)
    if tagged is not None and (boxed is None or tagged[0] > boxed[0]):
        return final_answer_of_tag(tagged[1])
    if boxed is not None:
        return boxed[1]
    prose = BOX.split(response, maxsplit=1)[0].rstrip()[-MAX_TAIL:]  # a box that is cut off is no answer
    prose = PROOF_END.sub("", EMPHASIS_TAG.sub("**", prose)).rstrip()
    for look in (marked, stated, shown):
        if (answer := look(prose)) is not None:
            return answer
    return None


def without_end(response: str) -> str:
    """A response without the special tokens that end it.

    >>> without_end("The answer is 8.<|im_end|>"), without_end("8</s>")
    ('The answer is 8.', '8')
    """
    end = response[-MAX_END:].rstrip()
    while token := SPECIAL_END.search(end, max(0, len(end) - 40)):
        end = end[: token.start()].rstrip()
    return response[:-MAX_END] + end


def without_thinking(response: str) -> str:
    """What follows the last </think>; of thoughts that never end, what stands before them.

    >>> without_thinking("<think>7?</think> It is 8.")
    ' It is 8.'
    >>> without_thinking("It is 8. <think>Or 7")
    'It is 8. '
    >>> without_thinking("7? no.</think>It is 8.")  # the prompt had opened it
    'It is 8.'
    """
    for pattern, tag in OTHER_THOUGHTS:
        response = pattern.sub(tag, response)
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
    tail = content[-MAX_TAIL:]
    if (mark := marked(tail)) is not None:
        return mark
    if len(tail.split()) > 4 and (answer := stated(tail)) is not None:
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
        return bare.start(), bare.group(1) or bare.group(2)
    boxes = _boxes(text, LAST_BOXES)
    if not boxes:
        return None
    boxes = [box for box in boxes if box[2]] or boxes  # an empty one speaks of the format
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
    matches = list(BOX.finditer(text))[-LAST_BOXES:]
    closing = _closing_braces(text, matches[0].end() - 1) if matches else {}
    found: list[tuple[int, int, str]] = []
    for match in reversed(matches):
        end = closing.get(match.end() - 1)
        if end is not None and not any(start < end for start, _, _ in found):
            found.append((match.start(), end, text[match.end() : end - 1].strip()))
        if len(found) == most:
            break
    return found


def _closing_braces(text: str, start: int) -> dict[int, int]:
    """Where each brace from `start` on that is closed opens -> the end of the brace that closes it; in one pass."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in BRACE.finditer(text, start):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closing[opened.pop()] = brace.end()
    return closing


def marked(prose: str) -> str | None:
    r"""GSM8K's last `#### 18`: of the last line, or of any line where a number follows and no heading's text.

    >>> marked("so\n#### 18 dollars\n\nBob has 3."), marked("#### 2. Solve it\nNow")
    ('18 dollars', None)
    """
    for match in reversed(list(MARK.finditer(prose))):
        content = match.group(1)
        last = not prose[match.end() :].strip()
        if last or re.fullmatch(rf"{NUMBER}%?(?: [a-z][\w /^²³]*)?\.?", content):
            return content
    return None


def stated(prose: str) -> str | None:
    """What follows the last "the answer is", "Answer:" or heading "Answer": a formula, or the rest of the line.

    >>> stated("The answer is $5$. Since $1 < 2$."), stated("**Final Answer: 5 cm**")
    ('5', '5 cm')
    """
    for match in reversed(list(STATED.finditer(prose))):
        for change in CHANGED.finditer(prose, match.end()):
            match = change
        rest = prose[match.end() :].lstrip(" \t\r\n:*_")
        before = prose[: len(prose) - len(rest)]
        if before.endswith("**"):
            rest = re.sub(r"\*{2,3}", "", rest, count=1)  # which closes what the statement opened
        rest = FENCE.sub("", rest, count=1) if rest.startswith("```") else rest
        rest = BULLET.sub("", rest, count=1) if before.endswith("\n") and BULLET.match(rest) else rest
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
    return REASON.sub("", sentence).strip(" \t*_") or None


def _meant(rest: str) -> str:
    r"""What stands behind a formula and changes what it is worth: "$5$ million", "$5$ or more".

    >>> _meant(" million dollars."), _meant(" dollars, or so")
    (' \\text{million dollars}', '')
    """
    match = re.match(r"[\s*_]*(?:dollars\s+)?\(?([a-z]+)\b(\s+base\b)?[^.,;:\n$()]*", rest)
    word = match.group(1).removesuffix("s") if match else ""
    changes = match and (word in SCALES or word in ("or", "percent", "base") or match.group(2))
    return rf" \text{{{match.group().strip(' (*_')}}}" if match and changes else ""


def shown(prose: str) -> str | None:
    r"""The last formula, bold text or number of a text that states no answer; its last sentences count alone.

    >>> shown(r"The probability is $\frac13$ (about 0.333)."), shown("So there are 73 people in total.")
    ('\\frac13', '73 people in total')
    """
    prose = SAID_AFTER.sub("", ASIDE.sub("", prose).strip())
    last: tuple[int, str] | None = None
    for pattern in (FORMULA, BOLD):
        found = list(pattern.finditer(prose))
        for place, match in reversed(list(enumerate(found))):
            content = next(filter(None, match.groups())).strip()
            if pattern is FORMULA or re.search(r"\d|\\", content) or not re.search(r"\d", prose[match.end() :]):
                if last is None or match.start() > last[0]:
                    last = match.end(), _joined(prose, found[: place + 1]) + _meant(prose[match.end() :])
                break
    number = _last_number(prose)
    if number is not None and (last is None or _another_sentence(prose[last[0] : number[0]])):
        return number[1]
    return last[1] if last else None


def _joined(prose: str, found: list[re.Match]) -> str:
    """The last formula, and those before it that "and" or "or" joins to it."""
    parts = [next(filter(None, found[-1].groups())).strip()]
    for earlier, later in zip(found[-2::-1], found[:0:-1], strict=True):
        if not JOINED.fullmatch(prose, earlier.end(), later.start()):
            break
        parts.insert(0, next(filter(None, earlier.groups())).strip())
    return ", ".join(parts)


def _last_number(prose: str) -> tuple[int, str] | None:
    """(start, text) of the expression with the last number, and the words up to the end of the clause."""
    numbers = list(A_NUMBER.finditer(prose))
    if not numbers:
        return None
    start, end = numbers[-1].span()
    begin, stop = _expression(prose, start)
    start, end = min(start, begin), max(end, stop)
    clause = re.compile(r"[^\n]*?(?=[.;,!?:(](?:\s|\w|$)|\n|$)").match(prose, end)
    return start, prose[start : clause.end() if clause else end].strip(" *_`")


def _expression(prose: str, place: int) -> tuple[int, int]:
    """(start, end) of the expression around a number: the run of PARTs that touch, in one line."""
    start = end = prose.rfind("\n", 0, place) + 1
    for part in PART.finditer(prose, start):
        if part.start() != end:
            if end > place:
                break
            start = part.start()
        end = part.end()
    text = prose[start:end].rstrip(OPEN_END)
    while joint := JOINT_AT_END.search(text, max(0, len(text) - 4)):
        text = text[: joint.start()].rstrip(OPEN_END)
    end = start + len(text)
    while outer := OUTER.match(text):
        text = text[outer.end() :]
    if CONDITION.search(prose, max(0, end - len(text) - 10), end - len(text)):
        text = CONDITIONED.sub("", text)
    return end - len(text), end


def _another_sentence(between: str) -> bool:
    return bool(re.search(r"[.!?\n]\s", between + " "))
