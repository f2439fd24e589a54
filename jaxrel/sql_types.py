"""SQL types, constants and CHECKs: what a column may hold, as kinds, bounds, steps and vocabularies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any

from sqlglot import exp

from jaxrel.errors import UserError
from jaxrel.types import Kind

__all__ = ["NOW", "ColumnDecl", "Find", "Node", "SqlType", "apply_check", "extra_args", "resolve", "sql_type"]

MAX_CLASSES = 64  # a longer list of values is text: one category node cannot hold it
Node = Any  # of the syntax tree; its base class changed its name between versions of the parser
_BASE = getattr(exp, "Expr", exp.Expression)
NOW = Decimal(20088 * 86400 + 86399)  # 2024-12-31 23:59:59 stands for CURRENT_DATE and CURRENT_TIMESTAMP: no data lies after it
_T = exp.DataType.Type
_INTEGERS = {
    _T.TINYINT: ("smallint", -128, 127),
    _T.UTINYINT: ("smallint", 0, 255),
    _T.SMALLINT: ("smallint", None, None),
    _T.SMALLSERIAL: ("smallint", None, None),
    _T.USMALLINT: ("integer", 0, 65535),
    _T.YEAR: ("smallint", 1901, 2155),
    _T.MEDIUMINT: ("integer", -(2**23), 2**23 - 1),
    _T.UMEDIUMINT: ("integer", 0, 2**24 - 1),
    _T.INT: ("integer", None, None),
    _T.SERIAL: ("integer", None, None),
    _T.UINT: ("integer", 0, None),
    _T.BIGINT: ("bigint", None, None),
    _T.BIGSERIAL: ("bigint", None, None),
    _T.UBIGINT: ("bigint", 0, None),
}
_SERIALS = {_T.SMALLSERIAL, _T.SERIAL, _T.BIGSERIAL}
_TEXTS = {_T.TEXT, _T.MEDIUMTEXT, _T.LONGTEXT, _T.TINYTEXT}
_SUPPORTED = (
    "smallint, integer, bigint, real, double precision, decimal(p,s), boolean, char(n), varchar(n), text, an enum, date, timestamp or uuid"
)


@dataclasses.dataclass(frozen=True)
class SqlType:
    """A declared type: its kind, canonical name, own bounds, length and labels; a serial type is NOT NULL."""

    kind: Kind
    name: str
    low: int | None = None
    high: int | None = None
    scale: int = 0  # decimals: digits after the point
    length: int | None = None
    labels: tuple[str, ...] = ()
    serial: bool = False


@dataclasses.dataclass
class ColumnDecl:
    """One declared column, filled while its statements are read."""

    table: str
    name: str
    type: SqlType
    not_null: bool = False
    bounds: list[tuple[str, object]] = dataclasses.field(default_factory=list)  # (operator, constant)
    allowed: list[list[object]] = dataclasses.field(default_factory=list)  # one list of constants for each IN
    excluded: list[object] = dataclasses.field(default_factory=list)

    @property
    def place(self) -> str:
        """``table.column``, for messages."""
        return f"{self.table}.{self.name}"


def _holds(value: object) -> bool:
    if isinstance(value, _BASE):
        return not isinstance(value, exp.IndexParameters) or bool(extra_args(value))
    return bool(value)


def extra_args(node: Node, *known: str) -> list[str]:
    """Names of the parts that were written in a node and that the caller does not know."""
    return [name for name, value in node.args.items() if name not in known and not name.startswith("_") and _holds(value)]


def sql_type(node: exp.DataType, place: str, dialect: str, enums: Mapping[str, tuple[str, ...]]) -> SqlType:
    """Read a declared type.

    Args:
        node: the parsed type.
        place: ``table.column``.
        dialect: of the text.
        enums: labels of the enum types created so far, by lower-case name.

    Returns:
        The type in canonical form.

    Raises:
        UserError: if it is not supported.
    """
    kind, written = node.this, node.sql(dialect=dialect)
    unsupported = UserError(f"{place}: type {written} is not supported; declare it as {_SUPPORTED}, or leave the column out")
    if kind == _T.USERDEFINED:
        name = node.args.get("kind")
        label = name.name if isinstance(name, _BASE) else str(name)
        serial = {"serial2": "smallint", "serial4": "integer", "serial8": "bigint"}.get(label.lower())
        if serial:
            return SqlType(Kind.INTEGER, serial, serial=True)
        if label.lower() not in enums:
            raise UserError(f"{place}: type {label} is not known; declare it as {_SUPPORTED}, or create the enum type before the table")
        return SqlType(Kind.CATEGORICAL, "text", labels=enums[label.lower()])
    if kind == _T.ENUM:
        return SqlType(Kind.CATEGORICAL, "text", labels=enum_labels(node, place))
    sizes = [int(param.name) for param in node.expressions if isinstance(param, exp.DataTypeParam) and param.name.isdigit()]
    if len(sizes) != len(node.expressions) or node.args.get("nested") or extra_args(node, "this", "expressions", "nested"):
        raise unsupported
    if kind in (_T.TINYINT, _T.UTINYINT) and sizes == [1] and dialect == "mysql":
        return SqlType(Kind.BOOLEAN, "boolean")
    if kind in _INTEGERS:
        name, low, high = _INTEGERS[kind]
        return SqlType(Kind.INTEGER, name, low, high, serial=kind in _SERIALS)
    if kind in (_T.FLOAT, _T.DOUBLE) and len(sizes) <= 1:
        return SqlType(Kind.NUMERIC, "real" if kind == _T.FLOAT else "double")
    if kind in (_T.DECIMAL, _T.UDECIMAL):
        plain = {"mysql": (10, 0), "duckdb": (18, 3)}.get(dialect, (18, 2))
        digits, scale = (sizes[0], sizes[1] if len(sizes) > 1 else 0) if sizes else plain
        if not 1 <= digits <= 38 or scale > min(digits, 15):
            raise UserError(f"{place}: {written} is out of range; declare at most 38 digits, at most 15 of them after the point")
        return SqlType(Kind.NUMERIC, f"decimal({digits},{scale})", low=0 if kind == _T.UDECIMAL else None, scale=scale)
    if kind == _T.BOOLEAN:
        return SqlType(Kind.BOOLEAN, "boolean")
    if kind in (_T.CHAR, _T.NCHAR, _T.BPCHAR, _T.VARCHAR, _T.NVARCHAR):
        fixed = kind in (_T.CHAR, _T.NCHAR) or kind == _T.BPCHAR and bool(sizes)
        length = sizes[0] if sizes else 1 if fixed else None
        if length == 0:
            raise UserError(f"{place}: {written} holds no character; declare a length of at least 1")
        return SqlType(Kind.TEXT, "text" if length is None else f"{'char' if fixed else 'varchar'}({length})", length=length)
    if kind in _TEXTS:
        return SqlType(Kind.TEXT, "text", length=255 if kind == _T.TINYTEXT else sizes[0] if sizes else None)
    if kind == _T.UUID:
        return SqlType(Kind.UUID, "uuid")
    if kind == _T.DATE:
        return SqlType(Kind.DATE, "date")
    naive = {_T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.DATETIME, _T.TIMESTAMP_S, _T.TIMESTAMP_MS, _T.TIMESTAMP_NS}
    if kind in naive or kind == _T.TIMESTAMPTZ and dialect == "mysql":  # MySQL's TIMESTAMP is written without a zone
        return SqlType(Kind.TIMESTAMP, "timestamp")
    if kind in (_T.TIMESTAMPTZ, _T.TIMESTAMPLTZ):
        raise UserError(f"{place}: a timestamp with time zone is not supported; declare it as timestamp (its times are then UTC)")
    raise unsupported


def enum_labels(node: exp.DataType, place: str) -> tuple[str, ...]:
    """Labels of an enum type."""
    labels = tuple(label.name for label in node.expressions if isinstance(label, exp.Literal) and label.is_string)
    if not labels or len(labels) != len(node.expressions) or len(set(labels)) != len(labels):
        raise UserError(f"{place}: an enum needs at least one label, and every label once; write them as quoted strings")
    return labels


# CHECKs

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}
_OPERATORS = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.EQ: "=", exp.NEQ: "<>"}
Find = Callable[[exp.Column], ColumnDecl]


def apply_check(node: Node, table: str, find: Find, dialect: str) -> None:
    """Compile a CHECK into bounds and lists of its columns.

    Args:
        node: the condition.
        table: its table, for messages.
        find: column of a name.
        dialect: for messages.

    Raises:
        UserError: if it is not a conjunction of comparisons of one column with constants.
    """
    refused = UserError(
        f"{table}: CHECK ({' '.join(node.sql(dialect=dialect).split())}) is not supported; "
        "compare one column with constants (<, <=, >, >=, =, BETWEEN, IN, joined by AND), or leave it out"
    )

    def column(side: Node) -> ColumnDecl | None:
        side = side.unnest()
        if isinstance(side, exp.Cast):
            inner = column(side.this)
            to = side.to
            if inner is None or to.expressions or side.args.get("format"):
                return None
            same_text = inner.type.kind in (Kind.TEXT, Kind.CATEGORICAL) and to.this in {*_TEXTS, _T.VARCHAR, _T.NVARCHAR}
            wider = inner.type.kind == Kind.INTEGER and to.this in (_T.BIGINT, _T.DECIMAL, _T.DOUBLE)
            return inner if same_text or wider else None
        return find(side) if isinstance(side, exp.Column) else None

    def choices(part: Node) -> tuple[ColumnDecl, list[object]] | None:
        """(column, constants) of an IN list, of = and of = ANY (ARRAY[…])."""
        part = part.unnest()
        if isinstance(part, exp.In) and not extra_args(part, "this", "expressions"):
            owner, listed = column(part.this), part.expressions
        elif isinstance(part, exp.EQ) and isinstance(part.expression.unnest(), exp.Any):
            array = part.expression.unnest().this.unnest()
            while isinstance(array, exp.Cast):
                array = array.this.unnest()
            if not isinstance(array, exp.Array):
                return None
            owner, listed = column(part.this), array.expressions
        elif isinstance(part, exp.EQ):
            owner, other = column(part.this), part.expression
            if owner is None:
                owner, other = column(part.expression), part.this
            listed = [other]
        else:
            return None
        constants = [_constant(item) for item in listed]
        return None if owner is None or not listed or any(item is None or item is NOW for item in constants) else (owner, constants)

    def is_null(part: Node) -> bool:
        part = part.unnest()
        plain = isinstance(part, exp.Is) and isinstance(part.expression, exp.Null) and not part.args.get("negate")
        return plain and column(part.this) is not None

    def visit(part: Node) -> None:
        part = part.unnest()
        if isinstance(part, exp.And):
            visit(part.this)
            visit(part.expression)
        elif isinstance(part, exp.Or):
            sides = [side for side in part.flatten() if not is_null(side)]
            nulls = {owner.place for side in part.flatten() if is_null(side) and (owner := column(side.unnest().this)) is not None}
            if nulls and len(sides) == 1 and {found.place for found in map(column, sides[0].find_all(exp.Column)) if found} == nulls:
                visit(sides[0])  # NULL passes every CHECK anyway
                return
            found = [choices(side) for side in sides]
            owners = {each[0].place for each in found if each is not None}
            if None in found or len(owners) != 1 or nulls - owners:
                raise refused
            merged = [constant for each in found if each is not None for constant in each[1]]
            next(each[0] for each in found if each is not None).allowed.append(merged)
        elif (chosen := choices(part)) is not None:
            chosen[0].allowed.append(chosen[1])
        elif isinstance(part, exp.Between) and not extra_args(part, "this", "low", "high"):
            compare(column(part.this), ">=", _constant(part.args["low"]))
            compare(column(part.this), "<=", _constant(part.args["high"]))
        elif type(part) in _OPERATORS:
            owner, operator, constant = column(part.this), _OPERATORS[type(part)], _constant(part.expression)
            if owner is None:
                owner, operator, constant = column(part.expression), _FLIPPED[operator], _constant(part.this)
            compare(owner, operator, constant)
        elif isinstance(part, exp.Is) and isinstance(part.expression, exp.Null) and part.args.get("negate"):
            owner = column(part.this)
            if owner is None:
                raise refused
            owner.not_null = True
        elif isinstance(part, exp.Not):
            inner = part.this.unnest()
            if is_null(inner) and (owner := column(inner.this)) is not None:
                owner.not_null = True
            elif (chosen := choices(inner)) is not None:
                chosen[0].excluded.extend(chosen[1])
            elif isinstance(inner, exp.Column) and (owner := column(inner)) is not None and owner.type.kind == Kind.BOOLEAN:
                owner.allowed.append([False])
            else:
                raise refused
        elif isinstance(part, exp.Column) and (owner := column(part)) is not None and owner.type.kind == Kind.BOOLEAN:
            owner.allowed.append([True])
        else:
            raise refused

    def compare(owner: ColumnDecl | None, operator: str, constant: object) -> None:
        if owner is None or constant is None or (constant is NOW and operator not in ("<", "<=")):
            raise refused
        if operator == "<>":
            owner.excluded.append(constant)
        else:
            owner.bounds.append((operator, constant))

    visit(node)


def _constant(node: Node) -> object:
    """Decimal, str or bool; `NOW` for the current date or time; None for anything else."""
    node = node.unnest()
    if isinstance(node, (exp.CurrentDate, exp.CurrentTimestamp)) and not extra_args(node):
        return NOW
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else Decimal(node.this)
    if isinstance(node, exp.Neg):
        inner = _constant(node.this)
        return -inner if isinstance(inner, Decimal) and inner is not NOW else None
    if isinstance(node, exp.Date) and not extra_args(node, "this"):
        return _constant(node.this)
    if isinstance(node, exp.Cast) and not node.to.expressions:
        inner, to = _constant(node.this), node.to.this
        textual = isinstance(inner, str) and to in {*_TEXTS, _T.VARCHAR, _T.DATE, _T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.DATETIME}
        exact = isinstance(inner, Decimal) and (to in (_T.DECIMAL, _T.DOUBLE) or to in (_T.INT, _T.BIGINT) and inner == int(inner))
        return inner if textual or exact or inner is NOW else None
    return None


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What remains of a column after its CHECKs."""

    kind: Kind
    low: float | None
    high: float | None
    step: float
    vocabulary: tuple[str, ...]


