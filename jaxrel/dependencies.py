"""A written database against its own causal graph: edges leave a dependence, what nothing connects is independent, time has an order.

*Pairs.* An edge here leads from an observed column to the next observed one down the graph: nodes in between are not observed, and at most
one foreign key is crossed (then the rows are those of the child, beside their parent's). Two columns are *separated* where no chain of
common causes connects them. Beside the nodes of the graph, causes are the order of a table's rows (time series follow it, and so do
foreign keys, since which parent a row has may depend on its place) and selection: a value that is missing because of another column makes
the pair depend on that column too. So a separated pair has a side that is drawn anew for each row and independently of the other side;
under its permutations the table of counts keeps its margins and nothing else.

*Test.* Both columns are cut at quantiles of their own table (categories are kept, rare ones pooled), coarsely for power and finely for
dependence that is not monotone, and the smaller p-value of two chi-squared tests of independence counts double (two rare classes, whose
counts chance keeps below five, are tested exactly). The effect is Cramér's V,
corrected for chance: 0 none, 1 a function. An edge whose p-value is above 0.01 is *weak*: it is named, and is no failure, because a prior
may draw edges that hardly matter. Separated pairs are judged at the level divided by their number (Bonferroni): a sound database
fails with at most that probability.

Reference: Bergsma, "A bias-correction for Cramér's V and Tschuprow's T", 2013; Fisher, "The logic of inductive inference", 1935.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrel.errors import UserError
from jaxrel.files import DIGEST_FILE

__all__ = ["Edge", "Report", "chi_squared_tail", "measure_dependencies"]

_COARSE, _FINE = 4, 16  # most classes that a column is cut into
_EXPECTED = 5.0  # least count that chance puts into a cell; the smallest classes are merged until it does
_LEAST_ROWS = 20
_WEAK = 0.01  # an edge of a higher p-value is weak
_ORDER = -1  # in the place of a node's number: the order of a table's rows
_LABELLED = ("categorical", "boolean")


@dataclasses.dataclass(frozen=True)
class Edge:
    """What the data show of one edge.

    Attributes:
        cause: table.column.
        effect: table.column.
        key: the foreign key that it crosses, "" inside a table.
        rows: in which both are present.
        strength: corrected Cramér's V, 0…1.
        p: of independence.
        weak: not distinguishable from none.
    """

    cause: str
    effect: str
    key: str
    rows: int
    strength: float
    p: float
    weak: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in one database.

    Attributes:
        edges: all that lead from one observed column to the next, the weakest last.
        separated: pairs of columns that the graph does not connect, each of which was tested.
        problems: one line for each thing that does not hold: separated columns that depend on each other, children before parents.
    """

    edges: tuple[Edge, ...]
    separated: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        weak = sum(edge.weak for edge in self.edges)
        lines = [f"{len(self.edges)} edges between observed columns, {weak} weak; {self.separated} separated pairs"]
        if self.edges:
            lines.append("  effect        p       rows  cause → effect")
        for edge in self.edges:
            name = f"{edge.cause} → {edge.effect}" + f" ({edge.key})" * bool(edge.key) + "  WEAK" * edge.weak
            lines.append(f"  {edge.strength:6.3f}  {_p_value(edge.p):>7}  {edge.rows:9,}  {name}")
        return "\n".join(lines)


def _p_value(p: float) -> str:
    return "<1e-99" if p < 1e-99 else f"{p:.1e}"


def measure_dependencies(folder: str | os.PathLike[str], level: float = 0.01) -> Report:
    """Test the data of a written database against its causal graph.

    Args:
        folder: a database that jaxrel wrote.
        level: probability that a sound database is reported all the same.

    Returns:
        Effect sizes of the edges, and what does not hold.

    Raises:
        UserError: if ``jaxrel.json`` is missing or holds no causal graph, or a table cannot be read.
    """
    folder = Path(folder)
    record = _record(folder)
    try:
        graph, tables = _Graph(record["causal_graph"]), _tables(folder, record)
    except (KeyError, TypeError, IndexError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"{folder / DIGEST_FILE}: does not describe the tables beside it ({error!r}); write the database again") from error
    return _report(graph, tables, level)


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / DIGEST_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; dependencies are tested on databases that jaxrel wrote, which record their graph") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error
    if not isinstance(record, dict) or not record.get("causal_graph"):
        raise UserError(f"{path}: holds no causal graph, and there is nothing to test the data against; generate the database anew")
    return record


# the graph


Node = tuple[str, int]  # table and number
Crossing = tuple[str, ...]  # (), or direction, child table and foreign key


