"""The same prompts answered by each model of an eval step, side by side: a seeded handful a task."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolalign.run_page.collect import SAMPLES, StepFolder, broken_lines, listed, number, table

# Prompts of a task on the page, those of them that are seen at once, and characters of a prompt and of a reply.
PROMPTS, OPEN_PROMPTS, PROMPT_CHARACTERS, REPLY_CHARACTERS = 5, 2, 1200, 1000
# What a measurement may say of an item as 0 or 1, the first that is there.
_VERDICTS = ("accuracy", "exact", "correct", "exact_match", "em", "acc")


def samples(step: StepFolder) -> tuple[list[dict[str, Any]], list[str]]:
    """Per task: its prompts, each with every model's reply and whether it is right; and what could not be read.

    `samples.jsonl` may be large: it is read once for the places of its lines, and of these the few chosen ones again.
    """
    file = step.folder / SAMPLES
    places, broken = _places(file)
    seed = step.manifest.get("seed")
    shown = []
    for title, models in places.items():
        keys = [key for key in next(iter(models.values())) if all(key in found for found in models.values())]
        if not keys:
            continue
        chosen = random.Random(f"{seed} {title}").sample(range(len(keys)), min(PROMPTS, len(keys)))
        read = [{model: _at(file, models[model][keys[i]]) for model in models} for i in sorted(chosen)]
        prompts = [_prompt(by_model) for by_model in read]
        replies = any(prompt["replies"] for prompt in prompts)
        shown.append({"title": title, "of": len(keys), "prompts": prompts, "replies": replies})
    return shown, broken_lines(SAMPLES, broken)


def _places(file: Path) -> tuple[dict[str, dict[str, dict[bytes, int]]], int]:
    """By task, model and prompt: where its line begins in the file; and how many lines could not be used."""
    places: dict[str, dict[str, dict[bytes, int]]] = {}
    seen: Counter[tuple[str, str, bytes]] = Counter()
    broken, begin = 0, 0
    try:
        stream = file.open("rb")
    except OSError:
        return {}, 0
    with stream:
        for line in stream:
            sample = _read(line)
            model, title = sample.get("model"), sample.get("task")
            if isinstance(model, str) and isinstance(title, str):
                digest = hashlib.blake2b(json.dumps(_asked(sample)).encode(), digest_size=12).digest()
                # What is asked twice is told apart by how often it came before.
                again = seen[model, title, digest]
                seen[model, title, digest] += 1
                found = places.setdefault(title, {}).setdefault(model, {})
                found[digest + again.to_bytes(4, "big")] = begin
            else:
                broken += bool(line.strip())
            begin += len(line)
    return places, broken


def _asked(sample: Mapping[str, Any]) -> list[Any]:
    """What tells an item from others: its number, where it has one, for its prompt may hold the model's own turns."""
    if "item" in sample:
        return [sample.get(key) for key in ("of", "item", "filter")]
    return [sample.get("key"), sample.get("prompt")]


def _at(file: Path, begin: int) -> Mapping[str, Any]:
    with file.open("rb") as stream:
        stream.seek(begin)
        return _read(stream.readline())


def _read(line: bytes) -> Mapping[str, Any]:
    try:
        return table(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _prompt(by_model: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A prompt, what is expected, and each model's reply with its verdict."""
    first = next(iter(by_model.values()))
    expected = first.get("expected", first.get("target"))
    cards = []
    for model, sample in by_model.items():
        mark, why = verdict(sample)
        reply = sample.get("reply")
        cards.append(
            {
                "model": model,
                "mark": mark,
                "why": why,
                "reply": _text(reply) if reply is not None else _figures(sample),
                "is_reply": reply is not None,
            }
        )
    same = all(sample.get("prompt") == first.get("prompt") for sample in by_model.values())
    turns = _turns(first.get("prompt")) if "prompt" in first else []
    return {
        # Turns in which the models answered differently are none of the prompt.
        "turns": turns if same else [turn for turn in turns if turn["role"] != "assistant"],
        "tools": [str(name) for name in listed(first.get("tools"))],
        "expected": "" if expected is None else _text(expected),
        "cards": cards,
        "replies": any(card["is_reply"] for card in cards),
    }


def verdict(sample: Mapping[str, Any]) -> tuple[str, str]:
    """`right`, `wrong` or neither, and why, from what the measurement wrote beside the reply."""
    if "ast" in sample or "irrelevance" in sample:
        good = sample.get("ast", sample.get("irrelevance")) is True
        return _mark(good), ": ".join(str(sample[key]) for key in ("error", "detail") if sample.get(key))
    if isinstance(sample.get("strict"), list):
        names, verdicts = listed(sample.get("instructions")), sample["strict"]
        missed = [str(name) for name, met in zip(names, verdicts, strict=False) if met is not True]
        return _mark(all(met is True for met in verdicts)), f"not followed: {', '.join(missed)}" if missed else ""
    if "unwanted" in sample or "too_long" in sample:
        flaws = [name.replace("_", " ") for name in ("unwanted", "too_long") if sample.get(name)]
        return _mark(not flaws), ", ".join(flaws)
    chosen, rejected = number(sample.get("log_prob_chosen")), number(sample.get("log_prob_rejected"))
    if chosen is not None and rejected is not None:
        return _mark(chosen > rejected), f"the {'chosen' if chosen > rejected else 'rejected'} answer is likelier"
    if isinstance(sample.get("ratings"), list):
        return "", f"graded {', '.join(_grade(one) for one in sample['ratings'])}"
    if "reference_reply" in sample:
        rate = number(sample.get("win_rate"))
        how = "is preferred to" if (rate or 0) > 0.5 else "ties with" if rate == 0.5 else "loses to"
        return "", "not judged" if rate is None else f"{how} the reference"
    for name in _VERDICTS:
        if sample.get(name) in (0, 1):
            return _mark(sample[name] == 1), ""
    expected, reply = sample.get("expected"), sample.get("reply")
    if isinstance(expected, str) and isinstance(reply, str):
        stopped = sample.get("stopped") is not False
        return _mark(expected.strip() == reply.strip() and stopped), "" if stopped else "does not stop"
    return "", ""


def _grade(rating: object) -> str:
    grade = number(rating)
    return "not" if grade is None else f"{grade:g}"


def _mark(good: bool) -> str:
    return "right" if good else "wrong"


def _turns(prompt: object) -> list[dict[str, str]]:
    """A prompt as turns: a conversation, a text, or several texts of which the first is shown."""
    if isinstance(prompt, list) and prompt and all(isinstance(turn, dict) for turn in prompt):
        return [{"role": str(turn.get("role") or "turn"), "text": _turn(turn)} for turn in prompt]
    text = prompt[0] if isinstance(prompt, list) and prompt else prompt
    return [{"role": "prompt", "text": _text(text)}]


def _turn(turn: Mapping[str, Any]) -> str:
    parts = [_text(turn["content"])] if turn.get("content") else []
    return "\n".join([*parts, *([_text(turn["tool_calls"])] if turn.get("tool_calls") else [])])


def _figures(sample: Mapping[str, Any]) -> str:
    """The numbers of a sample without a reply."""
    numbers = {key: found for key, value in sample.items() if (found := number(value)) is not None}
    return "\n".join(f"{key.replace('_', ' ')} {value:,.4g}" for key, value in numbers.items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