def resolve(column: ColumnDecl) -> Resolved:
    """Bounds and vocabulary of a column from its type and CHECKs.

    Raises:
        UserError: if a constant does not fit the type, if a comparison cannot be kept, or if no value is left.
    """
    kind, place = column.type.kind, column.place
    if kind == Kind.UUID and (column.bounds or column.allowed or column.excluded):
        raise UserError(f"{place}: a CHECK on a uuid is not supported; leave it out")
    if kind == Kind.UUID:
        return Resolved(kind, None, None, 0.0, ())
    if kind in (Kind.TEXT, Kind.CATEGORICAL):
        return _resolve_text(column)
    if kind == Kind.BOOLEAN:
        if column.bounds or any(
            not isinstance(value, bool) and value not in (0, 1) for value in (*sum(column.allowed, []), *column.excluded)
        ):
            raise UserError(f"{place}: a CHECK on a boolean compares it with something else; write = TRUE or = FALSE")
        kept = [value for value in (False, True) if all(value in listed for listed in column.allowed) and value not in column.excluded]
        _some(kept, place)
        labels = tuple("true" if value else "false" for value in kept)
        return Resolved(kind, None, None, 0.0, ()) if len(kept) == 2 else Resolved(Kind.CATEGORICAL, None, None, 0.0, labels)
    return _resolve_number(column)


