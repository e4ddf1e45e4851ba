"""What every block of a recipe is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A block of a recipe in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
