"""Contexts for relational transformers: a row and its neighbourhood as of a time, as one sequence of cells of fixed length.

*Rows.* First the row itself; then, breadth-first, the parents that a row of the context refers to (all its keys), and of the rows that
refer to it at most ``fan_out`` by each key, drawn without replacement among those that exist; their parents and children in turn, up to
``hops`` keys away, each row once, until there are ``rows_per_context``.

*Tokens.* The cells of these rows, row by row: known values of columns that are not hidden, and the time of a row that has one. The
target cell, in the first row, is masked: its place is there, its value is not.

*As of a time.* A row is seen from its time on (a row of a table without times: always). What is not seen leaves no trace: neither
its cells, nor that it is there, nor a part in any statistic.

*Numbers.* Reals, whole numbers and dates are standardised: less the mean and over the standard deviation of the column's known cells in
up to `SAMPLE` rows, spread evenly over those of the table that are seen, the target cell left out. Categories and booleans stay codes; how
often each occurs in those rows is counted for the target's column. The value of a row's time is log(1 + days before the seed time).

Alphabet: ``M`` contexts, ``S`` rows of a context, ``U`` tokens of a context; else as in `jaxrel.types`.

Reference: Ranjan et al., "Relational Transformer: toward zero-shot foundation models for relational data", arXiv 2510.06377 (tokens,
sampling, masks).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.children import ChildIndex, as_targets, child_span, children_until, first_place, index_children, leading_keys, look
from jaxrel.random import below, bits, named_key, reduce_key
from jaxrel.splits import DAY
from jaxrel.types import NO_COLUMN, NO_ROW, NO_TABLE, NO_TIME, Database, Kind

__all__ = ["SAMPLE", "TIME_COLUMN", "Cells", "Contexts", "Masks", "attention_masks", "sample_cells", "sample_contexts"]

TIME_COLUMN = -2  # the column of a token that holds its row's time
SAMPLE = 64  # rows that a column's mean and deviation are taken from: their errors are an eighth of a deviation
_TRIES = 4  # rows that are drawn until a known cell is found


@struct.dataclass
class Cells:
    """Cells of a database and the times as of which they are to be predicted."""

    table: Array  # i32[M]
    row: Array  # i32[M]
    column: Array  # i32[M]
    seed_time: Array  # i32[M], seconds


@struct.dataclass
class Contexts:
    """M contexts; rows and tokens in use come first."""

    row_count: Array  # i32[M], 0: the target row is not seen
    row_table: Array  # i32[M, S], NO_TABLE past the count
    row: Array  # i32[M, S], row in its table, NO_ROW past the count
    row_time: Array  # i32[M, S], seconds; 0 where the table has no time
    row_parent: Array  # i32[M, S, K], number in the context of the row that each key refers to; NO_ROW: null, not seen, or not in it
    token_count: Array  # i32[M]
    token_row: Array  # i32[M, U], number in the context of the token's row, NO_ROW past the count
    token_column: Array  # i32[M, U], column of that row's table, or TIME_COLUMN; NO_COLUMN past the count
    token_kind: Array  # i32[M, U], Kind; TIMESTAMP of a time
    token_value: Array  # f32[M, U], standardised, or a code; 0 of the target and past the count
    target: Array  # i32[M], token that is masked, -1: none
    target_value: Array  # f32[M], what it hides, standardised like the others, or a code
    target_known: Array  # bool[M], that cell holds a value
    target_mean: Array  # f32[M], a real is target_mean + target_scale * target_value
    target_scale: Array  # f32[M]
    target_classes: Array  # i32[M], categories of the target's column, 0 of reals
    target_counts: Array  # i32[M, classes], of codes: how often each occurs in the rows that a mean is taken from

    @property
    def token_table(self) -> Array:
        """i32[M, U]: the table of each token, NO_TABLE past the count."""
        return _of_rows(self.row_table, self.token_row, NO_TABLE)

    @property
    def token_time(self) -> Array:
        """i32[M, U]: the time of each token's row."""
        return _of_rows(self.row_time, self.token_row, 0)


@struct.dataclass
class Masks:
    """Which token (second axis) each token (third axis: what it reads) attends to; every token reads itself."""

    column: Array  # bool[M, U, U], cells of the same column, of any row
    feature: Array  # bool[M, U, U], cells of the same row, and of the rows that it refers to
    neighbour: Array  # bool[M, U, U], cells of rows that refer to it
    full: Array  # bool[M, U, U], all


