"""The text of a response by its tokens, by hand."""

from analysis.token_text import answer_tokens, begins_part, kind_of, pieces_of
from attention_rhythm.generation.conventions import ResponseText
from tests.support.models import Letters


def test_an_answer_is_found_in_the_tokens_of_its_last_mention():
    pieces = ["4", "2", " is", " not", " 4", "2", " .", ""]
    assert answer_tokens(pieces, "42") == slice(4, 6)
    assert answer_tokens(pieces, "is not") == slice(2, 4)  # spaces do not count
    assert answer_tokens(pieces, "43") is None
    assert answer_tokens(pieces, None) is None


def test_parts_begin_behind_boundaries():
    assert begins_part(["one", ",", " two", ".\n", "three"]).tolist() == [True, False, True, False, True]


def test_kinds_of_tokens():
    assert [kind_of(p, 0, {9}) for p in (" the", "12", " =", "\n", "")] == [
        "word", "number", "punctuation", "space", "space"
    ]  # fmt: skip
    assert kind_of("the", 9, {9}) == "end"


def test_pieces_together_are_the_text():
    text = ResponseText(Letters(), {30})
    assert pieces_of(text, [7, 8, 30]) == ["7", " 8", ""]
