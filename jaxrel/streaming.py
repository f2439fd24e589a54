"""Databases larger than memory: rows in passing, table by table, chunk by chunk.

Nothing is as long as the database but what later rows can refer to: the exported lanes of tables that keys lead to. A table that no key
leads to is limited by the disk alone. The rows are bit for bit those of the whole database at once, whatever the chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jaxrel.convert import TableRows
from jaxrel.simulation import Chunk
from jaxrel.tiles import resident_tiles
from jaxrel.types import HUGE, TILE, Capacity, Schema, tiles_of

__all__ = ["CHUNK_ROWS", "is_huge", "resident_capacity", "step_tiles", "stream_tables"]

CHUNK_ROWS = 1 << 18  # what a step costs beside its rows is a thousandth of it here, and its arrays take some ten MB


def is_huge(schema: Schema) -> bool:
    """Whether a concrete schema has so many rows that no table sums up its children, and so can be computed in passing."""
    return int(np.asarray(schema.row_count).sum(dtype=np.int64)) > HUGE


def resident_capacity(schema: Schema, capacity: Capacity) -> Capacity:
    """The capacity with the rows that stay on the device, rounded up by an eighth at most: a ladder, so that databases share programs."""
    tiles = resident_tiles(schema) + 1
    step = 1 << max(tiles.bit_length() - 4, 0)
    return dataclasses.replace(capacity, rows=-(-tiles // step) * step * TILE)


def step_tiles(schema: Schema, most: int) -> int:
    """Tiles of one step: as many as the largest table of a concrete schema has, pilot included, up to ``most``, by powers of four.

    A step belongs to one table and fills arrays of its full length: many small tables would pay for what they do not use.
    """
    tiles = 16
    while tiles < tiles_of(int(np.max(schema.row_count))) + 1:
        tiles *= 4
    return min(tiles, most)


@dataclasses.dataclass(frozen=True)
class _Step:
    table: int
    first: int  # tile on the row axis
    count: int  # tiles
    pilot: bool  # the first of them is the table's pilot
    row: int  # row id of the first row
    rows: int


def _steps(schema: Schema, tiles: int) -> Iterator[_Step]:
    at = 0
    for t, rows in enumerate(np.asarray(schema.row_count)[: int(schema.table_count)].tolist()):
        pilot = int(tiles_of(rows) > 1)
        end, table_at = at + pilot + tiles_of(rows), at + pilot
        if not rows:
            yield _Step(t, at, 0, False, 0, 0)
        while at < end:
            count, row = min(tiles, end - at), max(at - table_at, 0) * TILE
            yield _Step(t, at, count, at < table_at, row, min((at + count - table_at) * TILE, rows) - row)
            at += count


def stream_tables(compute: Callable[[int, int], Chunk], schema: Schema, tiles: int) -> Iterator[TableRows]:
    """Rows of all tables, parents first; while some are converted and written, the device computes the next.

    Args:
        compute: the next tiles of the row axis, by the first and their number (`jaxrel.simulation.stream_rows`).
        schema: one schema, concrete.
        tiles: of one step, most.
    """
    waiting: tuple[_Step, Chunk] | None = None
    for step in _steps(schema, tiles):
        chunk = compute(step.first, step.count)
        if waiting is not None:
            yield _fetch(*waiting)
        waiting = step, chunk
    if waiting is not None:
        yield _fetch(*waiting)


def _fetch(step: _Step, chunk: Chunk) -> TableRows:
    first = TILE if step.pilot else 0
    rows = slice(first, first + step.rows)
    values, missing, time = (np.asarray(x)[..., rows] for x in (chunk.rows.values, chunk.rows.missing, chunk.rows.time))
    return TableRows(step.table, step.row, values, missing, time, np.asarray(chunk.parent_row)[:, rows])
