"""Contexts against the database they come from: rows, keys, values and masks, and against the future, which must leave no trace."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_database import fake_database
from sampled import databases, each, grown, later, tables, traced_once
from scipy import stats

import jaxrel
from jaxrel.contexts import NO_COLUMN, SAMPLE, TIME_COLUMN, Cells, Contexts, attention_masks, sample_cells, sample_contexts
from jaxrel.random import below, bits, named_key
from jaxrel.types import NO_ROW, NO_TABLE, NO_TIME, Database, Kind

KEY = jnp.asarray([3, 4], jnp.uint32)
M, S, U, FAN_OUT, HOPS = 48, 20, 60, 3, 3
SIZES = {"tokens": U, "rows_per_context": S, "fan_out": FAN_OUT, "hops": HOPS}


@pytest.fixture(scope="module")
def some() -> list[Database]:
    return list(each(databases("tiny")))[:12]


@pytest.fixture(scope="module")
def cells_of() -> Any:
    return traced_once(lambda key, db: sample_cells(key, db, M))


@pytest.fixture(scope="module")
def program() -> Any:
    """One program for all databases, cells, times and hidden columns."""

    def contexts(key: Any, db: Database, cells: Cells, hidden: Any) -> Contexts:
        return sample_contexts(key, db, cells.table, cells.row, cells.seed_time, cells.column, hidden=hidden, **SIZES)

    return traced_once(contexts)


@jax.jit
def jitted(key: Any, db: Database, cells: Cells) -> Contexts:
    return sample_contexts(key, db, cells.table, cells.row, cells.seed_time, cells.column, **SIZES)


def none_hidden(db: Database) -> np.ndarray:
    return np.zeros(db.schema.column_kind.shape, bool)


def moved(cells: Cells, db: Database, rng: np.random.Generator) -> Cells:
    """The same cells, half of them as of any time of the database, even before their own."""
    times = np.concatenate([t.time for t in tables(db)])
    return jax.device_get(cells).replace(seed_time=np.where(rng.random(M) < 0.5, cells.seed_time, rng.choice(times, M)).astype(np.int32))


def one(contexts: Contexts, m: int) -> Contexts:
    return jax.tree.map(lambda x: x[m], contexts)


def sees(db: Database, table: int, row: int, time: int) -> bool:
    place = db.schema.row_offset[table] + row
    return bool(0 <= row < db.schema.row_count[table] and (not db.schema.has_time[table] or db.time[place] <= time))


def parents(db: Database, table: int, row: int, time: int) -> list[tuple[int, int] | None]:
    """What each key of a row refers to, as of a time."""
    found = [
        (int(p), int(r)) for p, r in zip(db.schema.fk_parent[table], db.links.parent_row[:, db.schema.row_offset[table] + row], strict=True)
    ]
    return [x if x[0] != NO_TABLE and x[1] != NO_ROW and sees(db, *x, time) else None for x in found]


def children(db: Database, table: int, row: int, time: int, slots: int = 4) -> list[set[tuple[int, int]]]:
    """The rows that refer to a row as of a time, by key."""
    found = []
    for c, k in np.argwhere(db.schema.fk_parent == table)[:slots].tolist():
        rows = slice(int(db.schema.row_offset[c]), int(db.schema.row_offset[c] + db.schema.row_count[c]))
        at = np.flatnonzero(db.links.parent_row[k, rows] == row)
        found.append({(c, int(r)) for r in at if sees(db, c, int(r), time)})
    return found


def check_rows(db: Database, context: Contexts, time: int) -> Counter[str]:
    """Walk the context breadth-first: what stands at each place is what must or may come next. Counts what was seen."""
    n, seen = int(context.row_count), Counter[str]()
    rows = [(int(t), int(r)) for t, r in zip(context.row_table[:n], context.row[:n], strict=True)]
    assert len(set(rows)) == n
    assert (context.row_table[n:] == NO_TABLE).all() and (context.row[n:] == NO_ROW).all() and (context.row_parent[n:] == NO_ROW).all()
    depth, end = {rows[0]: 0}, 1
    for i, row in enumerate(rows):
        assert sees(db, *row, time), "a row of the future"
        if depth[row] == HOPS:
            continue
        for parent in parents(db, *row, time):
            if parent is not None and parent not in depth and end < S:
                assert rows[end] == parent
                depth[parent], end = depth[row] + 1, end + 1
                seen["parent"] += 1
        for of_key in children(db, *row, time):
            least, taken = min(len(of_key), FAN_OUT), 0
            already = len(of_key & depth.keys())
            while end < n and taken < least and rows[end] in of_key:
                depth[rows[end]], end, taken = depth[row] + 1, end + 1, taken + 1
            seen["child"] += taken
            assert end == S or taken + already >= least, "too few children"
            assert len(of_key) > FAN_OUT or end == S or of_key <= depth.keys()
            seen["drawn"] += len(of_key) > FAN_OUT
        assert i < end
    assert end == n, "rows that nothing leads to"
    for s, row in enumerate(rows):
        for k, parent in enumerate(parents(db, *row, time)):
            assert context.row_parent[s, k] == (rows.index(parent) if parent in rows else NO_ROW)
            seen["key"] += parent in rows
        assert context.row_time[s] == (db.time[db.schema.row_offset[row[0]] + row[1]] if db.schema.has_time[row[0]] else 0)
    return seen


def sampled_cells(db: Database, cell: tuple[int, int, int], time: int, table: int, column: int) -> np.ndarray:
    """The cells of a column that its statistics are taken from."""
    t = next(t for t in tables(db) if t.index == table)
    n = int((t.time <= time).sum()) if db.schema.has_time[table] else t.time.size
    sample = np.arange(min(n, SAMPLE)) * n // max(min(n, SAMPLE), 1)
    sample = sample[~t.missing[column, sample] & ~((sample == cell[1]) & (cell[0] == table) & (cell[2] == column))]
    return t.values[column, sample].astype(np.float64)


def statistics(db: Database, *of: Any) -> tuple[float, float]:
    """Mean and deviation of a column as they are seen."""
    x = sampled_cells(db, *of)
    return (x.mean(), x.std() or 1.0) if x.size else (0.0, 1.0)


def check_tokens(db: Database, context: Contexts, cell: tuple[int, int, int], time: int, hidden: np.ndarray) -> int:
    """Tokens are the cells of the rows, in order; the target's value is not among them."""
    wanted, target = [], -1
    for s in range(int(context.row_count)):
        t, r = int(context.row_table[s]), int(context.row[s])
        place = db.schema.row_offset[t] + r
        for c in range(int(db.schema.column_count[t])):
            is_target = s == 0 and c == cell[2]
            if is_target or (not db.missing[c, place] and not hidden[t, c]):
                kind, value = int(db.schema.column_kind[t, c]), float(db.values[c, place])
                mean, scale = (0.0, 1.0) if kind in (Kind.CATEGORICAL, Kind.BOOLEAN) else statistics(db, cell, time, t, c)
                if is_target:
                    target = len(wanted)
                    assert bool(context.target_known) == (not db.missing[c, place])
                    shown = (value - mean) / scale if context.target_known else 0.0
                    np.testing.assert_allclose(context.target_value, shown, rtol=2e-4, atol=2e-4)
                    np.testing.assert_allclose(context.target_mean, mean, rtol=1e-4, atol=1e-4 * scale)
                    np.testing.assert_allclose(context.target_scale, scale, rtol=1e-4)
                    assert context.target_classes == db.schema.column_classes[t, c]
                    is_code = kind in (Kind.CATEGORICAL, Kind.BOOLEAN)
                    codes = sampled_cells(db, cell, time, t, c).astype(int) if is_code else np.zeros(0, int)
                    np.testing.assert_array_equal(context.target_counts, np.bincount(codes[codes < 32], minlength=32))
                wanted.append((s, c, kind, 0.0 if is_target else (value - mean) / scale))
        if db.schema.has_time[t]:
            wanted.append((s, TIME_COLUMN, int(Kind.TIMESTAMP), np.log1p((time - int(db.time[place])) / 86_400)))
    n, wanted = int(context.token_count), wanted[:U]
    assert n == len(wanted) and context.target == target
    found = (context.token_row, context.token_column, context.token_kind)
    for array, of_wanted, padding in zip(
        found, zip(*wanted, strict=True) if wanted else ((), (), (), ()), (NO_ROW, NO_COLUMN, 0), strict=False
    ):
        np.testing.assert_array_equal(array[:n], np.asarray(of_wanted, np.int32))
        assert (array[n:] == padding).all()
    np.testing.assert_allclose(context.token_value[:n], [w[3] for w in wanted], rtol=2e-4, atol=2e-4)
    assert not context.token_value[n:].any()
    return n


