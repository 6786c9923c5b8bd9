r"""One spelling for what is written in many: an answer in unicode, markdown or decorated LaTeX becomes plain LaTeX.

`plain_latex` applies RULES in order. Each rule is one function on text with its examples, which the tests run; none
changes what an answer means. Text stays in \text{...}: what the words mean is for quantities.py and math_answers.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable

SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
    "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ",
    "≈": r"\approx ", "∼": r"\sim ", "≅": r"\approx ", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "→": r"\to ", "…": r"\ldots ",
    "º": r"^\circ ",
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "¢": r"\text{ cents}", "％": "%",
} | {letter: rf"\{name} " for letter, name in GREEK.items()}  # fmt: skip
SPACES = re.compile(r"[^\S ]")
EMPHASIS = re.compile(r"\\(?:textbf|textit|emph|texttt|textsf)\s*\{")
PICTURES = re.compile("[\u2705\u2713\u2714\u2728\u2b50\ufe0f\U0001f300-\U0001faff]")  # ticks and emoji
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace opens nothing
OVER = re.compile(r"\\over(?![a-zA-Z])")
FRAME_END = ".;:,\\ "
FRAME_START = re.compile(r"^(?:\\[\\,;: !]|[\s;:,])+")
MAX_NESTED = 20  # commands in each other that are taken away
# and control characters, two of which one_kind_of_text uses as marks
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\u200b-\u200f\u2060\ufeff\u00ad]")

ALIGNED = "aligned|align|split|gathered|gather|eqnarray|equation"
SIZES = "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
SWITCHES = (
    rf"{SIZES}|bf|bfseries|it|itshape|rm|sf|tt|em|displaystyle|textstyle|scriptstyle|limits|nolimits|centering|boldmath"
)
DECORATIONS = (
    "mathbf|boldsymbol|bm|pmb|mathit|mathsf|mathtt|mathnormal|underline|uline|ensuremath|mathop|boxed|fbox|framebox"
    "|overbrace|underbrace|cancel"
)
TEXTS = (
    "text|textrm|textbf|textit|textsf|texttt|textnormal|textsc|textup|emph|mbox|hbox|mathrm|operatorname|mathup|mathbf"
    "|mathit|mathsf"
)


def plain_latex(answer: str) -> str:
    r"""An answer after all RULES.

    >>> plain_latex(r"$$ \boxed{ \bf √2 } $$."), plain_latex("**½**"), plain_latex("4.5e33")
    ('\\sqrt{2}', '\\frac{1}{2}', '4.5 \\times 10^{33}')
    """
    for rule in RULES:
        answer = rule(answer)
    return answer


def unwrapped(text: str, commands: str, template: str = "{}") -> str:
    r"""`\command{content}` becomes the content (in `template`), for all `commands` ("a|b") and nested ones too.

    >>> unwrapped(r"\mathbf{3\sqrt{13}}", "mathbf|bm")
    '3\\sqrt{13}'
    """
    pattern = re.compile(rf"\\(?:{commands})\s*\{{")
    for _ in range(MAX_NESTED):
        starts = list(pattern.finditer(text))
        if not starts:
            return text
        start = starts[-1]  # the innermost first
        end = closing_brace(text, start.end() - 1)
        if end is None:
            return text
        content = text[start.end() : end]
        text = text[: start.start()] + template.format(content) + text[end + 1 :]
    return text


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that opens at `start` is closed, None where it is not."""
    depth = 0
    for match in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


# --- the rules --------------------------------------------------------------------------------------------------------


def unicode_symbols(text: str) -> str:
    r"""Symbols of unicode as LaTeX, its many spaces as one.

    >>> unicode_symbols("(-∞, 2) ∪ {x²+1}"), unicode_symbols("√(x+1)·2½"), unicode_symbols("–5°")
    ('(-\\infty , 2) \\cup  {x^{2}+1}', '\\sqrt{x+1}\\cdot 2\\frac{1}{2}', '-5^\\circ ')
    """
    text = PICTURES.sub("", SPACES.sub(" ", INVISIBLE.sub("", text)))
    text = re.sub(r"(?<=\d)\s*(?:\.{3,}|…)", r"\\ldots ", text)
    text = re.sub(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+)[/⁄]([₀₁₂₃₄₅₆₇₈₉]+)", _small_fraction, text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match.group().translate(SUPERSCRIPT)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match.group().translate(SUBSCRIPT)}}}", text)
    for symbol, command in (("√", r"\sqrt"), ("∛", r"\sqrt[3]")):
        argument = r"(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[a-zA-Zπ]))"
        for match in reversed(list(re.finditer(rf"{symbol}\s*{argument}", text))):
            content = next(filter(None, match.groups()), "")
            text = f"{text[: match.start()]}{command}{{{content}}}{text[match.end() :]}"
    for symbol, (top, bottom) in VULGAR.items():
        text = text.replace(symbol, rf"\frac{{{top}}}{{{bottom}}}")
    return "".join(SYMBOLS.get(character, character) for character in text)


