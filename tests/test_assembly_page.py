"""The data report as a page and as a table: every number is there, and no text of a row becomes part of the page."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from smolalign import console
from smolalign.data.assembly.figures import compact, count, flow, histogram, share
from smolalign.data.assembly.page import TEXT_CHARACTERS, render_page
from smolalign.data.assembly.reasons import GROUPS, dropped_in_all, group_of, in_stages

Report = dict[str, Any]

EDGES = [0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
SOURCES = {
    "HuggingFaceTB/smoltalk smol-magpie-ultra": 431_000,
    "HuggingFaceTB/smoltalk smol-constraints": 36_200,
    "HuggingFaceTB/smoltalk smol-rewrite": 56_200,
    "HuggingFaceTB/smoltalk smol-summarize": 101_000,
    "HuggingFaceTB/smoltalk apigen-80k": 87_400,
    "HuggingFaceTB/smoltalk everyday-conversations": 2_380,
    "HuggingFaceTB/smoltalk explore-instruct-rewriting": 32_500,
    "HuggingFaceTB/smoltalk longalign": 3_730,
    "HuggingFaceTB/smoltalk metamathqa-50k": 50_000,
    "HuggingFaceTB/smoltalk numina-cot-100k": 112_000,
    "HuggingFaceTB/smoltalk openhermes-100k": 100_000,
    "HuggingFaceTB/smoltalk self-oss-instruct": 50_700,
    "HuggingFaceTB/smoltalk systemchats-30k": 35_300,
}
STAGES = {
    "broken JSON": 0.0001,
    "empty turn": 0.001,
    "turn order": 0.0005,
    "words": 0.02,
    "language": 0.011,
    "refusals": 0.008,
    "max_repetition": 0.006,
    "contaminated": 0.0009,
    "equal to another row": 0.012,
    "near-duplicate": 0.031,
    "not drawn (weight)": 0.1,
    "over max_rows": 0.04,
}
NASTY = '<script>alert("x")</script> & \x00\x1b[31m \ud800 \u202eback\u202c </pre><img src=http://evil.example/x>'


def one_source(name: str, rows: int, per_row: int, dropped: dict[str, int], copies: int, shape: list[int]) -> Report:
    """A source of the report, its sums in order."""
    kept = rows - sum(dropped.values())
    return {
        "source": name,
        "format": "chat",
        "rows_in": rows,
        "tokens_in": rows * per_row,
        "dropped": {reason: {"rows": n, "tokens": n * per_row} for reason, n in dropped.items()},
        "rows_kept": kept,
        "copies": copies,
        "rows_out": kept + copies,
        "tokens_out": (kept + copies) * per_row,
        "lengths": {"edges": EDGES, "in": spread(rows, shape), "out": spread(kept + copies, shape)},
    }


def spread(rows: int, shape: list[int]) -> list[int]:
    """Rows over the bins, in the shape of some weights."""
    counts = [rows * weight // max(1, sum(shape)) for weight in shape]
    counts[shape.index(max(shape))] += rows - sum(counts)
    return counts


def whole(sources: list[Report], **more: Any) -> Report:
    """A report over sources."""
    total = {key: sum(s[key] for s in sources) for key in ("rows_in", "rows_kept", "copies", "rows_out")}
    total |= {key: sum(s[key] for s in sources) for key in ("tokens_in", "tokens_out")}
    test = total["rows_out"] // 20
    return {
        **total,
        "rows_train": total["rows_out"] - test,
        "rows_test": test,
        "tokens_counted_with": None,
        "sources": sources,
        "duplicates": [],
        "contamination": [],
        "contaminated": {},
        "examples": {},
        "shards": [],
        **more,
    }


@pytest.fixture(scope="module")
def real() -> Report:
    """A report as that of SmolTalk may be."""
    draw = random.Random(0)
    sources = []
    for number, (name, rows) in enumerate(SOURCES.items()):
        reasons = [r for r in STAGES if draw.random() < 0.75 and (number % 3 == 0 or "weight" not in r)]
        dropped = {r: n for r in reasons if (n := round(rows * STAGES[r] * draw.uniform(0.1, 2)))}
        top = draw.randrange(2, 8)
        shape = [round(1000 * 2.0 ** -((i - top) ** 2 / draw.uniform(1, 3))) for i in range(len(EDGES))]
        copies = rows // 2 if number in (5, 7) else 0
        sources.append(one_source(name, rows, 32 * 2**top // 3, dropped, copies, shape))
    return whole(
        sources,
        tokens_counted_with="HuggingFaceTB/SmolLM2-135M",
        duplicates=[
            {"source": name, "of": of, "equal": draw.randrange(300), "near": draw.randrange(9000)}
            for i, name in enumerate(SOURCES)
            for j, of in enumerate(SOURCES)
            if j <= i and draw.random() < 0.35
        ],
        contaminated={"gsm8k": 412, "ifeval": 3, "mmlu": 1},
        contamination=[
            {
                "row": f"metamathqa.jsonl:{draw.randrange(50_000)}",
                "source": "HuggingFaceTB/smoltalk metamathqa-50k",
                "benchmark": benchmark,
                "question": f"{benchmark}.parquet:{draw.randrange(1300)}",
                "how": how,
                "span": "a robe takes 2 bolts of blue fiber and half that much white fiber how many bolts",
            }
            for benchmark, how, number in (
                ("gsm8k", "13 words", 25),
                ("ifeval", "same prompt", 3),
                ("mmlu", "13 words", 1),
            )
            for _ in range(number)
        ],
        examples={
            reason: [
                {
                    "source": draw.choice(list(SOURCES)),
                    "origin": f"train-0000{i}.parquet:{draw.randrange(9999)}",
                    "detail": f"{reason}, as the filter says it with a value such as 17",
                    "text": "user: Write a poem about the sea.\n\nassistant: The sea, the sea, the sea. " * (1 + 3 * i),
                }
                for i in range(draw.randrange(1, 10))
            ]
            for reason in STAGES
        },
        shards=[{"file": f"train-{i:05}-of-00004.parquet", "rows": 229_000 - i} for i in range(4)],
    )


def numbers(value: object) -> Iterator[int]:
    """All whole numbers of a report outside its histograms' edges."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "edges":
                yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, int):
        yield value