def _of_rows(x: Array, row: Array, default: int) -> Array:
    return jnp.where(row >= 0, jnp.take_along_axis(x, jnp.maximum(row, 0), axis=-1), default)


def sample_cells(key: ArrayLike, db: Database, count: int) -> Cells:
    """Draw cells for masked-cell prediction: a table, one of its columns, one of its rows, each alike.

    A cell is to be predicted as of its own row's time; of a table without times, as of the end.

    Args:
        key: a PRNG key, typed or raw, of any implementation.
        db: one database, generated or real; under ``vmap``, many.
        count: static, M.

    Returns:
        `Cells`; of up to four rows the first whose cell is known. A table without columns or rows gives a cell that is not there.

    Raises:
        ValueError: if the count is negative.
        TypeError: if ``key`` is not one PRNG key.
    """
    if count < 0:
        raise ValueError(f"count: {count} is less than 0")
    db = jax.tree.map(jnp.asarray, db)
    schema, key = db.schema, named_key(reduce_key(key), "cells")
    i, tries = jnp.arange(count, dtype=jnp.int32), jnp.arange(_TRIES, dtype=jnp.int32)
    table = below(bits(key, i, "table"), schema.table_count)
    column = below(bits(key, i, "column"), schema.column_count[table])
    rows = below(bits(named_key(key, "row"), i[:, None], tries[None, :]), schema.row_count[table][:, None])
    known = ~db.missing[column[:, None], schema.row_offset[table][:, None] + rows]
    row = jnp.take_along_axis(rows, jnp.argmax(known, axis=1)[:, None], axis=1)[:, 0]
    time = jnp.where(schema.has_time[table], db.time[schema.row_offset[table] + row], NO_TIME - 1)
    return Cells(table=table, row=row, column=column, seed_time=jnp.minimum(time, NO_TIME - 1))


def _draw_some(key: Array, lane: Array, n: Array, count: int) -> Array:
    """``count`` different numbers in [0, n), every set alike; where n is smaller, 0 … n - 1, then numbers from n on.

    Reference: Floyd's algorithm in Bentley and Floyd, "Programming pearls: a sample of brilliance", CACM 30 (1987); the numbers are then
    turned round by a drawn shift, so that each alone is uniform too.
    """
    word = bits(key, jnp.arange(count + 1, dtype=jnp.int32).reshape(-1, *(1,) * n.ndim), lane[None])
    shift, picks = below(word[count], n), list[Array]()
    for j in range(count):
        top = n - count + j
        pick = below(word[j], jnp.maximum(top, 0) + 1)
        for other in picks:
            pick = jnp.where(other == pick, top, pick)
        picks.append(jnp.where(n <= count, j, pick))
    chosen = jnp.stack(picks)
    turned = chosen + shift[None]
    return jnp.where(n[None] <= count, chosen, jnp.where(turned >= n[None], turned - n[None], turned))


