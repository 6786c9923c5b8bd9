r"""A number with its unit, read exactly: `2.24 \text{ million}` is 2,240,000 and `0.\overline{3}` is 1/3.

The input is plain LaTeX (latex.py). Words after a number name what is counted and are dropped, but words that change
its value (million, dozen, pi, or, if, squared ...) either count or make it no number: see MEANINGS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 400  # of ten: exact arithmetic beyond it would take a hostile answer's time
MIN_DIGITS = 6  # significant digits from which on a decimal number may stand for a value that it rounds


@dataclass(frozen=True)
class Number:
    """value: exact. last_place: what one unit in the last written decimal is worth, 0 where nothing can be rounded.

    digits: significant digits written. percent: "50%", whose value here is 50. base: of `2516_8`, else None; then
    value is the value, and numeral its digits.
    """

    value: Fraction
    last_place: Fraction = Fraction(0)
    digits: int = 0
    percent: bool = False
    base: int | None = None
    numeral: str = ""

    def is_worth(self, other: Number) -> bool:
        """Whether two numbers agree: exactly, or one is a decimal of six or more digits that the other rounds to.

        A percentage is the number itself or its hundredth part (an answer in percent, or a share). A numeral in a base
        equals an answer of the same digits without a base (the question said it); another base is another number.
        """
        if self.base != other.base and self.numeral and other.numeral:
            if other.base is None:
                return self.numeral == other.numeral or self.value == other.value
            return self.base is None and self.value == other.value
        readings = [self.value, self.value / 100] if self.percent else [self.value]
        others = [other.value, other.value / 100] if other.percent else [other.value]
        if self.percent and other.percent:
            others = others[:1]
            readings = readings[:1]
        return any(_same(a, self, b, other) for a in readings for b in others)


def _same(a: Fraction, first: Number, b: Fraction, second: Number) -> bool:
    """Whether readings a of `first` and b of `second` (a reading in percent is a hundredth) agree."""
    if a == b:
        return True
    return any(
        number.digits >= MIN_DIGITS and _stands_for(written, exact, number.last_place * abs(written / number.value))
        for number, written, exact in ((first, a, b), (second, b, a))
        if number.value
    )


def _stands_for(written: Fraction, exact: Fraction, unit: Fraction) -> bool:
    """Whether a decimal, whose last place is worth `unit`, is an exact value rounded, or cut off there."""
    beyond = abs(exact) - abs(written)
    return written * exact > 0 and -unit / 2 <= beyond < unit


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return text.split()


SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "quintillion": 10**18, "lakh": 10**5, "crore": 10**7, "dozen": 12, "gross": 144, "mln": 10**6, "mn": 10**6,
    "bn": 10**9, "tn": 10**12,
}  # fmt: skip
PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
GLUED = {"k": 1000, "K": 1000, "M": 10**6, "B": 10**9, "T": 10**12}
ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = dict(zip(words("twenty thirty forty fifty sixty seventy eighty ninety"), range(20, 100, 10), strict=True))
WORDS = {word: number for number, word in enumerate(ONES)} | TENS

BASES = {"binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
IN_BASE = re.compile(rf"\(?(?:in\s+)?(?:base[\s-]*(\w+)|({'|'.join(BASES)}))\)?$")

# words that make of a number something else than that number of things
MEANINGS = frozenset(
    words(
        "or nor if unless otherwise when whenever except not plus minus squared cubed factorial choose modulo mod "
        "root roots pi sqrt infinity sin cos tan log ln exp power times10 i e x y z n k t either neither versus vs nd "
        "rd th st least most than maybe perhaps possibly grand zillion"
    )
) | frozenset(SCALES) | frozenset(WORDS) | frozenset(PARTS) - {"quarter", "second", "third"}  # fmt: skip

SYMBOLS = frozenset(
    words(
        "m cm mm km dm nm um µm s ms ns min h hr hrs d yr yrs wk mi ft in yd lb lbs oz kg g mg L l ml mL dl cl cc "
        "gal pt qt N kN J kJ MJ W kW MW kWh V mV kV A mA Pa kPa MPa Hz kHz MHz GHz K C F mol eV keV MeV GeV rad deg "
        "sr T G Wb H Ohm mph kph kmph kmh rpm bpm psi atm bar au AU ly pc Mpc kpc Gyr Myr B KB MB GB bit bits db dB "
        "sq cu yo Å erg dyn"
    )
)
CURRENCY = r"(?:(?:US|CA?|AU?|HK|NZ)?\s*\\?\$|(?:USD|EUR|GBP|INR|CNY|CAD|AUD|JPY|HKD|CHF|SGD)\b|Rs\.?|¢)"
DECIMAL = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
EXPONENT = r"\s*\^\s*(?:\{{\s*(?P<{0}>[-+]?\d+)\s*\}}|(?P<{0}_bare>[-+]?\d+))"
FORMS = (  # the longer ones first
    r"(?P<whole>\d+)(?:\s*\\frac\{(?P<mixed_top>\d+)\}\{(?P<mixed_bottom>\d+)\}"
    r"|\s+(?:and\s+)?(?P<plain_top>\d+)/(?P<plain_bottom>\d+))",  # 1\frac{1}{2}, 1 1/2
    rf"\(?\\frac\{{(?P<top>-?{DECIMAL})\}}\{{(?P<bottom>-?{DECIMAL})\}}\)?",
    rf"\(?(?P<a>{DECIMAL})\)?\s*/\s*\(?(?P<b>\d+(?:\.\d+)?)\)?(?![\d/])",
    rf"(?P<c>{DECIMAL})\s*\\(?:cdot|times)\s*(?P<d>\d+)\s*\^\s*\{{?\s*-1(?!\d)\s*\}}?",  # 3 \cdot 4^{-1}
    r"(?P<cut_off>\d*\.\d{3,})\s*\\(?:ldots|dots|cdots)(?![a-zA-Z])",
    r"(?P<repeating>\d*\.\d*\\(?:overline|bar|dot)\s*\{?\d+\}?)",
    r"[({]?(?P<numeral>[0-9A-F]+(?:,\d{3})*)[)}]?\s*_\s*"
    r"(?:\{\s*\(?(?:base\s*)?(?P<base>\w+)\)?\s*\}|(?P<base_bare>\d+|[a-z]{3,}))",
    r"10" + EXPONENT.format("power"),
    rf"(?P<mantissa>{DECIMAL})(?:\s*(?:\\times|\\cdot|x)\s*10" + EXPONENT.format("exponent") + ")?",
)
NUMERAL = re.compile(rf"(?P<sign>[-+]?)\s*(?:{CURRENCY}\s*)?(?P<inner>-?)\s*(?:{'|'.join(FORMS)})", re.ASCII)
LEAD = re.compile(
    r"(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?|approximately|approx\.?|about|around|roughly|exactly|only|just|total(?:\s+of)?|a\s+total\s+of"
    r"|nearly|almost|\\approx|\\sim|\\simeq|=|:|>>>)\s*",
    re.IGNORECASE,
)
LABEL = re.compile(r"[A-Za-z][A-Za-z \-']*[:=]\s*")
CHOICE = re.compile(r"\(?([A-J])\)\s*(?=\S)|([A-J])[.:]\s+(?=\S)")


def read_number(text: str) -> Number | None:
    r"""The number a text gives, with or without unit; None where it gives none, several, or something else.

    >>> read_number(r"\$2.24 \text{ million}").value, read_number(r"1\frac{1}{2}").value, read_number("5 km/h").value
    (Fraction(2240000, 1), Fraction(3, 2), Fraction(5, 1))
    >>> read_number(r"5\text{ cm or }6\text{ cm}"), read_number("5x"), read_number("5 or more")
    (None, None, None)
    """
    text = flat(text)
    if (number := read_words(text)) is not None:
        return number
    for pattern in (LEAD, LABEL, LEAD, CHOICE, LEAD):
        while match := pattern.match(text):
            text = text[match.end() :].lstrip()
    text = re.sub(r"^(?:negative|minus)\s+(?=[\d.\\])", "-", text)
    match = NUMERAL.match(text)
    if match is None:
        return None
    try:
        number = _value(match)
    except ZeroDivisionError:
        return None
    return None if number is None else _with_words(number, text[match.end() :])


def flat(text: str) -> str:
    r"""Plain LaTeX with its words in line.

    >>> flat(r"5\text{ cm}^2 ")
    '5 cm^2'
    """
    text = re.sub(r"(\\[a-zA-Z]+)(?=\\text\{)", r"\1 ", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:qquad|quad)|\\\\", " ", text)
    return re.sub(r"[ ]+", " ", text).strip()


def read_words(text: str) -> Number | None:
    """A whole number in words.

    >>> read_words("one hundred and twenty-five").value, read_words("two dozen").value, read_words("twenty eggs")
    (Fraction(125, 1), Fraction(24, 1), None)
    >>> read_words("two thirds").value, read_words("one-half").value
    (Fraction(2, 3), Fraction(1, 2))
    """
    spoken = re.sub(r"[-\s]+", " ", text.lower()).strip(" .").split()
    if not spoken or len(spoken) > 20:
        return None
    sign = -1 if spoken[0] in ("minus", "negative") else 1
    part = PARTS.get(spoken[-1].removesuffix("s"))
    if part and len(spoken) > 1:  # one third, two thirds, a quarter
        top = read_words(" ".join("one" if word == "a" else word for word in spoken[:-1]))
        return top and Number(top.value / part)
    total = group = 0
    seen = False
    for word in spoken[sign < 0 :]:
        if word in WORDS:
            if seen and (group % 10 or (group % 100 and WORDS[word] >= 10) or (WORDS[word] == 0)):
                return None
            group += WORDS[word]
        elif word in SCALES:
            scale = SCALES[word]
            group = group or (1 if not seen else 0)
            if scale == 100 or scale == 12:
                group *= scale
            else:
                total, group = total + group * scale, 0
        elif (word == "and" and seen) or (word == "a" and not seen):
            continue
        else:
            return None
        seen = True
    return Number(Fraction(sign * (total + group))) if seen else None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", text))


def _value(match: re.Match) -> Number | None:
    part = match.groupdict()
    sign = -1 if (part["sign"] == "-") != (part["inner"] == "-") else 1
    if part["whole"]:
        top, bottom = part["mixed_top"] or part["plain_top"], part["mixed_bottom"] or part["plain_bottom"]
        return Number(sign * (Fraction(part["whole"]) + Fraction(int(top), int(bottom))))
    for top, bottom in (("top", "bottom"), ("a", "b"), ("c", "d")):
        if part[top]:
            return Number(sign * _decimal(part[top]) / _decimal(part[bottom]))
    if part["repeating"]:
        return Number(sign * _repeating(part["repeating"]))
    if part["cut_off"]:  # 0.333...: the dots say that it goes on
        places = len(part["cut_off"].partition(".")[2])
        return Number(sign * Fraction(part["cut_off"]), Fraction(1, 10**places), MIN_DIGITS)
    if part["numeral"]:
        return _in_base(part["numeral"].replace(",", ""), part["base"] or part["base_bare"], sign)
    if part["mantissa"]:
        exponent = int(part["exponent"] or part["exponent_bare"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        digits = re.sub(r"[, ]", "", part["mantissa"])
        scale = Fraction(10) ** exponent
        places = len(digits.partition(".")[2])
        significant = len(digits.replace(".", "").lstrip("0"))
        last = scale / 10**places if places else Fraction(0)
        return Number(sign * Fraction(digits) * scale, last, significant if places else 0, numeral=digits)
    exponent = int(part["power"] or part["power_bare"])
    return Number(sign * Fraction(10) ** exponent) if abs(exponent) <= MAX_EXPONENT else None


def _repeating(text: str) -> Fraction:
    r"""0.1\overline{6} is 1/6."""
    fixed, repeated = re.split(r"\\overline|\\bar|\\dot", text)
    fixed, repeated = fixed.strip(), repeated.strip("{} ")
    places = len(fixed.partition(".")[2])
    return Fraction(fixed if fixed not in (".", "") else "0") + Fraction(
        int(repeated), (10 ** len(repeated) - 1) * 10**places
    )


def _in_base(numeral: str, base: str, sign: int) -> Number | None:
    known = int(base) if base.isdecimal() else (WORDS | BASES).get(base.lower())
    if known is None or not 2 <= known <= 36:
        return None
    try:
        return Number(Fraction(sign * int(numeral, known)), base=known, numeral=numeral)
    except ValueError:
        return None  # a digit that the base has not


def _with_words(number: Number, rest: str) -> Number | None:
    """The number with what the words behind it make of it."""
    rest = re.sub(r"^\s*\((?:approximately|approx\.?|about|exactly)\)", "", rest)
    if glued := re.match(r"([kKMBT])(?:$|\s*\\?\$?$)", rest):
        return _times(number, GLUED[glued.group(1)])
    rest = rest.strip(" .")
    if match := IN_BASE.match(rest):
        base = match.group(1) or match.group(2)
        return _in_base(number.numeral, base, 1) if number.numeral.isdigit() else None
    while match := re.match(r"-?\s*([a-z]+?)s?(?![a-zA-Z])\s*", rest):
        if match.group(1) not in SCALES:
            break
        number, rest = _times(number, SCALES[match.group(1)]), rest[match.end() :]
    match = re.fullmatch(r"([a-z]+?)s?", rest)
    if match and match.group(1) in PARTS and match.group(1) not in ("quarter", "half"):  # which are things, too
        return Number(number.value / PARTS[match.group(1)])
    if match := re.match(r"out of (\d+)$", rest):
        return Number(number.value / int(match.group(1))) if int(match.group(1)) else None
    if match := re.match(r"(?:\\%|percent(?:age)?|per\s?cent|pct)(?![a-zA-Z])\s*", rest):
        number = Number(number.value, number.last_place, number.digits, percent=True)
        rest = rest[match.end() :]
    return number if is_unit(rest) else None


def _times(number: Number, scale: int) -> Number:
    return Number(number.value * scale, number.last_place * scale, number.digits)


def is_unit(rest: str) -> bool:
    r"""Whether what follows a number only says what is counted.

    >>> [is_unit(rest) for rest in ("", "km/h", r"^\circ C", "m/s^2", "people in total", r"\frac{km}{h}")]
    [True, True, True, True, True, True]
    >>> [is_unit(rest) for rest in ("x", "or more", "or 6", "if n is odd", "pi", "squared", r"\pi", "i")]
    [False, False, False, False, False, False, False, False]
    """
    rest = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", rest)
    rest = re.sub(r"\\(?:cdot|times)|·", " / ", rest)
    rest = re.sub(rf"^\s*{CURRENCY}|{CURRENCY}\s*$", "", rest).strip()
    rest = re.sub(r"[kMG]?\s*\\Omega(?![a-zA-Z])|[MRL]_\{?\s*\\(?:odot|oplus)\s*\}?", "", rest)
    rest = re.sub(r"\\(?:degree|circ|mu|ell|AA|prime)(?![a-zA-Z])|\^\s*\\circ", "", rest).strip()
    rest = re.sub(r"^\\?[pb]mod\b.*|\\pmod\s*\{?\w+\}?$", "", rest).strip()
    if not re.fullmatch(
        r"(?:[A-Za-z%µÅ'.,/()\[\]\- ]|(?<=[A-Za-z)])\^\s*\{?\s*-?[1-4](?:\s*\})?|(?<=[a-z])[23](?!\d))*", rest
    ):
        return False
    named = re.findall(r"[A-Za-zµÅ]+", rest)
    if not named:
        return not rest.strip("()[]., -'") or rest == "%"
    if all(word in COMMON_SHORT for word in named):  # "5 a" counts nothing, and 5a is a product
        return False
    unit_of_area = len(named) > 1 and named[-1] in ("squared", "cubed")
    for word in named[:-1] if unit_of_area else named:
        if word in SYMBOLS:
            continue
        if len(word) < 3 and word.lower() not in COMMON_SHORT:
            return False
        if word.lower() in MEANINGS or word.lower().removesuffix("s") in MEANINGS:
            return False
    return True


COMMON_SHORT = frozenset(words("of in at to by on a an as am pm us we he it so is"))
