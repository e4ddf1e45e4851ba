"""`--to ollama`: a folder from which `ollama create` makes a model: a GGUF file and a Modelfile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from smolalign.chat.template import DEFAULT_SYSTEM, chat_template
from smolalign.errors import UserError
from smolalign.export.gguf import load, make, require_types, tell
from smolalign.export.gguf_check import check, original
from smolalign.export.gguf_write import Model
from smolalign.export.ollama_template import go_template
from smolalign.export.package import Package, packaged, require_unquantized
from smolalign.export.probe import CHATS, rendered
from smolalign.export.run import Wishes
from smolalign.export.source import Source
from smolalign.export.target import new_folder, writing

TAKES = {"out", "types"}
# How tokens are drawn, by the words of Ollama and Transformers alike, and what holds where nothing is said.
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Write a folder with the model in one type of weights and its Modelfile, whole or not at all.

    Raises:
        UserError: the wishes do not fit, the model is quantized, it or its template cannot go to Ollama, or something
            lies there.
        Failed: the GGUF file read back is not the model.
    """
    types = require_types(wishes.types)
    if len(types) > 1:
        raise UserError(f"--to ollama takes one type of weights, not {len(types)}", mend="run it once for each")
    out = new_folder(wishes)
    require_unquantized(source)
    name = out.resolve().name
    with packaged(source, name, name, wishes.licence) as package:
        folder, model, tokenizer = load(package, name)
        file = f"{name}-{types[0]}.gguf"
        text = modelfile(file, model, tokenizer, _generation(package))
        for note in source.notes:
            say(note)
        tell({types[0]: out / file}, model, say)
        if wishes.dry_run:
            say(f"\n{text}")
            return
        before = original(folder, model, tokenizer)
        with writing(out) as target:
            make(target / file, types[0], model)
            check(target / file, types[0], model, before, say)
            (target / "Modelfile").write_text(text, encoding="utf-8")
    say(f"wrote {out}; hand it to Ollama: ollama create {name.lower()} -f {out / 'Modelfile'}")


def modelfile(file: str, model: Model, tokenizer: Any, generation: Mapping[str, Any]) -> str:
    """The text of a Modelfile.

    Args:
        file: the GGUF beside it.
        model: what is in it.
        tokenizer: with its chat template.
        generation: the generation config's fields.

    Raises:
        UserError: the template is none that is known in Go.
    """
    lines = [f"FROM ./{file}", f'TEMPLATE """{_template(tokenizer)}"""']
    ends = generation.get("eos_token_id", tokenizer.eos_token_id)
    ids = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    for stop in dict.fromkeys(tokenizer.convert_ids_to_tokens(number) for number in ids if number is not None):
        lines.append(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}")
    lines.append(f"PARAMETER num_ctx {model.sizes.context_length}")
    lines += [f"PARAMETER {field} {value:g}" for field, value in _sampling(generation).items()]
    if model.about.get("license") not in (None, "unknown"):
        lines.append(f"LICENSE {model.about['license']}")
    return "\n".join(lines) + "\n"


def _sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """How Transformers would draw tokens: Ollama's own defaults are others, and punish what is said twice."""
    chosen = {"temperature": 0.0}
    if generation.get("do_sample"):
        given = {name: generation.get(name) for name in _SAMPLING}
        chosen = {name: float(_SAMPLING[name] if value is None else value) for name, value in given.items()}
    return chosen | {"repeat_penalty": float(generation.get("repetition_penalty") or 1.0)}


def _generation(package: Package) -> dict[str, Any]:
    content = package.files.get("generation_config.json")
    if content is None:
        return {}
    found: dict[str, Any] = json.loads(content if isinstance(content, bytes) else content.read_bytes())
    return found


def _template(tokenizer: Any) -> str:
    """The Go template of the tokenizer's own: of ours, the one that renders the same chats the same.

    A model without a template goes on with the prompt as it is.
    """
    if not tokenizer.chat_template:
        return "{{ .Prompt }}"
    shown = rendered(tokenizer)
    plain = [number for number, (_, tools) in enumerate(CHATS) if not tools]
    for name in DEFAULT_SYSTEM:
        ours = rendered(tokenizer, chat_template(name))
        if shown == ours:
            return go_template(name)
        if [shown[n] for n in plain] == [ours[n] for n in plain] and shown[3] == shown[0]:
            return go_template(name, tools=False)
    raise UserError(
        f"the chat template renders otherwise than {', '.join(DEFAULT_SYSTEM)}, and Ollama reads no Jinja",
        mend="use --to gguf, and write a Modelfile with its TEMPLATE in Go",
    )
