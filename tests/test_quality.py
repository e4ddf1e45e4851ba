"""The quality step: a scorer of educational value that says how good it is, and scores the same everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly.words import word_hashes
from smolalign.errors import UserError
from smolalign.pipeline import StepResult, run_step
from smolalign.quality.annotations import read_annotated
from smolalign.quality.features import PLACES, features
from smolalign.quality.figures import held_out_figures
from smolalign.quality.learn import learn, require_learner
from smolalign.quality.scorer import UNIT, Scorer, load_scorer, whole_scores
from smolalign.recipe.data import AnnotatedSource
from smolalign.recipe.load import load_recipe
from smolalign.recipe.shipped import find_recipe
from smolalign.report import Silent

Cli = Callable[..., Ran]
GOOD = (
    "Water boils at 100 degrees because its vapour then pushes as hard as the air. For example, on a mountain it boils"
)
POOR = "BUY NOW!!! $$$ cheap watches click here {} casino bonus"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> StepResult:
    """The shipped recipe, run."""
    recipe = load_recipe(find_recipe("nano/quality"))
    return run_step("quality", recipe, tmp_path_factory.mktemp("run"), Silent())


def annotated(count: int) -> list[dict[str, Any]]:
    """Texts of two kinds that a few words tell apart."""
    return [
        {"text": (GOOD if i % 2 else POOR).format(i) + f" {i}", "score": 4 + i // 2 % 2 if i % 2 else i // 2 % 2}
        for i in range(count)
    ]


def test_the_embedded_annotations_teach_to_tell_text_mathematics_and_code(nano: StepResult) -> None:
    metrics = nano.manifest["metrics"]
    assert metrics["precision"] > 0.9
    assert metrics["recall"] > 0.8
    for kind in ("text", "math", "code"):
        figures = metrics["kinds"][kind]
        assert figures["held_out"] == 54
        assert figures["spearman"] > 0.9
        assert figures["f1"] > 0.8
    assert np.sum(metrics["confusion"]) == metrics["held_out"] == 162
    assert metrics["documents_per_second"] > 0
    assert [at["threshold"] for at in metrics["thresholds"]] == [1, 2, 3, 4, 5]
    page = (nano.folder / "scorer" / "README.md").read_text(encoding="utf-8")
    assert f"{metrics['precision']:.3f} | {metrics['recall']:.3f}" in page


def test_a_scorer_is_data_that_scores_the_same_once_it_is_read_back(nano: StepResult, tmp_path: Path) -> None:
    assert sorted(file.name for file in (nano.folder / "scorer").iterdir()) == [
        "README.md",
        "scorer.json",
        "scorer.safetensors",
    ]
    scorer = load_scorer(nano.folder / "scorer")
    scorer.save(tmp_path)
    texts = [GOOD, POOR, "", "def f(x): return x", "Élan vital à 漢字 \ud800"]
    assert load_scorer(tmp_path).score(texts).tobytes() == scorer.score(texts).tobytes()
    for name in ("scorer.json", "scorer.safetensors"):
        assert (tmp_path / name).read_bytes() == (nano.folder / "scorer" / name).read_bytes()


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(max_size=80) | st.sampled_from([GOOD, POOR, "a\n  b = 1;\n"]), max_size=4))
def test_scores_are_sums_of_whole_numbers_by_a_plain_loop_too(nano: StepResult, texts: list[str]) -> None:
    scorer = load_scorer(nano.folder / "scorer")
    assert scorer.score(texts).tolist() == [plainly(scorer, text) for text in texts]


def test_a_text_scores_the_same_alone_and_among_many(nano: StepResult) -> None:
    scorer = load_scorer(nano.folder / "scorer")
    texts = [f"{GOOD if number % 3 else POOR} {number} " * (1 + number % 20) for number in range(300)]
    alone = np.concatenate([scorer.score([text]) for text in texts[-40:]])
    assert scorer.score(texts)[-40:].tobytes() == alone.tobytes()


def plainly(scorer: Scorer, text: str) -> float:
    """The score of one text with Python's own numbers."""
    [seen] = features([text], scorer.max_characters)
    total = scorer.bias
    for edges, weights, figure in zip(scorer.edges, scorer.plain, seen.plain[0], strict=True):
        total += int(weights[sum(int(figure) >= int(edge) for edge in edges)])
    score = total * UNIT
    for weights, hashed in zip(scorer.runs, runs_of(text), strict=True):
        places = {place_of(value) for value in hashed}
        score += sum(int(weights[place]) for place in places) * UNIT / math.sqrt(max(1, len(places)))
    return score


