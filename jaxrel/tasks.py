"""Prediction tasks on a database: what to predict of which rows as of when, drawn and labelled on the device.

*Autocomplete*: a column of a table, of rows as of their own time, the column itself hidden everywhere. *Forecast*: what the children of an
entity, by one key, say in the window (t, t + Δ] after a seed time t. *Recommendation*: which row the next child in the window refers to by
another of its keys.

Nothing leaks by construction: inputs (`jaxrel.row_features`) end at the seed time, and a forecast's label begins after it; the column that
an autocomplete task asks for is hidden. What a forecast sums up is not hidden: its past is an input that RelBench's tasks have too.

Seed times are RelBench's: validation and test at `split_days`, training at validation − Δ, − 2Δ, …, whole days. So a task of `sample_task`
and the folder that `jaxrel.benchmark` writes for it are one task: the folder has every entity, the arrays a sample.

A task is kept where `jaxrel.probe` finds that it can be learnt and is not trivial; else another is drawn, a bounded number of times.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.children import child_span, children_until, row_table
from jaxrel.features import row_features
from jaxrel.probe import CLASSES, judge, judge_links
from jaxrel.random import below, bits, index_permutation, named_key, reduce_key
from jaxrel.splits import DAY, split_days
from jaxrel.totals import ChildTotals, total_children
from jaxrel.types import NO_COLUMN, NO_ROW, NO_TABLE, NO_TIME, Capacity, Database, Kind

__all__ = ["ALL_KINDS", "Measure", "Split", "Task", "TaskKind", "sample_task"]

_PROPOSALS = 8  # pairs of entity and seed time looked at for each row of a task, most
_PIECE = 4096  # children read at once
_WINDOWS = (1, 1, 2, 2, 4, 8)  # the window is the longest that fits, divided by one of these


class TaskKind(enum.IntEnum):
    """What kind of thing is predicted."""

    AUTOCOMPLETE = 0
    FORECAST = 1
    RECOMMENDATION = 2


class Measure(enum.IntEnum):
    """What a forecast says of the children in the window."""

    EXISTS = 0  # whether there is one: its opposite is churn
    COUNT = 1
    SUM = 2  # of a column; 0 of none
    MEAN = 3  # of a column; entities without a value have no label
    MAX = 4  # the same
    MANY = 5  # whether there are at least `threshold`
    LARGE = 6  # whether a value of the column is above `threshold`
    NEXT = 7  # days until the first one; entities without one have no label


class Split(enum.IntEnum):
    """Which part of a task a row belongs to, by time."""

    TRAIN = 0
    VAL = 1
    TEST = 2


ALL_KINDS = tuple(TaskKind)
_KINDS = (TaskKind.AUTOCOMPLETE,) * 2 + (TaskKind.FORECAST,) * 3 + (TaskKind.RECOMMENDATION,)  # drawn from these
_VALUES = (Measure.SUM, Measure.MEAN, Measure.MAX, Measure.LARGE)  # of a column
_NEED = (Measure.MEAN, Measure.MAX, Measure.NEXT)  # an event in the window
_TWO = (Measure.EXISTS, Measure.MANY, Measure.LARGE)  # classes


@struct.dataclass
class Task:
    """A task and a sample of its rows. The first five eighths of them train, an eighth and a half each validate and test."""

    kind: Array  # i32[], TaskKind
    measure: Array  # i32[], Measure of a forecast; else 0
    table: Array  # i32[], entity table
    child: Array  # i32[], whose rows a forecast or recommendation is about, or NO_TABLE
    fk: Array  # i32[], its key slot that leads to the entity table
    other_fk: Array  # i32[], recommendation: its key slot whose parent row is predicted
    column: Array  # i32[], autocomplete: of the entity table; forecast: of the child; NO_COLUMN where there is none
    window: Array  # i32[], Δ in seconds, whole days; 0: autocomplete
    threshold: Array  # f32[], MANY and LARGE
    active: Array  # bool[], only entities that had a child at or before the seed time
    classes: Array  # i32[], labels are 0 … classes - 1; 0: regression, or a row of a recommendation
    row: Array  # i32[M], of the entity table; NO_ROW: padding
    seed_time: Array  # i32[M], seconds since 1970; NO_TIME - 1 where the table has no time: all is seen
    label: Array  # f32[M]
    labelled: Array  # bool[M]
    split: Array  # i32[M], Split
    hidden: Array  # bool[T, C], columns that must not be seen
    score: Array  # f32[], of the gate's probe on rows that it was not fitted to: AUROC, rank correlation, or lift
    passed: Array  # bool[], the gate let it through; False: the last of the tries


@dataclasses.dataclass(frozen=True)
class _Calendar:
    """Where the database is cut, in days; all i32[] but ``fine``."""

    first: Array  # seed times are no earlier
    val: Array
    test: Array
    longest: Array  # window
    fine: Array  # bool[]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a task, [M]."""

    row: Array
    seed_time: Array
    start: Array  # of an entity's children in the index
    past: Array  # so many of them until the seed time
    until: Array  # and until the end of the window


