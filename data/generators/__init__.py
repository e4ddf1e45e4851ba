"""Generators of the small embedded dataset. `python -m data.generators` writes it anew, byte for byte the same."""
