"""`smolalign app json`: a text and a schema in, JSON by that schema out."""

from __future__ import annotations

import sys
from pathlib import Path

from smolalign.apps.texts import given_text
from smolalign.apps.wishes import Wishes
from smolalign.apps.writer import Task, Writer, silent
from smolalign.chat.grammar import json_schema, read_schema
from smolalign.chat.session import tell
from smolalign.data.strict_json import JsonProblem, dump, parse


def fill(schema_file: Path, text: str | None, wishes: Wishes) -> bool:
    """Write what a text says as one line of JSON to standard output, or nothing where it did not come to its end.

    Args:
        schema_file: the JSON schema that the reply is held to.
        text: what is to be read, or an instruction; None reads standard input.

    Returns:
        Whether JSON was written.

    Raises:
        UserError: the schema cannot be held to, there is no text, it is too long, or the model cannot be loaded.
    """
    schema = read_schema(schema_file)
    grammar = json_schema(schema)
    text = given_text(text).strip()
    task = Task(f"Reply in JSON by this schema: {dump(schema)}")
    reply = Writer(wishes).write(task.ask(text), silent, held_to=grammar)
    if not reply.told():
        tell("no JSON is written, since it is not whole; a schema with maxLength and maxItems has an end")
        return False
    if wrong := flaw(reply.text, schema):
        tell(f"no JSON is written: {wrong}")
        return False
    sys.stdout.write(reply.text + "\n")
    sys.stdout.flush()
    return True


def flaw(text: str, schema: object) -> str:
    """Why a text is not one line of JSON by a schema; empty where it is.

    The grammar holds to all but what it does not know of, such as a key that stands twice.
    """
    import jsonschema_rs

    try:
        value = parse(text)
        jsonschema_rs.validator_for(schema).validate(value)  # type: ignore[arg-type]
    except JsonProblem as problem:
        return problem.what
    except jsonschema_rs.ValidationError as error:
        return error.message
    return "it has line breaks" if "\n" in text else ""