def _calendar(db: Database) -> _Calendar:
    table, real = row_table(db)
    timed = real & db.schema.has_time[table] & (db.time != NO_TIME)
    low, high = jnp.min(jnp.where(timed, db.time, NO_TIME)), jnp.max(jnp.where(timed, db.time, -NO_TIME))
    val, test, fine = split_days(low, high)
    fine = fine & jnp.any(timed)
    before = jnp.max(jnp.where(timed & (db.time <= test * DAY), db.time, -NO_TIME))  # RelBench wants the window of validation to end by it
    first = -(-low // DAY)
    longest = jnp.minimum(jnp.minimum(before // DAY - val, (high - test * DAY) // DAY), (val - first) // 3)
    return _Calendar(first, val, test, jnp.where(fine, longest, 0), fine)


def _pick(mask: Array, word: Array) -> Array:
    """i32[]: a true place of bool[n], all alike; 0 where there is none."""
    count = jnp.cumsum(mask, dtype=jnp.int32)
    return jnp.argmax(count > below(word, count[-1])).astype(jnp.int32)


def _codes(members: Sequence[int]) -> Array:
    return jnp.asarray(members, jnp.int32)


def _is_in(code: Array, members: Sequence[int]) -> Array:
    return jnp.any(code[None] == _codes(members))


def _draw(key: Array, db: Database, days: _Calendar, kinds: Sequence[TaskKind], timed: bool) -> Task:
    """A description, without rows."""
    schema = db.schema
    T, K = schema.fk_parent.shape
    C = schema.column_kind.shape[1]
    used = (schema.row_count > 0)[:, None]
    column = (jnp.arange(C, dtype=jnp.int32)[None, :] < schema.column_count[:, None]) & used
    real = (schema.column_kind == Kind.NUMERIC) | (schema.column_kind == Kind.INTEGER)
    coded = (schema.column_kind == Kind.CATEGORICAL) & (schema.column_classes >= 2) & (schema.column_classes <= CLASSES)
    cut = jnp.where(schema.has_time, days.fine, not timed)[:, None]
    targets = column & (real | coded | (schema.column_kind == Kind.BOOLEAN)) & cut
    events = (schema.fk_parent != NO_TABLE) & schema.has_time[:, None] & used & (days.longest >= 1)
    apart = jnp.arange(K, dtype=jnp.int32)[:, None] != jnp.arange(K, dtype=jnp.int32)[None, :]
    pairs = events[:, :, None] & events[:, None, :] & apart[None]

    some = jnp.stack([jnp.any(x) for x in (targets, events, pairs)])
    wanted = jnp.asarray([kind in kinds for kind in TaskKind], bool)
    kind = _codes(_KINDS)[_pick((some & wanted)[_codes(_KINDS)], bits(key, 0, "kind"))]
    own = _pick(targets.reshape(-1), bits(key, 0, "target"))
    event = _pick(events.reshape(-1), bits(key, 0, "event"))
    pair = _pick(pairs.reshape(-1), bits(key, 0, "pair"))
    auto, links = kind == TaskKind.AUTOCOMPLETE, kind == TaskKind.RECOMMENDATION
    child, fk = jnp.where(links, pair // (K * K), event // K), jnp.where(links, pair // K % K, event % K)
    numbers = (column & real)[child]
    possible = jnp.asarray([m not in _VALUES for m in Measure], bool) | jnp.any(numbers)
    measure = jnp.where(kind == TaskKind.FORECAST, _pick(possible, bits(key, 0, "measure")), 0)
    value = _is_in(measure, _VALUES) & (kind == TaskKind.FORECAST)
    number = jnp.where(value, _pick(numbers, bits(key, 0, "column")), NO_COLUMN)
    part = jnp.maximum(days.longest // _codes(_WINDOWS)[below(bits(key, 0, "window"), len(_WINDOWS))], 1)
    table, target = jnp.where(auto, own // C, schema.fk_parent[child, fk]), jnp.where(auto, own % C, number)
    there = jnp.maximum(table, 0)
    binary = schema.column_kind[there, own % C] == Kind.BOOLEAN
    classes = jnp.where(real[there, own % C], 0, jnp.where(binary, 2, schema.column_classes[there, own % C]))
    forecast = jnp.where((kind == TaskKind.FORECAST) & _is_in(measure, _TWO), 2, 0)
    place = jnp.arange(T * C, dtype=jnp.int32).reshape(T, C)
    none = jnp.zeros(0, jnp.int32)
    return Task(
        kind=kind,
        measure=measure,
        table=jnp.where(jnp.any(some & wanted), table, NO_TABLE),
        child=jnp.where(auto, NO_TABLE, child),
        fk=jnp.where(auto, 0, fk),
        other_fk=jnp.where(links, pair % K, 0),
        column=target,
        window=jnp.where(auto, 0, part * DAY),
        threshold=jnp.float32(0),
        active=~auto & (below(bits(key, 0, "active"), 3) > 0),
        classes=jnp.where(auto, classes, forecast),
        row=none,
        seed_time=none,
        label=none.astype(jnp.float32),
        labelled=none.astype(bool),
        split=none,
        hidden=auto & (place == own),
        score=jnp.float32(0),
        passed=jnp.bool_(False),
    )


def _sizes(rows: int) -> tuple[int, int, int]:
    """Rows of each split."""
    train = rows * 5 // 8
    val = (rows - train) // 2
    return train, val, rows - train - val


def _sample_rows(key: Array, db: Database, totals: ChildTotals, days: _Calendar, of: Task, rows: int) -> _Rows:
    """Distinct pairs of an entity and a seed time, at random among those that have a label, the rows of each split side by side."""
    schema, sizes = db.schema, _sizes(rows)
    table, there, auto = of.table, jnp.maximum(of.table, 0), of.kind == TaskKind.AUTOCOMPLETE
    n, offset, timed = schema.row_count[there], schema.row_offset[there], schema.has_time[there]
    step = jnp.maximum(of.window // DAY, 1)
    most = (2**31 - 1) // jnp.maximum(n, 1)  # pairs are numbered in 31 bits; of more seed times the latest
    stamps = jnp.stack([jnp.minimum((days.val - days.first) // step, most), jnp.int32(1), jnp.int32(1)])
    place = jnp.arange(db.time.shape[0], dtype=jnp.int32)
    own = (place >= offset) & (place < offset + n)
    ends = [jnp.sum(own & (db.time <= day * DAY), dtype=jnp.int32) for day in (days.val, days.test)]
    known = jnp.sum(own & (db.time != NO_TIME), dtype=jnp.int32)
    eighth = n // 8
    bounds = jnp.where(timed, jnp.stack([0 * n, *ends, known]), jnp.stack([0 * n, n - 3 * eighth, n - eighth - eighth // 2, n]))

    split = jnp.concatenate([jnp.full(_PROPOSALS * size, s, jnp.int32) for s, size in enumerate(sizes)])
    i = jnp.concatenate([jnp.arange(_PROPOSALS * size, dtype=jnp.int32) for size in sizes])
    low, count = bounds[split], bounds[split + 1] - bounds[split]
    free = auto & ~timed  # one permutation of all rows, cut in three
    domain = jnp.where(auto, jnp.where(timed, count, n), n * stamps[split])
    image = index_permutation(named_key(key, "rows", jnp.where(free, 0, split)), jnp.where(free, low + i, i), domain)
    inside = (i < jnp.where(auto, count, domain)) & (table != NO_TABLE)
    row = jnp.where(auto, jnp.where(timed, low + image, image), image % jnp.maximum(n, 1))
    row = jnp.where(inside, row, 0)
    day = jnp.where(
        split == Split.TRAIN, days.val - (1 + image // jnp.maximum(n, 1)) * step, jnp.where(split == Split.VAL, days.val, days.test)
    )
    birth = db.time[offset + row]
    seed_time = jnp.where(auto, jnp.where(timed, birth, NO_TIME - 1), day * DAY)

    start, stop = child_span(totals.index, of.child, of.fk, row)
    past = children_until(totals.index, of.fk, start, stop, seed_time)
    until = children_until(totals.index, of.fk, start, stop, seed_time + of.window)
    need = (of.kind == TaskKind.RECOMMENDATION) | ((of.kind == TaskKind.FORECAST) & _is_in(of.measure, _NEED))
    known_cell = ~db.missing[jnp.maximum(of.column, 0), offset + row]
    future = (~timed | (birth <= seed_time)) & (~of.active | (past > 0)) & (~need | (until > past))
    accepted = inside & jnp.where(auto, known_cell, future)

    chosen, first = [], 0
    for size in sizes:
        part = accepted[first : first + _PROPOSALS * size]
        chosen.append(jnp.nonzero(part, size=size, fill_value=i.shape[0])[0].astype(jnp.int32) + first)
        first += _PROPOSALS * size
    at = jnp.concatenate(chosen)
    there = at < i.shape[0]
    at = jnp.minimum(at, i.shape[0] - 1)
    return _Rows(jnp.where(there, row[at], NO_ROW), jnp.where(there, seed_time[at], 0), start[at], past[at], until[at])


@dataclasses.dataclass(frozen=True)
class _Window:
    """What children in the window say, [M]."""

    count: Array  # i32, values of the column
    sum: Array  # f32
    high: Array  # f32, -inf of none
    other: Array  # i32, where in the index the first one lies that refers to an existing row by the other key; NO_TIME: none does


def _read_windows(db: Database, totals: ChildTotals, of: Task, rows: _Rows) -> _Window:
    """Walk through the children in all windows, `_PIECE` at a time, however many a parent has."""
    R, M = db.time.shape[0], rows.row.shape[0]
    wanted = (rows.row != NO_ROW) & (of.kind != TaskKind.AUTOCOMPLETE)
    wanted = wanted & ((of.column != NO_COLUMN) | (of.kind == TaskKind.RECOMMENDATION))
    length = jnp.where(wanted, rows.until - rows.past, 0)
    ends = jnp.cumsum(length, dtype=jnp.int32)
    to = db.schema.fk_parent[jnp.maximum(of.child, 0), of.other_fk]

    def step(state: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        first, count, total, high, other = state
        position = first + jnp.arange(_PIECE, dtype=jnp.int32)
        target = jnp.minimum(jnp.searchsorted(ends, position, side="right").astype(jnp.int32), M - 1)
        inside = position < ends[-1]
        at = rows.start[target] + rows.past[target] + position - (ends - length)[target]
        at = jnp.where(inside, at, 0)
        place = totals.index.row[of.fk, jnp.minimum(at, R - 1)]
        column = jnp.maximum(of.column, 0)
        there = inside & ~db.missing[column, place]
        value = jnp.where(there, db.values[column, place], 0.0)
        parent = db.links.parent_row[of.other_fk, place]
        born = db.time[db.schema.row_offset[jnp.maximum(to, 0)] + jnp.maximum(parent, 0)]
        exists = ~db.schema.has_time[jnp.maximum(to, 0)] | (born <= rows.seed_time[target])
        leads = inside & (parent != NO_ROW) & (to != NO_TABLE) & exists
        return (
            first + _PIECE,
            count.at[target].add(there.astype(jnp.int32)),
            total.at[target].add(value),
            high.at[target].max(jnp.where(there, value, -jnp.inf)),
            other.at[target].min(jnp.where(leads, at, NO_TIME)),
        )

    zero = jnp.zeros(M, jnp.int32)
    start = (jnp.int32(0), zero, zero.astype(jnp.float32), jnp.full(M, -jnp.inf, jnp.float32), jnp.full(M, NO_TIME, jnp.int32))
    return _Window(*jax.lax.while_loop(lambda state: state[0] < ends[-1], step, start)[1:])


def _other(db: Database, totals: ChildTotals, of: Task, at: Array, there: Array) -> Array:
    """i32[M]: the row that the child at a place of the index refers to by the other key, or NO_ROW."""
    place = totals.index.row[of.fk, jnp.where(there, at, 0)]
    return jnp.where(there, db.links.parent_row[of.other_fk, place], NO_ROW)


def _threshold(key: Array, x: Array, there: Array) -> Array:
    """f32[]: a quartile of some numbers."""
    count = jnp.sum(there, dtype=jnp.int32)
    place = count * (1 + below(bits(key, 0, "threshold"), 3)) // 4
    return jnp.sort(jnp.where(there, x, jnp.inf))[jnp.minimum(place, x.shape[0] - 1)]


def _labels(key: Array, db: Database, totals: ChildTotals, of: Task, rows: _Rows) -> Task:
    """The task with rows and labels."""
    window, M = _read_windows(db, totals, of, rows), rows.row.shape[0]
    split = jnp.concatenate([jnp.full(size, s, jnp.int32) for s, size in enumerate(_sizes(M))])
    real, train = rows.row != NO_ROW, split == Split.TRAIN
    events = rows.until - rows.past
    many = jnp.maximum(_threshold(key, events.astype(jnp.float32), real & train), 2.0)
    large = _threshold(key, window.high, real & train & (window.count > 0))
    large = jnp.where(jnp.isfinite(large), large, 0.0)
    first = totals.index.time[of.fk, jnp.minimum(rows.start + rows.past, db.time.shape[0] - 1)] - rows.seed_time
    some = window.count > 0
    forecasts = (  # in the order of Measure
        (events > 0).astype(jnp.float32),
        events.astype(jnp.float32),
        window.sum,
        window.sum / jnp.maximum(window.count, 1).astype(jnp.float32),
        jnp.where(some, window.high, 0.0),
        (events.astype(jnp.float32) >= many).astype(jnp.float32),
        (window.high > large).astype(jnp.float32),
        (first // DAY).astype(jnp.float32) + (first % DAY).astype(jnp.float32) / jnp.float32(DAY),
    )
    valued, none = _is_in(of.measure, (Measure.MEAN, Measure.MAX)), jnp.ones_like(real)
    place = db.schema.row_offset[jnp.maximum(of.table, 0)] + jnp.maximum(rows.row, 0)
    leads = window.other != NO_TIME
    by_kind = (
        (db.values[jnp.maximum(of.column, 0), place], none),
        (jnp.stack(forecasts)[of.measure], jnp.where(valued, some, events > 0) | ~_is_in(of.measure, _NEED)),
        (_other(db, totals, of, window.other, leads).astype(jnp.float32), leads),
    )
    label, labelled = jnp.stack([x for x, _ in by_kind])[of.kind], real & jnp.stack([x for _, x in by_kind])[of.kind]
    threshold = jnp.where(of.measure == Measure.MANY, many, jnp.where(of.measure == Measure.LARGE, large, 0.0))
    return dataclasses.replace(
        of,
        threshold=jnp.where(of.kind == TaskKind.FORECAST, threshold, 0.0),
        row=rows.row,
        seed_time=rows.seed_time,
        label=jnp.where(labelled, label, 0.0),
        labelled=labelled,
        split=split,
    )


def _gate(db: Database, totals: ChildTotals, task: Task, rows: _Rows) -> Task:
    """The task with its score, and whether it is kept."""
    train = task.split == Split.TRAIN
    links = task.kind == TaskKind.RECOMMENDATION

    def of_links() -> tuple[Array, Array]:
        last, past = rows.start + rows.past - 1, rows.past > 0
        repeated = _other(db, totals, task, last, past)
        to = jnp.maximum(db.schema.fk_parent[jnp.maximum(task.child, 0), task.other_fk], 0)
        return judge_links(task.label, task.labelled, task.labelled & train, repeated.astype(jnp.float32), db.schema.row_count[to])

    def of_labels() -> tuple[Array, Array]:
        seen = row_features(db, task.table, task.row, task.seed_time, totals, hidden=task.hidden)
        return judge(seen.values, seen.missing, task.label, task.labelled, train, task.classes)

    score, passed = jax.lax.cond(links, of_links, of_labels)
    return dataclasses.replace(task, score=score, passed=passed & (task.table != NO_TABLE))


def sample_task(
    key: ArrayLike,
    db: Database,
    capacity: Capacity,
    *,
    rows: int = 1024,
    tries: int = 8,
    kinds: TaskKind | Sequence[TaskKind] = ALL_KINDS,
    timed: bool = False,
    totals: ChildTotals | None = None,
) -> Task:
    """Draw a task and a sample of its labels.

    Args:
        key: a PRNG key, typed or raw, of any implementation.
        db: one database, generated or real; under ``vmap``, many.
        capacity: what it is padded to.
        rows: static, M.
        tries: static, tasks that are drawn and looked at, most.
        kinds: static, those to draw from; what a database has none of is left out.
        timed: static, only tasks on tables with times, as RelBench's format wants them.
        totals: `total_children` of the database, for more calls than one; None: made here.

    Returns:
        The first `Task` that the gate lets through; where none is, the last one, with ``passed`` False. Autocomplete rows are as of their
        own time, and train up to the validation day; tables without a time are split at random. Forecasts need events on more than a
        few days: none is drawn where not even three windows of a day fit before the validation day.

    Raises:
        TypeError: if ``key`` is not one PRNG key.
        ValueError: if a size is out of range, a kind is none, or the capacity is another one's.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> def task(key):
        ...     return jaxrel.sample_task(key, jaxrel.sample_database(key, tiny.prior, tiny.capacity), tiny.capacity, rows=64)
        >>> jax.eval_shape(task, jax.random.key(0)).label.shape
        (64,)
    """
    if rows < 16:
        raise ValueError(f"rows: {rows} are too few to train, validate and test; give at least 16")
    if tries < 1:
        raise ValueError(f"tries: {tries} is too few; give at least 1")
    kinds = (kinds,) if isinstance(kinds, TaskKind) else tuple(kinds)
    if not kinds:
        raise ValueError("kinds: there is none; give at least one TaskKind")
    if not set(kinds) <= set(ALL_KINDS):
        raise ValueError(f"kinds: {tuple(kinds)} are not all of TaskKind; give some of {', '.join(map(str, ALL_KINDS))}")
    if (capacity.columns, capacity.rows) != db.values.shape:
        raise ValueError(f"capacity: {capacity.columns} columns and {capacity.rows} rows are not those of the database, {db.values.shape}")
    db = jax.tree.map(jnp.asarray, db)
    totals = total_children(db) if totals is None else totals
    root, days = reduce_key(key), _calendar(db)

    def attempt(i: Array) -> Task:
        own = named_key(root, "task", i)
        description = _draw(own, db, days, kinds, timed)
        chosen = _sample_rows(own, db, totals, days, description, rows)
        return _gate(db, totals, _labels(own, db, totals, description, chosen), chosen)

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(attempt, jnp.int32(0)))
    start = (jnp.int32(0), nothing)
    return jax.lax.while_loop(lambda s: (s[0] < tries) & ~s[1].passed, lambda s: (s[0] + 1, attempt(s[0])), start)[1]