def _some(values: list, place: str) -> None:
    if not values:
        raise UserError(f"{place}: its CHECKs leave no value; widen them")


def _resolve_text(column: ColumnDecl) -> Resolved:
    place = column.place
    constants = [constant for _, constant in column.bounds]
    if constants:
        raise UserError(f"{place}: a CHECK that orders text is not supported; list its values with IN, or leave it out")
    for constant in (*sum(column.allowed, []), *column.excluded):
        if not isinstance(constant, str):
            raise UserError(f"{place}: a CHECK compares text with {constant}; quote the constant")
    lists = [list(column.type.labels)] if column.type.labels else []
    lists += [list(dict.fromkeys(listed)) for listed in column.allowed]  # type: ignore[arg-type]
    if not lists:
        if any(value != "" for value in column.excluded):  # no text that jaxrel writes is empty
            raise UserError(f"{place}: a CHECK that excludes a text is not supported; list the allowed values with IN")
        return Resolved(Kind.TEXT, None, None, 0.0, ())
    kept = [label for label in lists[0] if all(label in listed for listed in lists[1:]) and label not in column.excluded]
    _some(kept, place)
    longest = max(kept, key=len)
    if column.type.length is not None and len(longest) > column.type.length:
        raise UserError(f"{place}: the value '{longest}' is longer than {column.type.name}; declare a longer type or a shorter value")
    return Resolved(Kind.CATEGORICAL if len(kept) <= MAX_CLASSES else Kind.TEXT, None, None, 0.0, tuple(kept))