def _small_fraction(match: re.Match) -> str:
    return rf"\frac{{{match.group(1).translate(SUPERSCRIPT)}}}{{{match.group(2).translate(SUBSCRIPT)}}}"


def no_math_mode(text: str) -> str:
    r"""No dollars and brackets of math mode, but \$ as it is.

    >>> no_math_mode("$x$"), no_math_mode(r"\(5\)"), no_math_mode(r"\$5")
    ('x', '5', '\\$5')
    """
    text = re.sub(r"(?<!\\)\\[()\[\]](?!\w*pt)", "", text)
    return re.sub(r"(?<!\\)\$", "", text).strip()


def no_markdown(text: str) -> str:
    """No emphasis and code marks around an answer or a part of it; ** between numbers is a power and stays.

    >>> no_markdown("**5**"), no_markdown("`73`"), no_markdown("*73*"), no_markdown("x**2"), no_markdown("**5** cm")
    ('5', '73', '73', 'x**2', '5 cm')
    """
    text = re.sub(r"(?<![\w)}])\*\*([^*]+)\*\*(?![\w({])", r"\1", text.strip())
    text = re.sub(r"^__([^_]+)__", r"\1", text)
    text = re.sub(r"`+([^`]+)`+", r"\1", text)
    text = re.sub(r"^\*([^*]+)\*(?=$|[ .])", r"\1", text)
    return re.sub(r"^\*\*|\*\*$|^_(?=[^_]*_$)|(?<=\w)_$", "", text).strip()


def no_decoration(text: str) -> str:
    r"""No bold, colour, size, box, spacing and sizes of brackets.

    >>> [no_decoration(text) for text in (r"\color{blue}{5}", r"{\bf 5}", r"\Large 5", r"12\,345")]
    ['{5}', '{5}', '5', '12 345']
    """
    text = re.sub(r"(\\\\)\s*\[-?[\d.]+\s*(?:pt|ex|em|mm|cm)\]", r"\1", text)  # the space between two rows
    text = re.sub(r"\\(?:therefore|implies|Rightarrow|checkmark|blacksquare|square|qed)(?![a-zA-Z])\s*", "", text)
    text = re.sub(
        r"\\(?:text)?color\s*\{\w+\}|\\(?:colorbox|fcolorbox)\s*\{\w+\}(?:\{\w+\})?|\\color\s*\w+(?![\w{])", "", text
    )
    text = re.sub(rf"\\(?:{DECORATIONS})\s+(?=\w)", "", unwrapped(text, DECORATIONS))  # \mathbf 5
    text = re.sub(rf"\\(?:{SWITCHES})(?![a-zA-Z])\s*", "", text)
    text = re.sub(r"\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*", "", text)
    text = re.sub(r"\\!\s*", "", text)
    text = re.sub(
        r"(?<!\\)\\[,;:> ]|(?<!\\)~|\\(?:quad|qquad|thinspace|enspace|space|hfill|nobreakspace)(?![a-zA-Z])", " ", text
    )
    text = re.sub(r"\\(?:hspace|vspace|phantom|hphantom|tag)\*?\s*\{[^{}]*\}", " ", text)
    return re.sub(r"\\langle(?![a-zA-Z])", "(", re.sub(r"\\rangle(?![a-zA-Z])", ")", text))


def one_kind_of_text(text: str) -> str:
    r"""All words in \text{...}, but a number, a letter of a variable and an operator's name are none.

    >>> one_kind_of_text(r"5\mathrm{cm}"), one_kind_of_text(r"\textbf{73}"), one_kind_of_text(r"5\mathrm{i}")
    ('5\\text{cm}', ' 73 ', '5i')
    """
    text = unwrapped(text, TEXTS, "\x01{}\x02")
    text = re.sub("\x01[^\x02]*\x02", lambda words: re.sub(r"\^\{(-?\d+)\}", r"^\1", words.group()), text)  # s^{-1}
    mathematics = re.compile(r"\x01([-\d.,/()\\^{}+=*%$ ]*)\x02")
    text = mathematics.sub(lambda match: f" {match.group(1).strip()} ", text)
    text = re.sub(r"\x01\s*([ie])\s*\x02", r"\1", text)
    text = re.sub(
        r"\x01\s*(sin|cos|tan|cot|sec|csc|log|ln|exp|lcm|gcd|max|min|arcsin|arccos|arctan)\s*\x02(?=\s*[({\\\da-z])",
        r"\\\1 ",
        text,
    )
    while "\x01" in text:  # a text in a text is one text
        inner = re.sub("\x01([^\x01\x02]*)\x02", r"\\text{\1}", text)
        text = inner if inner != text else re.sub("[\x01\x02]", "", text)
    for _ in range(3):
        text = re.sub(r"\\text\{([^{}]*)\\text\{([^{}]*)\}", r"\\text{\1\2", text)
    return re.sub(r"\\text\{\s*\}", " ", text)


