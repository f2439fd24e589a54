"""From lanes and codes to the values a schema declared: types, bounds, steps, lengths and uniqueness hold by construction.

Real lanes are roughly standard normal. Every map from a lane to a value is monotone, so that what correlates on the device correlates
in the files. Everything is a pure function of (column, lane, row id, key), one row at a time: chunks of a table equal the whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from datetime import date, datetime

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrel import words
from jaxrel.catalog import ColumnWords, TableWords
from jaxrel.random import index_permutation, name_id, threefry2x32
from jaxrel.types import Kind

__all__ = ["arrow_type", "distinct_values", "render_column", "render_key"]

_MOST = 2**31  # rows of a table
_CHUNK = 1 << 14  # rows of one call of the bijection: one compilation serves every length
_EXACT = 2**53  # integers that a double holds exactly
_HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), np.uint16)  # two characters a byte
_INTEGERS = {"smallint": (2**15, pa.int16()), "integer": (2**31, pa.int32()), "bigint": (2**63, pa.int64())}
_UNIQUE_DAYS = (0, 20088)  # 1970-01-01 … 2024-12-31: where unique dates lie if nothing else is said


def arrow_type(column: ColumnWords) -> pa.DataType:
    """The Arrow type of a column: its declared SQL type; a categorical column of text is a dictionary."""
    if column.type in _INTEGERS:
        return _INTEGERS[column.type][1]
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", column.type):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    declared = {"real": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us")}
    if column.type in declared:
        return declared[column.type]
    if column.kind == Kind.CATEGORICAL:
        return pa.dictionary(pa.int32(), pa.string())
    plain = {
        Kind.NUMERIC: pa.float32(),
        Kind.INTEGER: pa.int32(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.DATE: pa.date32(),
        Kind.TIMESTAMP: pa.timestamp("us"),
    }
    return plain.get(column.kind, pa.string())


def distinct_values(column: ColumnWords) -> int:
    """How many rows a unique column can tell apart, at most 2^31; 0 for kinds that cannot be unique."""
    if column.vocabulary:
        return len(column.vocabulary)
    if column.kind == Kind.BOOLEAN:
        return 2
    if column.kind == Kind.UUID:
        return _MOST
    if column.kind == Kind.TEXT:
        return words.template_rows(column.format or words.text_template(column.name, column.type, column.length, True) or "")
    grid = _grid(column)
    return 0 if grid is None else min(grid.high - grid.low + 1, _MOST)


def render_column(
    column: ColumnWords, values: np.ndarray, missing: np.ndarray, key: np.ndarray, *, rows: np.ndarray | None = None
) -> pa.Array:
    """Write one feature column.

    Args:
        column: its words.
        values: f32[n], codes of categorical and boolean columns, else lanes that are roughly standard normal.
        missing: bool[n], cells that are NULL.
        key: u32[2], the column's stream.
        rows: i64[n], row ids inside the table; by default 0…n-1.

    Returns:
        An Arrow array of `arrow_type`. Values of a unique column are a bijection of the row id.

    Raises:
        ValueError: if a unique column has fewer distinct values than the largest row id.
    """
    lanes = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=8.0, neginf=-8.0)
    rows = np.arange(len(lanes), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    key, target = np.asarray(key, np.uint32), arrow_type(column)
    order = None
    if column.unique and column.kind != Kind.UUID and not (column.kind == Kind.TEXT and not column.vocabulary):
        order = _shuffled(rows, distinct_values(column), key, column.name)
    if column.vocabulary or column.kind == Kind.BOOLEAN:
        size = len(column.vocabulary) or 2
        if order is None:
            coded = column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN)
            order = np.clip(lanes if coded else _rank(lanes) * size, 0, size - 1)
        found = _labels(column, order.astype(np.int32), target)
    elif column.kind == Kind.UUID:
        found = _uuids(rows, key)
    elif column.kind == Kind.TEXT:
        template = column.format or words.text_template(column.name, column.type, column.length, column.unique) or "{noun}"
        found = _text(template, lanes, rows, key, column.length, column.name)
    elif (grid := _grid(column)) is None:
        found = pa.array(_reals(column, lanes, target))
    else:
        found = _on_grid(grid.low + order if order is not None else _snapped(column, grid, lanes), column, target)
    if not np.any(missing):
        return found
    if pa.types.is_dictionary(found.type):
        return pa.DictionaryArray.from_arrays(pa.array(np.asarray(found.indices), mask=np.asarray(missing, bool)), found.dictionary)
    return pc.if_else(pa.array(np.asarray(missing, bool)), pa.scalar(None, found.type), found)


def render_key(table: TableWords, rows: np.ndarray, key: np.ndarray) -> pa.Array:
    """Write natural keys: a pure function of the row id, the same for the parent and for every child that names it.

    Args:
        table: the table that owns the key, of kind UUID or TEXT.
        rows: i64[m], its row ids, in any order.
        key: u32[2], the key column's stream.

    Returns:
        string[m]; distinct rows have distinct keys.

    Raises:
        ValueError: if the declared length cannot tell the rows apart.
    """
    rows, key = np.asarray(rows, np.int64), np.asarray(key, np.uint32)
    if table.primary_key_kind == Kind.UUID:
        return _uuids(rows, key)
    length = re.search(r"\((\d+)\)", table.primary_key_type)
    template = words.key_template(table.primary_key or "id", table.primary_key_type, int(length[1]) if length else None)
    return _text(template, np.zeros(len(rows)), rows, key, None, table.primary_key or table.name)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The integers that a column's values are multiples of ``1 / scale`` by."""

    low: int
    high: int
    scale: int


