"""Statistics of a relational database in memory: sizes, columns, links, dependence, and what boosted trees can learn.

Every function takes a `Relational` and gives plain numbers, so that each can be checked on a small table made by hand.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Relational", "Target", "describe", "learn", "targets"]

LABELS = 255  # a string column of more labels is text: no feature, no target
PAIRS = 60  # pairs of columns a table, or a key, that are correlated
CLASSES = 10  # a target of more classes is left out
SHARES = 5  # most frequent classes of a child's column whose shares are aggregated


@dataclasses.dataclass(frozen=True)
class Relational:
    """A database as data frames.

    Attributes:
        name: for messages.
        frames: by table, all columns; a foreign key holds row numbers of its parent (missing or -1: none).
        primary: by table, the primary key's column or None.
        time: by table, the time column or None.
        foreign: by table, the parent's name by key column.
    """

    name: str
    frames: Mapping[str, pd.DataFrame]
    primary: Mapping[str, str | None]
    time: Mapping[str, str | None]
    foreign: Mapping[str, Mapping[str, str]]
    _seen: dict[tuple[str, str, str], Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def kind(self, table: str, column: str) -> str:
        """`kind_of` a column, looked at once."""
        at = ("kind", table, column)
        if at not in self._seen:
            self._seen[at] = kind_of(self.frames[table][column])
        return self._seen[at]

    def values(self, table: str, column: str) -> np.ndarray:
        """`encode` of a column, done once."""
        at = ("values", table, column)
        if at not in self._seen:
            self._seen[at] = encode(self.frames[table][column], self.kind(table, column))
        return self._seen[at]

    def features(self, table: str) -> list[str]:
        """Columns that are neither keys nor the time column."""
        other = {self.primary[table], self.time[table], *self.foreign[table]}
        return [c for c in self.frames[table].columns if c not in other]

    def links(self) -> dict[tuple[str, str], np.ndarray]:
        """By (table, key): the parent row of each row, -1 where there is none."""
        out = {}
        for table, keys in self.foreign.items():
            for key in keys:
                out[table, key] = self.frames[table][key].astype("Int64").fillna(-1).to_numpy(np.int64)
        return out

    def keys(self) -> Iterator[tuple[str, str, str]]:
        """Every (child table, key column, parent table)."""
        return ((table, key, parent) for table, keys in self.foreign.items() for key, parent in keys.items())


def kind_of(column: pd.Series) -> str:
    """numeric, integer, boolean, categorical, text or time; strings of more than LABELS labels are text."""
    present = column.dropna()
    if pd.api.types.is_bool_dtype(column.dtype) or (column.dtype == object and len(present) and present.map(type).eq(bool).all()):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "time"
    if pd.api.types.is_integer_dtype(column.dtype):
        return "integer"
    if pd.api.types.is_float_dtype(column.dtype):
        return "numeric"
    return "categorical" if present.nunique() <= LABELS else "text"


def encode(column: pd.Series, kind: str) -> np.ndarray:
    """A column as f64[rows], NaN where missing: seconds of a time, codes of labels, most frequent first."""
    if kind == "time":
        return ((column - pd.Timestamp(0)).dt.total_seconds()).to_numpy(np.float64)
    if kind in ("categorical", "text"):
        code = pd.Index(column.value_counts().index).get_indexer(column)
        return np.where(code < 0, np.nan, code).astype(np.float64)
    return column.astype("Float64").to_numpy(np.float64, na_value=np.nan)


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts: 0 where all are equal, near 1 where one has all."""
    n, total = len(counts), counts.sum()
    return float(2 * np.dot(np.arange(1, n + 1), np.sort(counts)) / (n * total) - (n + 1) / n) if total else 0.0


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """|Spearman's correlation| over the rows where both are present; None where fewer than 10 are or one is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 10:
        return None
    x, y = (pd.Series(v[both]).rank().to_numpy() for v in (a, b))
    return float(abs(np.corrcoef(x, y)[0, 1])) if x.std() > 0 and y.std() > 0 else None


def _ordered(db: Relational, table: str) -> list[str]:
    """Feature columns whose values have an order (booleans too)."""
    return [c for c in db.features(table) if db.kind(table, c) in ("numeric", "integer", "boolean", "time")]


def describe(db: Relational, rng: np.random.Generator, rows: int = 2000) -> dict[str, list[float]]:
    """Distributions of one database, by the name of the statistic. Correlations are taken over at most ``rows`` rows."""
    out: dict[str, list[float]] = defaultdict(list)
    out["tables"].append(len(db.frames))
    kinds: list[str] = []
    constant: list[bool] = []
    for table, frame in db.frames.items():
        features = db.features(table)
        out["rows of a table"].append(len(frame))
        out["feature columns of a table"].append(len(features))
        out["foreign keys of a table"].append(len(db.foreign[table]))
        for name in features:
            column = frame[name]
            kind, present = db.kind(table, name), column.dropna()
            kinds.append(kind)
            constant.append(present.nunique() < 2)
            out["missing share of a column"].append(float(column.isna().mean()))
            if kind in ("categorical", "boolean") and len(present):
                out["classes of a category"].append(present.nunique())
                out["share of the most frequent class"].append(float(present.value_counts(normalize=True).iloc[0]))
            if kind in ("numeric", "integer") and present.nunique() > 1:
                values = present.to_numpy(np.float64)
                z = (values - values.mean()) / values.std()
                some = rng.permutation(values)[:rows]  # of all rows, it would say how long the table is
                out["distinct values per row, numeric"].append(len(np.unique(some)) / len(some))
                out["skew"].append(float((z**3).mean()))
                out["excess kurtosis"].append(float((z**4).mean() - 3))
        at = rng.permutation(len(frame))[:rows]
        values = {c: db.values(table, c)[at] for c in _ordered(db, table)}
        pairs = [(a, b) for i, a in enumerate(values) for b in list(values)[:i]]
        for i in rng.permutation(len(pairs))[:PAIRS]:
            out["correlation, absolute, in a row"].append(rank_correlation(*(values[c] for c in pairs[i])))
    for kind in ("numeric", "integer", "categorical", "boolean"):
        out[f"share of columns that are {kind}"].append(kinds.count(kind) / max(len(kinds), 1))
    out["share of columns that are constant"].append(float(np.mean(constant)) if constant else 0.0)
    links = db.links()
    for table, key, parent in db.keys():
        row, n = links[table, key], len(db.frames[parent])
        degree = np.bincount(row[row >= 0], minlength=n)
        out["null share of a key"].append(float((row < 0).mean()))
        if degree.sum():
            out["out-degree: maximum / mean"].append(float(degree.max() / degree.mean()))
            out["out-degree: Gini"].append(gini(degree))
            out["out-degree: share of parents without a child"].append(float((degree == 0).mean()))
        at = rng.permutation(np.flatnonzero(row >= 0))[:rows]
        mine = {c: db.values(table, c)[at] for c in _ordered(db, table)}
        theirs = {c: db.values(parent, c)[row[at]] for c in _ordered(db, parent)}
        pairs = [(a, b) for a in mine for b in theirs]
        for i in rng.permutation(len(pairs))[:PAIRS]:
            out["correlation, absolute, across a key"].append(rank_correlation(mine[pairs[i][0]], theirs[pairs[i][1]]))
    return {name: [v for v in values if v is not None] for name, values in out.items()}


# ---------------------------------------------------------------- learnability


@dataclasses.dataclass(frozen=True)
class Target:
    """What boosted trees learn of one column, on rows held out: R² of ranks, or 2 AUC - 1 of classes; 0 is chance, 1 is all.

    Attributes:
        row: from the other columns of its row.
        parents: from those and the parents' columns.
        children: from those and aggregates of its children.
        shuffled: the same with every key's parent rows permuted.
        by_row: better than the constant prediction by more than 3 standard errors, from the row alone.
        by_all: from everything.
        copied: another column of the row or a parent says the same, one to one.
    """

    row: float
    parents: float
    children: float
    shuffled: float
    by_row: bool
    by_all: bool
    copied: bool


Links = Mapping[tuple[str, str], np.ndarray]


def shuffled(links: Links, rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """Links with the parent rows of every key permuted: degrees and nulls stay, what they carry is gone."""
    return {key: rng.permutation(row) for key, row in links.items()}


def _readable(db: Relational, table: str) -> list[str]:
    """Features that a forest can read, and the time."""
    return [c for c in db.features(table) if db.kind(table, c) != "text"] + ([db.time[table]] if db.time[table] else [])


def row_block(db: Relational, table: str, rows: np.ndarray, without: str) -> list[np.ndarray]:
    """The other columns of some rows, and their time."""
    return [db.values(table, c)[rows] for c in _readable(db, table) if c != without]


def parent_block(db: Relational, table: str, rows: np.ndarray, links: Links) -> list[np.ndarray]:
    """Every parent's columns, gathered through every key; NaN where there is none."""
    out = []
    for key, parent in db.foreign[table].items():
        at = links[table, key][rows]
        out += [np.where(at < 0, np.nan, db.values(parent, c)[np.maximum(at, 0)]) for c in _readable(db, parent)]
    return out


