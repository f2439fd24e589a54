"""Tasks of generated databases, measured: how many of which kind, whether RelBench says the same labels, leaks, learnability, depth.

python bench/tasks.py --databases 40 --tasks 3 --out figures.json

Every figure is of tasks that the gate let through. *Learnable*: the predictions of a boosted tree (scikit-learn's, fitted to the training
rows of an episode, depth 2) for the later rows rank the labels better than in 195 of 200 shuffles of them. *Leak*: a single feature with an
AUROC (of any class of at least five rows against the others; rank correlation for numbers) of at least 0.98 over all labelled rows of the
episode. *At distance 2*: the causal graph has a cause of the label, seen in a column, two foreign keys
away or more, counted from the entity (a forecast's own children are one away); *nothing nearer*: all of them are.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tree of a thousand rows gains nothing from threads, and loses where cores are shared

import jax
import networkx as nx
import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import jaxrel
from jaxrel.benchmark import SPLITS, is_distinct
from jaxrel.database import shortened
from jaxrel.features import feature_count
from jaxrel.fleet import database_key
from jaxrel.random import named_key, seed_key
from jaxrel.stages import capacity_of_tasks
from jaxrel.tasks import Measure, Task, TaskKind
from jaxrel.types import Database

LEAK, SHUFFLES, TRIES = 0.98, 200, 8


def auroc(x: np.ndarray, positive: np.ndarray) -> float:
    """Of numbers that should be larger where a flag is set."""
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(x)[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else 0.5


def quality(predicted: np.ndarray, label: np.ndarray, classes: int) -> float:
    """Mean AUROC over the classes, of scores [n, classes]; rank correlation, of numbers [n, 1]."""
    if not classes:
        return float(np.nan_to_num(spearmanr(predicted[:, 0], label)[0])) if np.ptp(predicted) and np.ptp(label) else 0.0
    each = [auroc(predicted[:, c], label == c) for c in range(classes) if 0 < (label == c).sum() < label.size]
    return float(np.mean(each)) if each else 0.5


def fitted(X: np.ndarray, y: np.ndarray, train: np.ndarray, query: np.ndarray, classes: int) -> np.ndarray:
    """What a boosted tree predicts for the query rows, [n, classes] or [n, 1]."""
    X = X[:, ~np.isnan(X[train]).all(axis=0)] if (~np.isnan(X[train])).any() else np.zeros((X.shape[0], 1))
    how: dict[str, Any] = {"max_iter": 60, "learning_rate": 0.1, "early_stopping": False, "random_state": 0}
    if not classes:
        return HistGradientBoostingRegressor(**how).fit(X[train], y[train]).predict(X[query])[:, None]
    model = HistGradientBoostingClassifier(**how).fit(X[train], y[train].astype(int))
    out = np.zeros((int(query.sum()), classes))
    out[:, model.classes_] = model.predict_proba(X[query])
    return out


def is_learnable(predicted: np.ndarray, label: np.ndarray, classes: int) -> bool:
    """Better than nearly all shuffles."""
    rng, score = np.random.default_rng(0), quality(predicted, label, classes)
    return sum(quality(predicted, rng.permutation(label), classes) >= score for _ in range(SHUFFLES)) <= 0.025 * SHUFFLES


def leaking(X: np.ndarray, y: np.ndarray, classes: int) -> list[tuple[int, int, float]]:
    """Single features that separate the labels, with the class (0: a number) and how well; missing ones are below all."""
    X, out = np.where(np.isnan(X), -np.inf, X), []
    targets = [c for c in range(classes) if 5 <= (y == c).sum() <= y.size - 5]
    for f, x in enumerate(X.T):
        if (x == x[0]).all():
            continue
        each = [(c, auroc(x, y == c)) for c in targets] if classes else [(0, float(spearmanr(rankdata(x), y)[0]))]
        out += [(f, c, round(a, 4)) for c, a in each if (max(a, 1 - a) if classes else abs(a)) >= LEAK]
    return out


def distances(db: Database, task: Task) -> list[int]:
    """Foreign keys between the entity and each cause of the label that a column shows; [] where the label has no column."""
    if int(task.column) < 0:
        return []
    graph = jaxrel.to_networkx(db)["scm"]
    auto = int(task.kind) == TaskKind.AUTOCOMPLETE
    table = int(task.table if auto else task.child)
    start = (table, int(np.asarray(db.scm.column_node)[table, int(task.column)]))
    back = nx.DiGraph((b, a, {"weight": int(a[0] != b[0] or "foreign_key" in d)}) for a, b, d in graph.edges(data=True))
    back.add_node(start)
    found = nx.single_source_dijkstra_path_length(back, start)
    own = [d for node, d in found.items() if len(graph.nodes[node]["columns"]) > int(node == start)]
    return [d + (not auto) for d in own]


def same_labels(folder: Path) -> tuple[int, int]:
    """Tasks of a dataset that `relbench` loads, and those whose regenerated labels are the stored ones."""
    import relbench

    dataset = relbench.load_dataset(folder)
    equal = 0
    for name in dataset.get_task_names():
        stored, again = dataset.load_task(name), dataset.load_task(name, regenerate=True)
        db = again.get_db(upto_test_timestamp=False)
        try:
            for split in SPLITS:
                a, b = (task.get_table(split, mask_input_cols=False, db=db).df.astype(object) for task in (stored, again))
                if stored.task_type.value == "recommendation":
                    a, b = (x.assign(**{x.columns[2]: [list(map(int, y)) for y in x.iloc[:, 2]]}) for x in (a, b))
                pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), check_dtype=False, check_exact=True)
            equal += 1
        except AssertionError as error:
            print(f"{folder.name} {name}: {error}")
    return len(dataset.get_task_names()), equal


def summarise(count: Any, kinds: Any, scores: list[dict[str, Any]], seconds: Any) -> dict[str, Any]:
    """The figures so far."""

    def lift(score: dict[str, Any]) -> np.ndarray:  # 0 is chance, 1 is perfect
        depth = np.array(score["depth"])
        return 2 * depth - 1 if score["classes"] else depth

    def by_depth(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        lifts = np.array([lift(score) for score in chosen]).reshape(-1, 3)
        return (
            {"tasks": len(chosen), "mean": lifts.mean(axis=0).round(3).tolist(), "depth 2 wins": int((lifts[:, 2] > lifts[:, 0]).sum())}
            if chosen
            else {}
        )

    return {
        **count,
        "kinds": dict(kinds.most_common()),
        "measured": len(scores),
        "learnable": sum(score["learnable"] for score in scores),
        "leaks": sum(bool(score["leaks"]) for score in scores),
        "by depth 0, 1, 2": by_depth(scores),
        "at distance 2": by_depth([score for score in scores if score["farthest"] >= 2]),
        "nothing nearer": by_depth([score for score in scores if score["nearest"] >= 2]),
        "seconds": {name: round(x, 1) for name, x in seconds.items()},
    }


def measure(preset: Any, databases: int, tasks: int, seed: int, out: Path | None) -> dict[str, Any]:
    """All figures, kept after each database."""
    root = seed_key(seed)
    jit = partial(jax.jit, compiler_options=jaxrel.COMPILER_OPTIONS)
    sample = jit(lambda i: jaxrel.sample_database(database_key(root, i), preset.prior, preset.capacity))
    total = jit(jaxrel.total_children)

    @partial(jit, static_argnames="capacity")
    def draw(i: Any, n: Any, db: Database, totals: Any, capacity: Any) -> Task:
        return jaxrel.sample_task(named_key(database_key(root, i), "tasks", n), db, capacity, tries=1, timed=True, totals=totals)

    @partial(jit, static_argnames="capacity")
    def episode(db: Database, task: Task, totals: Any, capacity: Any) -> Any:
        return jaxrel.sample_episode(root, db, task, capacity, totals=totals)

    count: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    scores: list[dict[str, Any]] = []
    seconds: collections.Counter[str] = collections.Counter()
    for i in range(databases):
        db = sample(np.int32(i))
        capacity = capacity_of_tasks(db, preset.capacity)
        db = shortened(db, capacity.rows)
        began = time.monotonic()
        totals = jax.block_until_ready(total(db))
        seconds["totals"] += time.monotonic() - began
        host, found = jax.device_get(db), list[Task]()
        for attempt in range(TRIES * tasks):
            began = time.monotonic()
            task = jax.device_get(draw(np.int32(i), np.int32(attempt), db, totals, capacity))
            seconds["draws"] += time.monotonic() - began
            count["drawn"] += 1
            count["passed"] += int(task.passed)
            if task.passed and is_distinct(task, found):
                found.append(task)
            if len(found) == tasks:
                break
        count["databases"] += 1
        count["tasks"] += len(found)
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            loaded, equal = same_labels(jaxrel.write_relbench(host, Path(folder) / f"jaxrel-{i}", tasks=found))
            seconds["relbench"] += time.monotonic() - began
            count["loaded"] += loaded
            count["equal"] += equal
        for task in found:
            kind, classes = TaskKind(int(task.kind)), int(task.classes)
            kinds[kind.name.lower() + (f" {Measure(int(task.measure)).name.lower()}" if kind == TaskKind.FORECAST else "")] += 1
            if kind == TaskKind.RECOMMENDATION:
                continue
            seen = jax.device_get(episode(db, task, totals, capacity))
            X = np.where(seen.missing, np.nan, seen.X).astype(np.float64)
            train, query, y = seen.train_mask, seen.query_mask, seen.y
            of_depth = [fitted(X[:, : feature_count(capacity, depth)], y, train, query, classes) for depth in range(3)]
            near = distances(host, task)
            scores.append(
                {
                    "rows of classes": np.bincount(y[train | query].astype(int)).tolist() if classes else [],
                    "database": i,
                    "kind": kind.name,
                    "classes": classes,
                    "depth": [quality(p, y[query], classes) for p in of_depth],
                    "learnable": bool(is_learnable(of_depth[2], y[query], classes)),
                    "leaks": leaking(X[train | query], y[train | query], classes),
                    "nearest": min(near, default=-1),
                    "farthest": max(near, default=-1),
                }
            )
        figures = summarise(count, kinds, scores, seconds)
        if out is not None:
            out.write_text(json.dumps({**figures, "scores": scores}, indent=1) + "\n")
        print(f"{i}: {len(found)} tasks, {dict(seconds)}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--databases", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = measure(jaxrel.presets.load(arguments.preset), arguments.databases, arguments.tasks, arguments.seed, arguments.out)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