def runs_of(text: str) -> tuple[list[int], list[int]]:
    """Words and runs of four bytes of a text, as numbers."""
    raw = text.encode("utf-8", "surrogatepass")
    folded = bytes(
        48 if 48 <= byte < 58 else byte + 32 if 65 <= byte < 91 else 32 if byte in b"\t\r" else byte for byte in raw
    )
    words = word_hashes([folded.decode("utf-8", "surrogatepass")]).values.tolist()
    return words, [int.from_bytes(folded[at : at + 4], "little") for at in range(len(folded) - 3)]


def place_of(value: int) -> int:
    odd, all_bits = 0x9E3779B97F4A7C15, 2**64 - 1
    mixed = value * odd & all_bits
    return ((mixed ^ mixed >> 32) * odd & all_bits) * PLACES >> 64


def test_what_is_learned_is_what_scikit_learn_fitted() -> None:
    rows = annotated(40)
    texts, scores = [row["text"] for row in rows], np.array([float(row["score"]) for row in rows])
    from smolalign.quality import learn as learning

    seen = list(features(texts, 200))
    edges = learning._edges(np.concatenate([one.plain for one in seen]))
    rows_seen = learning._matrix(seen, edges)
    scorer = learn(texts, scores, 200, 0, Silent())
    fitted = learning._fitted(rows_seen, scores, scorer.about["alpha"])
    assert np.abs(fitted.predict(rows_seen) - scorer.score(texts)).max() < 1e-4


def test_figures_are_those_of_scikit_learn() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 6, 300).astype(float)
    scores = wanted + rng.normal(0, 1.2, 300)
    kinds = ["code" if i % 3 else "text" for i in range(300)]
    found = held_out_figures(scores, wanted, kinds, 3)
    rounded = whole_scores(scores)
    assert found["confusion"] == confusion_matrix(wanted, rounded, labels=range(6)).tolist()
    for at in found["thresholds"]:
        expected = precision_recall_fscore_support(
            wanted >= at["threshold"], rounded >= at["threshold"], average="binary"
        )
        assert (at["precision"], at["recall"], at["f1"]) == pytest.approx(expected[:3])
    assert found["precision"] == found["thresholds"][2]["precision"]
    assert found["spearman"] == pytest.approx(spearmanr(scores, wanted).statistic)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(np.clip(scores, 0, 5) - wanted).mean())
    assert found["kinds"]["text"]["held_out"] == 100


def test_scores_round_as_the_published_classifiers_do() -> None:
    scores = [-3.0, 0.5, 1.5, 2.4999, 2.5, 2.5001, 4.6, 9.0]
    assert whole_scores(np.array(scores)).tolist() == [round(max(0, min(score, 5))) for score in scores]


@pytest.mark.parametrize(
    ("record", "score", "kind"),
    [
        ({"text": "a", "score": 3}, 3.0, "here"),
        ({"text": "a", "score": 3.25, "source": "web"}, 3.25, "web"),
        ({"content": "a", "score": " 4 ", "lang": "python"}, 4.0, "python"),
        ({"text": "a", "int_score": "2", "kind": None}, 2.0, "here"),
    ],
)
def test_annotations_are_recognised(tmp_path: Path, record: dict[str, Any], score: float, kind: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [record])
    found = read_annotated(AnnotatedSource(source=str(file)), "here", 0, 0.0)
    assert (found.texts, found.scores, found.kinds) == (["a"], [score], [kind])


