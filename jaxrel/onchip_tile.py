"""What a program of the kernel of nodes (`jaxrel.onchip_nodes`) has before it: one lane's tile, as arrays, blocks of rows and fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import triton

from jaxrel.nodes import SERIES_FIELDS
from jaxrel.onchip import as_word
from jaxrel.tiles import SEGMENT
from jaxrel.types import (
    TILE,
    Capacity,
)

__all__ = ["DATABASE", "IS_PILOT", "MEASURES", "NODES", "NODE_INTEGERS", "NODE_REALS", "SERIES", "Arrays"]

_LEAST = 16  # Triton multiplies matrices of 16 rows and columns or more
_BLOCK = 2048  # values of one array of a program: 16 in each of 128 threads (half as many: 1.35 times as long on an H100)
DATABASE, NODES, MEASURES, IS_PILOT = range(4)  # fields of a tile
NODE_INTEGERS = (
    *("kind", "used", "width", "classes", "combine", "law", "first_edge", "edges", "key_0", "key_1"),
    *("series_period", "series_phase", "series_calendar", "is_trait", "is_done_to"),
    *("fk", "slot", "parent_node", "offset", "is_self", "run_length", "aggregate"),
)
SERIES = tuple(name for name in SERIES_FIELDS if name != "noise_knots")
NODE_REALS = ("noise", "spread", "series_trend", "series_power", "series_cycle", "series_noise", "series_rho", "begin")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """What a program reads and writes, by name; and the sizes of its blocks."""

    refs: dict[str, Any]
    capacity: Capacity
    interpret: bool

    @property
    def lanes(self) -> int:
        """Lanes of a node, as a power of two."""
        return 1 << (self.capacity.width - 1).bit_length()

    @property
    def units(self) -> int:
        """Hidden units, as many as Triton multiplies."""
        return max(self.capacity.hidden, _LEAST)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return max(min(_BLOCK // max(self.units, self.lanes), SEGMENT), _LEAST)

    def __getitem__(self, name: str) -> Any:
        return self.refs[name]

    def wait(self) -> None:
        """What any thread of the program wrote, all of them may read from here on."""
        if not self.interpret:
            triton.debug_barrier()

    def blocks(self, body: Callable[[Array, Any], Any], init: Any = None) -> Any:
        """``body(rows, x)`` for one block of rows of the tile after another, from ``init`` on."""
        rows = jnp.arange(self.rows, dtype=jnp.int32)
        return jax.lax.fori_loop(0, TILE // self.rows, lambda i, x: body(i * self.rows + rows, x), init)

    def lanes_of(self, body: Callable[[Array], None], first: int = 0) -> None:
        """``body(w)`` for one lane after another; a loop, since unrolled it would take minutes to compile where nodes are wide."""
        jax.lax.fori_loop(first, self.capacity.width, lambda w, _: body(w), None)

    def node(self, b: Array, n: Array, *names: str) -> list[Any]:
        """Some fields of one node, read where they are asked for: what all of them are would fill the registers."""
        return [
            self["integers"][b, n, NODE_INTEGERS.index(name)] if name in NODE_INTEGERS else self["reals"][b, n, NODE_REALS.index(name)]
            for name in names
        ]

    def key(self, b: Array, n: Array) -> tuple[Array, Array]:
        """The stream of a node's noise."""
        first, second = self.node(b, n, "key_0", "key_1")
        return as_word(first), as_word(second)