def check(db: Database, contexts: Contexts, cells: Cells, hidden: np.ndarray) -> Counter[str]:
    seen = Counter[str]()
    for m in range(cells.row.shape[0]):
        context, time = one(contexts, m), int(min(cells.seed_time[m], NO_TIME - 1))
        cell = int(cells.table[m]), int(cells.row[m]), int(cells.column[m])
        if not sees(db, *cell[:2], time):
            assert context.row_count == 0 and context.token_count == 0 and context.target == -1 and not context.target_known
            seen["empty"] += 1
            continue
        seen += check_rows(db, context, time)
        seen["token"] += check_tokens(db, context, cell, time, hidden)
        seen["full"] += int(context.row_count) == S
    return seen


def test_contexts_are_the_neighbourhood_as_of_the_time(some: list[Database], cells_of: Any, program: Any) -> None:
    seen, rng = Counter[str](), np.random.default_rng(0)
    for i, db in enumerate(some):
        hidden = none_hidden(db)
        hidden[rng.integers(0, hidden.shape[0]), rng.integers(0, hidden.shape[1])] = i % 2
        cells = moved(cells_of(named_key(KEY, i), db), db, rng)
        seen += check(db, jax.device_get(program(KEY, db, cells, hidden)), cells, hidden)
    assert min(seen[x] for x in ("parent", "child", "drawn", "key", "token")) > 500 and min(seen["empty"], seen["full"]) > 20, seen