class _Graph:
    """Ancestors as sets of bits, and the ways from one observed column to the next."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        nodes = [(table, n) for table, part in parts.items() for n in (*range(len(part["nodes"])), _ORDER)]
        self._bit = {node: 1 << i for i, node in enumerate(nodes)}
        self._columns: dict[Node, list[str]] = {}
        self._effects: dict[Node, list[tuple[Node, Crossing]]] = {}
        self._ancestors = dict(self._bit)
        causes: dict[Node, list[Node]] = {node: [] for node in nodes}
        for table, part in parts.items():
            for column, (n, _) in part["columns"].items():
                self._columns.setdefault((table, n), []).append(column)
            links: list[tuple[Node, int, Crossing]] = [((table, cause), effect, ()) for cause, effect, *_ in part["edges"]]
            for read in part["gathers"]:
                links.append(((read["parent"], read["parent_node"]), read["node"], ("down", table, read["foreign_key"])))
            for read in part.get("aggregates", ()):
                links.append(((read["child"], read["child_node"]), read["node"], ("up", read["child"], read["foreign_key"])))
            for cause, n, through in links:
                causes[table, n].append(cause)
                self._effects.setdefault(cause, []).append(((table, n), through))
            for n, node in enumerate(part["nodes"]):
                alone = node["kind"] == "mechanism" or (node["kind"] == "exogenous" and not node.get("series"))
                if not alone:  # a series, or something read from other rows, which the order of the rows may decide
                    causes[table, n].append((table, _ORDER))
        grows = True
        while grows:  # twice or thrice: nodes come in the order of causes, all but those that aggregate
            grows = False
            for node, of in causes.items():
                union = self._ancestors[node]
                for cause in of:
                    union |= self._ancestors[cause]
                grows |= union != self._ancestors[node]
                self._ancestors[node] = union
        self._causes: dict[tuple[str, str], tuple[int, int]] = {}
        for table, part in parts.items():
            own = {column: self._ancestors[table, n] for column, (n, _) in part["columns"].items()}
            for column in own:
                self._causes[table, column] = own[column], own[part["missing"].get(column, column)]

    def edges(self) -> Iterator[tuple[tuple[str, str], tuple[str, str], Crossing]]:
        """Cause, effect, each (table, column), and how the way between them crosses a foreign key."""
        for start, columns in self._columns.items():
            seen: set[tuple[Node, Crossing]] = set()
            waiting: list[tuple[Node, Crossing]] = [(start, ())]
            while waiting:
                node, crossed = waiting.pop()
                for effect, through in self._effects.get(node, ()):
                    state = effect, crossed or through
                    if (crossed and through) or state in seen:
                        continue
                    seen.add(state)
                    if effect not in self._columns:
                        waiting.append(state)
                    for pair in product(columns, self._columns.get(effect, ())):
                        yield (start[0], pair[0]), (effect[0], pair[1]), state[1]

    def causes(self, table: str, column: str, child: str = "") -> tuple[int, int]:
        """Ancestors of a column, and of what makes its values missing; beside a child's rows, the order of those rows too."""
        own, other = self._causes[table, column]
        order = self._bit[child, _ORDER] if child else 0
        return own | order, other | order


