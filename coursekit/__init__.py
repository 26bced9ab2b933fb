"""What the cells of a lab import: checks that explain themselves, data, plots, timing and earlier work."""

from coursekit.carry import carry

__all__ = ["carry"]