def child_block(db: Relational, table: str, rows: np.ndarray, links: Links) -> list[np.ndarray]:
    """Of all children through each key: their number; mean and maximum of real columns; shares of the commonest classes."""
    out, n = [], len(db.frames[table])
    for child, key, parent in db.keys():
        if parent != table:
            continue
        row = links[child, key]
        mine = np.flatnonzero(np.isin(row, rows))  # the children of these rows only
        at = row[mine]
        out.append(np.bincount(at, minlength=n).astype(np.float64)[rows])
        for c in _readable(db, child):
            values = db.values(child, c)[mine]
            seen = np.isfinite(values)
            count = np.bincount(at[seen], minlength=n)
            with np.errstate(invalid="ignore", divide="ignore"):
                if db.kind(child, c) == "categorical":
                    shares = [np.bincount(at[values == code], minlength=n) / count for code in range(SHARES)]
                    out += [share[rows] for share in shares]
                    continue
                out.append((np.bincount(at[seen], values[seen], minlength=n) / count)[rows])
            most = np.full(n, -np.inf)
            np.maximum.at(most, at[seen], values[seen])
            out.append(np.where(np.isfinite(most), most, np.nan)[rows])
    return out


def is_copy(target: np.ndarray, other: np.ndarray) -> bool:
    """Whether two encoded columns say the same: their values match one to one, and where most are distinct, in one order or its reverse."""
    both = np.isfinite(target) & np.isfinite(other)
    if both.sum() < 10:
        return False
    a, b = (np.unique(v[both], return_inverse=True)[1] for v in (target, other))
    distinct = a.max() + 1
    if distinct != b.max() + 1 or distinct < 2 or len(np.unique(np.stack([a, b]), axis=1).T) != distinct:
        return False
    return bool(distinct <= both.sum() / 2 or (a == b).all() or (a == distinct - 1 - b).all())