def standard_fractions(text: str) -> str:
    r"""Every fraction as \frac{a}{b}.

    >>> standard_fractions(r"\dfrac12"), standard_fractions(r"{3 \over 4}"), standard_fractions("{}^{3}/_{4}")
    ('\\frac{1}{2}', '\\frac{3}{4}', '\\frac{3}{4}')
    >>> standard_fractions("(dM)/(dt)"), standard_fractions("1(4)/(5)"), standard_fractions("f(x)/(2)")
    ('\\frac{dM}{dt}', '1\\frac{4}{5}', 'f(x)/(2)')
    """
    text = re.sub(r"\\(?:[dtc]frac|nicefrac|sfrac|flatfrac)(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d|[a-zA-Z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d|[a-zA-Z])(?![a-zA-Z])", r"\1{\2}", text)
    text = _without_over(text)
    text = re.sub(r"(?<![\w)}\]/^])\(([^()]+)\)\s*/\s*\(([^()]+)\)|(?<=\d)\((\d+)\)/\((\d+)\)", _fraction, text)
    text = re.sub(r"(?:\{\})?\^\{?(-?\d+)\}?\s*/\s*_\{?(\d+)\}?", r"\\frac{\1}{\2}", text)
    return re.sub(
        r"\\frac\{([^{}]*)\}\s*\{([^{}]*)\}",
        lambda match: rf"\frac{{{match.group(1).strip()}}}{{{match.group(2).strip()}}}",
        text,
    )


def _fraction(match: re.Match) -> str:
    top, bottom = filter(None, match.groups())
    return rf"\frac{{{top}}}{{{bottom}}}"


def _without_over(text: str) -> str:
    r"""TeX's \over: what stands before it in its braces over what stands behind it there.

    >>> _without_over(r"2 + {{1 + x} \over y}"), _without_over(r"\sqrt{1 \over {2 \over 3}}")
    ('2 + \\frac{1 + x}{y}', '\\sqrt{\\frac{1}{\\frac{2}{3}}}')
    """
    for over in list(OVER.finditer(text))[: -MAX_NESTED - 1 : -1]:  # the innermost first
        group = _braces_around(text, over.start())
        if group is None:
            continue
        start, end = group
        top, bottom = (_without_braces(part) for part in (text[start + 1 : over.start()], text[over.end() : end]))
        fraction = rf"\frac{{{top}}}{{{bottom}}}"
        before = text[:start]
        if re.search(r"[a-zA-Z^_}\]]$", before):  # the braces belong to a command
            fraction = f"{{{fraction}}}"
        text = before + fraction + text[end + 1 :]
    return text


def _braces_around(text: str, place: int) -> tuple[int, int] | None:
    """Where the braces around a place are, None where there are none, or they do not close."""
    opened: list[int] = []
    for match in BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            start = opened.pop()
            if start < place < match.start():
                return start, match.start()
    return None