def _separated(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two columns are d-separated, given that both are present: no chain of overlapping ancestries leads from one to the other."""
    reached, rest = a[0], [a[1], b[1], b[0]]
    while touching := [x for x in rest if x & reached]:
        reached |= touching[0]
        rest.remove(touching[0])
    return b[0] & reached == 0


# the data


@dataclasses.dataclass(frozen=True)
class _Table:
    rows: int
    values: dict[str, np.ndarray]  # f64[rows] by column, codes of labels, nan where missing
    cuts: dict[str, list[np.ndarray]]  # i64[rows] by column: classes, coarse and fine; -1 where missing
    labelled: frozenset[str]
    parents: dict[str, tuple[str, np.ndarray]]  # by foreign key: the parent table and the row in it, -1 where null
    time: np.ndarray | None  # i64[rows], microseconds


def _tables(folder: Path, record: Mapping[str, Any]) -> dict[str, _Table]:
    arrow = {}
    for name in record["causal_graph"]:
        path = folder / "db" / f"{name}.parquet"
        try:
            arrow[name] = pq.ParquetFile(path).read()
        except Exception as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error
    return {name: _table(record["tables"][name], record["tables"], name, arrow) for name in arrow}


def _table(entry: Mapping[str, Any], entries: Mapping[str, Any], name: str, arrow: Mapping[str, pa.Table]) -> _Table:
    table, kinds = arrow[name], {c: feature["kind"] for c, feature in entry["features"].items() if not feature.get("unique")}
    labelled = frozenset(c for c, kind in kinds.items() if kind in _LABELLED)
    values = {c: _numbers(table[c]) for c, kind in kinds.items() if kind not in ("text", "uuid")}
    parents = {}
    for key, reference in entry["foreign_keys"].items():
        parent = reference["parent"]
        known = arrow[parent][entries[parent]["primary_key"]].combine_chunks()
        row = pc.index_in(table[key].cast(known.type), value_set=known)
        parents[key] = parent, row.fill_null(-1).to_numpy().astype(np.int64)
    time = None if entry["time_column"] is None else table[entry["time_column"]].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return _Table(table.num_rows, values, {c: _cuts(x, c in labelled) for c, x in values.items()}, labelled, parents, time)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """f64[rows]; labels as codes, nan where missing."""
    array = column.combine_chunks()
    if pa.types.is_string(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        array = array.indices
    elif pa.types.is_date(array.type):
        array = array.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _cuts(values: np.ndarray, labelled: bool) -> list[np.ndarray]:
    """Classes of a column at each resolution, i64[rows]; -1 where missing."""
    present = ~np.isnan(values)
    known = values[present]
    most = int(np.clip(math.sqrt(known.size / _EXPECTED), 2, _FINE))
    cuts = []
    for classes in sorted({most} if labelled else {min(_COARSE, most), most}):
        if labelled:
            label, code, count = np.unique(known, return_inverse=True, return_counts=True)
            rank = np.empty(label.size, np.int64)
            rank[np.argsort(-count, kind="stable")] = np.arange(label.size)
            code = np.minimum(rank, classes - 1)[code]
        else:
            code = np.searchsorted(np.unique(np.quantile(known, np.arange(1, classes) / classes)) if known.size else known, known)
        cuts.append(np.full(values.size, -1, np.int64))
        cuts[-1][present] = code
    return cuts


def _averaged(table: _Table, column: str, key: str, parents: int) -> list[np.ndarray]:
    """Classes of the mean over each parent's children (of labels: the share of the commonest), i64[parents]."""
    values, row = table.values[column], table.parents[key][1]
    if column in table.labelled:
        values = np.where(np.isnan(values), np.nan, table.cuts[column][0] == 0)
    valid = (row >= 0) & ~np.isnan(values)
    count = np.bincount(row[valid], minlength=parents)
    total = np.bincount(row[valid], values[valid], minlength=parents)
    return _cuts(np.where(count > 0, total / np.maximum(count, 1), np.nan), False)


# the test


def chi_squared_tail(x: float, freedom: int) -> float:
    """P(X > x) for a chi-squared X with a whole number of degrees of freedom, by its finite sum."""
    half = x / 2
    if half <= 0:
        return 1.0
    first = 0.0 if freedom % 2 == 0 else 0.5
    total = 0.0 if freedom % 2 == 0 else math.erfc(math.sqrt(half))
    for i in range(freedom // 2):
        total += math.exp((i + first) * math.log(half) - half - math.lgamma(i + first + 1))
    return min(total, 1.0)


def exact_tail(counts: np.ndarray) -> float:
    """Fisher's p-value of a two by two table: the chance of all tables with its margins that are no likelier than it."""
    row, column, total = int(counts[0].sum()), int(counts[:, 0].sum()), int(counts.sum())

    def likelihood(x: int) -> float:
        cells = (x, row - x, column - x, total - row - column + x)
        return -sum(math.lgamma(cell + 1.0) for cell in cells)

    support = range(max(0, row + column - total), min(row, column) + 1)
    each = np.array([likelihood(x) for x in support])
    chances = np.exp(each - each.max())
    here = chances[int(counts[0, 0]) - support.start]
    return float(chances[chances <= here * (1 + 1e-9)].sum() / chances.sum())


def _merged(counts: np.ndarray) -> np.ndarray:
    """A table of counts without empty classes, its smallest classes merged until chance puts enough into every cell."""
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    while min(counts.shape) > 1 and max(counts.shape) > 2:
        sums = counts.sum(axis=1), counts.sum(axis=0)
        if sums[0].min() * sums[1].min() >= _EXPECTED * counts.sum():
            break
        axis = 0 if counts.shape[0] > 2 and (counts.shape[1] == 2 or sums[0].min() <= sums[1].min()) else 1
        at = int(sums[axis].argmin())
        beside = [i for i in (at - 1, at + 1) if 0 <= i < sums[axis].size]
        to = min(beside, key=lambda i: sums[axis][i])
        kept = np.swapaxes(counts, 0, axis).copy()
        kept[to] += kept[at]
        counts = np.swapaxes(np.delete(kept, at, axis=0), 0, axis)
    return counts


def _compare(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[int, float, float]:
    """Rows in which both are present, corrected Cramér's V, and the p-value of independence."""
    resolutions = max(len(a), len(b))
    rows, strength, p = 0, 0.0, 1.0
    for i in range(resolutions):
        x, y = a[min(i, len(a) - 1)], b[min(i, len(b) - 1)]
        present = (x >= 0) & (y >= 0)
        rows = int(np.count_nonzero(present))
        if rows < _LEAST_ROWS:
            break
        width = int(y.max()) + 1
        counts = np.bincount(x[present] * width + y[present], minlength=(int(x.max()) + 1) * width).reshape(-1, width)
        counts = _merged(counts)
        r, c = counts.shape
        if min(r, c) < 2:
            continue
        expected = counts.sum(axis=1, keepdims=True) * (counts.sum(axis=0, keepdims=True) / rows)
        statistic, freedom = float(np.sum((counts - expected) ** 2 / expected)), (r - 1) * (c - 1)
        excess = max(statistic / rows - freedom / (rows - 1), 0.0)
        most = min(r - (r - 1) ** 2 / (rows - 1), c - (c - 1) ** 2 / (rows - 1)) - 1
        strength = max(strength, math.sqrt(min(excess / most, 1.0)))
        p = min(p, exact_tail(counts) if freedom == 1 and expected.min() < _EXPECTED else chi_squared_tail(statistic, freedom))
    return rows, strength, min(p * resolutions, 1.0)


def _joined(tables: Mapping[str, _Table], table: str, column: str, child: str, key: str) -> list[np.ndarray]:
    """A parent's column beside the rows of a child table: classes, -1 where missing or the key is null."""
    row = tables[child].parents[key][1]
    return [np.where(row >= 0, cut[row], -1) if cut.size else np.full(row.size, -1) for cut in tables[table].cuts[column]]


def _report(graph: _Graph, tables: Mapping[str, _Table], level: float) -> Report:
    edges = []
    for (table, column), (other, effect), through in graph.edges():
        if column not in tables[table].cuts or effect not in tables[other].cuts:
            continue
        cause, key = tables[table].cuts[column], ""
        if through:
            direction, child, key = through
            if direction == "down":
                cause = _joined(tables, table, column, child, key)
            else:
                cause = _averaged(tables[child], column, key, tables[other].rows)
        rows, strength, p = _compare(cause, tables[other].cuts[effect])
        edges.append(Edge(f"{table}.{column}", f"{other}.{effect}", key, rows, strength, p, p > _WEAK))
    found = [(names, *_compare(a, b)) for names, a, b in _separated_pairs(graph, tables)]
    problems = [
        f"{names} depend on each other, though nothing connects them (effect {strength:.3f}, p {_p_value(p)}, {rows:,} rows)"
        for names, rows, strength, p in found
        if p * len(found) <= level
    ]
    edges.sort(key=lambda edge: (edge.weak, -edge.strength))
    return Report(tuple(edges), len(found), (*problems, *_early(tables)))


def _separated_pairs(graph: _Graph, tables: Mapping[str, _Table]) -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    for name, table in tables.items():
        own = {column: graph.causes(name, column) for column in table.cuts}
        for i, a in enumerate(own):
            for b in list(own)[i + 1 :]:
                if _separated(own[a], own[b]):
                    yield f"{name}.{a} and {name}.{b}", table.cuts[a], table.cuts[b]
        for key, (parent, _) in table.parents.items():
            for b in tables[parent].cuts:
                causes = graph.causes(parent, b, name)
                apart = [a for a in own if _separated(own[a], causes)]
                joined = _joined(tables, parent, b, name, key) if apart else []
                for a in apart:
                    yield f"{name}.{a} and {parent}.{b} ({key})", table.cuts[a], joined


def _early(tables: Mapping[str, _Table]) -> Iterator[str]:
    """Children before their parents."""
    for name, table in tables.items():
        for key, (parent, row) in table.parents.items():
            time = tables[parent].time
            if table.time is not None and time is not None and time.size:
                early = np.count_nonzero((row >= 0) & (table.time < time[row]))
                if early:
                    yield f"{name}: {early} rows are older than the row of {parent} that {key} refers to"