def targets(db: Relational) -> list[tuple[str, str]]:
    """Every (table, column) worth learning: 100 values at least, two at least that occur, not text, not many classes."""
    out = []
    for table, frame in db.frames.items():
        for c in db.features(table):
            kind, present = db.kind(table, c), frame[c].dropna()
            counts = present.value_counts()
            if len(present) < 100 or len(counts) < 2 or kind == "text":
                continue
            if kind in ("categorical", "boolean") and ((counts >= 20).sum() < 2 or (counts >= 20).sum() > CLASSES):
                continue
            out.append((table, c))
    return out


def _fit(x: list[np.ndarray], y: np.ndarray, classes: bool, train: np.ndarray, test: np.ndarray) -> tuple[float, bool]:
    """Score on the held-out rows, and whether it beats the constant prediction by more than 3 standard errors."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import roc_auc_score

    x = [column for column in x if np.isfinite(column[train]).sum() >= 20]  # a forest cannot cut a column that is all missing
    if not x:
        return 0.0, False
    features = np.where(np.isfinite(x), x, np.nan).T
    how = {"max_iter": 80, "learning_rate": 0.1, "max_leaf_nodes": 16, "early_stopping": True, "n_iter_no_change": 6, "random_state": 0}
    if classes:
        model = HistGradientBoostingClassifier(**how).fit(features[train], y[train])
        shares, truth = model.predict_proba(features[test]), y[test][:, None] == model.classes_
        constant = np.mean(y[train][:, None] == model.classes_, axis=0)
        gain = ((truth - constant) ** 2 - (truth - shares) ** 2).sum(axis=1)
        seen = truth.any(axis=0) & ~truth.all(axis=0)
        score = 2 * float(np.mean([roc_auc_score(truth[:, k], shares[:, k]) for k in np.flatnonzero(seen)])) - 1 if seen.any() else 0.0
    else:
        predicted = HistGradientBoostingRegressor(**how).fit(features[train], y[train]).predict(features[test])
        gain = (y[test] - y[train].mean()) ** 2 - (y[test] - predicted) ** 2
        score = 1 - float(((y[test] - predicted) ** 2).sum() / ((y[test] - y[test].mean()) ** 2).sum())
    return max(score, 0.0), bool(gain.mean() > 3 * gain.std() / np.sqrt(len(test)) > 0)


def learn(db: Relational, table: str, column: str, rng: np.random.Generator, rows: int = 2000) -> Target:
    """What can be learnt of one column; at most ``rows`` rows, three in ten of them held out."""
    classes = db.kind(table, column) in ("categorical", "boolean")
    values = db.values(table, column)
    at = rng.permutation(np.flatnonzero(np.isfinite(values)))[:rows]
    if classes:
        code, counts = np.unique(values[at], return_counts=True)
        at = at[np.isin(values[at], code[counts >= 10])]
        y = values[at]
    else:
        y = pd.Series(values[at]).rank(pct=True).to_numpy()
    order = rng.permutation(len(at))
    train, test = order[: len(at) * 7 // 10], order[len(at) * 7 // 10 :]
    if len(np.unique(y[train])) < 2 or len(np.unique(y[test])) < 2:
        return Target(0.0, 0.0, 0.0, 0.0, False, False, False)
    links = db.links()
    mixed = shuffled(links, rng)
    mine = row_block(db, table, at, column)
    parents = parent_block(db, table, at, links)
    children = child_block(db, table, at, links)
    copied = any(is_copy(values[at], other) for other in [*mine, *parents])
    by_row, row_beats = _fit(mine, y, classes, train, test)
    by_parents, all_beats = _fit([*mine, *parents], y, classes, train, test) if parents else (by_row, row_beats)
    by_all, all_beats = _fit([*mine, *parents, *children], y, classes, train, test) if children else (by_parents, all_beats)
    blocks = [*mine, *parent_block(db, table, at, mixed), *child_block(db, table, at, mixed)]
    by_shuffled = _fit(blocks, y, classes, train, test)[0] if parents or children else by_row
    return Target(by_row, by_parents, by_all, by_shuffled, row_beats, all_beats, copied)