def _number(constant: object, column: ColumnDecl) -> Decimal:
    """A constant in the column's own unit: numbers, days or seconds."""
    kind, place = column.type.kind, column.place
    try:
        if constant is NOW and kind in (Kind.DATE, Kind.TIMESTAMP):
            return Decimal(int(NOW) // 86400) if kind == Kind.DATE else NOW
        if kind == Kind.DATE and isinstance(constant, str):
            return Decimal((date.fromisoformat(constant) - date(1970, 1, 1)).days)
        if kind == Kind.TIMESTAMP and isinstance(constant, str):
            passed = datetime.fromisoformat(constant) - datetime(1970, 1, 1)
            return Decimal(passed.days * 86400 + passed.seconds) + Decimal(passed.microseconds) / 1_000_000
        if kind in (Kind.INTEGER, Kind.NUMERIC) and not isinstance(constant, bool) and constant is not NOW:
            number = Decimal(constant)  # type: ignore[arg-type]
            if number.is_finite():
                return number
    except (ValueError, TypeError, InvalidOperation):
        pass
    shown = "the current time" if constant is NOW else f"'{constant}'" if isinstance(constant, str) else str(constant)
    wanted = {Kind.DATE: "a date such as '2024-12-31'", Kind.TIMESTAMP: "a time such as '2024-12-31 23:59:59'"}.get(kind, "a number")
    raise UserError(f"{place}: a CHECK compares {column.type.name} with {shown}; write {wanted}")


def _label(value: Decimal, column: ColumnDecl) -> str:
    if column.type.kind == Kind.DATE:
        return date.fromordinal(date(1970, 1, 1).toordinal() + int(value)).isoformat()
    if column.type.kind == Kind.TIMESTAMP:
        return datetime.fromtimestamp(int(value), tz=UTC).replace(tzinfo=None).isoformat(" ")
    if column.type.kind == Kind.INTEGER:
        return str(int(value))
    return str(value.quantize(Decimal(1).scaleb(-column.type.scale))) if column.type.name.startswith("decimal") else repr(float(value))


def _resolve_number(column: ColumnDecl) -> Resolved:
    place, declared = column.place, column.type
    real = declared.name in ("real", "double")
    step = Decimal(0) if real else Decimal(1).scaleb(-declared.scale)
    low: Decimal | None = None if declared.low is None else Decimal(declared.low)
    high: Decimal | None = None if declared.high is None else Decimal(declared.high)
    numbers = [(operator, _number(constant, column)) for operator, constant in column.bounds]
    excluded = [_number(constant, column) for constant in column.excluded]
    for operator, bound in numbers:
        strict, upper = operator in ("<", ">"), operator in ("<", "<=")
        if not real:
            snapped = (bound / step).to_integral_value(ROUND_FLOOR if upper else ROUND_CEILING) * step
            bound = snapped + (0 if snapped != bound or not strict else -step if upper else step)
        elif strict:
            bound = _beside(bound, step, -1 if upper else 1)
        if upper:
            high = bound if high is None else min(high, bound)
        else:
            low = bound if low is None else max(low, bound)
    least, most = _type_range(declared)
    if (low is not None and low > most) or (high is not None and high < least):
        raise UserError(f"{place}: its CHECKs leave no value of {declared.name}; widen them")
    lists = [[_number(constant, column) for constant in listed] for listed in column.allowed]
    if lists:
        kept = [
            value
            for value in dict.fromkeys(lists[0])
            if all(value in listed for listed in lists[1:])
            and value not in excluded
            and (low is None or value >= low)
            and (high is None or value <= high)
            and least <= value <= most
            and (real or value % step == 0)
        ]
        _some(kept, place)
        kind = Kind.CATEGORICAL if len(kept) <= MAX_CLASSES else declared.kind
        return Resolved(kind, None, None, 0.0, tuple(_label(value, column) for value in kept))
    for value in sorted(excluded):  # an end of the range can be left out; a value inside it cannot
        low = _beside(value, step, 1) if value == low else low
    for value in sorted(excluded, reverse=True):
        high = _beside(value, step, -1) if value == high else high
    for value in excluded:
        if (low is None or value >= low) and (high is None or value <= high) and (real or value % step == 0):
            raise UserError(f"{place}: a CHECK that excludes {value} inside the range is not supported; state a range")
    if low is not None and high is not None and low > high:
        raise UserError(f"{place}: its CHECKs leave no value; widen them")
    if low is not None and low < -(2**53) or high is not None and high > 2**53:
        low, high = (None if low is not None and low < -(2**53) else low), (None if high is not None and high > 2**53 else high)
    return Resolved(declared.kind, None if low is None else float(low), None if high is None else float(high), float(step), ())


def _beside(value: Decimal, step: Decimal, sign: int) -> Decimal:
    """The next value of the grid, or the next double."""
    return value + sign * step if step else Decimal(math.nextafter(float(value), sign * math.inf))


def _type_range(declared: SqlType) -> tuple[Decimal, Decimal]:
    """Smallest and largest value of a type that jaxrel writes."""
    if declared.name.startswith("decimal"):
        digits = int(declared.name[8:].split(",")[0])
        most = Decimal(min(10**digits - 1, 2**53)).scaleb(-declared.scale)
        return -most, most
    bits = {"smallint": 15, "integer": 31, "bigint": 53}.get(declared.name)
    if bits is not None:
        return -Decimal(2**bits), Decimal(2**bits - 1)
    if declared.kind in (Kind.DATE, Kind.TIMESTAMP):  # 0001-01-01 … 9999-12-31
        unit = 1 if declared.kind == Kind.DATE else 86400
        return Decimal(-719162 * unit), Decimal(2932896 * unit)
    return -Decimal(2**53), Decimal(2**53)