@pytest.mark.parametrize("timed", [True, False])
def test_self_references_two_keys_to_one_parent_and_nulls(timed: bool) -> None:
    db = fake_database(timed=timed).replace(scm=None)
    cells = jax.device_get(sample_cells(KEY, db, M))
    contexts = jitted(KEY, db, cells)
    assert check(db, jax.device_get(contexts), cells, none_hidden(db))["key"] > 200


def test_the_future_leaves_no_trace(some: list[Database], cells_of: Any, program: Any) -> None:
    changed = 0
    for i, db in enumerate(some):
        span = np.concatenate([t.time for t in tables(db) if db.schema.has_time[t.index]] or [np.zeros(1, np.int32)])
        for share in (0.2, 0.7):
            time = int(np.quantile(span, share))
            other = later(db, time, np.random.default_rng(i))
            changed += int((other.values != db.values).sum())
            cells = jax.device_get(cells_of(named_key(KEY, i), db)).replace(seed_time=np.full(M, time, np.int32))
            a, b = (jax.device_get(program(KEY, x, cells, none_hidden(db))) for x in (db, other))
            jax.tree.map(np.testing.assert_array_equal, a, b)
    assert changed > 10_000


def test_what_is_to_be_predicted_leaves_no_trace(some: list[Database], cells_of: Any, program: Any) -> None:
    told = 0
    for i, db in enumerate(some[:4]):
        cells = jax.device_get(cells_of(named_key(KEY, i), db))
        before = jax.device_get(program(KEY, db, cells, none_hidden(db)))
        for m in range(0, M, 6):
            values = np.array(db.values)
            values[cells.column[m], db.schema.row_offset[cells.table[m]] + cells.row[m]] += 1000
            after = one(jax.device_get(program(KEY, db.replace(values=values), cells, none_hidden(db))), m)
            told += float(after.target_value) != float(before.target_value[m])
            jax.tree.map(np.testing.assert_array_equal, after.replace(target_value=before.target_value[m]), one(before, m))
    assert told >= 28  # four databases of eight; a target may be missing


def test_hidden_columns_are_never_seen(some: list[Database], cells_of: Any, program: Any) -> None:
    for i, db in enumerate(some[:4]):
        hidden, values = none_hidden(db), np.array(db.values)
        for t in tables(db):
            hidden[t.index, 0], values[0, t.rows] = True, -7.0
        cells = jax.device_get(cells_of(named_key(KEY, i), db))
        a, b = (jax.device_get(program(KEY, x, cells, hidden)) for x in (db, db.replace(values=values)))
        for name in ("token_value", "token_kind", "token_column"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        column = np.where(np.arange(U) == a.target[:, None], NO_COLUMN, a.token_column)
        assert not (column == 0).any() and (column > 0).any()


def test_a_row_has_one_context_wherever_it_stands_and_another_by_another_key(some: list[Database], cells_of: Any, program: Any) -> None:
    db = some[0]
    cells = jax.device_get(cells_of(KEY, db))
    contexts, other = (jax.device_get(program(key, db, cells, none_hidden(db))) for key in (KEY, KEY + 1))
    order = np.random.default_rng(0).permutation(M)
    again = jax.device_get(program(KEY, db, jax.tree.map(lambda x: x[order], cells), none_hidden(db)))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), again, contexts)
    assert 5 < (other.row != contexts.row).any(axis=1).sum() < M  # rows of few children have one neighbourhood only