def _limits(column: ColumnWords) -> tuple[float, float]:
    """What the type alone allows."""
    if column.type in _INTEGERS:
        most = _INTEGERS[column.type][0]
        return float(max(-most, -_EXACT)), float(min(most - 1, _EXACT))
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", column.type):
        digits, scale = int(decimal[1]), int(decimal[2])
        most = min(10**digits - 1, _EXACT) / 10**scale
        return -most, most
    return (-(2.0**31), 2.0**31 - 1) if column.kind == Kind.INTEGER else (-float(_EXACT), float(_EXACT))


def _grid(column: ColumnWords) -> _Grid | None:
    """Bounds of a column whose values are countable, on its own grid; None for reals."""
    if column.kind == Kind.NUMERIC and not column.step:
        return None
    scale = 1
    if column.kind == Kind.NUMERIC:
        scale = round(1 / column.step)
    if column.kind in (Kind.DATE, Kind.TIMESTAMP):
        first, last = _UNIQUE_DAYS if column.unique else words.date_law(column.name)
        if column.kind == Kind.TIMESTAMP:
            first, last = first * 86400, last * 86400 + 86399
        low, high, span = column.low, column.high, last - first
        if low is None:
            low = first if high is None or high >= first else high - span
        if high is None:
            high = last if low <= last else low + span
        elif low <= last and not column.unique:
            high = min(high, last)  # never in the future, whatever is allowed
        return _Grid(round(low), round(high), scale)
    low, high = _believable(column, scale)
    return _Grid(round(low * scale), round(high * scale), scale)


def _believable(column: ColumnWords, scale: int) -> tuple[float, float]:
    """Bounds of a number column: what is declared, narrowed by what its name suggests where both agree."""
    least, most = _limits(column)
    low = least if column.low is None else max(column.low, least)
    high = most if column.high is None else min(column.high, most)
    if column.unique:
        return (low if column.low is not None else max(min(1.0, high), least) if high >= 1 else low), high
    law = words.number_law(column.name)
    if law is None and column.low is None and column.high is None:
        law = words.NumberLaw(0, 100)
    if law is not None:
        inner_low, inner_high = max(low, math.ceil(law.low * scale) / scale), min(high, math.floor(law.high * scale) / scale)
        if column.low is not None and column.high is not None and high - low <= 4 * (law.high - law.low):
            return low, high  # a declared range that is much longer than the believable one says only what is impossible
        if inner_high - inner_low >= 2 / scale:
            return inner_low, inner_high
    return low, high


def _score(lanes: np.ndarray) -> np.ndarray:
    return np.clip(lanes, -6.0, 6.0)


def _rank(lanes: np.ndarray) -> np.ndarray:
    """f64[n] strictly inside (0, 1): the normal distribution function, by a logistic fit within 1.5e-4.

    Reference:
        Bowling et al., "A logistic approximation to the cumulative normal distribution", JIEM 2009.
    """
    v = _score(lanes)
    return 1.0 / (1.0 + np.exp(-(1.5976 * v + 0.07056 * v**3)))


