"""Columns of real data as what the arrays hold: float32 values, missing cells, and the words that give the data back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from jaxrel.catalog import ColumnWords
from jaxrel.errors import UserError
from jaxrel.types import Kind

__all__ = ["Encoded", "Loss", "combined", "comparable_types", "encode_column", "key_codes", "to_seconds", "unused_name"]

_OTHER = "other"
_EXACT = 2**24  # whole numbers up to here are exact as float32
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY = 86_400

Lose = Callable[[int, str], None]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One feature column: its words, f32[rows], bool[rows], and its categories (0: it has none)."""

    words: ColumnWords
    values: np.ndarray
    missing: np.ndarray
    classes: int


@dataclasses.dataclass(frozen=True)
class Loss:
    """Something that the arrays do not hold.

    Attributes:
        table: its name.
        column: name of the column; of a key over several columns, all of them.
        count: cells that it concerns.
        what: became of them.
    """

    table: str
    column: str
    count: int
    what: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}: {self.count} {self.what}"


def _is_text(kind: pa.DataType) -> bool:
    """Strings of any width."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    """Integers, floats and decimals."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def unused_name(name: str, taken: Iterable[str | None]) -> str:
    """The name, with as many underscores as it takes to be none of those."""
    there = set(taken)
    while name in there:
        name += "_"
    return name


def combined(column: pa.ChunkedArray) -> pa.Array:
    """One array of a column's chunks."""
    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _comparable(array: pa.Array) -> pa.Array:
    """A key column as int64, float64 (where some are no whole numbers), text, or what it is."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_text(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64(), safe=False)
    if _is_number(array.type):
        x = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        null = np.isnan(x)
        whole = np.where(null, 0.0, x)
        if (np.abs(whole) < 2.0**53).all() and (whole == np.floor(whole)).all():  # integers that nulls made floats
            return pa.array(whole.astype(np.int64), mask=null)
        return pa.array(x, mask=null)
    return array


def key_codes(columns: Sequence[pa.Array], parents: Sequence[pa.Array] = ()) -> np.ndarray:
    """i64: equal rows of some key columns have equal numbers, rows with a null have -1; rows of ``parents`` follow."""
    total: np.ndarray | None = None
    for i, column in enumerate(columns):
        column = _comparable(column)
        if parents:
            parent = _comparable(parents[i])
            if pa.types.is_integer(column.type) and pa.types.is_floating(parent.type):
                column = column.cast(pa.float64(), safe=False)
            column = pa.concat_arrays([column, parent.cast(column.type, safe=False)])
        encoded = column.dictionary_encode()
        codes = np.where(column.is_null().to_numpy(zero_copy_only=False), -1, encoded.indices.fill_null(0).to_numpy().astype(np.int64))
        if total is None:
            total = codes
            continue
        null = (total < 0) | (codes < 0)
        pair = total * (len(encoded.dictionary) + 1) + codes
        total = np.where(null, -1, np.unique(pair, return_inverse=True)[1])
    assert total is not None
    return total


def comparable_types(a: pa.DataType, b: pa.DataType) -> bool:
    """Keys of type ``a`` may lead to keys of type ``b``."""

    def family(kind: pa.DataType) -> str:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if _is_text(kind):
            return "text"
        if _is_number(kind) or pa.types.is_null(kind):
            return "number"
        return "time" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else str(kind)

    return pa.types.is_null(a) or family(a) == family(b)


def to_seconds(array: pa.Array, what: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Seconds since 1970 i64, what is null, and how many had a fraction of a second (they are cut down)."""
    null = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64), null, 0
    if pa.types.is_date(array.type):
        return array.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy().astype(np.int64) * _DAY, null, 0
    if not pa.types.is_timestamp(array.type):
        raise UserError(f"{what} holds {array.type}; make it timestamps, as pandas.to_datetime does")
    whole, rest = np.divmod(array.cast(pa.int64()).fill_null(0).to_numpy(), _PER_SECOND[array.type.unit])
    return whole, null, int((rest != 0).sum())