def test_rows_that_are_not_there_and_targets_that_are_none(some: list[Database], cells_of: Any, program: Any) -> None:
    db = some[0]
    cells = jax.device_get(cells_of(KEY, db)).replace(seed_time=np.full(M, NO_TIME, np.int32))
    nowhere = cells.replace(row=np.where(np.arange(M) % 2, NO_ROW, 10**6).astype(np.int32))
    empty = program(KEY, db, nowhere, none_hidden(db))
    assert not np.asarray(empty.row_count).any() and not np.asarray(empty.token_count).any()
    for column in (NO_COLUMN, 6, -7):
        unmasked = jax.device_get(program(KEY, db, cells.replace(column=np.full(M, column, np.int32)), none_hidden(db)))
        assert (unmasked.target == -1).all() and not unmasked.target_known.any() and (unmasked.token_count > 0).all()


def test_batches_are_databases_side_by_side(some: list[Database], cells_of: Any, program: Any) -> None:
    batch = jax.tree.map(lambda *x: np.stack(x), *some[:3])
    cells = [jax.device_get(cells_of(named_key(KEY, i), db)) for i, db in enumerate(some[:3])]
    of = jax.jit(jax.vmap(lambda db, c: sample_contexts(KEY, db, c.table, c.row, c.seed_time, c.column, **SIZES)))
    together = jax.device_get(of(batch, jax.tree.map(lambda *x: np.stack(x), *cells)))
    for b, db in enumerate(some[:3]):
        alone = jax.device_get(program(KEY, db, cells[b], none_hidden(db)))
        compare(alone, one(together, b))


