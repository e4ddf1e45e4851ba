"""The smoltalk step: several sources of chats become one mixture on disk."""

from __future__ import annotations

from pathlib import Path

from smolalign.data.gather import gather
from smolalign.data.row_files import without_folders, write_rows
from smolalign.outcome import Outcome
from smolalign.recipe.schema import SmoltalkStep
from smolalign.report import Reporter
from smolalign.store import write_json


def run(step: SmoltalkStep, folder: Path, report: Reporter) -> Outcome:
    """Mix the sources and write `data/train.parquet`, `data/test.parquet` if rows are held out, and the report."""
    gathered = gather(step.data, "chat", seed=step.seed, test_fraction=step.test_fraction)
    write_rows(without_folders(gathered.train), folder / "data" / "train.parquet")
    if gathered.test:
        write_rows(without_folders(gathered.test), folder / "data" / "test.parquet")
    write_json(folder / "data_report.json", {"sources": gathered.report})
    for source in gathered.report:
        report.say(
            f"{source['source']}: {source['format']}, {source['rows_in']} rows in, {source['rows_drawn']} drawn"
            + (f", skipped {source['skipped']}" if source["skipped"] else "")
        )
    return Outcome({"rows_train": len(gathered.train), "rows_test": len(gathered.test)}, gathered.report)