def _without_braces(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text.startswith("{") and closing_brace(text, 0) == len(text) - 1 else text


def computer_notation(text: str) -> str:
    r"""Python's and a calculator's notation as LaTeX.

    >>> [computer_notation(text) for text in ("4.5e33", "np.arcsin(10/13)", "-3./2", "1+274*i")]
    ['4.5 \\times 10^{33}', '\\arcsin(10/13)', '-3/2', '1+274i']
    """
    text = re.sub(r"\b(?:np|math)\.(?=[a-z])", r"\\", text)
    text = re.sub(
        r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln)(?=\s*[\d({\\^]|\s+[a-z](?![a-z]))",
        r"\\\1",
        text,
    )
    text = re.sub(r"^(-?\d*\.\d*)\((\d+)\)$", r"\1\\overline{\2}", text)  # 0.(3)
    text = re.sub(r"(?<=\d)\s*(?=\(\s*\\frac)", r" \\cdot ", text)  # a product, no mixed number
    text = re.sub(r"(?<=\d)\.(?![\d.])(?!\s*\\overline|\s*\\bar|\s*\\dot|\\ldots|\\dots)", "", text)
    text = re.sub(r"(?<![\w\\.])((?:\d+(?:\.\d+)?|\.\d+))[eE]([+-]?\d+)(?!\w)", r"\1 \\times 10^{\2}", text)
    text = re.sub(r"\*\*\s*(-?\w+|\{)", lambda m: "^{" if m.group(1) == "{" else f"^{{{m.group(1)}}}", text)
    text = re.sub(r"(?<![\\*])\*(?!\*)", r" \\cdot ", text)
    text = re.sub(r"(?<=\d)\s*\\cdot\s*(?=i(?![a-zA-Z]))", "", text)  # else no imaginary unit to math-verify
    return (
        re.sub(
            r"(?<![\\a-zA-Z])(sqrt|pi|infty|infinity)(?![a-zA-Z])",
            lambda m: "\\" + m.group().replace("infinity", "infty"),
            text,
        )
        if re.fullmatch(r"[^a-zA-Z]*(?:(?:sqrt|pi|infty|infinity)[^a-zA-Z]*)+", text)
        else text
    )


def last_of_aligned(text: str) -> str:
    r"""Of equations set one under the other: a chain of equals as one line, several equations as a list.

    >>> last_of_aligned(r"\begin{aligned} x &= 9-2 \\ &= 7 \end{aligned}")
    ' x = 9-2 = 7 '
    >>> last_of_aligned(r"\begin{align*} x &= 1 \\ y &= 2 \end{align*}")
    ' x = 1 , y = 2 '
    """
    match = re.fullmatch(rf"\s*\\begin\{{({ALIGNED})(\*?)\}}(.*)\\end\{{\1\2\}}\s*", text, re.DOTALL)
    if match is None:
        return text
    rows = re.sub(r"\\\\\s*(?=&?\s*(?:=|\\approx))", "", match.group(3))
    return re.sub(r"\\\\(?=\s*\S)", ",", re.sub(r"\\\\\s*$", "", rows)).replace("&", "")


def no_frame(text: str) -> str:
    r"""No space, quotation mark, full stop, doubled braces, emphasis and lone line break around an answer.

    >>> no_frame("{{(2,3)}}"), no_frame(r"\textbf{p - q}."), no_frame(r"5\\"), no_frame(r"5\;")
    ('(2,3)', 'p - q', '5', '5')
    """
    for _ in range(MAX_NESTED):
        before = text
        text = FRAME_START.sub("", _without_frame_end(text))
        if (match := EMPHASIS.match(text)) and closing_brace(text, match.end() - 1) == len(text) - 1:
            text = text[match.end() : -1]
        text = re.sub(r'^"([^"]*)"$|^\'([^\']*)\'$', lambda m: m.group(1) or m.group(2) or "", text)
        text = _without_braces(text) if text.startswith("{") else text
        if text == before:
            break
    return text


def _without_frame_end(text: str) -> str:
    r"""No space, full stop, comma, line break and spacing command at the end.

    >>> _without_frame_end(r"5 \! \\ .")
    '5'
    """
    text = text.rstrip(FRAME_END)
    while text.endswith(r"\!"):
        text = text[:-2].rstrip(FRAME_END)
    return text


def one_spelling(text: str) -> str:
    r"""One command for each relation, one kind of percent, degree and space.

    >>> one_spelling(r"x\leq 5^{\circ}"), one_spelling(r"50 \%")
    ('x\\le  5^\\circ', '50\\%')
    """
    text = re.sub(r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])", r"\\le ", text)
    text = re.sub(r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])", r"\\ge ", text)
    text = re.sub(
        r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|\\textdegree(?![a-zA-Z])", r"^\\circ", text
    )
    text = re.sub(r"(?<=[\d}])\s*(?:\\text\{\s*)?degrees?(?![a-zA-Z])(?:\s*\})?", r"^\\circ ", text)
    text = re.sub(r"(?<=\d)\s*\^\s*\{?\s*(?:o|\\text\{\s*o\s*\})\s*\}?(?!\w)", r"^\\circ", text)
    text = re.sub(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![a-zA-Z]))", "'", text)
    text = re.sub(r"\s*\\?%", r"\\%", text)
    text = re.sub(r"\s*\{\s*,\s*\}\s*", ",", text)
    text = re.sub(
        r"\\(?:pounds|euro|EUR|texteuro|yen|textsterling|textdollar|textyen)(?![a-zA-Z])|[€£¥₹₩₽฿元円]", r"\\$", text
    )
    return re.sub(r"\\lbrace(?![a-zA-Z])", r"\\{", re.sub(r"\\rbrace(?![a-zA-Z])", r"\\}", text))


RULES: tuple[Callable[[str], str], ...] = (
    unicode_symbols,
    no_math_mode,
    last_of_aligned,
    no_frame,
    no_markdown,
    no_decoration,
    one_kind_of_text,
    no_markdown,
    no_frame,
    standard_fractions,
    computer_notation,
    one_spelling,
    no_frame,
)
