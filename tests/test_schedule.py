"""The lanes of a batch compute every tile once, after the tiles that it needs, and do not wait for the largest database."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrel
from jaxrel.kernel import _reads_itself
from jaxrel.schedule import Schedule, schedule_rows, schedule_tables
from jaxrel.sql import read_sql
from jaxrel.types import TILE, row_offsets, tiles_of

NOWHERE = 10_000
work_at = jax.jit(Schedule.at, static_argnames="nowhere")


@functools.cache
def _schemas() -> jaxrel.Schema:
    tiny = jaxrel.presets.load("tiny")
    sample = jax.jit(
        jax.vmap(lambda key: jaxrel.sample_schema(key, tiny.prior, tiny.capacity)), compiler_options={"xla_backend_optimization_level": 0}
    )
    return sample(jax.random.split(jax.random.key(3), 16))


def schemas(batch: int) -> jaxrel.Schema:
    return jax.tree.map(lambda x: x[:batch], _schemas())


def stretched(schema: jaxrel.Schema, seed: int) -> jaxrel.Schema:
    """The same with tables of 0 to 9 tiles, laid out anew."""
    rows = np.random.default_rng(seed).integers(0, 9 * TILE, schema.row_count.shape)
    rows = np.where(np.arange(rows.shape[1]) < np.asarray(schema.table_count)[:, None], rows, 0).astype(np.int32)
    offset = jax.vmap(lambda rows: row_offsets(rows)[0])(jnp.asarray(rows))
    return schema.replace(row_count=jnp.asarray(rows), row_offset=offset)


def steps(plan: Schedule) -> list[list[tuple[int, int, int]]]:
    """By step, (wave, database, tile) of the lanes that work."""
    out = []
    for i in range(int(plan.count)):
        work = work_at(plan, jnp.int32(i), nowhere=NOWHERE)
        lanes = zip(np.asarray(work.database).tolist(), np.asarray(work.tile).tolist(), strict=True)
        out.append([(int(work.wave), database, tile) for database, tile in lanes if tile != NOWHERE])
    return out


@pytest.mark.parametrize("seed", range(3))
def test_every_tile_once_and_after_what_it_needs(seed: int) -> None:
    schema = stretched(schemas(5), seed)
    batch, T = schema.row_count.shape
    random = np.random.default_rng(seed)
    twice, visited = (jnp.asarray(random.random((batch, T)) < share) for share in (0.3, 0.8))
    done = steps(schedule_rows(schema, jnp.asarray(random.integers(0, 50, (batch, T))), visited, twice))
    rows, first = np.asarray(schema.row_count), np.asarray(schema.row_offset) // TILE
    wanted = {}
    for b in range(batch):
        for t in range(T):
            tiles = -(-rows[b, t] // TILE)
            if tiles and visited[b, t]:
                start = first[b, t] - (tiles > 1)
                wanted[b, t] = list(range(start, first[b, t] + tiles))
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, step in enumerate(done):
        assert len({(database, tile) for _, database, tile in step}) == len(step) <= batch
        for wave, database, tile in step:
            seen.setdefault((database, wave // 3), []).append((number, tile))
    assert seen.keys() == wanted.keys()
    for (b, t), visits in seen.items():
        begin, *rest = wanted[b, t]
        assert sorted(tile for _, tile in visits) == sorted([begin, *rest, *(rest if twice[b, t] else [])])
        assert [tile for _, tile in visits].count(begin) == 1 and visits[0][1] == begin  # what measures comes first, alone
        assert all(number > visits[0][0] for number, _ in visits[1:])
        last = [max(n for n, tile in visits if tile == x) for x in rest]
        early = [min(n for n, tile in visits if tile == x) for x in rest]
        assert not twice[b, t] or not rest or max(early) < min(last)  # all have been visited before any is visited again
        for parent in range(t):
            if (b, parent) in seen:
                assert max(n for n, _ in seen[b, parent]) < visits[0][0]


def test_lanes_do_not_wait() -> None:
    schema = stretched(schemas(16), 7)
    tiles = np.asarray(tiles_of(schema.row_count))
    plan = schedule_tables(schema, jnp.zeros_like(schema.row_count))
    done = steps(plan)
    assert sum(map(len, done)) == tiles.sum()
    assert len(done) == sum(-(-n // 16) for n in tiles.sum(axis=0)) < tiles.max(axis=0).sum()
    assert [bool(work_at(plan, jnp.int32(i), nowhere=NOWHERE).is_first) for i in range(len(done))] == [
        i == 0 or done[i][0][0] != done[i - 1][0][0] for i in range(len(done))
    ]


def test_a_batch_of_nothing() -> None:
    schema = schemas(3)
    empty = schema.replace(row_count=jnp.zeros_like(schema.row_count))
    assert int(schedule_tables(empty, empty.row_count).count) == 0
    nobody = jnp.zeros(empty.row_count.shape, bool)
    assert int(schedule_rows(schema, schema.row_count, nobody, nobody).count) == 0


@pytest.mark.slow
def test_batches_of_tables_that_refer_to_themselves() -> None:
    """Gathers through a self-reference, over several tiles: what the second visit is for."""
    schema, _ = read_sql(
        "CREATE TABLE part (id INT PRIMARY KEY, kind TEXT NOT NULL, weight REAL, price REAL, whole INT REFERENCES part);"
        "CREATE TABLE usage (id INT PRIMARY KEY, part INT NOT NULL REFERENCES part, hours REAL);",
        rows={"part": 5000, "usage": 3000},
    )
    prior = jaxrel.presets.load("tiny").prior
    capacity = jaxrel.capacity_for(schema, prior)

    def sample(key: jax.Array) -> jaxrel.Database:
        links = jaxrel.sample_links(key, prior, schema, capacity)
        return jaxrel.simulate(key, schema, links, jaxrel.sample_scm(key, prior, schema, capacity), capacity)

    keys = jax.random.split(jax.random.key(11), 6)
    quick = {"xla_backend_optimization_level": 0}
    together, alone = jax.jit(jax.vmap(sample), compiler_options=quick)(keys), jax.jit(sample, compiler_options=quick)
    reads = 0
    for i, key in enumerate(keys):
        one, other = alone(key), jax.tree.map(lambda x: x[i], together)  # noqa: B023
        reads += int(_reads_itself(one.schema, one.scm).sum())
        for name in ("parent_row", "missing", "time"):
            source = (one.links, other.links) if name == "parent_row" else (one, other)
            np.testing.assert_array_equal(*(getattr(x, name) for x in source))
        np.testing.assert_allclose(other.values, one.values, rtol=1e-3, atol=1e-3)
    assert reads > 1  # gathers of that kind occur
