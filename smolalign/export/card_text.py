"""The part of a model's card that is for people: what the model is, how to use it, and how it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign.export import licences
from smolalign.export.markdown import code, count, duration, fenced, folded, prose, table
from smolalign.export.provenance import Made, Score
from smolalign.export.public import public, public_text
from smolalign.memory import say_size
from smolalign.recipe.load import dump_yaml

if TYPE_CHECKING:
    from smolalign.export.card import Card

# A mixture may have hundreds of files; the largest are named.
NAMED_SOURCES = 30
_CHAT = """\
from transformers import pipeline

generate = pipeline("text-generation", model={place})
messages = [{{"role": "user", "content": "What can you help me with?"}}]
print(generate(messages, max_new_tokens=128)[0]["generated_text"][-1]["content"])"""
_TEXT = """\
from transformers import pipeline

generate = pipeline("text-generation", model={place})
print(generate("Once upon a time", max_new_tokens=64)[0]["generated_text"])"""


def body(card: Card) -> str:
    """The card's Markdown. A section about which nothing is known is left out."""
    steps = card.origin.steps
    trained = [step for step in steps if step.manifest.get("truncation")]
    sections = [
        f"# {prose(card.name)}",
        _what(card),
        f"## Use\n\n{_use(card)}",
        _chain(card, trained),
        _stages(trained),
        _data(steps),
        _trained_on(trained),
        _scores(card.origin.scores),
        _held_out(trained),
        _hyperparameters(trained),
        _where(steps),
        _licences(card),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _what(card: Card) -> str:
    config, facts = card.facts.config, card.facts
    sizes = [
        f"{count(facts.parameters)} parameters ({', '.join(facts.dtypes)})" if facts.parameters else "",
        f"{count(config['num_hidden_layers'])} layers" if _is_number(config.get("num_hidden_layers")) else "",
        f"width {count(config['hidden_size'])}" if _is_number(config.get("hidden_size")) else "",
        f"{count(config['vocab_size'])} tokens in the vocabulary" if _is_number(config.get("vocab_size")) else "",
        f"reads up to {count(config['max_position_embeddings'])} tokens"
        if _is_number(config.get("max_position_embeddings"))
        else "",
    ]
    kind = f"A {prose(config['model_type'])} language model" if config.get("model_type") else "A language model"
    made = " → ".join(code(step.name) for step in card.origin.steps)
    how = f"Made with smolalign: {made}." if made else "Exported with smolalign, which did not train it."
    began = "Training began with" if made else "It comes from"
    root = f" {began} {code(card.origin.root)}." if card.origin.root else ""
    return f"{kind}: {', '.join(filter(None, sizes))}. {how}{root}"


def _use(card: Card) -> str:
    place = public_text(card.place)
    # A base model has a template, but nothing has taught it to answer.
    chats = card.facts.chat and [step.kind for step in card.origin.steps][-1:] != ["pretrain"]
    snippet = (_CHAT if chats else _TEXT).format(place=json.dumps(place))
    shell = fenced(f"smolalign chat {shlex.quote(place)}", "sh")
    return fenced(snippet, "python") + (f"\n\nOr in a terminal:\n\n{shell}" if chats else "")


def _chain(card: Card, trained: Sequence[Made]) -> str:
    if not card.origin.steps:
        return ""
    rows = []
    for step in trained:
        manifest, metrics = step.manifest, step.manifest.get("metrics", {})
        rows.append(
            [
                code(step.name),
                prose(step.kind),
                code(_began_with(step)),
                count(manifest["truncation"].get("rows")),
                count(metrics.get("steps")),
                count(step.tokens_seen),
                _figure(metrics.get("train_loss")),
                _wall_time(manifest),
            ]
        )
    heads = ["step", "kind", "began with", "rows", "optimizer steps", "tokens seen", "mean loss", "wall time"]
    lost = "\n".join(f"- Not known: {prose(line)}." for line in card.origin.lost)
    recipes = "\n\n".join(
        folded(
            f"Recipe of <code>{_html(public_text(step.name))}</code>, every default filled in",
            fenced(dump_yaml(_recipe(step)), "yaml"),
        )
        for step in card.origin.steps
    )
    return "\n\n".join(filter(None, ["## How it was made", table(heads, rows) if rows else "", lost, recipes]))


def _stages(trained: Sequence[Made]) -> str:
    """What pretraining trained on, stage by stage: the share of each source, as asked for and as it was seen."""
    rows = [
        [
            prose(str(stage.get("name"))),
            count(stage.get("tokens_seen")),
            prose(str(name)),
            f"{100 * of.get('asked', 0):.2f} %",
            f"{100 * of.get('seen', 0):.2f} %",
            f"{of.get('epochs', 0):.2f}",
        ]
        for step in trained
        for stage in step.manifest.get("metrics", {}).get("stages", [])
        for name, of in stage.get("sources", {}).items()
    ]
    heads = ["stage", "tokens", "source", "share asked for", "share seen", "passes over it so far"]
    return f"### Stages of pretraining\n\n{table(heads, rows)}" if rows else ""


def _began_with(step: Made) -> str:
    model = step.manifest.get("recipe", {}).get("model")
    return "nothing" if model is None else _short(str(model), step)


def _recipe(step: Made) -> Any:
    """The step's recipe as another machine could read it: steps by their names, files without their folders."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        if isinstance(value, list):
            return [named(item) for item in value]
        return _short(value, step) if isinstance(value, str) else value

    recipe = named(dict(step.manifest.get("recipe", {})))
    return public({"kind": recipe.pop("kind", step.kind), **recipe})


def _short(text: str, step: Made) -> str:
    """`@step` for the path of a step's model or rows, in a recipe."""
    parts = Path(text).parts
    if text.startswith("/") and parts[-1:] in (("model",), ("data",), ("scorer",)):
        name = f"@{parts[-2]}"
        if any(reference.partition(":")[0] == name for reference in step.manifest.get("inputs", {})):
            return name
    return text


def _data(steps: Sequence[Made]) -> str:
    rows = []
    for step in steps:
        given = step.manifest.get("data") or []
        sources = step.manifest.get("recipe", {}).get("data", [])
        for number, entry in enumerate(given):
            place = str(sources[number]["source"]) if len(sources) == len(given) else str(entry.get("source"))
            shown = _short(place, step)
            rows.append(
                [
                    code(step.name),
                    code(shown if shown.startswith("@") else entry.get("source")),
                    count(entry.get("rows_in")),
                    _dropped(entry.get("dropped") or {}),
                    count(entry.get("rows_out")),
                    "see above" if shown.startswith("@") else _licence(place),
                ]
            )
    if not rows:
        return ""
    heads = ["step", "source", "rows in", "dropped, and why", "rows out", "licence"]
    return f"## Data\n\n{table(heads, rows)}"


def _dropped(reasons: Mapping[str, Any]) -> str:
    return "; ".join(f"{prose(reason)}: {count(lost['rows'])}" for reason, lost in reasons.items()) or "none"


def _licence(source: str) -> str:
    found = licences.of_source(source)
    return found.licence if found else licences.NOT_KNOWN


def _trained_on(trained: Sequence[Made]) -> str:
    """The truncation ledger: rows and tokens that were trained on, cut and dropped for their length."""
    rows = []
    for step in trained:
        ledger = step.manifest["truncation"]
        sources = sorted(ledger.get("by_source", {}).items(), key=lambda item: -item[1]["rows"])
        for source, counts in sources[:NAMED_SOURCES]:
            rows.append([code(step.name), code(source), *_lengths(counts)])
        if len(sources) > NAMED_SOURCES:
            rows.append([code(step.name), f"and {len(sources) - NAMED_SOURCES} more", *[" "] * 4])
        rows.append([code(step.name), "all", *_lengths(ledger)])
        if held_out := ledger.get("held_out"):
            rows.append([code(step.name), "held out", *_lengths(held_out)])
    if not rows:
        return ""
    heads = ["step", "source", "rows", "tokens", "cut: rows (tokens)", "dropped: rows (tokens)"]
    note = "What was trained on, and what was lost because it was longer than the step's `max_length`:"
    return f"## Rows trained on\n\n{note}\n\n{table(heads, rows)}"


def _lengths(counts: Mapping[str, Any]) -> list[str]:
    lost = [f"{count(counts[f'rows_{how}'])} ({count(counts[f'tokens_{how}'])})" for how in ("cut", "dropped")]
    return [count(counts["rows"]), count(counts["tokens"]), *lost]


def _scores(scores: Sequence[Score]) -> str:
    if not scores:
        return ""
    rows = [
        [code(score.title), code(score.metric), _measured(score), count(score.items), _how(score.task)]
        for score in scores
    ]
    note = "Shares are from 0 to 1. ± is the standard error, where one is known."
    return f"## Scores\n\n{note}\n\n{table(['measurement', 'figure', 'value', 'items', 'how'], rows)}"


def _measured(score: Score) -> str:
    return _figure(score.value) + (f" ± {_figure(score.stderr)}" if score.stderr is not None else "")


def _how(task: Mapping[str, Any]) -> str:
    """What gives a measurement its meaning."""
    shots = task.get("num_fewshot")
    parts = [
        str(task.get("benchmark") or task.get("task", "")),
        f"{shots} examples" if shots is not None else "",
        "through the chat template" if task.get("chat") else "",
        f"a sample of {task['max_rows']} rows" if task.get("max_rows") else "",
        ", ".join(public_text(str(source.get("source", ""))) for source in task.get("data", [])),
    ]
    return prose(", ".join(filter(None, parts)))


def _held_out(trained: Sequence[Made]) -> str:
    rows = []
    for step in trained:
        metrics = step.manifest.get("metrics", {})
        for name, after in metrics.items():
            if name.startswith("eval_") and not name.endswith("_before"):
                before = metrics.get(f"{name}_before")
                rows.append([code(step.name), code(name.removeprefix("eval_")), _figure(before), _figure(after)])
    if not rows:
        return ""
    return f"## On rows held out\n\n{table(['step', 'figure', 'before training', 'after'], rows)}"


def _hyperparameters(trained: Sequence[Made]) -> str:
    told = {step.name: step.manifest["hyperparameters"] for step in trained if step.manifest.get("hyperparameters")}
    names = dict.fromkeys(name for values in told.values() for name in values)
    rows = [[code(name), *(prose(_value(values.get(name))) for values in told.values())] for name in names]
    return f"## Hyperparameters\n\n{table(['', *map(code, told)], rows)}" if rows else ""


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "–" if value is None else str(value)


def _where(steps: Sequence[Made]) -> str:
    rows = []
    for step in steps:
        manifest, versions = step.manifest, step.manifest.get("versions", {})
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "commit" and version)
        rows.append(
            [
                code(step.name),
                prose(_hardware(manifest.get("hardware"))),
                count(manifest.get("processes", 1)),
                str(manifest.get("seed", "–")),
                _wall_time(manifest),
                prose(libraries),
                code(versions.get("commit", "")) or "not known",
            ]
        )
    heads = ["step", "hardware", "processes", "seed", "wall time", "versions", "commit of smolalign"]
    return f"## Where, and with what\n\n{table(heads, rows)}" if rows else ""


def _wall_time(manifest: Mapping[str, Any]) -> str:
    taken = duration(manifest.get("wall_seconds", 0))
    return f"{taken} since it was taken up" if manifest.get("resumed") else taken


def _hardware(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "not known"
    gpu = found.get("gpu")
    machine = f"{found['cpu']}, {found['cores']} cores, {say_size(found['memory_bytes'])} GB"
    return f"{gpu['count']} × {gpu['name']}, {say_size(gpu['memory_bytes'])} GB each; {machine}" if gpu else machine


def _licences(card: Card) -> str:
    lines = list(_licence_lines(card))
    return "## Licence\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence_lines(card: Card) -> Iterator[str]:
    yield f"This model: {prose(card.licence)}." if card.licence else "This model: not said by whoever published it."
    if card.origin.root:
        base = licences.MODELS.get(card.origin.root.partition("@")[0])
        yield f"{code(card.origin.root)}: {base.licence if base else licences.NOT_KNOWN}."
    if card.origin.steps:
        yield "The data: as in the table above."


def _figure(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "–"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