def _pick_rows(
    key: Array,
    db: Database,
    index: ChildIndex,
    leading: Array,
    table: Array,
    row: Array,
    seed_time: Array,
    size: int,
    fan_out: int,
    hops: int,
) -> tuple[Array, Array, Array]:
    """The rows of one context: table i32[S], row i32[S] and their number."""
    schema, K, number = db.schema, db.schema.fk_parent.shape[1], jnp.arange(size, dtype=jnp.int32)
    _, seen = look(db, table, row, seed_time)
    first = (number == 0) & seen
    tables, rows = jnp.where(first, table, NO_TABLE), jnp.where(first, row, NO_ROW)
    key = named_key(key, "context", row)

    def visit(i: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        tables, rows, depth, count = state
        t, r, near = tables[i], rows[i], (i < count) & (depth[i] < hops)
        there = jnp.maximum(t, 0)
        place = schema.row_offset[there] + jnp.maximum(r, 0)
        parent_table = schema.fk_parent[there]
        parent_row = db.links.parent_row[:, place]
        _, parent_seen = look(db, parent_table, parent_row, seed_time)
        lead = leading[there]  # [keys that lead here]
        child_table, fk = jnp.where(lead < 0, NO_TABLE, lead // K), jnp.maximum(lead, 0) % K
        start, stop = child_span(index, child_table, fk, jnp.broadcast_to(jnp.where(near, r, NO_ROW), fk.shape))
        n = children_until(index, fk, start, stop, seed_time)
        picks = _draw_some(named_key(key, there, r), (jnp.maximum(child_table, 0) << 16) + fk, n, fan_out).T  # [keys, fan_out]
        at = index.row[fk[:, None], jnp.where(picks < n[:, None], start[:, None] + picks, 0)]
        child_row = at - schema.row_offset[jnp.maximum(child_table, 0)][:, None]
        found_table = jnp.concatenate([parent_table, jnp.repeat(child_table, fan_out)])
        found_row = jnp.concatenate([parent_row, child_row.reshape(-1)])
        found = near & jnp.concatenate([parent_seen, (picks < n[:, None]).reshape(-1)])
        same = (found_table[:, None] == found_table[None, :]) & (found_row[:, None] == found_row[None, :])
        j = jnp.arange(found.shape[0], dtype=jnp.int32)
        before = jnp.any(same & found[None, :] & (j[None, :] < j[:, None]), axis=1)
        there_already = jnp.any((found_table[:, None] == tables[None, :]) & (found_row[:, None] == rows[None, :]), axis=1)
        new = found & ~before & ~there_already
        put = count + jnp.sum((new[None, :] & (j[None, :] < j[:, None])).astype(jnp.int32), axis=1)
        to = new[None, :] & (put[None, :] == number[:, None])  # [S, found]
        taken = jnp.any(to, axis=1)

        def write(x: Array, old: Array) -> Array:
            return jnp.where(taken, jnp.sum(jnp.where(to, x[None, :], 0), axis=1), old)

        count = jnp.minimum(count + jnp.sum(new.astype(jnp.int32)), size)
        return write(found_table, tables), write(found_row, rows), jnp.where(taken, depth[i] + 1, depth), count

    state = (tables, rows, jnp.zeros(size, jnp.int32), jnp.sum(first.astype(jnp.int32)))
    tables, rows, _, count = jax.lax.fori_loop(0, size, visit, state)
    return tables, rows, count


def _statistics(db: Database, table: Array, row: Array, column: Array, seed_time: Array, classes: int) -> tuple[Array, Array, Array]:
    """Mean and deviation of every column as they are seen at a time, f32[T, C] each, and the counts of the target column's codes,
    i32[classes]; the target cell has no part in them."""
    schema, R = db.schema, db.time.shape[0]
    T, C = schema.column_kind.shape
    start = schema.row_offset
    end = start + schema.row_count
    until = first_place(lambda at: db.time[jnp.minimum(at, R - 1)] > seed_time, start, end, R)
    n = jnp.where(schema.has_time, until, end) - start
    i = jnp.arange(SAMPLE, dtype=jnp.int32)[None, :]
    size = jnp.minimum(n, SAMPLE)[:, None]
    step, rest = n[:, None] // jnp.maximum(size, 1), n[:, None] % jnp.maximum(size, 1)
    sample = i * step + i * rest // jnp.maximum(size, 1)  # floor(i n / size) without a product beyond 31 bits
    place = jnp.minimum(start[:, None] + sample, R - 1)
    is_target = (jnp.arange(T, dtype=jnp.int32)[:, None] == table) & (sample == row)
    is_target = is_target[None] & (jnp.arange(C, dtype=jnp.int32)[:, None, None] == column)
    known = ~db.missing[:, place] & (i < size)[None] & ~is_target  # [C, T, SAMPLE]
    count = jnp.maximum(jnp.sum(known.astype(jnp.float32), axis=2), 1.0)
    value = jnp.where(known, db.values[:, place], 0.0)
    mean = jnp.sum(value, axis=2) / count
    deviation = jnp.sqrt(jnp.sum(jnp.where(known, value - mean[:, :, None], 0.0) ** 2, axis=2) / count)
    real = ~_is_code(schema.column_kind)
    sound = real & jnp.isfinite(mean.T) & jnp.isfinite(deviation.T)
    # a column that hardly varies beside its mean is constant: what is left are rounding errors
    spread = deviation.T > 1e-6 * jnp.abs(mean.T)
    t, c = jnp.maximum(table, 0), jnp.clip(column, 0, C - 1)
    is_code = known[c, t][:, None] & (value[c, t].astype(jnp.int32)[:, None] == jnp.arange(classes, dtype=jnp.int32)[None, :])
    counts = jnp.where(real[t, c], 0, jnp.sum(is_code.astype(jnp.int32), axis=0))
    return jnp.where(sound, mean.T, 0.0), jnp.where(sound & spread, deviation.T, 1.0), counts


def _is_code(kind: Array) -> Array:
    return (kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)


def sample_contexts(
    key: ArrayLike,
    db: Database,
    table: ArrayLike,
    rows: Array,
    seed_time: Array,
    column: ArrayLike,
    index: ChildIndex | None = None,
    *,
    tokens: int = 128,
    rows_per_context: int = 32,
    fan_out: int = 4,
    hops: int = 3,
    slots: int = 4,
    classes: int = 32,
    hidden: Array | None = None,
) -> Contexts:
    """The contexts of some rows, each as of its own time.

    Which children are drawn depends on the key and on the rows alone: a row has one context, wherever it stands and whatever is
    asked of it. For another one of the same row give another key.

    Args:
        key: a PRNG key, typed or raw, of any implementation.
        db: one database, generated or real; under ``vmap``, many.
        table: i32[] or i32[M], may be traced.
        rows: i32[M], rows of the table; of NO_ROW, or a row that is not seen, the context is empty.
        seed_time: i32[] or i32[M], seconds since 1970-01-01 UTC: nothing later is seen, nor a row of real data whose time is not known.
        column: i32[] or i32[M], column of the table that is masked, or NO_COLUMN.
        index: `index_children` of the database, for more calls than one; None: made here.
        tokens: static, U; of more cells the last ones are left out.
        rows_per_context: static, S.
        fan_out: static, most children of a row by one key.
        hops: static, most keys between the target row and another one.
        slots: static, keys that lead to one table; of more, those of the first child tables are looked through.
        classes: static, codes that ``target_counts`` tells apart; those from there on are not counted.
        hidden: bool[T, C], columns that must not be seen; None: none. A target's own cell is masked whether hidden or not.

    Returns:
        `Contexts`.

    Raises:
        ValueError: if a size is less than 1, ``tokens`` has no room for one row, a shape is another one, or a table or time that is known
            before tracing cannot be.
        TypeError: if ``key`` is not one PRNG key.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> def contexts_of(key):
        ...     db = jaxrel.sample_database(key, tiny.prior, tiny.capacity)
        ...     cells = jaxrel.sample_cells(key, db, 8)
        ...     return jaxrel.sample_contexts(key, db, cells.table, cells.row, cells.seed_time, cells.column, tokens=64)
        >>> jax.eval_shape(contexts_of, jax.random.key(0)).token_value.shape
        (8, 64)
    """
    sizes = {"tokens": tokens, "rows_per_context": rows_per_context, "fan_out": fan_out, "hops": hops, "slots": slots, "classes": classes}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {size} is too few; give at least 1")
    C = db.schema.column_kind.shape[1]
    if tokens <= C:
        raise ValueError(f"tokens: {tokens} have no room for a row of {C} columns and a time; give at least {C + 1}")
    db, key = jax.tree.map(jnp.asarray, db), named_key(reduce_key(key), "contexts")
    index = index_children(db) if index is None else jax.tree.map(jnp.asarray, index)
    table, rows, seed_time, hidden = as_targets(db, table, rows, seed_time, hidden)
    if jnp.shape(column) not in ((), rows.shape):
        raise ValueError(f"column: its shape is {jnp.shape(column)}; give one for all, or one for each of the {rows.shape[0]} rows")
    table, column = (jnp.broadcast_to(jnp.asarray(x, jnp.int32), rows.shape) for x in (table, column))
    T = db.schema.fk_parent.shape[0]
    leading = jax.vmap(lambda t: leading_keys(db.schema.fk_parent, t, slots))(jnp.arange(T, dtype=jnp.int32))

    def one(table: Array, row: Array, seed_time: Array, column: Array) -> Contexts:
        picked = _pick_rows(key, db, index, leading, table, row, seed_time, rows_per_context, fan_out, hops)
        return _tokens(db, *picked, column, seed_time, tokens, classes, hidden)

    return jax.vmap(one)(table, rows, seed_time, column)


def _tokens(
    db: Database, table: Array, row: Array, count: Array, column: Array, seed_time: Array, tokens: int, classes: int, hidden: Array
) -> Contexts:
    """One context of the rows that were picked."""
    schema, (C, _), (S,) = db.schema, db.values.shape, table.shape
    there, used = jnp.maximum(table, 0), jnp.arange(S, dtype=jnp.int32) < count
    place = jnp.where(used, schema.row_offset[there] + row, 0)
    parent_table, parent_row = schema.fk_parent[there], db.links.parent_row[:, place].T  # [S, K]
    links = (parent_table[:, :, None] == table[None, None, :]) & (parent_row[:, :, None] == row[None, None, :])
    links = links & (used[:, None] & (parent_table != NO_TABLE) & (parent_row != NO_ROW))[:, :, None]
    parent = jnp.where(jnp.any(links, axis=2), jnp.argmax(links, axis=2), NO_ROW).astype(jnp.int32)

    columns = jnp.arange(C, dtype=jnp.int32)
    is_used = used[:, None] & (columns[None, :] < schema.column_count[there][:, None])
    is_target = is_used & (jnp.arange(S, dtype=jnp.int32) == 0)[:, None] & (columns == column)[None, :]
    known = ~db.missing[:, place].T
    shown = is_used & (is_target | (known & ~hidden[there]))
    has_time = used & schema.has_time[there]
    flags = jnp.concatenate([shown, has_time[:, None]], axis=1).reshape(-1)  # [S (C + 1)]
    at = jnp.nonzero(flags, size=tokens, fill_value=-1)[0].astype(jnp.int32)
    real, at = at >= 0, jnp.maximum(at, 0)

    mean, scale, counts = _statistics(db, table[0], row[0], column, seed_time, classes)
    value = (db.values[:, place].T - mean[there]) / scale[there]
    value = jnp.where(jnp.isfinite(value), value, 0.0)
    time = jnp.where(has_time, db.time[place], 0)
    days = (seed_time.astype(jnp.uint32) - time.astype(jnp.uint32)).astype(jnp.float32) / DAY
    shown_value = jnp.concatenate([jnp.where(is_target, 0.0, value), jnp.log1p(days)[:, None]], axis=1).reshape(-1)
    kind = jnp.concatenate([schema.column_kind[there], jnp.full((S, 1), int(Kind.TIMESTAMP), jnp.int32)], axis=1).reshape(-1)
    number = at % (C + 1)
    target = real & is_target.reshape(-1)[jnp.minimum(at // (C + 1) * C + number, S * C - 1)] & (number < C)
    own = jnp.clip(column, 0, C - 1)
    masked = jnp.any(target)
    return Contexts(
        row_count=count,
        row_table=table,
        row=row,
        row_time=time,
        row_parent=parent,
        token_count=jnp.sum(real.astype(jnp.int32)),
        token_row=jnp.where(real, at // (C + 1), NO_ROW),
        token_column=jnp.where(real, jnp.where(number == C, TIME_COLUMN, number), NO_COLUMN),
        token_kind=jnp.where(real, kind[at], 0),
        token_value=jnp.where(real, shown_value[at], 0.0),
        target=jnp.where(masked, jnp.argmax(target).astype(jnp.int32), -1),
        target_value=jnp.where(masked & known[0, own], value[0, own], 0.0),
        target_known=masked & known[0, own],
        target_mean=jnp.where(masked, mean[there[0], own], 0.0),
        target_scale=jnp.where(masked, scale[there[0], own], 1.0),
        target_classes=jnp.where(masked, schema.column_classes[there[0], own], 0),
        target_counts=jnp.where(masked, counts, 0),
    )


def attention_masks(contexts: Contexts) -> Masks:
    """The four masks of a relational transformer: same column, same row and its parents, children, all.

    Args:
        contexts: with any leading axes.

    Returns:
        `Masks`, bool[…, U (who reads), U (what is read)]. Padding is read by itself alone.
    """
    of, column, table = contexts.token_row, contexts.token_column, contexts.token_table
    U, S = of.shape[-1], contexts.row_table.shape[-1]
    real = (of >= 0)[..., :, None] & (of >= 0)[..., None, :]
    itself = jnp.broadcast_to(jnp.eye(U, dtype=bool), real.shape)
    same = of[..., :, None] == of[..., None, :]
    number = jnp.arange(S, dtype=jnp.int32).reshape(*(1,) * (of.ndim + 1), S)
    refers = jnp.any(contexts.row_parent[..., :, :, None] == number, axis=-2)  # [M, S (child), S (parent)]
    rows = jnp.take_along_axis(refers, jnp.maximum(of, 0)[..., :, None], axis=-2)  # [M, U (of the child), S]
    up = jnp.take_along_axis(rows, jnp.maximum(of, 0)[..., None, :], axis=-1)  # [M, U, U]
    alike = (column[..., :, None] == column[..., None, :]) & (table[..., :, None] == table[..., None, :])
    return Masks(
        column=real & alike | itself,
        feature=real & (same | up) | itself,
        neighbour=real & jnp.swapaxes(up, -1, -2) | itself,
        full=real | itself,
    )
