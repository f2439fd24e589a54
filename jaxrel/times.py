"""Event times: the intensity of each table, `time_rows`, the row function of times, and `rows_at`, its inverse.

Row r of n falls into stratum r of the table's cumulative intensity, so times ascend with the row id and nothing is sorted. The
intensity composes two monotone maps, both piecewise linear: the *curve* over the table's span (trend × season × bursts, in SLICES
equal slices) and the *week* (weekday × hour of day, a bijection of each calendar week). Both are constant integers once drawn; the
one float is a quotient rounded once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel import struct
from jaxrel.draws import draw_flag, draw_integers, draw_share
from jaxrel.prior import SchemaPrior
from jaxrel.random import Words, below, bits, mulhi, named_key, pair, quotient, row_bits, running_sum
from jaxrel.rounding import divide
from jaxrel.types import BURSTS, HOURS, NO_TABLE, SLICES, Schema

__all__ = ["TABLE_TIME_DRAWS", "flat_times", "moments", "rows_at", "sample_founders", "sample_times", "time_rows"]

TABLE_TIME_DRAWS = (  # of each table
    *("timed", "late", "founders", "bursts", "burst height", "trend", "trend sign", "season phase", "season"),
    *("calendar", "depth", "profile"),
)
_DAY, _HOUR, _WEEK = 86_400, 3_600, 604_800
_BITS = 32 - (SLICES.bit_length() - 1)  # bits of a position inside one slice
_MARGIN = 16  # units of 2^-32 of the span; rounding in `_position` stays below 4
_SINE = np.round(4096 * np.sin(2 * np.pi * (np.arange(256) + 0.5) / 256)).astype(np.int32)  # one year in 256 steps
# Typical days, in per cent of the busiest hour: an office's, a shop's, an evening's; and typical weeks from Monday on
_DAYS = (
    (2, 2, 2, 2, 2, 3, 8, 25, 70, 100, 100, 95, 70, 85, 95, 95, 85, 60, 30, 18, 12, 8, 5, 3),
    (1, 1, 1, 1, 1, 2, 5, 15, 35, 60, 80, 95, 100, 95, 85, 85, 90, 100, 95, 70, 45, 25, 10, 4),
    (25, 12, 6, 4, 3, 4, 8, 18, 30, 38, 42, 46, 52, 50, 48, 50, 56, 66, 80, 95, 100, 92, 70, 45),
)
_WEEKS = ((100, 100, 100, 98, 88, 22, 14), (70, 70, 74, 80, 95, 100, 78), (92, 90, 90, 90, 94, 100, 98))
_DAY_LEVELS = np.round(np.array(_DAYS) * 2.56).astype(np.int32)  # in 1/256
_WEEK_LEVELS = np.roll(np.round(np.array(_WEEKS) * 2.56).astype(np.int32), -3, axis=1)  # 1970-01-01 was a Thursday


@struct.dataclass
class _Clock:
    """One table's curves, and what it takes to divide by its rows and its span."""

    start: Array  # i32[]
    end: Array  # i32[]
    origin: Array  # i32[], the even second that the week maps to ``start``
    span: Array  # u32[], even seconds of the span
    founders: Array  # i32[]
    strata: Array  # i32[], rows that are no founders
    inverse: Array  # u32[2, 2], floor(2^32 / x) and 32 more binary digits, of strata and span
    curve: Array  # u32[SLICES]
    week: Array  # i32[HOURS]


def flat_times(tables: int) -> dict[str, np.ndarray]:
    """Curves of ``tables`` tables whose rows are evenly spaced, without founders: fields of `Schema`."""
    return {
        "time_founders": np.zeros(tables, np.int32),
        "time_curve": np.tile(np.arange(SLICES, dtype=np.uint32) << np.uint32(_BITS), (tables, 1)),
        "time_week": np.tile(np.arange(HOURS, dtype=np.int32) * np.int32(_HOUR), (tables, 1)),
    }


