"""The walk along the row axis: which table and which rows a tile holds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel import struct
from jaxrel.types import TILE, Schema, tiles_of

__all__ = ["SEGMENT", "Tile", "resident_tiles", "tile_at", "tile_count"]

SEGMENT = 128  # rows of a tile lie in runs of so many consecutive ids: what a time series needs of its past is paid once a run


@struct.dataclass
class Tile:
    """One tile of one database's row axis."""

    table: Array  # i32[]
    rows: Array  # i32[TILE], row ids inside the table
    real: Array  # bool[TILE], rows that exist; in a pilot tile, rows that are sampled
    is_pilot: Array  # bool[], a tile of rows at fixed strides, computed for calibration alone
    measures: Array  # bool[], the table is calibrated on this tile


def tile_count(schema: Schema) -> Array:
    """i32[]: tiles that one schema's tables use, pilots included."""
    tiles = tiles_of(schema.row_count)
    return jnp.sum(tiles + (tiles > 1).astype(jnp.int32), dtype=jnp.int32)


def resident_tiles(schema: Schema) -> int:
    """Tiles of a concrete schema from the first one to the end of the last table that a key leads to; rows of the tables after them are
    read by none.
    """
    offset, tiles, parent = np.asarray(schema.row_offset), tiles_of(np.asarray(schema.row_count)), np.asarray(schema.fk_parent)
    read = np.isin(np.arange(len(offset)), parent[parent >= 0])
    return int(np.max(np.where(read, offset // TILE + tiles, 0)))


def tile_at(schema: Schema, j: Array) -> Tile:
    """Tile ``j`` of one schema's row axis.

    A table of one tile is its own pilot. A larger one starts with a tile of TILE / SEGMENT runs of rows at fixed strides, a
    function of its row count alone.

    Args:
        schema: one schema.
        j: i32[], position on the row axis in tiles; past the last tile, no row is real.
    """
    tiles = tiles_of(schema.row_count)
    used = tiles + (tiles > 1).astype(jnp.int32)
    end = jnp.cumsum(used, dtype=jnp.int32)
    table = jnp.minimum(jnp.sum(end <= j, dtype=jnp.int32), schema.row_count.shape[0] - 1)
    n = schema.row_count[table]
    inside = j - (end[table] - used[table])
    exists = j < end[-1]
    is_pilot = (tiles[table] > 1) & (inside == 0) & exists
    runs = TILE // SEGMENT
    i = jnp.arange(runs, dtype=jnp.int32)
    strided = (n // runs) * i + ((n % runs) * i) // runs
    start = jnp.where(is_pilot, strided, (inside - (tiles[table] > 1).astype(jnp.int32)) * TILE + i * SEGMENT)
    rows = (start[:, None] + jnp.arange(SEGMENT, dtype=jnp.int32)[None, :]).reshape(TILE)
    return Tile(
        table=table,
        rows=rows,
        real=(rows < n) & exists,
        is_pilot=is_pilot,
        measures=(inside == 0) & exists,
    )
