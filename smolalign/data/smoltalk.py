"""The smoltalk step: several sources of chats become one mixture on disk."""

from __future__ import annotations

from pathlib import Path

from smolalign.data.gather import source_names, write_report
from smolalign.outcome import Outcome
from smolalign.recipe.schema import SmoltalkStep
from smolalign.report import Reporter


def run(step: SmoltalkStep, folder: Path, report: Reporter) -> Outcome:
    """Write the shards of `train` and, where rows are held out, `test` into `data/`, and the report on them."""
    # Arrow, NumPy and the rest are loaded by the step that needs them.
    from smolalign.data.assembly.assemble import assemble
    from smolalign.data.assembly.plan import assembly_of

    assembly = assembly_of(step, "chat", source_names(step.data))
    found = assemble(assembly, folder / "checkpoints" / "assembly", folder / "data", folder / "rejected.jsonl", report)
    write_report(folder, found.report)
    counts = {name: found.report[name] for name in ("rows_in", "rows_train", "rows_test", "tokens_out")}
    return Outcome(counts, found.report["sources"])
