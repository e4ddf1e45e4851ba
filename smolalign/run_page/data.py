"""What became of the rows of each step: in, dropped for each reason, kept, held out, lost to length, trained on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smolalign.data.assembly import figures
from smolalign.run_page.collect import StepFolder, number, table

# Sources with a histogram of their own; of more, the sum over all is shown.
MOST_SOURCES = 40


class _Lost(BaseModel):
    model_config = ConfigDict(strict=True)
    rows: int
    tokens: int


class _Lengths(BaseModel):
    model_config = ConfigDict(strict=True)
    edges: list[int]
    rows_in: list[int] = Field(alias="in")
    out: list[int]


class _Source(BaseModel):
    model_config = ConfigDict(strict=True)
    source: str
    rows_in: int
    rows_kept: int
    copies: int
    rows_out: int
    dropped: dict[str, _Lost]
    lengths: _Lengths


class _Report(BaseModel):
    """What is shown of a data report; the data step's own page shows all of it."""

    model_config = ConfigDict(strict=True)
    rows_in: int
    rows_out: int
    tokens_counted_with: str | None
    sources: list[_Source]


def rows_of(step: StepFolder) -> dict[str, Any] | None:
    """A step's line in the table of rows: whole numbers, None where nothing tells; None for a step without rows."""
    report, cut = step.data_report, table(step.manifest.get("truncation"))
    if report is None:
        return None
    rows_in, kept = number(report.get("rows_in")), number(report.get("rows_kept"))
    return {
        "step": step.name,
        "rows_in": rows_in,
        "dropped": rows_in - kept if rows_in is not None and kept is not None else None,
        "kept": kept,
        "copies": number(report.get("copies")),
        "held_out": number(report.get("rows_test")),
        "cut": number(cut.get("rows_cut")),
        "too_long": number(cut.get("rows_dropped")),
        "tokens": number(cut.get("tokens")) if cut else number(report.get("tokens_out")),
        "trained": number(cut.get("trained_tokens")),
    }


def flow_of(step: StepFolder) -> tuple[dict[str, Any] | None, list[str]]:
    """The figures of a step's data: a bar a source and the lengths of all rows; and what could not be understood."""
    if step.data_report is None:
        return None, []
    try:
        report = _Report.model_validate(step.data_report).model_dump(by_alias=True)
        return _flow(step.name, report), []
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        return None, [f"data_report.json is not as this version writes it, at {where}"]
    except (ValueError, IndexError):
        return None, ["data_report.json has histograms whose parts do not fit each other"]


def _flow(name: str, report: dict[str, Any]) -> dict[str, Any]:
    sources = report["sources"]
    largest = max((max(source["rows_in"], source["rows_out"]) for source in sources), default=0)
    lines = []
    for source in sources:
        gone = source["rows_in"] - source["rows_kept"]
        lines.append(
            {
                "name": source["source"],
                "rows_in": source["rows_in"],
                "rows_out": source["rows_out"],
                "copies": source["copies"],
                "bar": figures.width(source["rows_out"] - source["copies"], largest),
                "gone": figures.width(gone, largest),
                "dropped": [(reason, lost["rows"]) for reason, lost in source["dropped"].items()],
            }
        )
    shown = sources[:MOST_SOURCES] if len(sources) > 1 else []
    return {
        "step": name,
        "rows_in": report["rows_in"],
        "rows_out": report["rows_out"],
        "lines": lines,
        "lengths": figures.histogram(_all_lengths(sources)) if sources else None,
        "by_source": [(source["source"], figures.histogram(source["lengths"])) for source in shown],
        "sources": len(sources),
        "counted_with": report["tokens_counted_with"],
    }


def _all_lengths(sources: list[Any]) -> dict[str, list[int]]:
    """The histograms of all sources, which have the same bins, added up."""
    edges = sources[0]["lengths"]["edges"]
    return {
        "edges": edges,
        **{
            side: [sum(rows) for rows in zip(*(source["lengths"][side] for source in sources), strict=True)]
            for side in ("in", "out")
        },
    }
