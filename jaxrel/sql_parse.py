"""SQL text to declarations: which tables, columns, keys and constraints were written, and nothing that was not understood."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokens import Token, TokenType

from jaxrel.errors import UserError
from jaxrel.sql_types import ColumnDecl, Find, Node, apply_check, enum_labels, extra_args, sql_type

__all__ = ["DIALECTS", "ForeignKeyDecl", "TableDecl", "parse_sql"]

DIALECTS = ("postgres", "mysql", "sqlite", "duckdb")
# statements that declare nothing about the data
_HARMLESS = (exp.Set, exp.Use, exp.Pragma, exp.Transaction, exp.Commit, exp.Comment, exp.Grant)
_HARMLESS_TEXT = re.compile(
    r"CREATE EXTENSION\b|LOCK TABLES?\b|UNLOCK TABLES\b|GRANT\b|REVOKE\b|ALTER \w+ .*\bOWNER TO\b|ALTER SEQUENCE\b|ALTER TYPE .*\bOWNER\b"
    r"|ALTER TABLE .*\bALTER COLUMN \S+ ADD GENERATED (ALWAYS|BY DEFAULT) AS IDENTITY\b|SELECT pg_catalog\.set_config\b|CREATE SEQUENCE\b",
    re.IGNORECASE | re.DOTALL,
)
_HARMLESS_PROPERTIES = (
    exp.EngineProperty,
    exp.AutoIncrementProperty,
    exp.CharacterSetProperty,
    exp.CollateProperty,
    exp.SchemaCommentProperty,
    exp.RowFormatProperty,
    exp.UnloggedProperty,
    exp.StrictProperty,
    exp.TableSpaceProperty,
)
# what a column may say that declares nothing about its values
_HARMLESS_COLUMN = (
    exp.DefaultColumnConstraint,
    exp.AutoIncrementColumnConstraint,
    exp.CommentColumnConstraint,
    exp.CollateColumnConstraint,
    exp.CharacterSetColumnConstraint,
    exp.BinaryColumnConstraint,
    exp.OnUpdateColumnConstraint,
    exp.InvisibleColumnConstraint,
    exp.ZeroFillColumnConstraint,
)


@dataclasses.dataclass(frozen=True)
class ForeignKeyDecl:
    """One declared foreign key: ``column`` references ``parent`` (``parent_column``, or its primary key if None)."""

    column: str
    parent: str
    parent_column: str | None


@dataclasses.dataclass
class TableDecl:
    """One declared table."""

    name: str
    columns: dict[str, ColumnDecl] = dataclasses.field(default_factory=dict)  # by lower-case name, in declared order
    primary_key: str | None = None  # its column
    unique: list[tuple[str, ...]] = dataclasses.field(default_factory=list)  # sets of columns
    foreign_keys: list[ForeignKeyDecl] = dataclasses.field(default_factory=list)

    def column(self, name: str) -> ColumnDecl:
        """The column of a name, whatever its case.

        Raises:
            UserError: if there is none.
        """
        found = self.columns.get(name.lower())
        if found is None:
            known = ", ".join(column.name for column in self.columns.values())
            raise UserError(f"{self.name}: there is no column {name}; its columns are {known}")
        return found


def parse_sql(text: str, dialect: str) -> list[TableDecl]:
    """Read the tables that a SQL text creates.

    Args:
        text: statements.
        dialect: one of `DIALECTS`.

    Returns:
        Tables in declared order; references are not resolved yet.

    Raises:
        UserError: for a syntax error, or anything declared that is not understood.
    """
    if dialect not in DIALECTS:
        raise UserError(f"dialect: '{dialect}' is not known; choose one of {', '.join(DIALECTS)}")
    reader = _Reader(dialect)
    for statement in _statements(text, dialect):
        reader.read(statement)
    if not reader.tables:
        raise UserError("SQL: no table is created; write at least one CREATE TABLE statement")
    return list(reader.tables.values())


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collect what the parser would log."""
    said: list[str] = []
    logger = logging.getLogger("sqlglot")

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield said
    finally:
        logger.removeFilter(keep)


