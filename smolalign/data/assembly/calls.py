"""Tool calls held against the schemas of the tools on offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smolalign.data.arguments import argument_flaw
from smolalign.data.validate import UNKNOWN_TOOL
from smolalign.rows import Message


def call_flaw(turns: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """What is wrong with the first call that is wrong, as a reason and the detail of it; calls without any tools on
    offer name no listed tool."""
    offered = {str(tool.get("name")): tool for tool in tools}
    for turn in turns:
        for call in turn.tool_calls or ():
            if call.name not in offered:
                return UNKNOWN_TOOL, call.name
            if flaw := argument_flaw(offered[call.name], call.arguments):
                return flaw[0], f"{call.name}: {flaw[1]}"
    return None