def test_every_number_of_the_report_stands_on_the_page(real: Report) -> None:
    there = set(re.findall(r"\d[\d,]*", Page(render_page(real, "SmolTalk")).text))
    assert {f"{n:,}" for n in numbers(real)} - there == set()


def test_what_negatives_were_made_stands_beside_their_source_alone() -> None:
    sources = [one_source(name, 4321, 7, {}, 0, [1] * len(EDGES)) for name in ("calls", "chats")]
    sources[0]["negatives"] = {"right tool removed": 1234, NASTY: 0}
    text = Page(render_page(whole(sources), "title")).text
    assert text.count("Made of the rows in, in their place: right tool removed 1,234, <script>") == 1
    assert text.index("Made of the rows") < text.index("Lengths of the rows of chats")


def test_the_page_loads_nothing_and_runs_nothing(real: Report) -> None:
    html = render_page(real, "SmolTalk")
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "form", "base"}
    attributes = [(name, str(value)) for _, given in page.elements for name, value in given.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "srcset")]
    assert all(value.startswith("#") for name, value in attributes if name == "href")
    assert "://" not in html
    assert not re.search(r"url\(|@import|@font-face", html)


def test_links_lead_to_one_element_each_and_charts_are_named(real: Report) -> None:
    page = Page(render_page(real, "SmolTalk"))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    used = [a["href"] for tag, a in page.elements if tag == "a"]
    assert {str(href)[1:] for href in used} <= set(ids)
    charts = [a for tag, a in page.elements if tag == "svg"]
    assert len(charts) == len(SOURCES)
    assert all(a["role"] == "img" and set(str(a["aria-labelledby"]).split()) <= set(ids) for a in charts)


def nasty_report() -> Report:
    source = one_source(NASTY, 10, 7, {NASTY: 3}, 0, [1] * len(EDGES))
    return whole(
        [source],
        duplicates=[{"source": NASTY, "of": NASTY, "equal": 1, "near": 1}],
        contaminated={NASTY: 1},
        contamination=[dict.fromkeys(("row", "source", "benchmark", "question", "how", "span"), NASTY)],
        examples={NASTY: [dict.fromkeys(("source", "origin", "detail", "text"), NASTY)]},
        shards=[{"file": NASTY, "rows": 7}],
        tokens_counted_with=NASTY,
    )


