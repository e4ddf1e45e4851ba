"""IFEval's verdicts, type by type, with expectations written by hand from the original's definitions."""

from __future__ import annotations

import importlib
import random
from typing import Any

import langdetect
import pytest

from smolalign.errors import UserError
from smolalign.eval.ifeval import sentences
from smolalign.eval.ifeval.instructions import INSTRUCTIONS
from smolalign.eval.ifeval.language import detect_language
from smolalign.eval.ifeval.sentences import split_sentences
from smolalign.eval.ifeval.verdict import check
from smolalign.eval.ifeval.words import count_words, split_words

EXIST = {"keywords": ["rock", "a.b"]}
TWICE = {"keyword": " war ", "frequency": 2, "relation": "at least"}
FORBIDDEN = {"forbidden_words": ["Rock", "sad"]}
FEW_O = {"letter": "O", "let_frequency": 2, "let_relation": "less than"}
SIX_SIGNS = {"letter": "!", "let_frequency": 2, "let_relation": "at least"}
TWO_WORDS = {"num_words": 2, "relation": "less than"}
SECOND = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Jasper"}
CAPITALS = {"capital_frequency": 2, "capital_relation": "at least"}
ENGLISH = "this is a letter to my friend who moved to another town last year"

# Instruction, arguments, responses that follow, responses that do not.
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", EXIST, ["BROCKS and aXb", "a\nrock a.b"], ["rock", "a.b", "rock a\nb"]),
    ("keywords:frequency", TWICE, ["War and warfare", "warwar"], ["war", "peace"]),
    ("keywords:frequency", {**TWICE, "frequency": 0}, ["none"], []),
    ("keywords:forbidden_words", FORBIDDEN, ["rocks", "rock_", "sadly"], ["ROCK!", "a-rock-b", "so sad"]),
    ("keywords:letter_frequency", FEW_O, ["one", "x"], ["Oo", "foo"]),
    ("keywords:letter_frequency", SIX_SIGNS, ["Hi!!", "! a !"], ["Hi!", "11"]),
    ("keywords:letter_frequency", {**SIX_SIGNS, "letter": " "}, [], ["a b c"]),
    (
        "language:response_language",
        {"language": "en"},
        [ENGLISH, "12 34", "***"],
        ["Dies ist ein Brief an meinen Freund."],
    ),
    ("language:response_language", {"language": "hi"}, ["यह मेरे मित्र को एक पत्र है।"], [ENGLISH]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["Mr. Smith of the U.S. Army paid $3.50 to J. Bach", "no end", "He said “Go.” Then"],
        ["One. Two.", "What?! Yes", 'He said "Go." Then'],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a***b", "***\na\n***\nb\n***", "a\n\nb *** c"],
        ["a", "a\n***\n \n***\nb", "a***b***c", "***"],
    ),
    ("length_constraints:number_words", TWO_WORDS, ["hello", "hello_you", "*** --"], ["don't", "a-b", "3.5"]),
    (
        "length_constraints:nth_paragraph_first_word",
        SECOND,
        ["One\n\nJasper, he", "One\n\n jasper's", 'One\n\n\'"Jasper" x', "One\n\nJASPER\nnext\n\n "],
        ["Jasper\n\nOne", "One\n\nJasperine", "One\n\n“Jasper", "One\n\n\n\nJasper", "One\n\n\"'Jasper", "Jasper"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] and [b]", "[][]", "[[a]] [b]"],
        ["[a]", "[a\n] [b]", "(a) (b)"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["x P.S. y", "p. s. z", "P.P.S. z is no P.S. "],
        ["PS: y", "P.S y", "p.p.s"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S", "p. p. so"], ["P.S.", "PPS"]),
    ("detectable_content:postscript", {"postscript_marker": "Note:"}, ["a\n note: b"], ["a note"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  * b", "--\n*x", "*\n*\nx\n- y", "* a\n** b\n- c"],
        ["* a", "* a\n* b\n- c", "** a\n** b", "1. a\n2. b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "So: My answer is maybe. Or"],
        ["my answer is yes.", "My answer is yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** **b**", "*a*b*c*", "**a** *b*"],
        ["*a*", "**a**", "*a\n* *b*", "* * *b*", "****"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section ", "num_sections": 2},
        ["Section 1 a Section 2 b", "Section1Section2", "see Section 3.4 and Section 5"],
        ["SECTION 1 SECTION 2", "Section 1", "Section A Section B"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": 1}\n```', "```JSON [1]```", "```\n3\n```", "NaN", " null "],
        ["{'a': 1}", 'Here: {"a": 1}', '```python\n{"a": 1}\n```', "```json", "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<a>>", "x <<a b>> y", "<<<a>>>"], ["<a>", "<<>>", "<< >>", "<<a\n>>"]),
    (
        "combination:two_responses",
        {},
        ["a******b", "******\na\n******\nb\n******", "a*******b"],
        ["a", "a******a ", "a******b******c", "a****** ******b", "******a******"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": " Write a song. "},
        ["\nWRITE A SONG. La la", "write a song."],
        ["Sure! Write a song.", "Write a  song."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": " The End! "},
        ["It is the end!\n", '"The end!"', "bathe end!"],
        ["The end! Bye", "The end", "The end!”"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a" b"\n', '""'], ['"', '"a', "“a”", "'a'"]),
    (
        "change_case:capital_word_frequency",
        CAPITALS,
        ["I am A", "NASA is USA", "U.S. and EU-27", "CANNOT"],
        ["NASA", "Nasa Usa", "NASA—USA", "O'NEILL"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper() + "!"], [ENGLISH, ENGLISH.upper() + " x", "12"]),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH + " 3"],
        [ENGLISH.upper(), ENGLISH + " I", "это письмо моему другу"],
    ),
    ("punctuation:no_comma", {}, ["a; b", "a、b，c"], ["a, b"]),
]


@pytest.mark.parametrize(("name", "arguments", "following", "not_following"), CASES)
def test_a_response_follows_by_the_definition_of_the_type(
    name: str, arguments: dict[str, Any], following: list[str], not_following: list[str]
) -> None:
    verdicts = {text: check([name], [arguments], text).strict[0] for text in (*following, *not_following)}
    assert verdicts == {**dict.fromkeys(following, True), **dict.fromkeys(not_following, False)}


def test_every_one_of_the_25_types_has_a_case() -> None:
    assert len(INSTRUCTIONS) == 25
    assert {name for name, *_ in CASES} == INSTRUCTIONS.keys()


# --- strict and loose ------------------------------------------------------------------------------------------------

END = ("startend:end_checker", {"end_phrase": "the end"})


@pytest.mark.parametrize(
    ("asked", "response"),
    [
        (("startend:quotation", {}), 'Sure:\n"a"'),
        (END, "The end\nAnything else?"),
        (("startend:quotation", {}), 'Sure:\n"a"\nBye'),
        (END, "**the end**"),
        (("startend:quotation", {}), 'Sure:\n*"a"*'),
        (END, "**the end**\nBye"),
        (("startend:quotation", {}), 'Sure:\n**"a"**\nBye'),
    ],
)
def test_each_of_the_loose_versions_can_follow_where_the_response_does_not(
    asked: tuple[str, dict[str, Any]], response: str
) -> None:
    verdict = check([asked[0]], [asked[1]], response)
    assert (verdict.strict, verdict.loose) == ((False,), (True,))


def test_lines_are_taken_off_one_at_each_end_and_no_more() -> None:
    assert check(["startend:quotation"], [{}], 'a\nb\n"c"').loose == (False,)
    # The response itself without asterisks is a version; inner text is not otherwise touched.
    assert check(["startend:quotation"], [{}], '*"a*b"*').loose == (True,)


@pytest.mark.parametrize("response", ["", " \n ", "\u3000"])
def test_an_empty_response_follows_nothing(response: str) -> None:
    names = ["punctuation:no_comma", "keywords:forbidden_words"]
    verdict = check(names, [{}, {"forbidden_words": ["x"]}], response)
    assert verdict.strict == verdict.loose == (False, False)


def test_a_version_that_becomes_empty_follows_nothing() -> None:
    # Without its only line, or its asterisks, nothing is left that could have no comma.
    assert check(["punctuation:no_comma"], [{}], "a,b").loose == (False,)
    assert check(["language:response_language"], [{"language": "de"}], "***").strict == (True,)


def test_arguments_that_are_none_are_none_of_the_instructions() -> None:
    hub = {"num_words": 2.0, "relation": "at least", "keywords": None, "num_bullets": None}
    assert check(
        ["length_constraints:number_words", "punctuation:no_comma"], [hub, {"letter": None}], "a b"
    ).strict == (
        True,
        True,
    )


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("keywords:none", {}, "unknown instruction"),
        ("keywords:frequency", {"keyword": "a", "frequency": 1}, "lacks its argument relation"),
        (
            "keywords:frequency",
            {**TWICE, "relation": "at most"},
            "relation of keywords:frequency must be one of less than",
        ),
        ("punctuation:no_comma", {"num_words": 1}, "takes no argument num_words, only none"),
        ("length_constraints:number_words", {**TWO_WORDS, "num_words": True}, "a whole number, not true"),
        ("length_constraints:number_words", {**TWO_WORDS, "num_words": 1.5}, "a whole number, not 1.5"),
        ("length_constraints:number_words", {**TWO_WORDS, "num_words": -1}, "a whole number, not -1"),
        ("keywords:existence", {"keywords": ["a("]}, "regular expressions"),
        ("keywords:existence", {"keywords": []}, "regular expressions"),
        ("keywords:letter_frequency", {**FEW_O, "letter": "ab"}, "one letter or sign"),
        ("language:response_language", {"language": "xx"}, "one of ar bg"),
        ("length_constraints:nth_paragraph_first_word", {**SECOND, "nth_paragraph": 3}, "1 to num_paragraphs, not 3"),
    ],
)
def test_arguments_at_which_the_original_draws_or_stops_are_refused(name: str, arguments: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        check([name], [arguments], "a")
    assert told in caught.value.line()


# --- sentences, words and languages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n", []),
        ("Dr. Who met Mrs. Jones. They talked!", ["Dr. Who met Mrs. Jones.", "They talked!"]),
        ("It cost 3.5 dollars. No. 5 is best.", ["It cost 3.5 dollars.", "No.", "5 is best."]),
        ("He left (at 5 p.m.) and came back. Then", ["He left (at 5 p.m.) and came back.", "Then"]),
        ('"Why?" she asked. (It rained.) Yes...', ['"Why?"', "she asked.", "(It rained.)", "Yes..."]),
        ("Wait... what? Wait... However it was.", ["Wait... what?", "Wait...", "However it was."]),
        ("a.b.c is one. and so", ["a.b.c is one.", "and so"]),
        ("One.\n\nTwo.Three. 4.", ["One.", "Two.Three.", "4."]),
        # Later versions of NLTK end a sentence at curly quotes.
        ("He said “Go.” Then he left.", ["He said “Go.” Then he left."]),
        ("Really!!! Yes?! Ok", ["Really!!!", "Yes?!", "Ok"]),
        ("これは文です。これも文です。", ["これは文です。これも文です。"]),
    ],
)
def test_sentences_are_those_of_punkt(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 5% off, isn't it?", ["It", "'s", "5", "%", "off", ",", "is", "n't", "it", "?"]),
        ('"I CANNOT," he said.', ["``", "I", "CAN", "NOT", ",", "''", "he", "said", "."]),
        ("The U.S. won. Bye.", ["The", "U.S.", "won", ".", "Bye", "."]),
        # Later versions part words at dashes, and at apostrophes before them.
        ("AI—ML 'TIS 'HELLO' A--B", ["AI—ML", "'T", "IS", "'HELLO", "'", "A", "--", "B"]),
        ("“Yes” #tag a@b *x*", ["“", "Yes", "”", "#", "tag", "a", "@", "b", "*", "x", "*"]),
    ],
)
def test_words_are_those_of_the_word_tokenizer(text: str, expected: list[str]) -> None:
    assert split_words(text) == expected


def test_words_are_counted_as_runs_of_word_characters() -> None:
    assert count_words("Don't re-do 3.5 x_y — “né” 日本語") == 9


def test_other_data_than_the_originals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = importlib.import_module("punkt.data.english")
    sentences.load_learned.cache_clear()
    monkeypatch.setattr(data, "SENT_STARTERS", data.SENT_STARTERS | {"zebra"})
    try:
        with pytest.raises(UserError, match="not those that IFEval is defined by"):
            split_sentences("One. Two.")
    finally:
        sentences.load_learned.cache_clear()


def test_a_language_is_told_the_same_at_each_look_and_whatever_others_set() -> None:
    before = langdetect.DetectorFactory.seed
    # langdetect left to itself calls it Finnish or Dutch.
    found = set()
    try:
        for seed in range(10):
            langdetect.DetectorFactory.seed = seed
            random.seed(seed)
            found.add(detect_language("hello"))
    finally:
        langdetect.DetectorFactory.seed = before
    assert len(found) == 1
    assert detect_language("1 2 3") is None
