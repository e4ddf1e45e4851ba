"""smolalign: from nothing to an aligned, function-calling small language model, one recipe a step."""

__version__ = "0.1.0"
