"""smolalign's chat templates as Ollama has them: in Go's text/template, over Ollama's variables.

Every line of code begins with `{{-`, which takes the white space before it along; what is rendered stands in strings,
or in text that no line break follows. Text it is where Ollama looks for it: the first text under `if .ToolCalls` is the
tag by which it knows that a reply calls a function (ollama/ollama, tools/template.go).
"""

from __future__ import annotations

import json

from smolalign.chat.template import DEFAULT_SYSTEM, chat_template

# Go writes JSON without spaces and with <, > and & as numbers, unlike our templates, so unlike what the model has seen.
# This goes through the bytes of $json once: $start is where what is not yet written begins, $moved says that it is the
# next byte, $drop is the last digit of a number that is skipped. text/template counts (`range 5`) since Go 1.24.
_SPACED = r"""
{{- $start := 0 }}{{ $moved := false }}{{ $drop := 0 }}{{ $quoted := false }}{{ $escaped := false }}
{{- range $i := len $json }}
{{- $byte := index $json $i }}
{{- if $moved }}{{ $start = $i }}{{ $moved = false }}{{ end }}
{{- if $drop }}
{{- if eq $byte $drop }}{{ $drop = 0 }}{{ $moved = true }}{{ end }}
{{- else if $escaped }}{{ $escaped = false }}
{{- else if eq $byte 92 }}
{{- $six := printf "%.6s" (slice $json $i) }}
{{- if eq $six `\u003c` }}{{ slice $json $start $i }}{{ "<" }}{{ $drop = 99 }}
{{- else if eq $six `\u003e` }}{{ slice $json $start $i }}{{ ">" }}{{ $drop = 101 }}
{{- else if eq $six `\u0026` }}{{ slice $json $start $i }}{{ "&" }}{{ $drop = 54 }}
{{- else if eq $six `\u2028` }}{{ slice $json $start $i }}{{ "\u2028" }}{{ $drop = 56 }}
{{- else if eq $six `\u2029` }}{{ slice $json $start $i }}{{ "\u2029" }}{{ $drop = 57 }}
{{- else }}{{ $escaped = true }}{{ end }}
{{- else if eq $byte 34 }}{{ $quoted = not $quoted }}
{{- else if and (not $quoted) (or (eq $byte 44) (eq $byte 58)) }}
{{- slice $json $start $i }}{{ printf "%c " $byte }}{{ $moved = true }}
{{- end }}
{{- end }}
{{- if not $moved }}{{ slice $json $start }}{{ end }}"""
_CALL = (
    r"""
{{- $json := printf `{"name":%s,"arguments":%s}` (json $call.Function.Name) (json $call.Function.Arguments) }}"""
    + _SPACED
)
_FIRST = r"""{{- $system := "" }}{{ $given := false }}
{{- range $i, $message := .Messages }}
{{- if and (eq $i 0) (eq $message.Role "system") }}{{ $system = $message.Content }}{{ $given = true }}{{ end }}
{{- end }}"""
_NEXT = r"""
{{- $open := false }}{{ $writing := false }}
{{- range $i, $message := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}{{ $calls := $message.ToolCalls }}"""
# A last turn that is the assistant's own is one to go on with.
_ASSISTANT = r"""
{{- if eq $message.Role "assistant" }}
{{- "<|im_start|>assistant\n" }}{{ $message.Content }}
{{- if and $message.Content $calls }}{{ "\n" }}{{ end }}
{{- if .ToolCalls }}@CALLS@{{ end }}
{{- if $last }}{{ $writing = true }}{{ else }}{{ "<|im_end|>\n" }}{{ end }}"""
_OTHERS = r"""
{{- else if not (and $given (eq $i 0)) }}
{{- "<|im_start|>" }}{{ $message.Role }}{{ "\n" }}{{ $message.Content }}{{ "<|im_end|>\n" }}
{{- end }}
{{- end }}"""
_END = r"""
{{- if not $writing }}{{ "<|im_start|>assistant\n" }}{{ end }}"""
_ALL_IN_ONE_TAG = (
    r"""<tool_call>[
{{- range $j, $call := $calls }}
{{- if $j }}{{ ", " }}{{ end }}"""
    + _CALL
    + r"""
{{- end }}]</tool_call>"""
)
_ONE_A_TAG = (
    r"""
{{- range $j, $call := $calls }}<tool_call>
{{- "\n" }}"""
    + _CALL
    + r"""
{{- "\n</tool_call>" }}
{{- if ne (len (slice $calls $j)) 1 }}{{ "\n" }}{{ end }}
{{- end }}"""
)
# Results that follow one another share a turn, which is closed when something else follows.
_CLOSE_RESULTS = r"""
{{- if and $open (ne $message.Role "tool") }}{{ "<|im_end|>\n" }}{{ $open = false }}{{ end }}"""
_RESULTS = r"""
{{- else if eq $message.Role "tool" }}
{{- if not $open }}{{ "<|im_start|>tool" }}{{ $open = true }}{{ end }}
{{- "\n<tool_response>\n" }}{{ $message.Content }}{{ "\n</tool_response>" }}"""
_CLOSE_LAST = r"""
{{- if $open }}{{ "<|im_end|>\n" }}{{ end }}"""


