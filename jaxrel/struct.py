"""The one place that knows flax: frozen dataclasses that are pytrees."""

from flax.struct import dataclass as dataclass

__all__ = ["dataclass"]
