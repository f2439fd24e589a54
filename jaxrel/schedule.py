"""Which tiles a batch of databases computes side by side.

One database walks its row axis tile by tile. Databases of a batch have tables of different sizes, so in step they would wait for the
largest of them at every table. Instead a batch of B databases has B *lanes*, and in each step every lane takes the next tile of whichever
database has one. Tiles that need others come later: a *wave* holds tiles that may be computed in any order, and a step has tiles of
one wave. What a tile holds depends on neither its lane nor its step.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.types import TILE, Schema, tiles_of

__all__ = ["Schedule", "Work", "schedule_rows", "schedule_tables"]


@struct.dataclass
class Work:
    """What the lanes of a batch do in one step."""

    wave: Array  # i32[]
    is_first: Array  # bool[], the wave's first step
    database: Array  # i32[B], whose tile a lane computes
    tile: Array  # i32[B], its position on the row axis in tiles; past every tile where the lane idles


@struct.dataclass
class Schedule:
    """Waves of tiles: databases in the order of their cost, so that lanes of one step have like work."""

    database: Array  # i32[waves, B]
    first: Array  # i32[waves, B], its first tile of the wave
    ends: Array  # i32[waves, B], tiles of the wave up to and with this database's
    steps: Array  # i32[waves], steps up to and with the wave's

    @property
    def count(self) -> Array:
        """i32[]: steps of all waves."""
        return self.steps[-1]

    def at(self, step: Array, nowhere: int) -> Work:
        """What happens in a step; idle lanes are ``nowhere``."""
        batch = self.database.shape[1]
        wave = jnp.minimum(jnp.sum(self.steps <= step, dtype=jnp.int32), self.steps.shape[0] - 1)
        before = jnp.where(wave == 0, 0, self.steps[jnp.maximum(wave - 1, 0)])
        ends, lane = self.ends[wave], jnp.arange(batch, dtype=jnp.int32)
        place = (step - before) * batch + lane
        rank = jnp.minimum(jnp.searchsorted(ends, place, side="right").astype(jnp.int32), batch - 1)
        inside = place - jnp.where(rank == 0, 0, ends[jnp.maximum(rank - 1, 0)])
        tile = jnp.where(place < ends[-1], self.first[wave, rank] + inside, nowhere)
        return Work(wave=wave, is_first=step == before, database=self.database[wave, rank], tile=tile)


def _schedule(first: Array, tiles: Array, cost: Array) -> Schedule:
    """Waves of which database b has ``tiles[w, b]`` tiles from ``first[w, b]`` on, each i32[waves, B]."""
    database = jnp.argsort(cost, axis=1, stable=True).astype(jnp.int32)
    first, tiles = (jnp.take_along_axis(x, database, axis=1) for x in (first, tiles))
    ends = jnp.cumsum(tiles, axis=1, dtype=jnp.int32)
    steps = jnp.cumsum(-(-ends[:, -1] // database.shape[1]), dtype=jnp.int32)
    return Schedule(database=database, first=first, ends=ends, steps=steps)


def schedule_tables(schema: Schema, cost: Array) -> Schedule:
    """A wave for each table, of its rows' tiles without the pilot.

    Args:
        schema: leaves lead with B.
        cost: i32[B, T], what a tile of a table takes, in any unit.
    """
    return _schedule((schema.row_offset // TILE).T, tiles_of(schema.row_count).T, cost.T)


def schedule_rows(schema: Schema, cost: Array, visited: Array, twice: Array) -> Schedule:
    """Three waves for each table: its first tile, which measures; the others of tables that must be visited twice; all the others.

    A table whose rows read earlier rows of its own is visited twice: what they read descends from no such reading, so it is right after
    the first visit, and all is after the second.

    Args:
        schema: leaves lead with B.
        cost: i32[B, T], what a tile of a table takes, in any unit.
        visited: bool[B, T], tables that are computed at all.
        twice: bool[B, T].
    """
    tiles = tiles_of(schema.row_count)
    pilots = (tiles > 1).astype(jnp.int32)
    start, used = schema.row_offset // TILE - pilots, jnp.where(visited, tiles + pilots, 0)
    one, rest = jnp.minimum(used, 1), jnp.maximum(used - 1, 0)
    waves = jnp.stack([one, jnp.where(twice, rest, 0), rest], axis=2)  # [B, T, 3]
    first = jnp.stack([start, start + 1, start + 1], axis=2)

    def by_wave(x: Array) -> Array:
        return x.reshape(x.shape[0], -1).T

    return _schedule(by_wave(first), by_wave(waves), by_wave(jnp.broadcast_to(cost[:, :, None], waves.shape)))