def go_template(name: str, *, tools: bool = True) -> str:
    """A template that renders in Ollama what ours renders in Jinja.

    The system turn that a template puts before chats without one is part of it. As the Modelfile's SYSTEM it would also
    stand before tools, where the template does not have it.

    Args:
        name: `smollm2`, `chatml` or `hermes`.
        tools: whether tools are rendered, which the published SmolLM2 templates do not.
    """
    hermes = name == "hermes"
    calls = _ONE_A_TAG if hermes else _ALL_IN_ONE_TAG
    assistant = _ASSISTANT.replace("@CALLS@", calls)
    if not tools:
        start = assistant.index("{{- if and $message.Content $calls")
        assistant = assistant[:start] + assistant[assistant.index("{{- if $last") :]
    text = _FIRST + _system(name, tools=tools) + _NEXT
    text += (_CLOSE_RESULTS if hermes else "") + assistant + (_RESULTS if hermes else "") + _OTHERS
    text += (_CLOSE_LAST if hermes else "") + _END
    assert '"""' not in text, "it would end the Modelfile's instruction"
    return text


def _system(name: str, *, tools: bool) -> str:
    """The system turn: the person's own or the default one, then the tools."""
    default = DEFAULT_SYSTEM[name]
    conditions = ["$given", *([".Tools"] if tools else []), *(["true"] if default else [])]
    text = "\n{{- if or " + " ".join(conditions) + ' }}{{ "<|im_start|>system\\n" }}'
    text += "\n{{- if $given }}{{ $system }}"
    if tools:
        text += '{{ if .Tools }}{{ "\\n\\n" }}{{ end }}'
    if default:
        text += ("{{ else if not .Tools }}" if tools else "{{ else }}") + "{{ " + json.dumps(default) + " }}"
    text += "{{ end }}"
    return text + (_tools(name) if tools else "") + '\n{{- "<|im_end|>\\n" }}\n{{- end }}'


def _tools(name: str) -> str:
    """The tools, between the words that the Jinja template has before and after them."""
    before, after = _words_around_tools(name)
    if name == "hermes":
        body = "\n{{- range .Tools }}\n{{- $json := json . }}" + _SPACED + '\n{{- "\\n" }}\n{{- end }}'
    else:
        body = "\n{{- $json := json .Tools }}" + _SPACED
    opening, closing = (json.dumps(words, ensure_ascii=False) for words in (before, after))
    return f"\n{{{{- if .Tools }}}}{{{{ {opening} }}}}{body}\n{{{{- {closing} }}}}\n{{{{- end }}}}"


def _words_around_tools(name: str) -> tuple[str, str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    shown = render_jinja_template([[{"role": "system", "content": ""}]], tools=[{}], chat_template=chat_template(name))
    text = shown[0][0].removeprefix("<|im_start|>system\n\n\n").removesuffix("<|im_end|>\n")
    before, _, after = text.partition("{}\n" if name == "hermes" else "[{}]")
    return before, after
