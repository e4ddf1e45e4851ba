"""Our verdicts against those of the original's code, as lm-evaluation-harness carries it.

That copy counts by the NLTK that is installed. Here it gets the rules of NLTK 3.8.1 back, under which the verdicts were
published; later ones end sentences at curly quotes, and part words at dashes and apostrophes.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolalign.eval.ifeval import language, sentences
from smolalign.eval.ifeval.instructions import INSTRUCTIONS as TYPES
from smolalign.eval.ifeval.sentences import split_sentences
from smolalign.eval.ifeval.verdict import check
from smolalign.eval.ifeval.words import split_words

nltk = pytest.importorskip("nltk", reason="needs nltk, which the original counts with")
pytest.importorskip("lm_eval", reason="needs lm_eval, which carries the original")
pytest.importorskip("immutabledict", reason="needs immutabledict, which lm_eval's copy imports")

PROMPT = "Write an email to my boss. The email must contain a title."
TEXTS = [
    "Dear Mr. Smith, we paid $3.50 to J. Bach of the U.S. Army at 5 p.m. on Jan. 3. He said “Go.” Then he left...",
    "NASA—and the EU—won. 'Tis true: I CANNOT say (or won't!) that AI-led O'NEILL's e.g. However, no. 5 is best?!",
    "this is a letter to my friend who moved to another town last year",
    "Это письмо моему другу, который переехал в другой город.",
    "Dies ist ein Brief an meinen Freund. Er ist z.B. weggezogen.",
    "यह मेरे मित्र को एक पत्र है।",
    "これは友達への手紙です。",
    "C'est une lettre à mon ami «cher» qui a déménagé.",
    "Is there anything else I can help with?",
    PROMPT,
    json.dumps({"a": ["b", {"c": 1.5}]}, indent=1),
    "rock, rocky brocks; Rock.",
]
MARKS = [
    *(
        "*",
        "**",
        "***",
        "******",
        "\n",
        "\n\n",
        "\n***\n",
        "\n******\n",
        "* item\n",
        "- item\n",
        "  * item\n",
        "-- x\n",
    ),
    *("*hi*", "**hi**", "** **", "[x]", "[]", "[[y]]", "<<T>>", "<< >>", "<<a\n>>", "P.S. hi", "P. S. x", "P.P.S x"),
    *("Section 1", "SECTION 2", "Section3", "My answer is yes.", "```json\n", "```", '{"a": 1}', "NaN", '"', "'", "“"),
    *("”", "’", ",", ".", "...", ". . .", "?!", "#", "!", "weekend", "'weekend'", '"weekend', "weekend's x", "A", "I"),
    *("U.S.", "Ph.D.", "ß", "İ", "ς", "ΟΔΟΣ", "\u00a0", "\u2028", "\u200b", "\r\n", "\t", "12", "``", "--", "—", "é.É"),
]
RESPONSES = st.builds(
    lambda parts, case, wrap: wrap.replace("@", case("".join(parts))),
    st.lists(st.one_of(st.sampled_from(TEXTS), st.sampled_from([*MARKS, " "]), st.text(max_size=8)), max_size=12),
    st.sampled_from([str, str, str.upper, str.lower]),
    st.sampled_from(["@", "@", "@", '"@"', "Sure:\n@", "@\nBye", "```json\n@\n```", PROMPT + "\n@"]),
)
FEW = st.integers(0, 6)
RELATION = st.sampled_from(["less than", "at least"])
WORD = st.sampled_from(["rock", "the", " is ", "a.b", "NASA", "weekend", "σ"])
# nth_paragraph is at most num_paragraphs.
PARAGRAPHS = st.tuples(st.integers(1, 3), st.integers(0, 2)).map(
    lambda drawn: {"num_paragraphs": drawn[0] + drawn[1], "nth_paragraph": drawn[0]}
)


def arguments(**fields: Any) -> Any:
    return st.fixed_dictionaries(fields)


ASKED: dict[str, Any] = {
    "keywords:existence": arguments(keywords=st.lists(WORD, min_size=1, max_size=2)),
    "keywords:frequency": arguments(keyword=WORD, frequency=FEW, relation=RELATION),
    "keywords:forbidden_words": arguments(forbidden_words=st.lists(WORD, min_size=1, max_size=3)),
    # No signs: the original draws a letter in their place, we count them.
    "keywords:letter_frequency": arguments(letter=st.sampled_from("aeQz"), let_frequency=FEW, let_relation=RELATION),
    "language:response_language": arguments(language=st.sampled_from(["en", "de", "ru", "hi", "fr", "ja"])),
    "length_constraints:number_sentences": arguments(num_sentences=FEW, relation=RELATION),
    "length_constraints:number_paragraphs": arguments(num_paragraphs=FEW),
    "length_constraints:number_words": arguments(num_words=st.integers(0, 60), relation=RELATION),
    "length_constraints:nth_paragraph_first_word": st.builds(
        lambda counts, word: {**counts, "first_word": word},
        PARAGRAPHS,
        st.sampled_from(["Weekend", "rock", "is", "σ", "dear"]),
    ),
    "detectable_content:number_placeholders": arguments(num_placeholders=FEW),
    "detectable_content:postscript": arguments(
        postscript_marker=st.sampled_from(["P.S.", "P.P.S", " P.S. ", "Dear", "P.P.S."])
    ),
    "detectable_format:number_bullet_lists": arguments(num_bullets=FEW),
    "detectable_format:constrained_response": arguments(),
    "detectable_format:number_highlighted_sections": arguments(num_highlights=FEW),
    "detectable_format:multiple_sections": arguments(
        section_spliter=st.sampled_from(["Section", "SECTION", " Section ", "(a)"]), num_sections=FEW
    ),
    "detectable_format:json_format": arguments(),
    "detectable_format:title": arguments(),
    "combination:two_responses": arguments(),
    "combination:repeat_prompt": arguments(prompt_to_repeat=st.just(PROMPT)),
    "startend:end_checker": arguments(end_phrase=st.sampled_from([TEXTS[8], " ROCK. ", "bye"])),
    "startend:quotation": arguments(),
    "change_case:capital_word_frequency": arguments(capital_frequency=FEW, capital_relation=RELATION),
    "change_case:english_capital": arguments(),
    "change_case:english_lowercase": arguments(),
    "punctuation:no_comma": arguments(),
}
INSTRUCTIONS = st.lists(
    st.sampled_from(sorted(ASKED)).flatmap(lambda name: ASKED[name].map(lambda given: (name, given))),
    min_size=1,
    max_size=6,
)


class Original:
    """lm_eval's copy of the original, with NLTK's tokenizers as they were."""

    def __init__(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # At its import it looks for data that it would download.
            patch.setattr(nltk.data, "find", lambda *_: "")
            from lm_eval.tasks.ifeval import instructions_util, utils
        self.utils, self.util = utils, instructions_util
        self.sentences, self.words = old_tokenizers()

    def verdicts(self, asked: list[tuple[str, dict[str, Any]]], response: str) -> tuple[list[bool], list[bool]]:
        names, kwargs = [name for name, _ in asked], [given for _, given in asked]
        example = self.utils.InputExample(1, names, PROMPT, [Kept(given) for given in kwargs])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.util, "_get_sentence_tokenizer", lambda: self.sentences)
            patch.setattr(self.util.nltk, "word_tokenize", self.split_words)
            patch.setattr("langdetect.detector_factory._factory", language.load_detector()[0])
            strict = self.utils.test_instruction_following_strict(example, response)
            loose = self.utils.test_instruction_following_loose(example, response)
        return [bool(one) for one in strict.follow_instruction_list], [
            bool(one) for one in loose.follow_instruction_list
        ]

    def split_words(self, text: str) -> list[str]:
        return [word for sentence in self.sentences.tokenize(text) for word in self.words.tokenize(sentence)]


class Kept(dict[str, Any]):
    """Arguments of which lm_eval's copy leaves out those that are 0, and then draws; the original keeps them."""

    def items(self) -> Any:
        return [(name, _True(value) if value == 0 else value) for name, value in super().items()]


