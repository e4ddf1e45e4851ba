"""What gives texts a score: a scorer of a quality step, or a published classifier; loaded once a process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smolalign.checkpoint import require_config, require_tokenizer, require_weights
from smolalign.errors import UserError
from smolalign.hub import hub_model, model_folder
from smolalign.quality.folder import DESCRIPTION, describe, is_scorer

if TYPE_CHECKING:
    import numpy as np

_MEND = "name a quality step, its scorer/ folder, or a classifier such as HuggingFaceFW/fineweb-edu-classifier"


class Scoring(Protocol):
    """Gives texts their scores."""

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts], about 0 to 5."""


_loaded: dict[tuple[str, int], Scoring] = {}


def scorer_of(reference: str) -> Scoring:
    """What a resolved reference names, loaded once a process while its file is the same.

    Raises:
        UserError: it cannot be loaded.
    """
    folder = Path(reference)
    key = (reference, (folder / DESCRIPTION).stat().st_mtime_ns if is_scorer(folder) else 0)
    if key not in _loaded:
        if is_scorer(folder):
            from smolalign.quality.scorer import load_scorer

            _loaded[key] = load_scorer(folder)
        else:
            from smolalign.quality.classifier import Classifier

            _loaded[key] = Classifier(classifier_folder(reference, weights=True), reference)
    return _loaded[key]


def forget_scorers() -> None:
    """Give back the memory of what has been loaded."""
    _loaded.clear()


def require_scorer(reference: str, *, weights: bool = False) -> str:
    """What a resolved reference is, in words.

    Args:
        reference: a folder or a Hub id.
        weights: whether a classifier's weights are downloaded, too.

    Raises:
        UserError: it is no scorer, or not whole.
    """
    if is_scorer(Path(reference)):
        return f"a scorer of {describe(Path(reference))['about']['texts']:,} annotated texts"
    folder = classifier_folder(reference, weights=weights)
    return f"a classifier, {json.loads((folder / 'config.json').read_text(encoding='utf-8')).get('model_type')}"


def classifier_folder(reference: str, *, weights: bool) -> Path:
    """The files of a classifier with one output, a regression, as FineWeb-Edu's, FineMath's and Stack-Edu's are.

    Raises:
        UserError: they are not there, not whole, or of another kind of model.
    """
    hub = hub_model(reference)
    folder = model_folder(*hub, weights=weights) if hub else Path(reference)
    mend = "download it again" if hub else _MEND
    require_config(folder, reference, _MEND)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = str((config.get("architectures") or ["none named"])[0])
    outputs = len(config["id2label"]) if isinstance(config.get("id2label"), dict) else config.get("num_labels", 2)
    if not architecture.endswith("ForSequenceClassification") or outputs != 1:
        seen = f"{architecture} with {outputs} outputs" if "SequenceClassification" in architecture else architecture
        what = f"{reference} is no classifier with one output, a score ({seen})"
        raise UserError(what, mend=_MEND)
    require_tokenizer(folder, reference, mend)
    if weights or not hub:
        require_weights(folder, reference, mend)
    return folder
