"""A model's card: metadata that the Hub reads, and how the model was made, for people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.export import licences
from smolalign.export.card_text import body
from smolalign.export.facts import Facts, read_facts
from smolalign.export.provenance import Made, Provenance, Score, provenance
from smolalign.export.public import public, public_text
from smolalign.recipe.load import dump_yaml

# Where the benchmarks' rows are on the Hub, as lm-evaluation-harness names them: id, configuration, name.
BENCHMARKS = {
    "hellaswag": ("Rowan/hellaswag", None, "HellaSwag"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "ARC (easy)"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "ARC (challenge)"),
    "piqa": ("baber/piqa", None, "PIQA"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "WinoGrande"),
    "openbookqa": ("allenai/openbookqa", "main", "OpenBookQA"),
    "commonsense_qa": ("tau/commonsense_qa", None, "CommonsenseQA"),
    "mmlu": ("cais/mmlu", None, "MMLU"),
    "mmlu_cloze": ("cais/mmlu", None, "MMLU (cloze)"),
    "gsm8k": ("openai/gsm8k", "main", "GSM8K"),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", None, "MMLU-Pro"),
    "triviaqa": ("mandarjoshi/trivia_qa", None, "TriviaQA"),
    "bbh": ("SaylorTwift/bbh", None, "BIG-Bench Hard"),
    "ifeval": ("google/IFEval", None, "IFEval"),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Card:
    """What a card is made from.

    Attributes:
        name: what the model is called.
        place: what `from_pretrained` is told in the example: a folder or a Hub id.
        facts: sizes of the model.
        origin: how it came to be.
        licence: the Hub's identifier of what the model is given out under; None where nobody has said.
    """

    name: str
    place: str
    facts: Facts
    origin: Provenance
    licence: str | None = None


def step_card(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The card of a step's own model, from its manifest and those of the steps above it.

    Raises:
        UserError: the model in the folder is not whole.
    """
    run = folder.resolve().parent.name
    place = f"{run}/{folder.name}/model" if folder.is_absolute() else (folder / "model").as_posix()
    return render(Card(f"{run}/{folder.name}", place, read_facts(folder / "model"), provenance(folder, manifest)))


def render(card: Card) -> str:
    """The card's text: a block of YAML, then Markdown. No path of this machine and no secret is in it."""
    return f"---\n{dump_yaml(public(metadata(card)))}---\n\n{body(card)}"


def metadata(card: Card) -> dict[str, Any]:
    """The card's metadata by the Hub's specification (huggingface/hub-docs, modelcard.md), without what is not known.

    `license` is `unknown` where nobody has said what the model is given out under: that of its base or data would be a
    guess.
    """
    origin = card.origin
    base = (origin.root or "").partition("@")[0]
    sources = list(_sources(origin.steps))
    found: dict[str, Any] = {
        "license": card.licence or "unknown",
        "language": _languages(sources),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base if _HUB_ID.fullmatch(base) else None,
        "datasets": list(dict.fromkeys(s for s in sources if _HUB_ID.fullmatch(s))),
        "tags": ["smolalign", *_tags(card)],
    }
    results = [_result(score) for score in origin.scores if math.isfinite(score.value)]
    if results:
        found["model-index"] = [{"name": card.name, "results": results}]
    return {name: value for name, value in found.items() if value}


def _tags(card: Card) -> Iterable[str]:
    kinds = [step.kind for step in card.origin.steps if step.kind not in ("quality", "smoltalk", "eval")]
    named = {"fc": "function-calling", "pretrain": "pretraining"}
    yield from dict.fromkeys(named.get(kind, kind) for kind in kinds)
    if kinds:
        yield "trl"
    if card.facts.chat:
        yield "conversational"


def _sources(steps: Iterable[Made]) -> Iterable[str]:
    """Where rows came from in the end, of those that something was trained on: Hub ids and paths."""
    for step in steps:
        recipe = step.manifest.get("recipe", {})
        mine = {name for name in step.manifest.get("inputs", {}) if name.startswith("@")}
        for source in [*recipe.get("data", []), *recipe.get("tokenizer_data", [])]:
            place = source["source"]
            if not any(Path(place).parts[-2:] == (name[1:].partition(":")[0], "data") for name in mine):
                yield place


def _languages(sources: list[str]) -> list[str]:
    """Those of the data, where they are known for every source."""
    known = [licences.of_source(source) for source in sources]
    if not known or not all(one and one.languages for one in known):
        return []
    return list(dict.fromkeys(language for one in known if one for language in one.languages))


def _result(score: Score) -> dict[str, Any]:
    name = score.task.get("benchmark") or score.task.get("task") or score.title
    dataset, config, title = BENCHMARKS.get(name, (public_text(str(name)), None, score.title or name))
    given: dict[str, Any] = {"type": dataset, "name": title, "config": config}
    metric = "accuracy" if score.metric.startswith("acc") else score.metric
    return {
        "task": {"type": "text-generation", "name": score.title},
        "dataset": {key: value for key, value in given.items() if value},
        "metrics": [{"type": metric, "value": score.value, "name": score.metric}],
    }