def _statements(text: str, dialect: str) -> list[Node]:
    try:
        with _quiet() as said:
            tokens = sqlglot.tokenize(text, read=dialect)
            _check_commas(tokens)
            found = [statement for statement in sqlglot.parse(text, read=dialect) if statement is not None]
    except ParseError as error:
        first = error.errors[0] if error.errors else {"line": 1, "description": str(error), "highlight": ""}
        reason = str(first["description"]).split(" but got <")[0].rstrip(".")
        near = f" near '{first['highlight']}'" if first.get("highlight") else ""
        raise UserError(f"SQL, line {first['line']}: syntax error{near} ({_line(reason)}); mend it, or name the file's dialect") from None
    except TokenError as error:
        raise UserError(f"SQL, line {_open_line(text)}: a quote or comment is not closed; close it ({_line(str(error))[:60]})") from None
    others = [message for message in said if "Falling back to parsing as a 'Command'" not in message]
    if others:
        raise UserError(f"SQL: the parser is not sure of what it read ({_line(others[0])}); write it in plain {dialect}")
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _open_line(text: str) -> int:
    """Line of the first quote that has no partner."""
    inside = None
    for number, line in enumerate(text.splitlines(), 1):
        for character in line:
            if inside is None and character in "'\"`":
                inside = (character, number)
            elif inside is not None and character == inside[0]:
                inside = None
    return inside[1] if inside else max(len(text.splitlines()), 1)


def _check_commas(tokens: list[Token]) -> None:
    """The parser forgives an empty place between commas; the databases do not."""
    for before, after in zip(tokens, tokens[1:], strict=False):
        if before.token_type == TokenType.COMMA and after.token_type in (TokenType.COMMA, TokenType.R_PAREN):
            raise UserError(f"SQL, line {after.line}: syntax error near '{after.text}' (nothing stands after a comma); remove the comma")