def encode_column(
    table: str, column: str, array: pa.Array, vocabulary: tuple[str, ...] | None, labels: int, losses: list[Loss]
) -> Encoded | None:
    """One feature column; None where it cannot be one.

    Args:
        table: its name.
        column: its name.
        array: its cells.
        vocabulary: labels by code, where they are known.
        labels: most labels of text.
        losses: what is lost is added.
    """
    kind = array.type

    def lose(count: int, what: str) -> None:
        if count:
            losses.append(Loss(table, column, int(count), what))

    null = array.is_null().to_numpy(zero_copy_only=False)
    nullable = bool(null.any())
    if pa.types.is_boolean(kind):
        values = array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.float32)
        return Encoded(ColumnWords(column, Kind.BOOLEAN, nullable=nullable), values, null, 2)
    if pa.types.is_dictionary(kind) or _is_text(kind):
        return _labelled(column, array, null, vocabulary, labels, lose)
    if pa.types.is_timestamp(kind):
        whole, _, split = to_seconds(array, column)
        lose(split, "times rounded down to seconds")
        return _whole(column, Kind.TIMESTAMP, whole, null, lose)
    if pa.types.is_date(kind):
        whole, _, _ = to_seconds(array, column)
        return _whole(column, Kind.DATE, whole // _DAY, null, lose)
    if pa.types.is_signed_integer(kind) or (pa.types.is_unsigned_integer(kind) and kind.bit_width < 64):
        return _whole(column, Kind.INTEGER, array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), null, lose)
    if pa.types.is_duration(kind) or pa.types.is_time(kind):
        integers = array.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        real = integers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / _PER_SECOND[kind.unit]
    elif _is_number(kind) or pa.types.is_null(kind):
        real = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    else:
        lose(len(array), f"cells of type {kind} left out")
        return None
    null = np.isnan(real)
    with np.errstate(over="ignore"):
        values = real.astype(np.float32)
    lose((np.isinf(values) & ~null).sum(), "infinite or too large values, now missing")
    missing = ~np.isfinite(values)
    words = ColumnWords(column, Kind.NUMERIC, nullable=bool(missing.any()))
    return Encoded(words, np.where(missing, np.float32(0), values), missing, 0)


def _whole(column: str, kind: Kind, x: np.ndarray, null: np.ndarray, lose: Lose) -> Encoded:
    """Whole numbers as float32, from an offset and in a unit where they are large."""
    real, offset, unit = x[~null], 0, 1
    low, high = (int(real.min()), int(real.max())) if real.size else (0, 0)
    if max(-low, high) > _EXACT and high - low < 2**63:
        offset, unit = low, max(int(np.gcd.reduce(real - low)), 1)
    scaled = np.where(null, 0, (x - offset) // unit if offset or unit > 1 else x)
    values = scaled.astype(np.float32)
    with np.errstate(invalid="ignore"):
        lose((values.astype(np.float64).astype(np.int64) != scaled).sum(), "whole numbers rounded to 24 bits")
    words = ColumnWords(column, kind, nullable=bool(null.any()), offset=offset, unit=unit)
    return Encoded(words, values, null, 0)


def _labelled(
    column: str, array: pa.Array, null: np.ndarray, vocabulary: tuple[str, ...] | None, labels: int, lose: Lose
) -> Encoded | None:
    """Text or categories as codes: in the order of the categories, of text in alphabetical order."""
    text = _is_text(array.type)
    encoded = array.dictionary_encode() if text else array
    names = [None if x is None else str(x) for x in encoded.dictionary.to_pylist()]
    distinct = sorted({x for x in names if x is not None}) if text else list(dict.fromkeys(x for x in names if x is not None))
    if vocabulary is not None and set(distinct) <= set(vocabulary):
        distinct = list(vocabulary)
    place = {name: i for i, name in enumerate(distinct)}
    code_of = np.array([-1 if x is None else place[x] for x in names] + [-1], np.int64)
    codes = code_of[np.where(null, -1, encoded.indices.fill_null(0).to_numpy().astype(np.int64))]
    missing = codes < 0
    if len(distinct) > labels and vocabulary is None:
        count = np.bincount(codes[~missing], minlength=len(distinct))
        if np.count_nonzero(count) > labels:
            if 2 * np.count_nonzero(count == 1) > count.sum():
                lose(count.sum(), f"cells of free text left out ({np.count_nonzero(count)} distinct)")
                return None
            often = np.argsort(-count, kind="stable")[: labels - 1]
            kept = np.sort(often[count[often] > 1])  # a label that occurs once says nothing
            lose(count.sum() - count[kept].sum(), f"cells beyond the {kept.size} most frequent labels, now one label")
        else:
            kept = np.flatnonzero(count)
        new = np.full(len(distinct) + 1, kept.size, np.int64)
        new[kept], new[-1] = np.arange(kept.size), -1
        codes, all_kept = new[codes], np.count_nonzero(count) <= kept.size
        distinct = [distinct[i] for i in kept]
        distinct += [] if all_kept else [unused_name(_OTHER, distinct)]
    classes = max(len(distinct), 1)
    words = ColumnWords(column, Kind.CATEGORICAL, nullable=bool(missing.any()), vocabulary=tuple(distinct) or (_OTHER,))
    return Encoded(words, np.maximum(codes, 0).astype(np.float32), missing, classes)