def _curve(column: ColumnWords, low: float, high: float) -> str:
    """How lanes are stretched: by the law of the name where it fits, else by what is declared."""
    law = words.number_law(column.name)
    both = column.low is not None and column.high is not None
    if law is not None and law.curve == "normal" and low < law.centre < high:
        return "normal"
    if law is not None and law.curve == "lognormal" and low < law.centre < high and (not both or high > 20 * law.centre):
        return "lognormal"
    if both or (law is not None and high <= law.high):
        return "flat"
    return "above" if column.low is not None else "below" if column.high is not None else "free"


def _stretched(column: ColumnWords, lanes: np.ndarray, low: float, high: float) -> np.ndarray:
    """f64[n]: believable numbers, monotone in the lane; the caller cuts and snaps them."""
    curve, law, v = _curve(column, low, high), words.number_law(column.name), _score(lanes)
    room = max(high - low, 1.0) / 20
    if curve == "normal" and law is not None:
        return law.centre + law.spread * v
    if curve == "lognormal" and law is not None:
        return min(law.centre, high / 5) * np.exp(law.spread * v) + (low if low > law.centre / 4 else 0.0)
    if curve == "flat":
        return low + (high - low) * _rank(lanes)
    if curve == "above":
        return low + min(max(abs(low), 10.0), room) * np.exp(0.7 * v)
    if curve == "below":
        return high - min(max(abs(high), 10.0), room) * np.exp(-0.7 * v)
    middle = 0.5 * (low + high) if high - low <= 100 else 50.0
    return middle + min(15.0, (high - low) / 6) * v


def _reals(column: ColumnWords, lanes: np.ndarray, target: pa.DataType) -> np.ndarray:
    """Reals inside the declared bounds, rounded to the type without leaving them."""
    kind = np.float32 if target == pa.float32() else np.float64
    if column.low is None and column.high is None and words.number_law(column.name) is None:
        return lanes.astype(kind)
    law = words.number_law(column.name)
    low = column.low if column.low is not None else law.low if law is not None else -math.inf
    high = column.high if column.high is not None else law.high if law is not None else math.inf
    if low > high:  # the name suggests what the bounds forbid
        low, high = (low, math.inf) if column.low is not None else (-math.inf, high)
    finite = np.clip([low, high], -float(_EXACT), float(_EXACT))
    found = _stretched(column, lanes, float(finite[0]), float(finite[1]))
    least, most = kind(low), kind(high)
    if float(least) < low:
        least = np.nextafter(least, kind(np.inf))
    if float(most) > high:
        most = np.nextafter(most, kind(-np.inf))
    return np.clip(found.astype(kind), least, most)


def _snapped(column: ColumnWords, grid: _Grid, lanes: np.ndarray) -> np.ndarray:
    """i64[n]: multiples of the grid's step, inside its bounds."""
    low, high = grid.low / grid.scale, grid.high / grid.scale
    if column.kind in (Kind.DATE, Kind.TIMESTAMP) or _curve(column, low, high) == "flat":
        found = grid.low + np.floor(_rank(lanes) * float(grid.high - grid.low + 1))
        return np.clip(found, float(grid.low), float(grid.high)).astype(np.int64)
    stretched = _stretched(column, lanes, low, high)
    return np.clip(np.rint(stretched * grid.scale), float(grid.low), float(grid.high)).astype(np.int64)


def _on_grid(found: np.ndarray, column: ColumnWords, target: pa.DataType) -> pa.Array:
    found = found.astype(np.int64)
    if pa.types.is_decimal(target):
        wide = np.empty((len(found), 2), np.int64)  # 128-bit little-endian two's complement
        wide[:, 0], wide[:, 1] = found, found >> 63
        return pa.Array.from_buffers(target, len(found), [None, pa.py_buffer(wide)])
    if target == pa.timestamp("us"):
        return pa.array(found * 1_000_000).view(target)
    if target == pa.date32():
        return pa.array(found.astype(np.int32)).view(target)
    if pa.types.is_floating(target):
        return pa.array((found * column.step).astype(target.to_pandas_dtype()))
    return pa.array(found.astype(target.to_pandas_dtype()))


def _labels(column: ColumnWords, codes: np.ndarray, target: pa.DataType) -> pa.Array:
    """Labels by code, in the declared type."""
    if not column.vocabulary:
        return pa.array(codes > 0)
    if pa.types.is_dictionary(target):
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(column.vocabulary, pa.string()))
    if pa.types.is_date(target):
        labels = pa.array([date.fromisoformat(label) for label in column.vocabulary], target)
    elif pa.types.is_timestamp(target):
        labels = pa.array([datetime.fromisoformat(label) for label in column.vocabulary], target)
    elif pa.types.is_boolean(target):
        labels = pa.array([label == "true" for label in column.vocabulary])
    else:
        labels = pa.array(column.vocabulary, pa.string()).cast(target)
    return labels.take(pa.array(codes))


