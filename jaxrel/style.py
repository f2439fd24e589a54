"""Styles: the tables of one database, and databases, differ in more than the luck of independent draws.

Where a prior names a range or weights, each table has a style of its own, and the styles of one database lie together. A style bends the
random word of a draw *before* the law's quantile, so that every density keeps its shape inside the style, and the margin over databases
is exactly the prior's:

- A range is narrowed to an arc. Words lie on a circle that is folded onto the unit interval (up, then back down), so that a place drawn
  evenly on the circle leaves every draw even. A database draws a place and how far its tables stray from it, a table its length.
- A choice among names falls back on habits: 1, 2, 4 or 8 words that were drawn once for the table, some of them the database's own. So
  the shares of the names are those of a Dirichlet process of drawn concentration around the prior's weights.

All of it is integers. Strength 0 gives each draw its own word, bit for bit.

Reference: Ferguson, "A Bayesian analysis of some nonparametric problems", 1973; Teh et al., "Hierarchical Dirichlet processes", 2006.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel import struct
from jaxrel.random import chance, mulhi, name_id, named_key, pair

__all__ = ["SCHEMA_CHOICES", "SCHEMA_RANGES", "SCM_CHOICES", "SCM_RANGES", "Style", "sample_style"]

_HABITS = 8
# The draws that have a style, by the names of their streams.
SCHEMA_RANGES = ("columns", "classes", "many classes", "missing", "share", "binned")
SCHEMA_CHOICES = ("kind",)
SCM_RANGES = (
    *("nodes", "gathers", "width", "classes", "categorical", "noise", "spread", "even", "trend power", "period", "rho"),
    *("hidden", "layers", "depth", "gain", "bias", "density", "single lane", "scale", "not at random", "own value"),
)
SCM_CHOICES = ("layout", "exogenous", "combine", "noise law", "family", "activation", "scale law", "marginal", "cut")


@struct.dataclass
class Style:
    """How some draws of each table are bent; a draw looks its table up."""

    arc: dict[str, Array]  # u32[T] by name of a range: where the table's arc begins (high half), and its length, in 2^-16 of the circle
    habits: dict[str, Array]  # u32[T * HABITS] by name of a choice
    strength: Array  # u32[], share of the choices that follow a habit, in 2^-24
    table: Array  # u32[...], table of each draw; of as many axes as the draws, or none

    def of(self, table: Array) -> Style:
        """The same styles for draws of other tables, i32[...]."""
        return dataclasses.replace(self, table=table.astype(jnp.uint32))

    def near(self, name: str, word: Array) -> Array:
        """The word of a draw from a range, u32[...], brought into its table's arc; a name without a style as it is."""
        if name not in self.arc:
            return word
        arc = jnp.broadcast_to(_at(self.arc[name], self.table), word.shape)
        length = arc & 0xFFFF
        around = (arc - length) + length * (word >> 16) + ((length * (word & 0xFFFF)) >> 16)
        folded = (around << 1) ^ (jnp.uint32(0) - (around >> 31))
        return jnp.where(self.strength > 0, folded, word)

    def among(self, name: str, word: Array, second: Array) -> Array:
        """The word of a choice, u32[...]: its own, or by the luck of a second word one of its table's habits."""
        if name not in self.habits:
            return word
        habit = _at(self.habits[name], jnp.broadcast_to(self.table * _HABITS, second.shape) + second % _HABITS)
        return jnp.where(chance(second, self.strength), habit, word)


def _at(x: Array, i: Array) -> Array:
    """x[i] for indices that are in range: no more than a gather."""
    return x.at[i].get(mode="promise_in_bounds")


def sample_style(key: Array, table_id: Array, strength: Array, ranges: tuple[str, ...], choices: tuple[str, ...]) -> Style:
    """Sample the style of every table of a database.

    Args:
        key: u32[2].
        table_id: u32[T], names of the tables' streams.
        strength: f32[], 0 (draws are independent) to 1.
        ranges: names of the draws from ranges and of the flags.
        choices: names of the draws from weights.

    Returns:
        A `Style` of scalar draws of table 0; `Style.of` names the tables of others.
    """
    T, R, S = table_id.shape[0], len(ranges), len(choices)
    share = jnp.round(strength * jnp.float32(2**24)).astype(jnp.uint32)
    # all words at once: a row for the database and one for each table; a column for each range, then for each habit of each choice
    whose = jnp.concatenate([key[None], named_key(key, "style", table_id)])[:, None]
    lane = np.array([name_id(name) for name in ranges] + [name_id(name) for name in choices for _ in range(_HABITS)], np.uint32)
    turn = np.array([0] * R + list(range(_HABITS)) * S, np.int32)
    first, second = pair(whose, jnp.asarray(turn)[None], jnp.asarray(lane)[None])

    start = first[:1, :R] + mulhi(first[1:, :R], second[:1, :R])  # the database's place, and how far its tables stray from it
    length = 0xFFFF - (mulhi(second[1:, :R], share) >> 8)
    arc = ((start >> 16) << 16) | length

    words, luck = (x[:, R:].reshape(T + 1, S, _HABITS) for x in (first, second))
    habits = jnp.where(luck[1:] >> 31 == 1, words[:1], words[1:])  # half of a table's are the database's
    many = (jnp.uint32(1) << (luck[1:, :, :1] & 3)) - 1  # 1, 2, 4 or 8 of them
    slot = jnp.asarray(np.arange(_HABITS, dtype=np.uint32))[None, None] & many
    habits = jnp.take_along_axis(habits, slot.astype(jnp.int32), axis=2)
    return Style(
        arc={name: arc[:, n] for n, name in enumerate(ranges)},
        habits={name: habits[:, n].reshape(-1) for n, name in enumerate(choices)},
        strength=share,
        table=jnp.uint32(0),
    )
