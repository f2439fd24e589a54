"""Databases larger than memory: rows in passing are those of the whole, whatever the chunk; memory knows no table that none reads."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sampled

import jaxrel
from jaxrel import aggregates, engine, stages, streaming
from jaxrel.errors import UserError
from jaxrel.random import named_key
from jaxrel.sql import read_sql
from jaxrel.tiles import resident_tiles
from jaxrel.types import NO_TABLE, TILE

SHOP = """
CREATE TABLE shops (code uuid PRIMARY KEY, name text NOT NULL UNIQUE, size integer, opened date);
CREATE TABLE people (id integer PRIMARY KEY, income decimal(8,2), grade text CHECK (grade IN ('a','b')), shop uuid REFERENCES shops(code));
CREATE TABLE sales (id bigint PRIMARY KEY, person_id integer NOT NULL REFERENCES people(id), shop uuid REFERENCES shops(code),
  at timestamp NOT NULL, amount double precision, kind text CHECK (kind IN ('web','phone','desk')), ok boolean, note varchar(40) UNIQUE);
CREATE TABLE posts (id integer PRIMARY KEY, person_id integer NOT NULL REFERENCES people(id),
  parent integer REFERENCES posts(id), tone real);
"""


@functools.cache
def step(capacity: Any, tiles: int) -> Any:
    return sampled.traced_once(functools.partial(jaxrel.simulation.stream_rows, capacity=capacity, tiles=tiles))


def test_rows_in_passing_are_those_of_the_whole_bit_for_bit() -> None:
    name = "tiny"
    whole, capacity = sampled.databases(name), sampled.small(name).capacity
    one = step(capacity, 2)
    seen = {1: 0, 2: 0}
    for b, db in enumerate(sampled.each(whole)):
        if (db.scm.aggregate_table != NO_TABLE).any() or sum(seen.values()) >= 12:
            continue
        tiles = 1 + sum(seen.values()) % 2
        seen[tiles] += 1
        blank = {"node_shift": db.scm.node_shift * 0, "node_scale": db.scm.node_scale * 0 + 1}
        again = dataclasses.replace(db.scm, calibrated=np.asarray(False), **blank)
        state = {"passing": jaxrel.simulation.start_rows(again, capacity)}

        def compute(first: int, count: int, db: Any = db, b: int = b, scm: Any = again, state: Any = state) -> Any:
            key = sampled.keys(1, b)[0]
            chunk = one(key, db.schema, db.links, scm, state["passing"], np.int32(first), np.int32(count))
            state["passing"] = chunk.passing
            return chunk

        of_table: dict[int, list[Any]] = {}
        for rows in streaming.stream_tables(compute, db.schema, tiles):
            assert rows.first == sum(other.time.shape[0] for other in of_table.get(rows.table, []))
            of_table.setdefault(rows.table, []).append(rows)
        for table in sampled.tables(db):
            parts = of_table.pop(table.index)
            for found, wanted in ((f"{x}", getattr(table, x)) for x in ("values", "missing", "time", "parent_row")):
                joined = np.concatenate([getattr(part, found) for part in parts], axis=-1)
                np.testing.assert_array_equal(joined[: wanted.shape[0]] if wanted.ndim == 2 else joined, wanted, err_msg=f"{b} {found}")
        assert not of_table
        np.testing.assert_array_equal(state["passing"].column_knots, db.scm.column_knots)
    assert min(seen.values()) >= 3, "too few databases without aggregates"


def test_what_stays_on_the_device_ends_with_the_last_table_that_a_key_leads_to() -> None:
    rows = {"shops": 40, "people": 3000, "sales": 90_000, "posts": 5000}
    schema, catalog = read_sql(SHOP, rows=rows)
    names = [table.name for table in catalog.tables]
    assert names == ["shops", "people", "posts", "sales"]  # posts refer to posts
    assert resident_tiles(schema) == 1 + (1 + 3) + (1 + 5)
    capacity = engine.capacity_for(schema, jaxrel.presets.load("default").prior)
    assert streaming.resident_capacity(schema, capacity).rows == 12 * TILE
    assert not streaming.is_huge(schema)
    assert streaming.is_huge(read_sql(SHOP, rows=rows | {"sales": 10**9})[0])


@pytest.mark.parametrize(("sales", "expected"), [(1, 16), (15 * TILE, 16), (15 * TILE + 1, 64), (63 * TILE, 64), (10**9, 256)])
def test_a_step_is_as_long_as_the_largest_table_needs(sales: int, expected: int) -> None:
    schema, _ = read_sql(SHOP, rows={"shops": 40, "people": 300, "posts": 100, "sales": sales})
    assert streaming.step_tiles(schema, 256) == expected
    assert streaming.step_tiles(schema, 1) == 1


def test_chunks_are_whole_tiles(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(UserError, match="chunk rows: 1500 is not a multiple of 1024; use 2048"):
        engine.generate(tiny, tmp_path / "out", chunk_rows=1500)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("streaming")
@pytest.mark.parametrize("format", ["plain", "relbench"])
def test_files_are_the_same_whole_or_in_passing_in_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    source = read_sql(SHOP, rows={"sales": 20_000, "posts": 4000, "people": 3000, "shops": 40})
    monkeypatch.setattr(aggregates, "HUGE", 1000)
    files = []
    for huge, chunk in ((1 << 30, TILE), (1000, TILE), (1000, 7 * TILE), (1000, 64 * TILE)):
        monkeypatch.setattr(streaming, "HUGE", huge)
        monkeypatch.setattr(stages, "HUGE", huge)
        out = tmp_path / f"{huge}-{chunk}"
        engine.generate(source, out, seed=3, format=format, chunk_rows=chunk)
        paths = sorted(path for path in out.rglob("*") if path.is_file())
        files.append({str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths})
    assert len(files[0]) >= 6
    assert all(other == files[0] for other in files)


def test_rows_near_the_thousand_millionth_are_computed_alone() -> None:
    """Links and times of a tile far out: row functions of the row id, whatever the table's length."""
    schema, _ = read_sql(SHOP, rows={"shops": 40, "people": 3000, "posts": 100, "sales": 10**9})
    prior = jaxrel.presets.load("default").prior
    capacity = streaming.resident_capacity(schema, engine.capacity_for(schema, prior))
    table, key = 3, named_key(sampled.ROOT, "far")
    laws = jax.jit(functools.partial(jaxrel.links.sample_link_laws, capacity=capacity))(key, prior, schema)
    rows = jax.jit(functools.partial(jaxrel.link_rows, capacity=capacity, tiles=2))
    for first in (0, 976_560):
        parent = np.asarray(rows(schema, laws, table=np.int32(table), first_tile=np.int32(first)))
        real = parent[:, : min(10**9 - first * TILE, 2 * TILE)]
        assert real.shape[1] >= TILE and (real[0] >= 0).all() and (real[0] < 3000).all() and (real[1] < 40).all()
        assert len(np.unique(real[0])) > 300
    times = jax.vmap(lambda row: jaxrel.times.time_rows(schema, np.int32(table), row))(np.asarray([[0, 10**9 - 2, 10**9 - 1]], np.int32))
    start, span = int(schema.time_start[table]), int(schema.time_span[table])
    assert start <= times[0, 0] < times[0, 1] <= times[0, 2] <= start + span