class _True(int):
    def __bool__(self) -> bool:
        return True


def old_tokenizers() -> tuple[Any, Any]:
    """NLTK's Punkt with the original's parameters, and its word tokenizer, both with the expressions of NLTK 3.8.1."""
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktSentenceTokenizer

    class Variables(PunktLanguageVars):  # type: ignore[misc]
        re_boundary_realignment = re.compile(r'["\')\]}]+?(?:\s+|(?=--)|$)', re.MULTILINE)
        _re_non_word_chars = r"(?:[)\";}\]\*:@\'\({\[\?!])"

        # By `re`, as then: NLTK's own library of expressions takes other signs for white space (U+001C to U+001F).
        def period_context_re(self) -> re.Pattern[str]:
            return re.compile(super().period_context_re().pattern, re.VERBOSE)

        def _word_tokenizer_re(self) -> re.Pattern[str]:
            return re.compile(super()._word_tokenizer_re().pattern, re.VERBOSE)

    learned, parameters = sentences.load_learned(), PunktParameters()
    parameters.abbrev_types, parameters.collocations = set(learned.abbreviations), set(learned.pairs)
    parameters.sent_starters, parameters.ortho_context = set(learned.starters), defaultdict(int, learned.contexts)
    punkt = PunktSentenceTokenizer(lang_vars=Variables())
    punkt._params = parameters

    words = NLTKWordTokenizer()
    dashes, runs = "[\\u2012-\\u2015]", r"\s+"
    words.PUNCTUATION = [rule for rule in words.PUNCTUATION if rule[0].pattern != dashes]
    words.ENDING_QUOTES = [rule for rule in words.ENDING_QUOTES if rule[0].pattern != runs]
    apostrophe = (re.compile(r"(?i)(\')(?!re|ve|ll|m|t|s|d|n)(\w)\b"), r"\1 \2")
    words.STARTING_QUOTES = [*words.STARTING_QUOTES[:4], apostrophe]
    for name in ("STARTING_QUOTES", "PUNCTUATION", "ENDING_QUOTES"):
        setattr(words, name, [(re.compile(rule.pattern), parted) for rule, parted in getattr(words, name)])
    return punkt, words


