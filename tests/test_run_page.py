"""`smolalign report`: all that a run left stands on one page, whatever state it is in, and no text becomes markup."""

from __future__ import annotations

import fcntl
import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, chats, write_jsonl
from html_page import Page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import logs, sample_lines, stages, write_json, write_run, write_step
from training import write_recipe

from smolalign.errors import UserError
from smolalign.run_page.collect import collect
from smolalign.run_page.curves import MOST_POINTS, draw, thinned
from smolalign.run_page.page import render_run, say_seconds
from smolalign.run_page.samples import PROMPTS, REPLY_CHARACTERS, verdict
from smolalign.run_page.scale import say, scale_of

Cli = Callable[..., Ran]
NASTY = (
    "</script><img onerror=alert(1) src=http://evil.example/x></pre>\"'&\x00\x1b[31m\ud800{{ 7 * 7 }}<script>alert(2)"
)
NASTY_JSON = json.dumps(NASTY)[1:-1]
LOOK = Path(__file__).parent.parent / "smolalign"


def page_of(folder: Path) -> Page:
    return Page(render_run(collect(folder)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "nano")


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_the_command_writes_one_page_into_the_folder_of_the_run(whole: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("report", whole)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.replace("\n", "") == f"wrote {whole / 'report.html'}: 6 steps"
    assert cli("report", whole, "--out", tmp_path / "new" / "page.html").code == 0
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert text == (whole / "report.html").read_text(encoding="utf-8")
    assert len(text) < 1e6
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_every_step_stands_on_the_page_with_its_time_and_whether_it_was_cached(whole: Path) -> None:
    text = page_of(whole).text
    assert "Steps finished 6 of 6 Wall time 21 min 15 s" in text
    assert "pretrain finished 1 min 0 s 9,876 1.234 1.210 (7.100) cached 2026-11-27 00:00:00" in text
    assert "fc finished, resumed 5 min 4 s 9,876 1.234 – ran 2026-11-27 04:00:00" in text
    assert "warning dpo : the chosen answers become less likely" in text
    assert "not finished" not in text


def test_scores_stand_model_beside_model_with_their_standard_errors_and_what_changed(whole: Path) -> None:
    text = page_of(whole).text
    assert "Metric base sft dpo fc answers 300 items, task exact, decoding greedy" in text
    # One point more is within two standard errors of 2.77 each; the others are not.
    assert "exact % 0.0 ± 2.8 ▲ up to 64.0 ± 2.8 65.0 ± 2.8 ▲ up to 83.0 ± 2.8" in text
    assert "held-out loss – – – 0.789" in text
    assert (
        "What was wrong with the answers of calls Class base sft dpo fc asked 100 100 100 100 right 0 32 32 42" in text
    )


def test_each_training_has_its_curves_and_says_in_words_what_they_do(whole: Path) -> None:
    page = page_of(whole)
    figures = [attributes for tag, attributes in page.elements if attributes.get("class") == "curve"]
    # Loss, token accuracy, learning rate, gradient norm, speed, memory; for dpo margin, accuracy, rewards, kl too.
    assert len(figures) == 6 + 6 + 10 + 6
    for attributes in figures:
        data = json.loads(attributes["data-curves"] or "")
        assert all(len(curve["at"]) > 1 for curve in data["curves"])
    words = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a.get("viewbox") == "0 0 360 190"]
    assert len(words) == len(figures)
    assert any(
        re.match(r"Loss\. train: from 6\.\d+ at step 2 to .* held out: from 7\.1 at step 0 to", w or "") for w in words
    )
    assert "Reward margin chosen over rejected train 2." in page.text
    assert "learning rate" in page.text.lower()


def test_a_pretraining_shows_each_stage_and_what_it_read_beside_what_was_asked(whole: Path) -> None:
    page = page_of(whole)
    asked_for = "1 stable 1,600 1,500 160 7 512 10,000 0 to 0.003 web 1.817 maths 2.500 0.891 – 4,321 14.6 %"
    assert asked_for in page.text
    assert "2 long 400 400 40 – 2,048 130,000 – – – – –" in page.text
    assert (
        "1 stable web 60.00 % 59.38 % 950 70 1.25 maths 40.00 % 40.62 % 650 1,234 0.50 2 long web 100.00 %" in page.text
    )
    borders = [attributes for tag, attributes in page.elements if attributes.get("class") == "border"]
    # One in each of the six figures of pretraining, and none in another training's.
    assert len(borders) == 6
    assert all(line["x1"] == line["x2"] for line in borders)


def test_a_pretraining_that_noted_no_stages_is_shown_without_and_unreadable_ones_are_told(tmp_path: Path) -> None:
    plain = {"train_loss": 1.234, "steps": 200, "tokens_per_second": 9876}
    write_step(tmp_path, "pretrain", metrics=plain)
    page = page_of(tmp_path)
    assert sum(attributes.get("class") == "curve" for _, attributes in page.elements) == 6
    assert "RoPE" not in page.text
    assert "not read" not in page.text
    first, second = stages()
    del second["sources"]["web"]["seen"]
    write_step(tmp_path, "pretrain", metrics={**plain, "stages": [first, second]})
    page = page_of(tmp_path)
    at = "metrics.stages.1.sources.web.seen"
    assert f"not read pretrain : step.json is not as this version writes it, at {at}" in page.text
    assert sum(attributes.get("class") == "curve" for _, attributes in page.elements) == 6


def test_a_scorer_shows_how_good_it_is_on_what_it_did_not_learn_from(tmp_path: Path) -> None:
    write_run(tmp_path, ["quality"])
    text = page_of(tmp_path).text
    assert "The scorer of quality Learned from 1,504 annotated texts" in text
    assert "keeping what scores 3 or more once rounded" in text
    assert "all 12 0.800 0.667 0.727 0.420 – code 6 0.800" in text
    assert "4 5 4 0.800 0.667 0.727 5 0 2 – 0.000 0.000" in text
    assert "scored 5 0 2 0 0 0 0 0 1 0 1 0 1 0 0" in text
    write_step(tmp_path, "quality", metrics={"texts": 504, "documents_per_second": 4837})
    assert "The scorer of" not in page_of(tmp_path).text


def test_rows_are_accounted_for_source_by_source_with_their_lengths(whole: Path) -> None:
    text = page_of(whole).text
    assert "smoltalk 5,200 1,348 3,852 20 3 1 40,000 30,000" in text
    assert "smoltalk/source-1.jsonl near-duplicate −37, not drawn (weight) −450 900 413" in text.replace("/ ", "/")
    assert "5,200 rows of 8 sources in, 3,852 out" in text
    assert text.count("Lengths as a table") == 5 + 8


def test_the_same_prompts_are_answered_side_by_side_and_marked(whole: Path) -> None:
    page = page_of(whole)
    assert f"{PROMPTS} of 12 prompts, drawn by the seed" in page.text
    assert re.search(r"What is (\d+) \+ \1\? expected \d+ base ✗ wrong The red kite .* fc ✓ right \d+", page.text)
    assert "base ✗ wrong unwanted, too long It is" in page.text
    assert "tools clean_violin expected <tool_call>[" in page.text
    assert "dpo ✗ wrong no call: text alone I would. fc ✓ right <tool_call>[" in page.text
    assert "Showcase What fc answers to prompts of the recipe's own. user What is 3 + 6? 9 system Be kind." in page.text
    assert sum(a.get("class") == "card" for _, a in page.elements) == 3 * PROMPTS * 4


def test_recipes_inputs_arithmetic_versions_and_hardware_are_there(whole: Path) -> None:
    page = page_of(whole)
    for said in (
        '"learning_rate": 0.001',
        "@smoltalk abababababababab",
        "precision fp32: the CPU is no faster in bf16",
        "cpu Some Processor cores 2 memory, GB 16.8",
        "torch 2.13.0",
        "seed 42 processes 1",
    ):
        assert said in page.text, said
    # All collapsed at first.
    assert not any("open" in attributes for tag, attributes in page.elements if tag == "details")


def test_a_value_that_steps_do_not_share_names_those_that_have_it(tmp_path: Path) -> None:
    write_run(tmp_path, ["sft", "dpo"])
    write_step(tmp_path, "fc", 3, seed=7, versions={"torch": "2.12.0"})
    text = page_of(tmp_path).text
    assert "seed 42 (sft, dpo); 7 (fc)" in text
    assert "torch 2.13.0 (sft, dpo); 2.12.0 (fc)" in text
    assert "trl 1.16.0 (sft, dpo); not noted (fc)" in text


def test_the_page_is_the_same_each_time_it_is_made(whole: Path) -> None:
    assert render_run(collect(whole)) == render_run(collect(whole))


def test_the_page_needs_no_other_file_and_runs_its_own_script_alone(whole: Path) -> None:
    html = render_run(collect(whole))
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "form", "base", "audio", "video", "source"}
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [{}]
    assert not any(name.startswith("on") or name in ("src", "xlink:href") for _, a in page.elements for name in a)
    assert all((a.get("href") or "#").startswith("#") for _, a in page.elements)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert re.fullmatch(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='", policy or "")
    assert "url(" not in html
    assert "@import" not in html


def test_links_and_names_lead_to_one_element_each_and_headings_go_down_by_one(whole: Path) -> None:
    page = page_of(whole)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        targets = [(attributes.get("href") or "").removeprefix("#"), *(attributes.get("aria-labelledby") or "").split()]
        assert {target for target in targets if target} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    charts = [a for tag, a in page.elements if tag == "svg"]
    assert all(a.get("aria-label") or a.get("aria-labelledby") or a.get("aria-hidden") for a in charts)


# --- what texts hold -------------------------------------------------------------------------------------------------


def test_no_text_of_a_run_becomes_part_of_the_page(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "x<b>&'\""
    shutil.copytree(whole, run)
    elements = [tag for tag, _ in page_of(run).elements]
    texts = (
        "greedy",
        "Book a museum",
        "book_museum",
        '"9"',
        "no call",
        "Be kind.",
        "I would.",
        "text alone",
        "red kite",
    )
    for file in ("eval/step.json", "eval/samples.jsonl", "dpo/data_report.json"):
        _put_nasty(run / file, (*texts, "smoltalk/source", "near-duplicate"))
    for step in ("sft", "dpo"):
        manifest = json.loads((run / step / "step.json").read_text())
        nasty = {"warnings": [NASTY], "explained": [NASTY], "versions": {NASTY: NASTY}, "inputs": {"@pretrain": NASTY}}
        write_json(run / step / "step.json", {**manifest, **nasty, "seed": NASTY, "started_at": NASTY})
        (run / step / "recipe.yaml").write_text(json.dumps({"kind": step, NASTY: NASTY}))
    html = render_run(collect(run))
    page = Page(html)
    added = {tag for tag, _ in page.elements} - set(elements)
    assert added <= {"ul", "li"}
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert html.count("</script>") == 1
    assert "{{ 7 * 7 }}" in page.text
    assert page.text.count("<img onerror=alert(1)") > 20
    html.encode("utf-8")
    assert not set(html) & {"\x00", "\x1b"}


def _put_nasty(file: Path, texts: tuple[str, ...]) -> None:
    """Put the text that should do no harm in place of others, inside the JSON of a file."""
    content = file.read_text(encoding="utf-8")
    for text in texts:
        content = content.replace(text, f'"{NASTY_JSON}"' if text.startswith('"') else NASTY_JSON)
    file.write_text(content, encoding="utf-8")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=JSON_VALUES)
def test_a_page_is_made_whatever_stands_in_the_files_of_a_step(tmp_path: Path, place: int, value: Any) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    files = [("sft", "step.json"), ("sft", "data_report.json"), ("eval", "step.json")]
    step, name = [*files, ("quality", "step.json"), ("pretrain", "step.json")][place % 5]
    write_run(folder, [step])
    known = json.loads((folder / step / name).read_text())
    _put(known, place // 5, value)
    write_json(folder / step / name, known)
    Page(render_run(collect(folder)))


def _put(known: Any, place: int, value: Any) -> None:
    """Replace one of all values inside a JSON object by another."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        for key, below in inner.items() if isinstance(inner, dict) else enumerate(inner):
            places.append((inner, key))
            if isinstance(below, dict | list):
                walk(below)

    walk(known)
    holder, key = places[place % len(places)]
    holder[key] = value


# --- runs that are not whole -----------------------------------------------------------------------------------------


def cut_off(folder: Path, kind: str = "sft") -> Path:
    """Leave of a finished step what one that was killed half-way has."""
    step = write_step(folder, kind)
    (step / "step.json").unlink()
    (step / "started.json").write_text('{"fingerprint": "f"}')
    write_jsonl(step / "metrics.jsonl", [line for line in logs(kind) if line["step"] <= 80])
    (step / "checkpoints" / "checkpoint-60").mkdir(parents=True)
    write_json(step / "checkpoints" / "checkpoint-60" / "trainer_state.json", {"max_steps": 200, "global_step": 60})
    return step


def test_a_run_killed_half_way_shows_what_is_there_and_says_what_is_not(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path / "run", ["pretrain", "smoltalk"])
    cut_off(tmp_path / "run")
    ran = cli("report", tmp_path / "run")
    assert (ran.code, ran.out.split(": ")[-1].strip()) == (0, "3 steps, sft cut off")
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "Not finished: sft ." in page.text
    assert "sft was cut off, and goes on when it is run again; logged up to step 80 of 200." in page.text
    assert "Steps finished 2 of 3" in page.text
    assert "No eval step has finished in this run." in page.text
    assert sum(a.get("class") == "curve" for _, a in page.elements) == 2 * 6


def test_a_step_that_a_process_is_working_on_is_at_work(tmp_path: Path) -> None:
    step = cut_off(tmp_path)
    with (step / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert collect(tmp_path).steps[0].state == "at work"
    assert collect(tmp_path).steps[0].state == "cut off"


def test_a_step_alone_is_a_run_of_one_whether_it_or_the_folder_above_is_named(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path / "mine", ["sft"])
    assert page_of(tmp_path / "mine").text.startswith("mine: report on a run mine A run of 1 step, begun")
    ran = cli("report", tmp_path / "mine" / "sft")
    assert ran.out.replace("\n", "") == f"wrote {tmp_path / 'mine' / 'sft' / 'report.html'}: 1 step"


def test_an_assembly_alone_has_its_data_and_says_what_there_is_none_of(tmp_path: Path) -> None:
    write_run(tmp_path, ["smoltalk"])
    text = page_of(tmp_path).text
    assert "5,200 rows of 8 sources in, 3,852 out" in text
    assert "No step of this run has logged a training." in text
    assert "No eval step has finished in this run." in text
    assert "There are none: they come from an eval step." in text


def test_steps_stand_in_the_order_in_which_one_reads_another(tmp_path: Path) -> None:
    for name, reads in {"b": "@c", "a": "@b", "c": "@gone"}.items():
        write_step(tmp_path, name, kind="sft", inputs={f"{reads}:test": "x"}, started_at=None)
    step = cut_off(tmp_path, "fc")
    (step / "recipe.yaml").write_text(json.dumps({"kind": "fc", "model": str(tmp_path.resolve() / "a" / "model")}))
    assert [one.name for one in collect(tmp_path).steps] == ["c", "b", "a", "fc"]


def test_what_cannot_be_read_is_counted_and_told_and_the_rest_is_shown(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path, ["sft", "dpo", "fc", "eval"])
    (tmp_path / "sft" / "step.json").write_text("{")
    with (tmp_path / "sft" / "metrics.jsonl").open("a") as stream:
        stream.write('\n[1]\n{"loss": 3}\n{"step": 300, "loss": NaN, "grad_norm": 1e999}\n{"step": 400, "lo')
    (tmp_path / "dpo" / "data_report.json").write_text("[]")
    (tmp_path / "dpo" / "recipe.yaml").write_text("a: [")
    write_json(tmp_path / "fc" / "data_report.json", {"rows_in": 3, "sources": [{}]})
    (tmp_path / "fc" / "recipe.yaml").unlink()
    with (tmp_path / "eval" / "samples.jsonl").open("ab") as stream:
        stream.write(b'{"model": 3}\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
    ran = cli("report", tmp_path)
    assert ran.code == 0
    assert "sft unreadable" in ran.out
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for said in (
        "sft : step.json cannot be read: what the step reached is not known .",
        "sft : 3 lines of metrics.jsonl left out: broken, or not what belongs there .",
        "dpo : data_report.json cannot be read .",
        "dpo : recipe.yaml cannot be read .",
        "fc : data_report.json is not as this version writes it, at rows_out .",
        "fc : recipe.yaml is missing .",
        "eval : 3 lines of samples.jsonl left out: broken, or not what belongs there .",
    ):
        assert said in text, said
    assert "Loss train" in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone", "no such folder → name the folder of a run, such as runs/nano"),
        ("file", "not a folder → name the folder of a run, such as runs/nano"),
        ("empty", "no step has left anything in this folder → name the folder of a run: what --out said, or runs/NAME"),
    ],
)
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, cli: Cli, name: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    ran = cli("report", tmp_path / name)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.replace("\n", "") == f"error {tmp_path / name}: {told}"


def test_a_page_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path / "run", ["smoltalk"])
    ran = cli("report", tmp_path / "run", "--out", tmp_path)
    assert (ran.code, ran.err.replace("\n", "")) == (
        2,
        f"error {tmp_path}: a folder, not a file → --out {tmp_path / 'report.html'}",
    )
    (tmp_path / "file").write_text("")
    assert "cannot write there" in cli("report", tmp_path / "run", "--out", tmp_path / "file" / "x.html").err


# --- what a run writes and the report reads --------------------------------------------------------------------------


def test_a_real_step_notes_what_the_page_shows(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    recipe = write_recipe(
        tmp_path,
        "sft",
        chats(12),
        trainer={"max_steps": 3},
        model=str(tiny_model),
        template="chatml",
        test_fraction=0.3,
    )
    for _ in range(2):
        assert cli("sft", recipe, "--out", tmp_path / "out").code == 0
    assert cli("report", tmp_path / "out").code == 0
    manifest = json.loads((tmp_path / "out" / "sft" / "step.json").read_text())
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["warnings"] == []
    assert any("precision" in line for line in manifest["explained"])
    text = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).text
    assert re.search(r"sft finished \d+ s \d[\d,]* \d\.\d{3} \d\.\d{3} \(\d\.\d{3}\) cached 20\d\d-", text)
    for said in ("Memory held GB ", "Loss train", "rows.jsonl", f"cpu {manifest['hardware']['cpu']}"):
        assert said in text, said


# --- large runs ------------------------------------------------------------------------------------------------------


def test_a_large_run_makes_a_small_page_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    write_run(tmp_path, ["sft", "eval"])
    write_jsonl(tmp_path / "sft" / "metrics.jsonl", logs("sft", 6_000, 1))
    long = [{**line, "reply": f"{line['reply']} " * 300} for line in sample_lines(60)]
    write_jsonl(tmp_path / "eval" / "samples.jsonl", long)
    html = render_run(collect(tmp_path))
    text = Page(html).text
    assert len(html) < 5e5
    assert f"Curves of more than {MOST_POINTS} points are drawn with the lowest and the highest of each of" in text
    assert f"{PROMPTS} of 60 prompts" in text
    assert re.search(r"\u2026 \([\d,]+ more characters\)", text)
    assert max(len(word) for word in Page(html).words) < REPLY_CHARACTERS + 20_000


@given(st.integers(1, 900), st.integers(0, 10**6), st.integers(10, 60))
@settings(deadline=None)
def test_thinning_keeps_ends_extremes_and_order_and_no_more_points_than_asked(count: int, seed: int, most: int) -> None:
    values = random.Random(seed).choices(range(-5, 400), k=count)
    points = [(float(step), float(value)) for step, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= max(most, 1)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    assert {points[0], points[-1]} <= set(kept)
    assert {min(values), max(values)} <= {value for _, value in kept}
    if len(points) <= most:
        assert kept == points


# --- figures ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e30, 1e30) | st.floats(-1, 1), min_size=1, max_size=20)
    | st.lists(st.integers(0, 10**12), min_size=1)
)
def test_an_axis_holds_all_values_between_few_labels(values: list[float]) -> None:
    scale = scale_of(values, whole=all(isinstance(value, int) for value in values))
    assert all(-1e-6 <= scale.part(value) <= 1 + 1e-6 for value in values)
    assert 1 <= len(scale.ticks) <= 8
    assert scale.ticks == sorted(set(scale.ticks))


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, ["0", "0.25", "0.50", "0.75", "1.00"]),
        (1.1, 7.9, ["0", "2", "4", "6", "8"]),
        (0.0, 5e-5, ["0", "2e−5", "4e−5", "6e−5"]),
        (-2.0, 2.0, ["−2", "−1", "0", "1", "2"]),
        (0.0, 3.1e6, ["0", "1.00 M", "2.00 M", "3.00 M", "4.00 M"]),
        (8_000, 9_900, ["8,000", "8,500", "9,000", "9,500", "10,000"]),
    ],
)
def test_labels_are_round_and_no_longer_than_they_need_be(low: float, high: float, labels: list[str]) -> None:
    scale = scale_of([low, high])
    assert [say(tick, scale.step) for tick in scale.ticks] == labels


def test_a_border_of_stages_stands_at_its_step_and_one_beyond_the_axis_is_left_out() -> None:
    points = [(step, 1.0 + step) for step in range(0, 201, 2)]
    figure = draw("Loss", "", [("train", points)], [160, 300])
    left, right = float(figure["left"]), float(figure["right"])
    assert list(map(float, figure["borders"])) == [pytest.approx(left + 0.8 * (right - left), abs=0.06)]


def test_one_point_is_a_mark_and_names_of_curves_never_touch() -> None:
    figure = draw("Loss", "", [("train", [(1.0, 2.0)]), ("held out", [(1.0, 2.0)])])
    assert [len(line["marks"]) for line in figure["lines"]] == [1, 1]
    assert [line["path"] for line in figure["lines"]] == ["", ""]
    places = [float(name["y"]) for name in figure["names"]]
    assert abs(places[0] - places[1]) >= 12


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (219, "3 min 39 s"), (7500, "2 h 5 min"), (4e6, "1,111 h 6 min")],
)
def test_durations_are_said_in_two_units(seconds: float, said: str) -> None:
    assert say_seconds(seconds) == said


@pytest.mark.parametrize(
    ("sample", "mark", "why"),
    [
        ({"expected": "9", "reply": " 9\n", "stopped": True}, "right", ""),
        ({"expected": "9", "reply": "9", "stopped": False}, "wrong", "does not stop"),
        ({"expected": "9", "reply": "8"}, "wrong", ""),
        ({"unwanted": False, "too_long": False, "reply": "x"}, "right", ""),
        ({"irrelevance": False, "error": "a call", "detail": "f", "reply": "x"}, "wrong", "a call: f"),
        ({"strict": [True, False], "instructions": ["a:b", "c:d"], "reply": "x"}, "wrong", "not followed: c:d"),
        ({"log_prob_chosen": -3, "log_prob_rejected": -5.5}, "right", "the chosen answer is likelier"),
        ({"acc": 1.0, "acc_norm": 0.0}, "right", ""),
        ({"accuracy": False, "reply": "x"}, "wrong", ""),
        ({"ratings": [7, None], "reply": "x"}, "", "graded 7, not"),
        ({"reference_reply": "y", "win_rate": 0.5, "reply": "x"}, "", "ties with the reference"),
        ({"reply": "x"}, "", ""),
    ],
)
def test_a_sample_is_right_or_wrong_as_its_measurement_says(sample: dict[str, Any], mark: str, why: str) -> None:
    assert verdict(sample) == (mark, why)


def test_models_whose_samples_come_in_another_order_are_matched_by_what_was_asked(tmp_path: Path) -> None:
    write_run(tmp_path, ["eval"])
    lines = list(sample_lines())
    random.Random(0).shuffle(lines)
    write_jsonl(tmp_path / "eval" / "samples.jsonl", lines)
    text = page_of(tmp_path).text
    found = re.findall(r"What is (\d+) \+ \d+\? expected (\d+) .*?fc ✓ right (\d+)", text)
    assert len(found) == PROMPTS
    assert all(2 * int(asked) == int(expected) == int(reply) for asked, expected, reply in found)


def test_colours_of_text_stand_out_from_what_they_stand_on() -> None:
    """The contrast that WCAG 2 asks for at level AA, 4.5 to 1, in both themes."""
    css = [(LOOK / name).read_text() for name in ("pages/look.css", "run_page/run.css")]
    dark_rule = re.compile(r"@media \(prefers-color-scheme: dark\) \{(.*?\})\s*\}", re.S)
    light = dict(re.findall(r"--([\w-]+): (#\w{6})", "".join(dark_rule.sub("", text) for text in css)))
    dark = light | dict(re.findall(r"--([\w-]+): (#\w{6})", "".join("".join(dark_rule.findall(text)) for text in css)))
    assert light["paper"] != dark["paper"]
    for theme in (light, dark):
        for ink in ("ink", "muted", "kept", "gone-ink", "right", "wrong"):
            assert _contrast(theme[ink], theme["paper"]) >= 4.5, ink
        assert _contrast(theme["ink"], theme["soft"]) >= 4.5
        # Curves and bars are no text: 3 to 1, except where an outline would not help.
        assert _contrast(theme["kept"], theme["paper"]) >= 3


def _contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_a_run_is_refused_by_an_error_of_its_own_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "gone")


def test_a_prompt_that_is_asked_twice_counts_twice(tmp_path: Path) -> None:
    write_run(tmp_path, ["eval"])
    write_jsonl(tmp_path / "eval" / "samples.jsonl", [line for line in sample_lines() for _ in range(2)])
    assert f"{PROMPTS} of 24 prompts" in page_of(tmp_path).text