@functools.cache
def _bijection():
    return jax.jit(index_permutation)


def _shuffled(rows: np.ndarray, size: int, key: np.ndarray, name: str) -> np.ndarray:
    """i64[n]: a keyed bijection of [0, size) at the given row ids."""
    if len(rows) and not 0 <= rows.min() <= rows.max() < size:
        raise ValueError(f"{name}: {size} distinct values cannot number row {rows.max()}; declare a wider column or ask for fewer rows")
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _CHUNK):
        piece = rows[start : start + _CHUNK]
        padded = np.zeros(_CHUNK, np.uint32)
        padded[: len(piece)] = piece
        found[start : start + len(piece)] = np.asarray(_bijection()(key, padded, np.uint32(size)))[: len(piece)]
    return found


def _word(rows: np.ndarray, key: np.ndarray, lane: str) -> tuple[np.ndarray, np.ndarray]:
    """Two random words of every row: u32[n] each."""
    counter = rows.astype(np.uint32)
    return threefry2x32(key[:1], key[1:], counter, np.full_like(counter, name_id(lane)))


def _uuids(rows: np.ndarray, key: np.ndarray) -> pa.Array:
    """Version 4 uuids in lower case: the row's number, shuffled, in the first 31 bits, random bits in the other 91."""
    raw = np.empty((len(rows), 4), ">u4")
    first, raw[:, 1] = _word(rows, key, "uuid")
    raw[:, 2], raw[:, 3] = _word(rows, key, "uuid tail")
    raw[:, 0] = _shuffled(rows, _MOST, key, "uuid").astype(np.uint32) << np.uint32(1) | first & np.uint32(1)
    octets = raw.view(np.uint8).reshape(len(rows), 16)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40  # version 4
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80  # variant of RFC 4122
    digits = _HEX[octets].view(np.uint8).reshape(len(rows), 32)
    text = np.full((len(rows), 36), ord("-"), np.uint8)
    for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)):
        shift = {0: 0, 8: 1, 12: 2, 16: 3, 20: 4}[start]
        text[:, start + shift : end + shift] = digits[:, start:end]
    return _fixed(text)


def _fixed(text: np.ndarray) -> pa.Array:
    """u8[n, width] of ASCII to string[n]."""
    count, width = text.shape
    if count * width < 2**31:
        offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
        return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))
    half = count // 2
    return pa.concat_arrays([_fixed(text[:half]), _fixed(text[half:])])


@functools.cache
def _pool(name: str) -> pa.Array:
    return pa.array(words.POOLS[name], pa.string())


def _text(template: str, lanes: np.ndarray, rows: np.ndarray, key: np.ndarray, length: int | None, name: str) -> pa.Array:
    """Fill a template: the first free pool follows the lane, other free pools a hash of the row, marked pools the row's number."""
    if template == words.UUID_TEMPLATE:
        return _uuids(rows, key)
    pieces = words.parts(template)
    size = words.template_rows(template)
    number = _shuffled(rows, size, key, name) if "!" in template else None
    taken: list[pa.Array | str] = []
    signal = True
    for place, (piece, is_pool) in enumerate(pieces):
        if not is_pool:
            taken.append(piece)
            continue
        pool = _pool(piece.rstrip("!"))
        if piece.endswith("!"):
            assert number is not None
            later = math.prod(len(words.POOLS[other[:-1]]) for other, marked in pieces[place + 1 :] if marked and other.endswith("!"))
            index = number // later % len(pool)
        elif signal:
            index, signal = np.minimum(_rank(lanes) * len(pool), len(pool) - 1), False
        else:
            index = _word(rows, key, f"text {place}")[0].astype(np.uint64) * np.uint64(len(pool)) >> np.uint64(32)
        taken.append(pool.take(pa.array(index.astype(np.int32))))
    if len(taken) == 1 and not isinstance(taken[0], str):
        found = taken[0]
    else:
        found = pc.binary_join_element_wise(*(pa.scalar(piece) if isinstance(piece, str) else piece for piece in taken), "")
    if length is not None and words.template_length(template) > length:
        found = pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(found, 0, length))
    return found