def test_text_of_a_row_stays_text_wherever_it_stands() -> None:
    html = render_page(nasty_report(), NASTY)
    html.encode("utf-8")
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    # Title, heading, tables, charts, matrix, contamination, examples, files: nothing is lost, controls are shown.
    assert page.text.count('<script>alert("x")</script> & \u2400\u241b[31m \ufffd') >= 20
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)


def test_right_to_left_text_cannot_turn_what_stands_beside_it() -> None:
    """An override ends with the element that isolates it."""
    page = render_page(nasty_report(), "title")
    for before in re.findall(r"(<[^<]*>)\s*(?=&lt;script)", page):
        # The title of a page and those of charts stand by themselves.
        assert before == "<bdi>" or 'dir="auto"' in before or before.startswith(("<title", '<span class="hidden"')), (
            before
        )


def test_long_texts_are_cut_with_a_word_on_what_is_missing() -> None:
    source = one_source("a", 2, 7, {"words": 1}, 0, [1] * len(EDGES))
    example = {"source": "a", "origin": "a:1", "detail": "long", "text": "x" * (TEXT_CHARACTERS + 1234)}
    html = render_page(whole([source], examples={"words": [example]}), "title")
    assert "x" * TEXT_CHARACTERS + " … (1,234 more characters)" in html
    assert "x" * (TEXT_CHARACTERS + 1) not in html


def test_a_report_without_drops_and_without_rows_says_so() -> None:
    for rows in (0, 5):
        text = Page(render_page(whole([one_source("a", rows, 7, {}, 0, [1] * len(EDGES))]), "title")).text
        assert "No row was dropped." in text
        assert "equal or almost equal" in text
        assert "estimated from the number of bytes" in text
        assert "Examples of dropped rows There is none" in text


def test_a_flow_counts_down_from_rows_in_to_rows_out() -> None:
    lines = flow(one_source("a", 100, 10, {"words": 20, "near-duplicate": 30}, 25, [1] * len(EDGES)))
    assert [(line["name"], line["rows"], line["tokens"]) for line in lines] == [
        ("in", "100", "1,000"),
        ("words", "−20", "−200"),
        ("near-duplicate", "−30", "−300"),
        ("kept", "50", "500"),
        ("copies", "+25", "+250"),
        ("out", "75", "750"),
    ]
    assert [(line["bar"], line["gone"]) for line in lines] == [
        ("100.00", "0.00"),
        ("80.00", "20.00"),
        ("50.00", "30.00"),
        ("50.00", "0.00"),
        ("75.00", "0.00"),
        ("75.00", "0.00"),
    ]


@pytest.mark.parametrize(("closed", "last"), [(True, "64–127"), (False, "64 or more")])
def test_bars_of_a_histogram_are_as_high_as_their_counts(closed: bool, last: str) -> None:
    edges = [0, 32, 64, 128] if closed else [0, 32, 64]
    chart = histogram({"edges": edges, "in": [10, 40, 20], "out": [0, 20, 10]})
    before, after = ([float(bar["height"]) for bar in chart[key]] for key in ("in", "out"))
    assert before[1] == pytest.approx(2 * before[2]) == pytest.approx(4 * before[0])
    assert after == pytest.approx([0, before[1] / 2, before[2] / 2])
    assert chart["rows"][2] == (last, "20", "10")
    assert chart["summary"] == "70 rows in, most of 32–63 tokens; 30 rows out, most of 32–63 tokens."


def test_reasons_of_several_sources_come_in_the_order_of_the_stages() -> None:
    assert in_stages(
        [["broken", "near-duplicate"], ["turns", "words", "near-duplicate"], ["words", "contaminated"]]
    ) == [
        "broken",
        "turns",
        "words",
        "contaminated",
        "near-duplicate",
    ]
    assert [group_of(reason) for reason in STAGES] == sorted(map(group_of, STAGES), key=GROUPS.index)


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (12_345, "12.3 k"), (1_234_567, "1.23 M"), (-5_000_000_000, "−5.00 G")],
)
def test_large_numbers_are_said_in_three_digits(number: int, said: str) -> None:
    assert compact(number) == said


def test_a_share_that_rounds_to_nothing_is_not_called_nothing() -> None:
    assert [share(0, 10), share(1, 100_000), share(1, 3), share(0, 0)] == ["0.0 %", "<0.1 %", "33.3 %", "0.0 %"]