def _divide(n: Array) -> tuple[Array, Array]:
    """floor(2^32 / n) and the next 32 binary digits of 2^32 / n, by long division: u32[...], u32[...] (n at least 2)."""
    whole = jnp.uint32(0xFFFFFFFF) // n
    rest = jnp.uint32(0xFFFFFFFF) % n + 1
    whole, rest = jnp.where(rest == n, whole + 1, whole), jnp.where(rest == n, jnp.uint32(0), rest)

    def digit(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = state
        over = rest >= n - rest  # 2 * rest >= n, without overflow
        return (quotient << 1) | over.astype(jnp.uint32), jnp.where(over, rest - (n - rest), rest + rest)

    digits, _ = jax.lax.fori_loop(0, 32, digit, (jnp.zeros_like(whole), rest))
    return whole, digits


def _ratio(x: Array, inverse: tuple[Array, Array]) -> Array:
    """x / n in 2^-32 for u32[...] x < n, given `_divide` of n: never too much, at most two units too little."""
    return x * inverse[0] + mulhi(x, inverse[1])


# ---------------------------------------------------------------- sampling


def _before(weight: Array) -> tuple[Array, Array]:
    """Sums before each entry, and of all: i32[..., A, B] → u32[..., A B], u32[..., 1]."""
    inside = running_sum(weight)
    rows = inside[..., -1]
    before = inside - weight + (running_sum(rows) - rows)[..., None]
    flat = before.reshape(*weight.shape[:-2], -1)
    return flat.astype(jnp.uint32), jnp.sum(rows, axis=-1, keepdims=True).astype(jnp.uint32)


def _sample_curve(key: Array | Words, prior: SchemaPrior, start: Array, span: Array) -> Array:
    """Cumulative intensity before each slice of each table's span, u32[T, SLICES] in 2^-32."""
    s = jnp.arange(SLICES, dtype=jnp.int32)[None, :]
    drawn = draw_integers(key, {"bursts": prior.bursts, "burst height": prior.burst_height})
    slope = (draw_share(key, "trend", prior.trend) >> 12).astype(jnp.int32)
    slope = jnp.where(bits(key, 0, "trend sign") >> 31 == 1, -slope, slope)[:, None]
    trend = 4096 + slope * (2 * s + 1 - SLICES) // SLICES
    middle = mulhi(((2 * s + 1).astype(jnp.uint32) << (_BITS - 1)), span.astype(jnp.uint32)[:, None]).astype(jnp.int32)
    day = (start[:, None] + middle) // _DAY
    phase = below(bits(key, 0, "season phase"), 256)[:, None]
    swing = (draw_share(key, "season", prior.season) >> 12).astype(jnp.int32)[:, None]
    season = 4096 + ((swing * jnp.asarray(_SINE)[(day * 1024 // 1461 + phase) & 255]) >> 12)  # a year: 365.25 days
    b = jnp.arange(BURSTS, dtype=jnp.int32)[None, :]
    peak = below(bits(key[:, None], b, "burst"), SLICES)
    age = s[:, None, :] - peak[:, :, None]
    height = jnp.where(b < drawn["bursts"][:, None], drawn["burst height"][:, None] * 4096, 0)[:, :, None]
    burst = 4096 + jnp.sum(jnp.where(age >= 0, height >> jnp.clip(age, 0, 31), 0), axis=1, dtype=jnp.int32)  # halves every slice
    weight = jnp.maximum((((trend * season) >> 16) * burst) >> 8, 1)  # 2^10 · 2^19 at most; even: 4096
    before, total = _before(weight.reshape(-1, 16, SLICES // 16))
    return _ratio(before, _divide(total))


def _sample_week(key: Array | Words, prior: SchemaPrior) -> Array:
    """Even seconds before each hour of the calendar week, from Thursday on, i32[T, HOURS]."""
    depth = jnp.where(draw_flag(key, "calendar", prior.calendar), draw_share(key, "depth", prior.calendar_depth) >> 16, jnp.uint32(0))
    depth = depth.astype(jnp.int32)[:, None]  # in 1/256
    day, week = (below(word, 3) for word in pair(key, 0, "profile"))
    day_level, week_level = (256 - ((depth * (256 - jnp.asarray(x)[i])) >> 8) for x, i in ((_DAY_LEVELS, day), (_WEEK_LEVELS, week)))
    before, total = _before(week_level[:, :, None] * day_level[:, None, :])
    share = jnp.where(before == 0, jnp.uint32(0), _ratio(before, _divide(total)) + 8)  # upward: whole seconds stay whole
    return mulhi(share, _WEEK).astype(jnp.int32)


def sample_founders(table_key: Array | Words, prior: SchemaPrior, comes_into_being: Array, row_count: Array) -> Array:
    """i32[T]: rows that exist at the start of a timed referenced table, at least one; 0 for other tables.

    Args:
        table_key: u32[T, 2], stream of each table.
        prior: the ``schema`` section.
        comes_into_being: bool[T], timed and referenced.
        row_count: i32[T].
    """
    founders = mulhi(jnp.minimum(draw_share(table_key, "founders", prior.founders), 2**24 - 1) << 8, row_count).astype(jnp.int32)
    return jnp.where(comes_into_being, jnp.clip(founders, 1, jnp.maximum(row_count, 1)), 0)


def sample_times(
    key: Array, table_key: Array | Words, prior: SchemaPrior, fk_parent: Array, is_activity: Array, real: Array
) -> dict[str, Array]:
    """Sample which tables are timed, their spans and intensities.

    All activity tables are timed, and so is a share of the referenced ones; a table with a timed parent is timed, starts no earlier
    than any of them, and ends with all. Of a referenced table at least one row, a founder (`sample_founders`), exists at its start: so
    children always find a parent.

    Args:
        key: u32[2], stream of the database's span.
        table_key: u32[T, 2], stream of each table.
        prior: the ``schema`` section.
        fk_parent: i32[T, K], parent tables, in topological order.
        is_activity: bool[T].
        real: bool[T], tables that are no padding.

    Returns:
        The fields ``has_time`` and ``time_*`` of `Schema` but the founders.
    """
    low, high = prior.days.low, prior.days.high
    least = jnp.minimum(prior.least_days.astype(jnp.int32), high - low)
    first, second = (low + below(word, high - low + 1) for word in pair(key, jnp.arange(16, dtype=jnp.int32), "day"))
    opening, days = jnp.minimum(first, second), jnp.abs(first - second)
    take = jnp.argmax(days >= least)  # the first try that is long enough
    good = jnp.any(days >= least)
    opening, days = jnp.where(good, opening[take], low), jnp.where(good, days[take], high - low)

    timed = real & (is_activity | draw_flag(table_key, "timed", prior.timed_entity))
    late = (((draw_share(table_key, "late", prior.late) >> 8) * days.astype(jnp.uint32)) >> 16).astype(jnp.int32)
    start = opening + jnp.where(is_activity, 0, jnp.minimum(late, days - least))

    def follow(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        timed, start = state
        parents = jnp.maximum(fk_parent[t], 0)
        waits = (fk_parent[t] != NO_TABLE) & (fk_parent[t] != t) & timed[parents]
        after = jnp.maximum(start[t], jnp.max(jnp.where(waits, start[parents], opening)))
        return timed.at[t].set(timed[t] | jnp.any(waits)), start.at[t].set(after)

    timed, start = jax.lax.fori_loop(0, real.shape[0], follow, (timed, start))
    time_start = jnp.where(timed, start * _DAY, 0)
    time_span = jnp.where(timed, (opening + days - start) * _DAY, 0)
    return {
        "has_time": timed,
        "time_start": time_start,
        "time_span": time_span,
        "time_curve": _sample_curve(table_key, prior, time_start, time_span),
        "time_week": _sample_week(table_key, prior),
    }


# ---------------------------------------------------------------- the row function and its inverse


def _last(ends: Array, x: Array) -> Array:
    """The last entry of ascending ``ends`` that is at most x: i32[...] (the first is 0)."""
    size = ends.shape[0]
    at = jnp.zeros(x.shape, jnp.int32)
    for bit in reversed(range((size - 1).bit_length())):
        step = at + (1 << bit)
        at = jnp.where((step < size) & (ends[jnp.minimum(step, size - 1)] <= x), step, at)
    return at


def _slice(curve: Array, s: Array) -> tuple[Array, Array]:
    """Intensity before slice s and in it, u32[...]; all of it is 2^32, which wraps to 0."""
    return curve[s], jnp.roll(curve, -1)[s] - curve[s]


def _position(curve: Array, fraction: Array) -> Array:
    """Where a fraction of the intensity has passed: u32[...] in 2^-32 of the span, never decreasing."""
    s = _last(curve, fraction)
    before, width = _slice(curve, s)
    inside = divide((fraction - before).astype(jnp.float32), jnp.maximum(width, 1).astype(jnp.float32))  # rounded once, in order
    inside = jnp.minimum((inside * jnp.float32(2**_BITS)).astype(jnp.uint32), jnp.uint32(2**_BITS - 1))
    return (s.astype(jnp.uint32) << _BITS) + inside


def _passed(curve: Array, position: Array) -> Array:
    """Its inverse: the fraction that has passed at a position, rounded down."""
    before, width = _slice(curve, (position >> _BITS).astype(jnp.int32))
    return before + mulhi(position << (32 - _BITS), width)


def _hour(week: Array, hour: Array) -> tuple[Array, Array]:
    """Even seconds before an hour of the week and in it, u32[...]."""
    after = jnp.concatenate([week[1:], jnp.full(1, _WEEK, jnp.int32)])
    return week[hour].astype(jnp.uint32), (after[hour] - week[hour]).astype(jnp.uint32)


def _to_calendar(week: Array, even: Array) -> Array:
    """The calendar second of an even second, i32[...]."""
    inside = jnp.remainder(even, _WEEK)
    hour = _last(week, inside)
    before, width = _hour(week, hour)
    within = quotient((inside.astype(jnp.uint32) - before) * jnp.uint32(_HOUR), jnp.maximum(width, 1))  # a week of hours: below 2^32
    return even - inside + hour * _HOUR + within.astype(jnp.int32)


def _to_even(week: Array, seconds: Array) -> Array:
    """Its inverse, i32[...]: an even second that maps to ``seconds`` or a little before."""
    inside = jnp.remainder(seconds, _WEEK)
    hour = inside // _HOUR
    before, width = _hour(week, hour)
    within = (before + (inside - hour * _HOUR).astype(jnp.uint32) * width // jnp.uint32(_HOUR)).astype(jnp.int32)
    return seconds - inside + within


def _clock(schema: Schema, table: Array) -> _Clock:
    start, founders, week = schema.time_start[table], schema.time_founders[table], schema.time_week[table]
    end = start + schema.time_span[table]
    origin = _to_even(week, start)
    span = (_to_even(week, end) - origin).astype(jnp.uint32)
    strata = schema.row_count[table] - founders
    sizes = jnp.maximum(jnp.stack([strata.astype(jnp.uint32), span]), 2)
    inverse = jnp.stack(_divide(sizes), axis=1)
    return _Clock(start, end, origin, span, founders, strata, inverse, schema.time_curve[table], week)


def time_rows(schema: Schema, table: Array, rows: Array) -> Array:
    """Event times of some rows: founders at the table's start, the others each in a stratum of its intensity.

    Args:
        schema: one schema.
        table: i32[], which table.
        rows: i32[...], row ids.

    Returns:
        i32[...], seconds since 1970-01-01 UTC, ascending with the row id; 0 where the table has no time. Equal everywhere.
    """
    clock = _clock(schema, table)
    whole = clock.inverse[0, 0]
    late = jnp.maximum(rows - clock.founders, 0).astype(jnp.uint32)
    word = row_bits(named_key(schema.key, "time", schema.table_id[table]), rows)
    fraction = _ratio(late, (whole, clock.inverse[0, 1])) + mulhi(word, whole)
    even = clock.origin + mulhi(_position(clock.curve, fraction), clock.span).astype(jnp.int32)
    seconds = jnp.maximum(_to_calendar(clock.week, even), clock.start)
    return jnp.where(schema.has_time[table], jnp.where(rows < clock.founders, clock.start, seconds), 0)


def rows_at(schema: Schema, table: Array, time: Array) -> Array:
    """How many rows of a table surely exist at a time: the rows before that one all have `time_rows` at most ``time``.

    Args:
        schema: one schema.
        table: i32[], which table; one without times exists as a whole at any time.
        time: i32[...], seconds since 1970-01-01 UTC.

    Returns:
        i32[...], never decreasing in ``time``; a row or two fewer than exist, since a row's place in its stratum is not looked up
        (more where 16 seconds in 2^32 of the span hold more rows).
    """
    clock = _clock(schema, table)
    passed = jnp.maximum(_to_even(clock.week, time) - clock.origin, 0).astype(jnp.uint32)
    passed = jnp.minimum(passed, jnp.maximum(clock.span, 1) - 1)
    position = _ratio(passed, (clock.inverse[1, 0], clock.inverse[1, 1]))
    fraction = _passed(clock.curve, jnp.maximum(position, _MARGIN) - _MARGIN)
    count = clock.founders + mulhi(fraction, clock.strata.astype(jnp.uint32)).astype(jnp.int32)
    n = schema.row_count[table]
    count = jnp.where(time >= clock.end, n, jnp.where(time < clock.start, 0, count))
    return jnp.where(schema.has_time[table], count, n)


def moments(schema: Schema, table: Array, rows: Array, time: Array) -> Array:
    """How far in its life a table is at some rows, f32[...] in 0…1: by time where it is timed, else by row.

    Args:
        schema: one schema.
        table: i32[], which table.
        rows: i32[...], row ids.
        time: i32[...], their `time_rows`.
    """
    by_row = (rows.astype(jnp.float32) + 0.5) / jnp.maximum(schema.row_count[table], 1).astype(jnp.float32)
    span = jnp.maximum(schema.time_span[table], 1).astype(jnp.float32)
    by_time = (time - schema.time_start[table]).astype(jnp.float32) / span
    return jnp.where(schema.has_time[table], by_time, by_row)
