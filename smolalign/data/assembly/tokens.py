"""How many tokens a text has: counted with a model's tokenizer, or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.hub import hub_model, model_folder

# SmolLM2's tokenizer on English chats: 4.0 to 4.6 bytes a token.
_BYTES_PER_TOKEN = 4.3


def estimated_tokens(text: str) -> int:
    """Tokens of a text, about: from its length in UTF-8."""
    return round(len(text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN)


class Counter:
    """Counts tokens by a `tokenizer.json`."""

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones."""
        return [len(found) for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def tokenizer_file(model: str) -> Path:
    """The `tokenizer.json` of a checkpoint folder or a Hub model.

    Raises:
        UserError: it has none.
    """
    folder = Path(model)
    if folder.exists():
        file = folder / "tokenizer.json" if folder.is_dir() else folder
        if file.name != "tokenizer.json" or not file.is_file():
            mend = "name a folder that holds tokenizer.json, or a model on the Hub"
            raise UserError(f"count_tokens_with: no tokenizer.json in {model}", mend=mend)
        return file
    hub = hub_model(model)
    file = model_folder(*hub, weights=False) / "tokenizer.json" if hub else folder
    if not file.is_file():
        mend = "name a model with one, or leave count_tokens_with out"
        raise UserError(f"count_tokens_with: no tokenizer.json in {model}", mend=mend)
    return file
