r"""Which option a response chose, or which name it gave: multiple choice and zebra puzzles.

One option must come out. "B or C" chooses nothing, "B? No, C" chooses C, and "A" and "I" are letters only where they
are no words. An option may also be given by its text. What was decided where people differ: docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attention_rhythm.tasks.answers import MAX_TAIL, last_boxes, last_tag, without_thinking

MAX_ANSWER = 500  # characters of an answer that are read; the longest option of CrossThink-QA has 330

STATED = (  # the second only where the first does not occur: an option may well have "choose" in it
    re.compile(
        r"\b(?:answer|option|choice)\b[^\n:.]{0,80}?(?:\b(?:is|be)\b|:)"
        r"|^[ \t]*#+[ \t]*(?:final[ \t]+)?answer\b[ \t*]*$",
        re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(r"\b(?:choose|chose|select|pick|go with|opt for)\b", re.IGNORECASE),
)
LEAD = re.compile(
    r"(?:[\s:*\-–—>=,]+|(?:therefore|thus|hence|so|then|indeed|clearly|definitely|most likely|probably|simply|final"
    r"|correct|best|right|the|option|choice|letter|answer|is|be|would|must|likely|it|it's|statement)(?![\w'-]))",
    re.IGNORECASE,
)
REASON = (
    "because|since|as|due|for|given|which|being|when|if|where|but|not|rather|instead"
    "|is (?:the )?(?:correct|right|best|answer)"
)
# (B)  [B]  B  B.  B: text  B because ...   but neither "Cats" nor the words "A" and "I"
A_LETTER = re.compile(
    rf"[(\[]\s*([A-Za-z])\s*[)\]]|([AI])(?=\s+(?:{REASON})\b|\s*$|\s*[^\s\w'])|([B-HJ-Z])(?![\w'])"
    r"|([a-z])(?=\s*$|[).:])"
)
JOINT = re.compile(r"[).:\s]*(?:,|;|/|&|\bor\b|\band\b|\bboth\b)[\s,]*(?:(?:or|and|option|choice)\s+)*", re.IGNORECASE)
REJECTED = re.compile(
    r"\b(?:not|isn't|rather than|instead of|neither|nor)\s+(?:option\s+)?\(?[A-Z]\)?(?!\w)", re.IGNORECASE
)
CHANGED = re.compile(
    r"\b(?:no|wait|actually|correction|i mean|rather)\b[\s,:.\-–—]*(?:(?:it|the answer|it's)\s+)?(?:is\s+)?"
    r"(?=\(?[A-Z]\)?(?!\w))",
    re.IGNORECASE,
)
AT_THE_END = re.compile(r"\(([A-Z])\)[\s.]*$")

CLAUSE = re.compile(
    r",\s|[(;]|[.!?](?:\s|$)|\n|\s[-–—]\s"
    r"|\s(?:who|lives|living|because|since|in (?:the )?(?:house|first)|owns|is (?:the|in|not)|at house)\b",
    re.IGNORECASE,
)
TO_THE_NAME = re.compile(r"^[\w\s',.#*-]*(?::|\b(?:is|be|named|called)\b)\s*(?=\S)", re.IGNORECASE)


def stated_answer(response: str) -> str | None:
    r"""The last box or <answer>, else what follows the last "the answer is", else the last line; without its mark-up.

    >>> stated_answer("The answer is:\n\n**B. copper**"), stated_answer(r"<think>\boxed{A}</think> So \(B\).")
    ('B. copper', 'So B.')
    """
    response = without_thinking(response)
    marked = [found for found in (last_boxes(response), last_tag(response)) if found is not None]
    if marked:
        answer = max(marked)[1]
    else:
        tail = response.rstrip()[-MAX_TAIL:]
        answer = _said(tail) or tail.rpartition("\n")[2]
    return without_markup(answer[:MAX_ANSWER]) or None


def _said(text: str) -> str | None:
    """The rest of the line, or the next line, after the last statement of an answer."""
    for pattern in STATED:
        for match in reversed(list(pattern.finditer(text))):
            if rest := text[match.end() :].lstrip(" \t\r\n:*_-").split("\n", 1)[0].strip(" *_"):
                return rest
    return None


def without_markup(answer: str) -> str:
    r"""An answer without LaTeX's and markdown's frames and emphasis; dollars before a number stay.

    >>> without_markup(r"\textbf{(B)}"), without_markup(r"\(B\)"), without_markup("$7,840"), without_markup("**$B$**")
    ('(B)', 'B', '$7,840', 'B')
    """
    for _ in range(3):
        answer = re.sub(
            r"\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|bf|fbox|boxed|underline|emph)\s*\{([^{}]*)\}",
            r"\1",
            answer,
        )
    answer = re.sub(
        r"</?answer>|\\(?:left|right)(?![a-z])|\\[()\[\],;: ]|\\(?:qquad|quad)|[*`]+|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)",
        "",
        answer,
    )
    answer = re.sub(r"\\([$%&#])", r"\1", answer)
    return re.sub(r"\$(?!\s?[\d.])", "", answer).strip()


def same_text(first: str, second: str) -> bool:
    """Whether two texts differ at most in case, space, LaTeX's mark-up and the punctuation at their ends."""
    return normalised(first) == normalised(second)