words = st.text(max_size=30)
amounts = st.integers(0, 10**9)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    sources = []
    for _ in range(draw(st.integers(0, 3))):
        dropped = draw(st.dictionaries(st.one_of(st.sampled_from(list(STAGES)), words), amounts, max_size=5))
        rows = sum(dropped.values()) + draw(amounts)
        shape = draw(st.lists(st.integers(0, 9), min_size=len(EDGES) - 1, max_size=len(EDGES)))
        sources.append(one_source(draw(words), rows, draw(st.integers(0, 9999)), dropped, draw(amounts), shape))
    texts = dict.fromkeys(("source", "of", "row", "benchmark", "question", "how", "span"), words)
    pair = st.fixed_dictionaries({"source": words, "of": words, "equal": amounts, "near": amounts})
    match = st.fixed_dictionaries({key: words for key in texts if key != "of"})
    example = st.fixed_dictionaries(dict.fromkeys(("source", "origin", "detail", "text"), words))
    return whole(
        sources,
        tokens_counted_with=draw(st.none() | words),
        duplicates=draw(st.lists(pair, max_size=4)),
        contaminated=draw(st.dictionaries(words, amounts, max_size=3)),
        contamination=draw(st.lists(match, max_size=3)),
        examples=draw(st.dictionaries(words, st.lists(example, max_size=3), max_size=3)),
        shards=draw(st.lists(st.fixed_dictionaries({"file": words, "rows": amounts}), max_size=2)),
    )


@settings(max_examples=60, deadline=None)
@given(report=reports(), title=words)
def test_any_report_becomes_a_well_formed_page_and_a_table(report: Report, title: str) -> None:
    Page(render_page(report, title)).text.encode("utf-8")
    shown(report)


def shown(report: Report, wide: int = 80) -> list[str]:
    """The lines that the console prints, without blanks at their ends."""
    paper = StringIO()
    before = console.out
    console.out = Console(file=paper, width=wide, highlight=False)
    try:
        console.print_data_report(report)
    finally:
        console.out = before
    return [line.rstrip() for line in paper.getvalue().splitlines()]


def test_the_table_has_the_numbers_of_each_source_and_their_sums_within_eighty_columns(real: Report) -> None:
    lines = shown(real)
    assert max(map(len, lines)) <= 80
    for source in [*real["sources"], {**real, "source": "all", "dropped": dropped_in_all(real["sources"])}]:
        # Above its numbers, the last line beside them.
        start = next(i for i, line in enumerate(lines) if line == source["source"] or line.startswith("all "))
        numbers = lines[start].removeprefix("all") if source["source"] == "all" else lines[start + 1]
        taken = dict.fromkeys(GROUPS, 0)
        for reason, lost in source["dropped"].items():
            taken[group_of(reason)] -= lost["rows"]
        copies = f"+{source['copies']:,}" if source["copies"] else "0"
        tokens = compact(source["tokens_out"]).split()
        assert numbers.split() == [
            count(source["rows_in"]),
            *map(count, taken.values()),
            copies,
            count(source["rows_out"]),
            *tokens,
        ]
    for reason, lost in dropped_in_all(real["sources"]).items():
        assert any(re.match(rf"{re.escape(reason)} +{lost['rows']:,} ", line) for line in lines)
    assert lines[-1] == "overlap with evaluation sets, in rows: gsm8k 412, ifeval 3, mmlu 1"


def test_names_stand_beside_their_numbers_where_the_screen_is_wide(real: Report) -> None:
    lines = shown(real, wide=140)
    for source in real["sources"]:
        assert any(line.startswith(source["source"]) and line.split()[2] == count(source["rows_in"]) for line in lines)


def test_columns_and_lines_of_what_did_not_happen_are_left_out() -> None:
    lines = shown(whole([one_source("a.jsonl", 10, 7, {}, 0, [1] * len(EDGES))]))
    assert [line.split() for line in lines] == [
        ["rows", "rows", "tokens"],
        ["in", "out", "out"],
        ["a.jsonl", "10", "10", "70"],
        ["all", "10", "10", "70"],
        ["tokens", "are", "estimated", "from", "bytes"],
    ]


def test_a_source_name_in_brackets_is_no_markup() -> None:
    name = "[bold]a[/x]"
    lines = shown(whole([one_source(name, 3, 7, {name: 1}, 0, [1] * len(EDGES))]))
    assert len([line for line in lines if line.startswith(f"{name} ")]) == 2