class _Reader:
    """Statements one after another; whatever it does not know is refused."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.tables: dict[str, TableDecl] = {}
        self.enums: dict[str, tuple[str, ...]] = {}

    def read(self, statement: Node) -> None:
        if isinstance(statement, exp.Command):
            statement = self.again(statement)
            if statement is None:
                return
        if isinstance(statement, (*_HARMLESS, exp.Semicolon)):
            return
        if isinstance(statement, exp.Drop):
            self.drop(statement)
        elif isinstance(statement, exp.Create):
            self.create(statement)
        elif isinstance(statement, exp.Alter):
            self.alter(statement)
        elif not _HARMLESS_TEXT.match(statement.sql(dialect=self.dialect)):
            raise self.unknown(statement)

    def unknown(self, statement: Node) -> UserError:
        shown = _line(statement.sql(dialect=self.dialect))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return UserError(f"SQL: the statement '{shown}' is not understood; mend or remove it")

    def again(self, command: exp.Command) -> Node:
        """Statements that the parser leaves as text: harmless ones, enum types, unnamed constraints, SQLite's suffixes."""
        rest = command.args.get("expression")
        text = f"{command.this} {str(getattr(rest, 'name', rest) or '').strip()}".strip()
        if _HARMLESS_TEXT.match(text):
            return None
        read = "postgres" if re.match(r"CREATE TYPE\b", text, re.IGNORECASE) else self.dialect
        plain = (
            text
            if self.dialect != "sqlite"
            else re.sub(r"\)\s*(WITHOUT\s+ROWID|STRICT)(\s*,\s*(WITHOUT\s+ROWID|STRICT))*\s*$", ")", text, flags=re.IGNORECASE)
        )
        plain = re.sub(r"^(ALTER TABLE .*?\bADD) (?=CHECK\b|UNIQUE\b)", r"\1 CONSTRAINT unnamed ", plain, flags=re.IGNORECASE | re.DOTALL)
        if read != self.dialect or plain != text:
            found = _statements(plain, read)
            if len(found) == 1 and not isinstance(found[0], exp.Command):
                return found[0]
        raise self.unknown(command)

    def name(self, node: Node) -> str:
        """An identifier as the database stores it."""
        found = node.find(exp.Identifier)
        if found is None:
            raise self.unknown(node)
        return found.name.lower() if self.dialect == "postgres" and not found.args.get("quoted") else found.name

    def table(self, node: Node) -> TableDecl:
        name = self.name(node.this if isinstance(node, exp.Schema) else node)
        if name.lower() not in self.tables:
            raise UserError(f"SQL: there is no table {name} at this place; create it before it is altered or indexed")
        return self.tables[name.lower()]

    def drop(self, statement: exp.Drop) -> None:
        for dropped in statement.args.get("tables") or [statement.this]:
            if dropped is not None and dropped.name.lower() in self.tables:
                raise UserError(f"{dropped.name}: the table is dropped after it is created; remove one of the two statements")
        if not statement.args.get("exists"):
            raise self.unknown(statement)

    def create(self, statement: exp.Create) -> None:
        kind, made = statement.args.get("kind"), statement.this
        if kind in ("SCHEMA", "DATABASE", "SEQUENCE"):
            return
        if kind == "TYPE" and isinstance(statement.expression, exp.DataType) and statement.expression.this == exp.DataType.Type.ENUM:
            name = self.name(made.this)
            self.enums[name.lower()] = enum_labels(statement.expression, name)
        elif kind == "INDEX" and isinstance(made, exp.Index):
            if statement.args.get("unique"):
                self.index(made)
        elif kind == "TABLE" and isinstance(made, exp.Schema) and statement.expression is None:
            self.create_table(statement)
        else:
            raise self.unknown(statement)

    def create_table(self, statement: exp.Create) -> None:
        made = statement.this
        name = self.name(made.this.this)
        if name.lower() in self.tables:
            raise UserError(f"{name}: two tables have this name; rename or remove one")
        if not re.fullmatch(r"[^\s./\\:*?\"<>|\x00-\x1f][^/\\:*?\"<>|\x00-\x1f]*", name) or len(name) > 100:
            raise UserError(f"{name!r}: a table of this name cannot be a file; rename it in letters, digits and underscores")
        if extra := extra_args(statement, "this", "kind", "exists", "properties", "replace"):
            raise UserError(f"{name}: CREATE TABLE with {extra[0].replace('_', ' ')} is not supported; remove it")
        for clause in statement.args["properties"].expressions if statement.args.get("properties") else ():
            if not isinstance(clause, _HARMLESS_PROPERTIES):
                shown = _line(clause.sql(dialect=self.dialect)) or type(clause).__name__.removesuffix("Property")
                raise UserError(f"{name}: the table option {shown} is not supported; remove it")
        table = self.tables[name.lower()] = TableDecl(name)
        definitions = [part for part in made.expressions if isinstance(part, exp.ColumnDef)]
        for part in definitions:
            self.declare(table, part)
        for part in definitions:
            self.column(table, part)
        for part in made.expressions:
            if not isinstance(part, exp.ColumnDef):
                self.constraint(table, part)
        if not table.columns:
            raise UserError(f"{name}: the table has no column; declare at least one")

    def alter(self, statement: exp.Alter) -> None:
        if statement.args.get("kind") != "TABLE":
            raise self.unknown(statement)
        table = self.table(statement.this)
        for action in statement.args.get("actions") or ():
            if isinstance(action, exp.AddConstraint):
                for part in action.expressions:
                    self.constraint(table, part)
            elif isinstance(action, exp.AlterColumn) and not extra_args(action, "this", "default"):
                continue  # a default is a value used where none is given
            else:
                shown = _line(action.sql(dialect=self.dialect))
                raise UserError(f"{table.name}: ALTER TABLE ... {shown} is not supported; write it into CREATE TABLE")

    def index(self, index: exp.Index) -> None:
        table, params = self.table(index.args["table"]), index.args.get("params")
        if params is None or extra_args(params, "columns", "using", "include"):
            raise UserError(f"{table.name}: a partial or expression UNIQUE INDEX is not supported; remove it or name plain columns")
        self.add_unique(table, params.args.get("columns") or [])

    def declare(self, table: TableDecl, node: exp.ColumnDef) -> None:
        name = self.name(node.this)
        if name.lower() in table.columns:
            raise UserError(f"{table.name}.{name}: two columns have this name; rename or remove one")
        if not isinstance(node.args.get("kind"), exp.DataType):
            raise UserError(f"{table.name}.{name}: the column has no type; declare one")
        declared = sql_type(node.args["kind"], f"{table.name}.{name}", self.dialect, self.enums)
        table.columns[name.lower()] = ColumnDecl(table.name, name, declared, not_null=declared.serial)

    def column(self, table: TableDecl, node: exp.ColumnDef) -> None:
        column = table.column(self.name(node.this))
        if extra := extra_args(node, "this", "kind", "constraints", "exists"):
            raise UserError(f"{column.place}: {extra[0].replace('_', ' ')} is not supported; remove it")
        for wrapped in node.args.get("constraints") or ():
            kind = wrapped.args.get("kind")
            if isinstance(kind, exp.NotNullColumnConstraint):
                column.not_null = column.not_null or not kind.args.get("allow_null")
            elif isinstance(kind, exp.PrimaryKeyColumnConstraint):
                self.add_key(table, [column.name], kind, "desc")
            elif isinstance(kind, exp.UniqueColumnConstraint):
                self.unique(table, kind, [node.this])
            elif isinstance(kind, exp.CheckColumnConstraint):
                apply_check(kind.this, table.name, self.finder(table), self.dialect)
            elif isinstance(kind, exp.Reference):
                self.add_reference(table, [column.name], kind)
            elif isinstance(kind, exp.GeneratedAsIdentityColumnConstraint) and not kind.args.get("expression"):
                column.not_null = True
            elif isinstance(
                kind, (exp.ComputedColumnConstraint, exp.GeneratedAsIdentityColumnConstraint, exp.GeneratedAsRowColumnConstraint)
            ):
                raise UserError(f"{column.place}: a generated column is not supported; leave the column out")
            elif isinstance(kind, _HARMLESS_COLUMN):
                if isinstance(kind, exp.ZeroFillColumnConstraint):
                    column.bounds.append((">=", 0))
            else:
                shown = _line(wrapped.sql(dialect=self.dialect)) or type(kind).__name__
                raise UserError(f"{column.place}: {shown} is not supported; remove it")

    def constraint(self, table: TableDecl, node: Node) -> None:
        if isinstance(node, exp.Constraint):
            for part in node.expressions:
                self.constraint(table, part)
        elif isinstance(node, exp.PrimaryKey):
            self.add_key(table, [self.name(part) for part in node.expressions], node, "expressions", "this")
        elif isinstance(node, exp.UniqueColumnConstraint):
            if not isinstance(node.this, exp.Schema):
                raise UserError(f"{table.name}: UNIQUE names no column; write UNIQUE (column)")
            self.unique(table, node, node.this.expressions)
        elif isinstance(node, exp.ForeignKey):
            reference = node.args.get("reference")
            if reference is None:
                raise UserError(f"{table.name}: a foreign key names no table; write REFERENCES table (column)")
            if extra := extra_args(node, "expressions", "reference", "this", "delete", "update", "options"):
                raise UserError(f"{table.name}: FOREIGN KEY with {extra[0]} is not supported; remove it")
            self.add_reference(table, [self.name(part) for part in node.expressions], reference)
        elif isinstance(node, exp.CheckColumnConstraint):
            apply_check(node.this, table.name, self.finder(table), self.dialect)
        elif isinstance(node, exp.Identifier):
            raise UserError(f"{table.name}.{node.name}: the column has no type; declare one")
        elif not isinstance(node, exp.IndexColumnConstraint):
            shown = _line(node.sql(dialect=self.dialect)) or type(node).__name__
            raise UserError(f"{table.name}: {shown} is not supported; remove it")

    def finder(self, table: TableDecl) -> Find:
        def find(node: exp.Column) -> ColumnDecl:
            return table.column(self.name(node.this))

        return find

    def add_key(self, table: TableDecl, names: list[str], node: Node, *known: str) -> None:
        if extra := extra_args(node, *known, "include"):
            raise UserError(f"{table.name}: PRIMARY KEY with {extra[0].replace('_', ' ')} is not supported; remove it")
        if len(names) != 1:
            raise UserError(f"{table.name}: the composite primary key ({', '.join(names)}) is not supported; add a key of one column")
        column = table.column(names[0])
        if table.primary_key not in (None, column.name):
            raise UserError(f"{table.name}: there are two primary keys, {table.primary_key} and {column.name}; keep one")
        table.primary_key, column.not_null = column.name, True

    def unique(self, table: TableDecl, node: Node, parts: list[Node]) -> None:
        if node.args.get("nulls"):
            raise UserError(f"{table.name}: UNIQUE NULLS NOT DISTINCT is not supported; make the columns NOT NULL instead")
        if extra := extra_args(node, "this", "index_type", "include", "options"):
            raise UserError(f"{table.name}: UNIQUE with {extra[0].replace('_', ' ')} is not supported; remove it")
        self.add_unique(table, parts)

    def add_unique(self, table: TableDecl, parts: list[Node]) -> None:
        names = []
        for part in parts:
            plain = part.this if isinstance(part, exp.Ordered) else part
            if not isinstance(plain, (exp.Identifier, exp.Column, exp.ColumnDef)):
                shown = _line(plain.sql(dialect=self.dialect))
                raise UserError(f"{table.name}: UNIQUE ({shown}) is not supported; name plain columns")
            names.append(table.column(self.name(plain)).name)
        if not names:
            raise UserError(f"{table.name}: UNIQUE names no column; write UNIQUE (column)")
        if len(set(names)) != len(names):
            raise UserError(f"{table.name}: UNIQUE ({', '.join(names)}) names a column twice; name it once")
        table.unique.append(tuple(names))

    def add_reference(self, table: TableDecl, names: list[str], node: exp.Reference) -> None:
        target = node.this
        parent = self.name(target.this.this if isinstance(target, exp.Schema) else target.this)
        named = [self.name(part) for part in target.expressions] if isinstance(target, exp.Schema) else []
        if len(names) != 1 or len(named) > 1:
            raise UserError(f"{table.name}: the composite foreign key ({', '.join(names)}) is not supported; use one column")
        column = table.column(names[0]).name
        table.foreign_keys.append(ForeignKeyDecl(column, parent, named[0] if named else None))
