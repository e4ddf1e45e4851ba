"""`smolalign chat`: a conversation in the terminal, or through a pipe, one user turn a line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smolalign.adapters import is_adapter, merging
from smolalign.chat.calls import parse_reply
from smolalign.chat.conversation import Conversation
from smolalign.chat.generation import Reply, write_reply
from smolalign.chat.grammar import Dialect, Grammar, dialect_of, json_schema, read_schema, tool_calls
from smolalign.chat.render import render_prompt
from smolalign.chat.run_tools import ToolResult, failed, flaw, run_call
from smolalign.chat.terminal import Input, open_input, visible
from smolalign.chat.tools import ToolBox, read_tools, with_null
from smolalign.data.strict_json import dump, parse, shorten
from smolalign.errors import UserError
from smolalign.rows import Message, ToolCall

HELP = """\
/tools          the tools that the model may call
/system TEXT    another system turn; without a text, none
/edit [TEXT]    change your last turn and ask again
/undo           take your last turn back
/reset          forget the conversation
/save FILE      append the conversation to a JSONL file
/help  /exit
Enter sends, Alt-Enter begins a new line, Ctrl-C stops a reply, Ctrl-D leaves."""
# Replies with calls that one turn may bring: a model that calls for ever is stopped.
MOST_ROUNDS = 8
ENDS = {
    "length": "cut off at {most} tokens → --max-new-tokens",
    "loop": "stopped: it says the same over and over",
    "interrupted": "stopped",
}
# Writes a reply to turns: the conversation, what takes pieces of text, and whether this reply must be a call.
Speak = Callable[[Conversation, Callable[[str], None], bool], Reply]


@dataclass(frozen=True)
class Wishes:
    """What `smolalign chat` was asked for.

    Attributes:
        tools: file of tools; see `read_tools`.
        system: text of a system turn.
        schema: file of a JSON schema that every reply is held to.
        constrain: calls are held to the tools' schemas.
        required: the first reply to each turn is a call.
        yes: tools run without a question.
        tool_seconds: longest run of a tool.
        max_new_tokens: longest reply, in tokens.
        temperature: 0 decodes greedily.
    """

    tools: Path | None = None
    system: str | None = None
    schema: Path | None = None
    constrain: bool = False
    required: bool = False
    yes: bool = False
    tool_seconds: float = 30.0
    max_new_tokens: int = 256
    temperature: float = 0.0


def talk(reference: str, wishes: Wishes) -> None:
    """Read user turns until the end of input and write the model's, as they are made.

    Args:
        reference: checkpoint folder, adapter folder, `.gguf` file or Hub id.

    Raises:
        UserError: the model, the tools or the schema cannot be read or used, or the model has no chat template.
    """
    box = read_tools(wishes.tools) if wishes.tools else ToolBox()
    # What cannot be held to is refused before a model is loaded; which dialect it speaks shows then.
    _grammars(wishes, box, "smollm2")
    Session(_speaker(reference, wishes, box), box, wishes, open_input()).run()


@dataclass(frozen=True)
class Grammars:
    """What a turn's first reply is held to, and each one after a tool's result; None: nothing."""

    first: Grammar | None = None
    later: Grammar | None = None


def _grammars(wishes: Wishes, box: ToolBox, dialect: Dialect) -> Grammars:
    """Raises UserError where the options do not go together, or a schema cannot be held to."""
    if (wishes.constrain or wishes.required) and not wishes.tools:
        raise UserError("--constrain and --tool-choice required are about calls", mend="add --tools FILE")
    if wishes.schema:
        if wishes.tools:
            raise UserError("--json-schema and --tools cannot go together", mend="leave one of them out")
        grammar = json_schema(read_schema(wishes.schema))
        return Grammars(grammar, grammar)
    if not (wishes.constrain or wishes.required):
        return Grammars()
    later = tool_calls(box.schemas, required=False, dialect=dialect)
    first = tool_calls(box.schemas, required=True, dialect=dialect) if wishes.required else later
    return Grammars(first, later)


def _speaker(reference: str, wishes: Wishes, box: ToolBox) -> Speak:
    """The model, loaded. Raises UserError."""
    from smolalign.model import load_model, load_tokenizer

    tokenizer = load_tokenizer(reference)
    if not tokenizer.chat_template:
        raise UserError(f"{reference} has no chat template", mend="chat with a model that a smolalign step made")
    if is_adapter(Path(reference)):
        tell(merging(Path(reference)))
    held = wishes.constrain or wishes.required
    grammars = _grammars(wishes, box, dialect_of(tokenizer) if held else "smollm2")
    model = load_model(reference).eval()

    def speak(conversation: Conversation, say: Callable[[str], None], first: bool) -> Reply:
        grammar = grammars.first if first else grammars.later
        return write_reply(
            model,
            tokenizer,
            render_prompt(tokenizer, conversation.messages, conversation.tools),
            say,
            max_new_tokens=wishes.max_new_tokens,
            temperature=wishes.temperature,
            held_to=grammar.processor(tokenizer) if grammar else None,
        )

    return speak


def tell(what: str) -> None:
    """A note about the conversation, apart from it."""
    print(f"({what})", file=sys.stderr, flush=True)


@dataclass
class Session:
    """A conversation as it goes: `speak` writes the model's replies, `source` gives the person's turns."""

    speak: Speak
    box: ToolBox
    wishes: Wishes
    source: Input
    conversation: Conversation = field(init=False)
    # A user turn that /edit offers to change at the next prompt.
    draft: str = ""

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.wishes.system, self.box.schemas)

    def run(self) -> None:
        """Until the end of input or /exit."""
        if self.source.typed:
            tell("/help shows the commands")
        while True:
            draft, self.draft = self.draft, ""
            line = self.source.read(draft)
            if line is None or line == "/exit":
                return
            if command := re.fullmatch(r"/([a-zA-Z]+)(?:\s+(.*))?", line, re.DOTALL):
                self.command(command[1], (command[2] or "").strip())
            elif line:
                self.ask(line)

    def command(self, name: str, rest: str) -> None:
        """Do what a slash command says; whatever is wrong with it is told."""
        commands: dict[str, Callable[[str], None]] = {
            "tools": self._tools,
            "system": self._system,
            "edit": self._edit,
            "undo": self._undo,
            "reset": self._reset,
            "save": self._save,
            "help": lambda _: print(HELP),
        }
        if name in commands:
            commands[name](rest)
            return
        near = difflib.get_close_matches(name, [*commands, "exit"], 1)
        tell(f"no command is named /{name}" + (f" → did you mean /{near[0]}?" if near else " → /help shows them"))

    def ask(self, line: str) -> None:
        """A user turn, the model's reply, and as many rounds of calls and results as that takes."""
        self.conversation.turns.append(Message("user", line))
        for number in range(MOST_ROUNDS):
            try:
                calls = self._reply(first=number == 0)
            except (UserError, KeyboardInterrupt) as error:
                if not self.source.typed:
                    raise
                self.conversation.undo()
                tell(error.line() if isinstance(error, UserError) else "stopped; the turn is taken back")
                return
            if not calls or not self._run(calls):
                return
        tell(f"stopped: {MOST_ROUNDS} replies in a row were calls")

    def _reply(self, *, first: bool) -> tuple[ToolCall, ...]:
        """The model's next turn; its calls, where it is to wait for their results."""

        def say(text: str) -> None:
            print(visible(text) if self.source.typed else text, end="", flush=True)

        reply = self.speak(self.conversation, say, first)
        print(flush=True)
        if reply.ended == "interrupted" and not (self.source.typed and reply.text.strip()):
            raise KeyboardInterrupt
        if reply.ended != "stop":
            tell(ENDS[reply.ended].format(most=self.wishes.max_new_tokens))
        # What can be run is held against its schema when it is to run, so that the model is told what is wrong.
        read = parse_reply(reply.text, () if self.box.functions else tuple(map(with_null, self.box.schemas)))
        if read.problem:
            tell(read.problem)
        if read.calls is None:
            self.conversation.turns.append(Message("assistant", reply.text))
            return ()
        self.conversation.turns.append(Message("assistant", read.text, read.calls))
        return () if reply.ended == "interrupted" else read.calls

    def _run(self, calls: Sequence[ToolCall]) -> bool:
        """Add a tool turn for each call. False where there is nothing to run, nobody to ask, or Ctrl-C came."""
        if not self.box.functions:
            return False
        if not self.source.typed and not self.wishes.yes:
            tell("not run: nobody is there to ask → --yes runs every call")
            return False
        stopped = False
        for call in calls:
            result = failed("the user stopped it") if stopped else self._result(call)
            stopped = stopped or result is None
            result = result or failed("the user stopped it")
            if result.failed:
                tell(visible(parse(result.content)["error"]))
            self.conversation.turns.append(Message("tool", result.content))
        return not stopped

    def _result(self, call: ToolCall) -> ToolResult | None:
        """What a call gave, or why it was not run; None where the person stopped it by Ctrl-C."""
        if wrong := flaw(call, self.box):
            return failed(wrong)
        try:
            if not self.wishes.yes and not self.source.allows(f"run {call_text(call)}?"):
                return failed(f"the user did not allow {call.name}")
            result = run_call(call, self.box, self.wishes.tool_seconds)
        except KeyboardInterrupt:
            return None
        if not result.failed:
            tell(visible(f"{call.name} → {result.content}"))
        return result

    def _tools(self, _: str) -> None:
        if not self.box.schemas:
            tell("no tools → --tools FILE")
        for schema in self.box.schemas:
            description = str(schema.get("description") or "").strip().split("\n")[0]
            names = ", ".join((schema.get("parameters") or {}).get("properties") or {})
            runs = "" if schema["name"] in self.box.functions else " (only a schema: it is not run)"
            print(visible(f"{schema['name']}({names})  {description}{runs}"))

    def _system(self, text: str) -> None:
        self.conversation.system = text or None
        tell("system turn set" if text else "no system turn")

    def _edit(self, text: str) -> None:
        if not text and not self.source.typed:
            tell("/edit needs the new text")
            return
        before = self.conversation.undo()
        if before is None:
            tell("nothing to edit")
        elif text:
            self.ask(text)
        else:
            self.draft = before

    def _undo(self, _: str) -> None:
        before = self.conversation.undo()
        tell("nothing to undo" if before is None else f"took back: {shorten(before)}")

    def _reset(self, _: str) -> None:
        self.conversation.turns.clear()
        tell("forgotten")

    def _save(self, name: str) -> None:
        if not name:
            tell("/save needs a file")
            return
        if not self.conversation.turns:
            tell("nothing to save")
            return
        file = Path(name).expanduser()
        try:
            self.conversation.save(file)
        except UserError as error:
            tell(error.line())
        else:
            tell(f"appended {len(self.conversation.messages)} turns to {file}")


def call_text(call: ToolCall) -> str:
    """A call, whole, so that nothing of it is allowed unseen; what a terminal would hide is written as escapes."""
    arguments = ", ".join(f"{name}={dump(value)}" for name, value in call.arguments.items())
    text = f"{call.name}({arguments})"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