@pytest.fixture(scope="module")
def original() -> Original:
    return Original()


def test_the_installed_nltk_has_the_expressions_that_are_put_back(original: Original) -> None:
    # Where NLTK changes again, what is compared with would no longer be what it was.
    assert len(original.words.PUNCTUATION) == 9
    assert len(original.words.ENDING_QUOTES) == 5
    assert original.words.tokenize("AI—ML 'TIS 'A") == ["AI—ML", "'T", "IS", "'", "A"]
    assert original.sentences.tokenize("He said “Go.” Then") == ["He said “Go.” Then"]


@given(RESPONSES)
@example("The email must contain a title.\n\x1f0")
@settings(max_examples=150, deadline=None)
def test_sentences_and_words_are_those_of_nltk(original: Original, response: str) -> None:
    assert split_sentences(response) == original.sentences.tokenize(response)
    assert split_words(response) == original.split_words(response)


@given(INSTRUCTIONS, RESPONSES)
@settings(max_examples=150, deadline=None)
def test_verdicts_are_those_of_the_original(
    original: Original, asked: list[tuple[str, dict[str, Any]]], response: str
) -> None:
    verdict = check([name for name, _ in asked], [given for _, given in asked], response)
    assert (list(verdict.strict), list(verdict.loose)) == original.verdicts(asked, response)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_each_type_is_judged_as_by_the_original_both_ways(original: Original, name: str) -> None:
    # Answers that come near each definition, so that both verdicts are met.
    draw = random.Random(name)
    near = {
        "length_constraints:nth_paragraph_first_word": [
            "Dear\n\nrock. x",
            "rock\n\nis\n\nweekend's",
            "'Weekend' a\n\nb",
            "\n\nσ",
        ],
        "detectable_format:json_format": ['{"a": "b"}', '```json\n[1, "x"]\n```', "```JSON\nnull```"],
        "combination:two_responses": ["a\n******\nb", "******a******b", "a******a", "a ****** ******b"],
        "combination:repeat_prompt": [PROMPT.lower(), f" {PROMPT} Yes"],
        "startend:end_checker": ["Bye", '"Rock."', f"{TEXTS[8]}\n", "**rock.**"],
        "startend:quotation": ['"a"', '*"a"*', '"'],
        "change_case:english_lowercase": [TEXTS[2], f"{TEXTS[2]} *x*\nBye"],
        "change_case:english_capital": [TEXTS[2].upper(), f"{TEXTS[0].upper()}\nbye"],
        "detectable_format:title": ["<<a>>", "<<*>>"],
        "detectable_format:constrained_response": ["My answer is no.", "*My* answer is no."],
        "detectable_format:number_highlighted_sections": ["*a* **b**", "*a*\n*b*\n*c*"],
        "detectable_format:number_bullet_lists": ["* a\n* b", "- a\n* b\n** c\n-"],
    }
    responses = [*near.get(name, []), *TEXTS]
    responses += ["".join(draw.choices([*TEXTS, *MARKS, " "], k=draw.randint(1, 9))) for _ in range(30)]
    met = set()
    for number, response in enumerate(responses):
        given = example(name, number)
        verdict = check([name], [given], response)
        assert (list(verdict.strict), list(verdict.loose)) == original.verdicts([(name, given)], response), response
        met.add(verdict.loose[0])
    assert met == {True, False}


def example(name: str, number: int) -> dict[str, Any]:
    """One set of arguments of a type, another for each number."""
    counts, word = number % 4, ["rock", "the", "weekend", "NASA"][number % 4]
    choices: dict[str, Any] = {
        "relation": ["less than", "at least"][number // 2 % 2],
        "letter": "aeqz"[counts],
        "language": ["en", "de"][counts % 2],
        "keyword": word,
        "keywords": [word],
        "forbidden_words": [word],
        "prompt_to_repeat": PROMPT,
        "postscript_marker": ["P.S.", "P.P.S"][counts % 2],
        "section_spliter": ["Section", "SECTION"][counts % 2],
        "first_word": ["rock", "weekend", "weekend", "dear"][counts],
        "nth_paragraph": [2, 3, 1, 1][counts],
        "end_phrase": ["bye", "rock.", TEXTS[8], "rock."][counts],
    }
    choices |= {"let_relation": choices["relation"], "capital_relation": choices["relation"]}
    wanted = TYPES[name][1]
    if "nth_paragraph" in wanted:
        return {"num_paragraphs": [2, 3, 2, 1][counts], **{field: choices[field] for field in wanted[1:]}}
    return {field: choices.get(field, counts) for field in wanted}
