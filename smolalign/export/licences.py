"""Licences and languages of the published sets and models that the shipped recipes name.

Looked up on their pages of the Hub, `https://huggingface.co/datasets/ID` and `https://huggingface.co/ID`, in November
2026, where the metadata of the card names them. What is not here is not known; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smolalign.recipe.shipped import SHIPPED

NOT_KNOWN = "not known"
# What the pages of sets say that were looked at and name no licence.
_NONE = "not named by its card"


@dataclass(frozen=True, slots=True)
class Published:
    """The licence of a set or model, by the Hub's identifier where it has one, and its languages (ISO 639-1)."""

    licence: str
    languages: tuple[str, ...] = ("en",)


DATASETS = {
    "HuggingFaceTB/smoltalk": Published(_NONE),
    "HuggingFaceTB/smol-smoltalk": Published("apache-2.0"),
    "HuggingFaceTB/everyday-conversations-llama3.1-2k": Published("apache-2.0"),
    "HuggingFaceH4/ultrafeedback_binarized": Published("mit"),
    "argilla/apigen-function-calling": Published("cc-by-4.0"),
    "meta-math/MetaMathQA": Published("mit", ()),
    "AI-MO/NuminaMath-CoT": Published("apache-2.0"),
    "THUDM/LongAlign-10k": Published(_NONE, ("en", "zh")),
    "bigcode/self-oss-instruct-sc2-exec-filter-50k": Published("odc-by", ()),
}
MODELS = {
    f"HuggingFaceTB/SmolLM2-{size}{kind}": Published("apache-2.0")
    for size in ("135M", "360M", "1.7B")
    for kind in ("", "-Instruct")
}
_OWN = Published("apache-2.0")


def of_source(source: str) -> Published | None:
    """What is known of a recipe's source: a Hub id, or a path in the data that smolalign generates and ships."""
    if (SHIPPED / "data") in Path(source).parents:
        return _OWN
    return DATASETS.get(source)
