"""How fast replies to long prompts are generated, beside Transformers' own `generate` in padded batches.

    python -m benchmarks.generate MODEL [--prompts 16] [--tokens 800 1500] [--new 64] [--batch 8] [--times 3]

The prompts are made up: functions as JSON schemas in the system turn, and a request, as benchmarks of function calling
have them. Both ways run in one process, in turns, on the same prompts; where others use the machine, the seconds of CPU
compare better than those of the clock. What they wrote is compared: in fp32 it is the same, but for ties that rounding
decides.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from smolalign.environment import prepare

prepare()

import torch  # noqa: E402 - the environment is read when the libraries are imported

from smolalign.chat.render import render_prompt  # noqa: E402
from smolalign.eval.generate import Generated, generate  # noqa: E402
from smolalign.model import load_model, load_tokenizer  # noqa: E402
from smolalign.rows import Message  # noqa: E402

VERBS = ["book", "find", "cancel", "list", "send", "open", "close", "rename", "measure", "translate"]
THINGS = ["flight", "hotel", "invoice", "parcel", "meeting", "recipe", "picture", "lamp", "garden", "ticket"]
FIELDS = ["city", "date", "name", "count", "price", "color", "size", "language", "reason", "address"]


def main() -> None:
    """Measure, and print a line a round and the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs=2, default=(800, 1500))
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    model, tokenizer = load_model(options.model).eval(), load_tokenizer(options.model)
    prompts = made_up(tokenizer, options.prompts, *options.tokens)
    ways: dict[str, Callable[..., list[Generated]]] = {"engine": generate, "transformers": padded}
    settings = {"max_new_tokens": options.new, "batch_size": options.batch}
    for way in ways.values():
        way(model, tokenizer, prompts[:2], max_new_tokens=2, batch_size=2)
    ratios: dict[str, list[float]] = {"clock": [], "CPU": []}
    for number in range(options.times):
        seconds, cpu, replies = {}, {}, {}
        for label in list(ways)[:: 1 if number % 2 else -1]:
            began, used = time.monotonic(), time.process_time()
            replies[label] = ways[label](model, tokenizer, prompts, **settings)
            seconds[label], cpu[label] = time.monotonic() - began, time.process_time() - used
        same = sum(a == b for a, b in zip(*replies.values(), strict=True))
        for clock, took in zip(ratios, (seconds, cpu), strict=True):
            ratios[clock].append(took["transformers"] / took["engine"])
        took_each = ", ".join(f"{label} {seconds[label]:.1f} s (CPU {cpu[label]:.1f} s)" for label in ways)
        print(f"{took_each}; {same} of {len(prompts)} replies are the same", flush=True)
    for clock, found in ratios.items():
        each = ", ".join(f"{ratio:.2f}" for ratio in found)
        print(f"by the {clock} {statistics.median(found):.2f} times as fast (median of {each})")


def made_up(tokenizer: Any, count: int, shortest: int, longest: int) -> list[list[int]]:
    """Prompts of so many tokens, more or less: as many functions as fill them, and a request."""
    chance = random.Random(0)
    prompts = []
    for _ in range(count):
        wanted, tools, ids = chance.randint(shortest, longest), list[dict[str, Any]](), list[int]()
        verb, thing = chance.choice(VERBS), chance.choice(THINGS)
        request = f"Please {verb} the {thing} for {chance.randint(2, 99)} people."
        while len(ids) < wanted:
            tools.append(function(chance))
            system = f"You may call these functions: {json.dumps(tools)}"
            ids = render_prompt(tokenizer, (Message("system", system), Message("user", request)))
        prompts.append(ids)
    return prompts


def function(chance: random.Random) -> dict[str, Any]:
    """A function's schema."""
    fields = chance.sample(FIELDS, chance.randint(1, 4))
    properties = {
        name: {
            "type": chance.choice(("string", "integer")),
            "description": f"The {name} of the {chance.choice(THINGS)}",
        }
        for name in fields
    }
    verb, thing = chance.choice(VERBS), chance.choice(THINGS)
    parameters = {"type": "object", "properties": properties, "required": fields[:1]}
    return {"name": f"{verb}_{thing}", "description": f"To {verb} a {thing}.", "parameters": parameters}


def padded(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch_size: int
) -> list[Generated]:
    """Greedy replies by Transformers, in batches of similar length, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies = [Generated("", False)] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in batch)
        ids = [[tokenizer.pad_token_id] * (width - len(prompts[i])) + list(prompts[i]) for i in batch]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                do_sample=False,
                repetition_penalty=1.0,
            )
        for index, row in zip(batch, output[:, width:].tolist(), strict=True):
            stopped = tokenizer.eos_token_id in row
            kept = row[: row.index(tokenizer.eos_token_id)] if stopped else row
            replies[index] = Generated(tokenizer.decode(kept, skip_special_tokens=True), stopped)
    return replies


if __name__ == "__main__":
    main()