def compare(a: Contexts, b: Contexts) -> None:
    """Integers exactly, reals to rounding."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if x.dtype.kind == "f":
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(x, y)


def shop() -> dict[str, Any]:
    """Real data of three tables, with keys to no row and times that are missing."""
    import pandas as pd

    rng = np.random.default_rng(1)
    people = pd.DataFrame({"name": [f"p{i}" for i in range(40)], "age": rng.integers(18, 90, 40), "grade": rng.choice(["a", "b"], 40)})
    shops = pd.DataFrame({"name": ["north", "south", "east"], "size": [3.0, 1.0, None]})
    moment = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 300), unit="s"))
    sales = pd.DataFrame(
        {
            "person": rng.choice([*people.name, "nobody"], 300),
            "shop": rng.choice([*shops.name, None], 300),
            "at": moment.where(rng.random(300) < 0.8),
            "price": rng.pareto(0.5, 300) * 1e6,
            "flag": rng.random(300) < 0.3,
        }
    )
    tables = {"sale": sales, "shop": shops, "person": people}
    keys = {"person": "name", "shop": "name"}, {"sale": {"shop": "shop", "person": "person"}}, {"sale": "at"}
    return {"tables": tables, "primary_keys": keys[0], "foreign_keys": keys[1], "time_columns": keys[2]}


def test_real_data_at_any_capacity() -> None:
    tight = jaxrel.from_pandas(**shop())
    wide = jaxrel.from_pandas(**shop(), capacity=grown(tight.capacity, tables=2, foreign_keys=2, columns=3, rows=3))
    at = int(np.quantile(np.asarray(tight.database.time)[np.asarray(tight.database.time) > 0], 0.4))
    found = []
    for db in (tight.database, wide.database):
        cells = jax.device_get(sample_cells(KEY, db, M))
        cells = cells.replace(seed_time=np.where(np.arange(M) % 2, cells.seed_time, at).astype(np.int32))
        contexts = jax.device_get(jitted(KEY, db, cells))
        seen = check(jax.device_get(db), contexts, cells, none_hidden(db))
        assert min(seen["parent"], seen["child"], seen["token"]) > 50, seen
        found.append(contexts.replace(row_parent=contexts.row_parent[:, :, :2]))
    compare(*found)


def test_cells_are_of_every_table_and_column_alike_and_mostly_known(some: list[Database]) -> None:
    cells_of = jax.jit(lambda db: sample_cells(KEY, db, 4000))
    for db in some[:6]:
        cells = jax.device_get(cells_of(db))
        counts = np.bincount(cells.table, minlength=int(db.schema.table_count))
        assert stats.chisquare(counts).pvalue > 1e-6
        for t in tables(db):
            own = cells.table == t.index
            assert stats.chisquare(np.bincount(cells.column[own], minlength=t.values.shape[0])).pvalue > 1e-6
            assert (cells.row[own] < t.time.size).all() and len(np.unique(cells.row[own])) > 0.6 * min(own.sum(), t.time.size)
            assert (~t.missing[cells.column[own], cells.row[own]]).mean() > 0.97
            np.testing.assert_array_equal(cells.seed_time[own], t.time[cells.row[own]] if db.schema.has_time[t.index] else NO_TIME - 1)


def test_children_are_drawn_without_replacement_every_set_alike() -> None:
    from jaxrel.contexts import _draw_some

    draw = jax.jit(jax.vmap(lambda key, n: _draw_some(key, jnp.zeros(1, jnp.int32), n[None], 3)[:, 0], (0, None)))
    keys = named_key(KEY, jnp.arange(20_000))
    for n in (0, 2, 3):
        np.testing.assert_array_equal(draw(keys[:10], jnp.int32(n)), np.tile(np.arange(3), (10, 1)))
    for n in (4, 7):
        drawn = np.asarray(draw(keys, jnp.int32(n)))
        assert (drawn >= 0).all() and (drawn < n).all() and all(len(set(x)) == 3 for x in drawn[:2000].tolist())
        sets = Counter(map(tuple, np.sort(drawn, axis=1).tolist()))
        assert len(sets) == n * (n - 1) * (n - 2) // 6 and stats.chisquare(list(sets.values())).pvalue > 1e-4
        for place in range(3):
            assert stats.chisquare(np.bincount(drawn[:, place], minlength=n)).pvalue > 1e-4
    assert (below(bits(KEY, 0), 7) >= 0).all()


def test_masks_say_who_attends_to_whom(some: list[Database], cells_of: Any, program: Any) -> None:
    db, pairs = some[1], Counter[str]()
    contexts = jax.device_get(program(KEY, db, cells_of(KEY, db), none_hidden(db)))
    masks = jax.device_get(jax.jit(attention_masks)(contexts))
    for m in range(8):
        c = one(contexts, m)
        n, rows = int(c.token_count), [(int(t), int(r)) for t, r in zip(c.row_table, c.row, strict=True)]
        for a in range(U):
            for b in range(U):
                wanted = dict.fromkeys(("column", "feature", "neighbour", "full"), a == b)
                if a < n and b < n:
                    ra, rb = rows[c.token_row[a]], rows[c.token_row[b]]
                    wanted["full"] = True
                    wanted["column"] |= ra[0] == rb[0] and c.token_column[a] == c.token_column[b]
                    wanted["feature"] |= ra == rb or rb in parents(db, *ra, NO_TIME - 1)
                    wanted["neighbour"] |= ra in parents(db, *rb, NO_TIME - 1)
                for name, want in wanted.items():
                    assert getattr(masks, name)[m, a, b] == want, (name, m, a, b)
                    pairs[name] += want and a != b
    assert min(pairs.values()) > 100 and len(pairs) == 4


def test_sizes_that_cannot_be_are_refused(some: list[Database]) -> None:
    rows = jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="fan_out: 0 is too few; give at least 1"):
        sample_contexts(KEY, some[0], 0, rows, rows, 0, fan_out=0)
    with pytest.raises(ValueError, match="tokens: 6 have no room for a row of 6 columns and a time; give at least 7"):
        sample_contexts(KEY, some[0], 0, rows, rows, 0, tokens=6)
    with pytest.raises(ValueError, match=r"rows: their shape is \(\); give one axis"):
        sample_contexts(KEY, some[0], 0, 1, 0, 0)
    with pytest.raises(ValueError, match=r"column: its shape is \(2,\); give one for all, or one for each of the 1 rows"):
        sample_contexts(KEY, some[0], 0, rows, 0, np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="table: 99 … 99 is not in -1 … 3"):
        sample_contexts(KEY, some[0], 99, rows, rows, 0)
    with pytest.raises(ValueError, match="count: -1 is less than 0"):
        sample_cells(KEY, some[0], -1)
