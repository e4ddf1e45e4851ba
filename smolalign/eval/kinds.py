"""What kind of rows each measurement takes. Standard library only, so that checks need not load torch."""

from __future__ import annotations

from smolalign.rows import RowKind

ROWS_OF_TASK: dict[str, RowKind] = {
    "exact": "chat",
    "style": "chat",
    "preference": "pair",
    "tool_calls": "chat",
    "loss": "chat",
    "needle": "document",
    "perplexity": "document",
}
