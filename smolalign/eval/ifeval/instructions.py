"""The 25 instructions of IFEval (Zhou et al. 2023, arXiv:2311.07911): whether a response follows each.

By the definitions of google-research/instruction_following_eval, with all that is odd in them: verdicts are comparable
only where they err alike. Each function takes the response and the instruction's arguments as the files write them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from smolalign.eval.ifeval.language import detect_language
from smolalign.eval.ifeval.sentences import split_sentences
from smolalign.eval.ifeval.words import count_words, split_words

RELATIONS = ("less than", "at least")
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _holds(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def keywords_exist(response: str, *, keywords: Sequence[str]) -> bool:
    """Keywords are regular expressions, found within words too, in any case."""
    return all(re.search(keyword, response, re.IGNORECASE) for keyword in keywords)


def keyword_frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """As `keywords_exist`, counted without overlaps."""
    return _holds(len(re.findall(keyword.strip(), response, re.IGNORECASE)), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """Whole words only, in any case."""
    return not any(re.search(rf"\b{word}\b", response, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """In any case. Two prompts ask for signs, `#` and `!`: they are counted, where the original draws a letter."""
    # Letter by letter: what stands for one letter in small may be two, which the original never finds.
    count = sum(found == letter.strip().lower() for found in response.lower())
    return _holds(count, let_relation, let_frequency)


def response_language(response: str, *, language: str) -> bool:
    """A text that tells nothing of its language follows."""
    return detect_language(response) in (language, None)


def number_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return _holds(len(split_sentences(response)), relation, num_sentences)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Paragraphs are parted by `***`; an empty one is allowed, and not counted, at the beginning and at the end."""
    paragraphs = re.split(r"\s?\*\*\*\s?", response)
    inner = paragraphs[1:-1]
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    return all(paragraph.strip() for paragraph in inner) and filled == num_paragraphs


def number_words(response: str, *, num_words: int, relation: str) -> bool:
    return _holds(count_words(response), relation, num_words)


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are parted by an empty line; empty ones are not counted, but do count for which one is the nth."""
    paragraphs = response.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > filled or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    found = re.split(r"""[.,?!'"]""", word, maxsplit=1)[0]
    # Letter by letter, as the original: a final sigma has another small form within a word.
    lowered = "".join(letter.lower() for letter in found)
    return filled == num_paragraphs and lowered == first_word.lower()


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """Anywhere, in any case; the two usual markers with a blank between their letters too."""
    marker = postscript_marker.strip()
    usual = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(usual.get(marker, marker.lower()), response.lower(), re.MULTILINE) is not None


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """Exactly so many: lines that begin with one asterisk, and all that begin with a hyphen."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    hyphens = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(hyphens) == num_bullets


def constrained_response(response: str) -> bool:
    return any(option in response for option in _OPTIONS)


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """Runs of text between single and between double asterisks, within a line."""
    single = (found.strip("*") for found in re.findall(r"\*[^\n\*]*\*", response))
    double = (found[2:-2] for found in re.findall(r"\*\*[^\n\*]*\*\*", response))
    return sum(bool(inner.strip()) for inner in (*single, *double)) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """What begins with the splitter and a number; the splitter is a regular expression."""
    parts = re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", response)
    return len(parts) - 1 >= num_sections


def json_format(response: str) -> bool:
    """As a whole, a fence around it aside."""
    text = response.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", response))


def two_responses(response: str) -> bool:
    """Two different texts parted by `******`; a part may be empty at the beginning and at the end only."""
    parts = [part.strip() for part in response.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, *, end_phrase: str) -> bool:
    """In any case, and within double quotation marks too."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Words of one letter, such as I, count."""
    return _holds(sum(word.isupper() for word in split_words(response)), capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    return response.isupper() and response_language(response, language="en")


def english_lowercase(response: str) -> bool:
    return response.islower() and response_language(response, language="en")


def no_comma(response: str) -> bool:
    return "," not in response


def quotation(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS: dict[str, tuple[Callable[..., bool], tuple[str, ...]]] = {
    "keywords:existence": (keywords_exist, ("keywords",)),
    "keywords:frequency": (keyword_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (forbidden_words, ("forbidden_words",)),
    "keywords:letter_frequency": (letter_frequency, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (response_language, ("language",)),
    "length_constraints:number_sentences": (number_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (number_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (number_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (
        nth_paragraph_first_word,
        ("num_paragraphs", "nth_paragraph", "first_word"),
    ),
    "detectable_content:number_placeholders": (number_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (number_bullet_lists, ("num_bullets",)),
    "detectable_format:constrained_response": (constrained_response, ()),
    "detectable_format:number_highlighted_sections": (number_highlighted_sections, ("num_highlights",)),
    "detectable_format:multiple_sections": (multiple_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (json_format, ()),
    "detectable_format:title": (title, ()),
    "combination:two_responses": (two_responses, ()),
    "combination:repeat_prompt": (repeat_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (end_checker, ("end_phrase",)),
    "startend:quotation": (quotation, ()),
    "change_case:capital_word_frequency": (capital_word_frequency, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (english_capital, ()),
    "change_case:english_lowercase": (english_lowercase, ()),
    "punctuation:no_comma": (no_comma, ()),
}