def normalised(text: str) -> str:
    r"""Text without case, repeated space, mark-up and the punctuation at its ends.

    >>> normalised(r"\$7,840 "), normalised("Two  apples."), normalised(r"10\%")
    ('7,840', 'two apples', '10%')
    """
    text = re.sub(r"[\\$*`{}]+", "", without_markup(text).casefold())
    return " ".join(text.split()).strip(" .,;:!?\"'()[]")


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer gives by letter or by text; None where it gives none or several.

    options: letter -> text.

    >>> metals = {"A": "iron", "B": "copper", "C": "E. coli"}
    >>> [chosen(text, metals) for text in ("B", "(b) copper", "Option B", "copper", "E. coli", "B? No, C.")]
    ['B', 'B', 'B', 'B', 'C', 'C']
    >>> chosen("A because it rusts", metals)
    'A'
    >>> [chosen(text, metals) for text in ("B or C", "B, A, C", "A good question", "I think iron", "Bronze", "not B")]
    [None, None, None, None, None, None]
    """
    by_text = {normalised(text): letter for letter, text in reversed(list(options.items()))}
    whole = by_text.get(normalised(answer)) or by_text.get(normalised(AT_THE_END.sub("", answer)))
    if whole is not None:
        return whole
    if len(answer) == 1:
        return answer.upper() if answer.upper() in options else None
    for change in reversed(list(CHANGED.finditer(answer))):
        if change.start():
            return chosen(answer[change.end() :], options)
    text = _without_lead(REJECTED.sub("", answer))
    if (
        named := _text_at_start(text, {t: letter for t, letter in by_text.items() if A_LETTER.match(options[letter])})
    ) is not None:
        return named
    letters = _letters_at_start(text)
    if letters:
        return letters[0] if len(set(letters)) == 1 and letters[0] in options else None
    if (named := _text_at_start(text, by_text)) is not None:
        return named
    framed = {letter for letter in re.findall(r"\(([A-Z])\)", REJECTED.sub("", answer)) if letter in options}
    return framed.pop() if len(framed) == 1 else None


def _without_lead(text: str) -> str:
    while (match := LEAD.match(text)) and match.end() < len(text):
        text = text[match.end() :]
    return text.strip(" \"'")


def _letters_at_start(text: str) -> list[str]:
    """The letter that a text begins with, and those joined to it by "or", "and" or a comma."""
    letters, position = [], 0
    while match := A_LETTER.match(text, position):
        letters.append(next(filter(None, match.groups())).upper())
        joint = JOINT.match(text, match.end())
        if joint is None:
            break
        position = joint.end()
    return letters


def _text_at_start(text: str, by_text: Mapping[str, str]) -> str | None:
    """The option whose text an answer begins with, the longest one."""
    start = normalised(text)
    for option, letter in sorted(by_text.items(), key=lambda item: -len(item[0])):
        if len(option) > 2 and start.startswith(option) and re.match(r"(?![.,]?\d)[^\w%]", start[len(option) :]):
            rest = start[len(option) :]
            return (
                None
                if re.match(
                    r"\s*(?:,|or\b|and\b|/)\s*(?:or |and )?(?:" + "|".join(map(re.escape, by_text)) + r")\b", rest
                )
                else letter
            )
    return None


def gives_name(answer: str, name: str) -> bool:
    """Whether an answer is this name, alone or in a sentence about one person.

    >>> [gives_name(text, "arnold") for text in ("Arnold", "House 1: Arnold", "it is Arnold, who lives there")]
    [True, True, True]
    >>> [gives_name(text, "arnold") for text in ("Arnold or Bob", "not Arnold", "Arnold's neighbour", "Bob, Arnold")]
    [False, False, False, False]
    """
    return any(same_text(reading, name) for reading in _name_readings(without_markup(answer)))


def _name_readings(answer: str) -> list[str]:
    after = TO_THE_NAME.sub("", answer)
    readings = [answer]
    for text in (after, answer):
        first = CLAUSE.split(text, maxsplit=1)[0]
        rest = text[len(first) :]
        if not re.match(r",\s*(?:(?:or|and)\s+)?[A-Z]\w*\W*(?:$|,|or\b|and\b)|\s*is not\b", rest):
            readings.append(first)
    return readings