@pytest.mark.parametrize(
    ("records", "asked", "said"),
    [
        ([{"text": "a", "score": 6}], {}, "score is no number from 0 to 5: 6"),
        ([{"text": "a", "score": True}], {}, "score is no number from 0 to 5: true"),
        ([{"text": "a", "score": "good"}], {}, "score is no number from 0 to 5"),
        ([{"text": "a", "score": None}], {}, "score is no number from 0 to 5: null"),
        ([{"text": 7, "score": 1}], {}, "text is no text: 7"),
        ([{"text": "a", "stars": 1}], {}, "no column of a score among text, stars"),
        ([{"body": "a", "score": 1}], {}, "no column of a text among body, score"),
        ([{"text": "a", "score": 1}], {"score": "stars"}, "no column 'stars'"),
        ([{"text": "  ", "score": 1}], {}, "holds no annotated text"),
    ],
)
def test_annotations_that_are_none_say_so(tmp_path: Path, records: list[Any], asked: dict[str, str], said: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(UserError) as error:
        read_annotated(AnnotatedSource(source=str(file), **asked), "a", 0, 0.01)
    assert said in error.value.line()


def test_broken_annotations_are_counted_and_few_of_them_borne(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [*annotated(99), {"text": "x", "score": "?"}])
    found = read_annotated(AnnotatedSource(source=str(file), max_rows=50), "a", 0, 0.01)
    assert (found.rows_in, len(found.texts), found.dropped) == (100, 50, {"broken": 1, "over max_rows": 49})
    with pytest.raises(UserError, match=r"score is no number"):
        read_annotated(AnnotatedSource(source=str(file)), "a", 0, 0.001)


def test_what_is_measured_on_is_not_trained_on(tmp_path: Path, cli: Cli) -> None:
    rows = annotated(80)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows[:10])
    recipe = tmp_path / "quality.yaml"
    recipe.write_text("kind: quality\ndata: [{source: a.jsonl}]\neval_data: [{source: b.jsonl}]\ntest_fraction: 0.2\n")
    ran = cli("quality", recipe, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "kept from 3 on" in ran.out
    manifest = json.loads((tmp_path / "run/quality/step.json").read_text())
    [source] = manifest["data"]
    assert source["rows_in"] == 80
    assert source["dropped"] == {"also in eval_data": {"rows": 10}}
    assert source["rows_out"] + source["rows_test"] == 70
    assert manifest["metrics"]["texts"] == source["rows_out"]
    assert manifest["metrics"]["held_out"] == 10 + source["rows_test"]
    assert "cached" in cli("quality", recipe, "--out", tmp_path / "run").out


def test_annotations_of_one_score_teach_nothing(tmp_path: Path, cli: Cli) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"t {i}", "score": 2} for i in range(4)])
    (tmp_path / "quality.yaml").write_text("kind: quality\ndata: [{source: a.jsonl}]\n")
    ran = cli("quality", tmp_path / "quality.yaml", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "4 texts to learn from, all of one score" in ran.err
    assert not (tmp_path / "run/quality/scorer").exists()


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        require_learner()
    assert "pip install 'smolalign[quality]'" in error.value.line()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "scorer.json").write_text("{"), "scorer.json is broken"),
        (lambda folder: (folder / "scorer.json").write_text('{"version": 99}'), "a scorer of version 99"),
        (lambda folder: (folder / "scorer.safetensors").unlink(), "no scorer.safetensors beside scorer.json"),
        (lambda folder: (folder / "scorer.safetensors").write_bytes(b"\0" * 40), "is broken"),
    ],
)
def test_a_scorer_that_is_not_whole_is_one_line(
    nano: StepResult, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    load_scorer(nano.folder / "scorer").save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        load_scorer(tmp_path)
    assert said in error.value.line()
