"""Tasks of the device against the SQL that says the same, the client that loads them, and the gate that keeps trivial ones out."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from sampled import databases, each, small, tables, traced_once
from test_features import later

import jaxrel
from jaxrel.benchmark import SPLITS, describe_task, is_distinct, regenerate_labels, write_tasks
from jaxrel.catalog import Catalog
from jaxrel.episodes import sample_episode
from jaxrel.errors import UserError
from jaxrel.features import feature_names
from jaxrel.probe import CLASSES, judge, judge_links
from jaxrel.relbench import write_relbench
from jaxrel.splits import DAY, split_days
from jaxrel.tasks import Measure, Split, Task, TaskKind, sample_task
from jaxrel.totals import total_children
from jaxrel.types import NO_ROW, NO_TIME, Database
from jaxrel.validate import validate

ROWS, DATABASES, DRAWS = 256, 6, 16
BINARY = (Measure.EXISTS, Measure.MANY, Measure.LARGE)


def draw(key: Any, db: Database, totals: Any) -> Task:
    return sample_task(key, db, small("tiny").capacity, rows=ROWS, tries=1, timed=True, totals=totals)


def keys() -> Any:
    return jax.random.split(jax.random.key(7), (DATABASES, DRAWS))


@pytest.fixture(scope="module")
def some() -> list[Database]:
    return list(each(databases("tiny")))[:DATABASES]


@pytest.fixture(scope="module")
def totals(some: list[Database]) -> list[Any]:
    program = jax.jit(total_children)
    return [program(db) for db in some]


@pytest.fixture(scope="module")
def tasks(some: list[Database], totals: list[Any]) -> list[list[Task]]:
    """Tasks of each database, passed or not, all by one trace."""
    program = traced_once(draw)
    return [[jax.device_get(program(key, db, t)) for key in own] for own, db, t in zip(keys(), some, totals, strict=True)]


@pytest.fixture(scope="module")
def folders(some: list[Database], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    at = tmp_path_factory.mktemp("corpus")
    return [write_relbench(db, at / f"jaxrel-{i}") for i, db in enumerate(some)]


def drawn(task: Task) -> bool:
    return int(task.table) >= 0


def by_row(labels: dict[str, pa.Table], manifest: dict[str, Any]) -> dict[tuple[int, int, int], Any]:
    """Label by split, entity and seed time in seconds."""
    columns = [manifest["time_col"], manifest.get("entity_col") or manifest["src_entity_col"]]
    target = manifest.get("target_col") or manifest["dst_entity_col"]
    out = {}
    for s, split in enumerate(SPLITS):
        time, row = (labels[split][column] for column in columns)
        seconds = time.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() // 1_000_000
        out |= dict(
            zip(((s, int(r), int(t)) for r, t in zip(row.to_numpy(), seconds, strict=True)), labels[split][target].to_pylist(), strict=True)
        )
    return out


def matches(task: Task, label: float, of_file: Any, catalog: Catalog) -> bool:
    kind, measure = TaskKind(int(task.kind)), Measure(int(task.measure))
    if kind == TaskKind.RECOMMENDATION:
        return int(label) in of_file
    if kind == TaskKind.AUTOCOMPLETE:
        words = catalog.tables[int(task.table)].columns[int(task.column)]
        return words.vocabulary[int(label)] == of_file if words.vocabulary and isinstance(of_file, str) else float(label) == float(of_file)
    if measure in (Measure.SUM, Measure.MEAN):  # terms may cancel
        return bool(np.isclose(label, of_file, rtol=1e-4, atol=1e-4))
    return bool(np.isclose(label, of_file, rtol=1e-6, atol=0) if measure == Measure.NEXT else np.float32(of_file) == label)


def compare(db: Database, tasks: Iterable[Task], folder: Path) -> collections.Counter[Any]:
    """Every label with the SQL's; how many were compared, by kind and measure."""
    catalog, seen = Catalog.default(db.schema), collections.Counter[Any]()
    for task in filter(drawn, tasks):
        manifest = describe_task(task, db, catalog)
        expected = by_row(regenerate_labels(folder, manifest), manifest)
        there = task.row != NO_ROW
        columns = (x[there].tolist() for x in (task.row, task.seed_time, task.label, task.labelled, task.split))
        for row, time, label, labelled, split in zip(*columns, strict=True):
            found = expected.get((split, row, time))
            assert (found is not None) == labelled, (manifest, row, time)
            assert not labelled or matches(task, np.float32(label), found, catalog), (manifest, row, time, label, found)
            seen[int(task.kind), int(task.measure)] += int(labelled)
    return seen


def test_labels_are_those_of_the_sql(some: list[Database], tasks: list[list[Task]], folders: list[Path]) -> None:
    seen = sum((compare(*of_one) for of_one in zip(some, tasks, folders, strict=True)), collections.Counter[Any]())
    assert {(kind, 0) for kind in TaskKind} <= set(seen) and {(TaskKind.FORECAST, m) for m in Measure} <= set(seen), seen
    assert all(count >= 20 for count in seen.values()), seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "plurel"])
def test_labels_of_richer_priors_are_those_of_the_sql(name: str, tmp_path: Path) -> None:
    def of_one(key: Any, db: Database) -> Task:
        return sample_task(key, db, small(name).capacity, rows=ROWS, tries=1, timed=True)

    program, seen = traced_once(of_one), collections.Counter[Any]()
    for i, db in enumerate(list(each(databases(name)))[:4]):
        folder = write_relbench(db, tmp_path / f"jaxrel-{i}")
        seen += compare(db, [jax.device_get(program(key, db)) for key in keys()[i]], folder)
    assert sum(seen.values()) > 2000 and len(seen) > 6, seen


def test_rows_are_distinct_and_in_their_split(some: list[Database], tasks: list[list[Task]]) -> None:
    for db, of_database in zip(some, tasks, strict=True):
        timed = np.concatenate([t.time for t in tables(db) if db.schema.has_time[t.index]])
        val, test, fine = (x[0] for x in split_days(*(np.asarray([x], np.int32) for x in (timed.min(), timed.max()))))
        assert fine
        for task in filter(drawn, of_database):
            there = task.row != NO_ROW
            pairs = list(zip(task.row[there].tolist(), task.seed_time[there].tolist(), strict=True))
            assert len(set(pairs)) == len(pairs) > 0
            time = {split: task.seed_time[there & (task.split == split)] for split in Split}
            if task.kind == TaskKind.AUTOCOMPLETE:
                assert (time[Split.TRAIN] <= val * DAY).all() and (time[Split.TEST] > test * DAY).all()
                assert ((time[Split.VAL] > val * DAY) & (time[Split.VAL] <= test * DAY)).all()
            else:
                assert ((val * DAY - time[Split.TRAIN]) % task.window == 0).all() and (time[Split.TRAIN] >= timed.min()).all()
                assert (time[Split.VAL] == val * DAY).all() and (time[Split.TEST] == test * DAY).all()
                assert test * DAY + task.window <= timed.max()
            assert task.hidden.sum() == (task.kind == TaskKind.AUTOCOMPLETE) == task.hidden[task.table, task.column]
            assert set(np.unique(task.label[task.labelled])) <= set(range(int(task.classes))) or not task.classes


def test_relbench_regenerates_what_is_stored(some: list[Database], tasks: list[list[Task]], tmp_path: Path) -> None:
    import relbench

    kinds: collections.Counter[str] = collections.Counter()
    for i, (db, of_database) in enumerate(zip(some[:4], tasks, strict=False)):
        chosen: list[Task] = []
        for task in filter(drawn, of_database):
            chosen += [task] if is_distinct(task, chosen) else []
        folder = write_relbench(db, tmp_path / f"jaxrel-{i}", tasks=chosen)
        assert validate(folder) == []
        dataset = relbench.load_dataset(folder)
        names = dataset.get_task_names()
        assert sorted(path.name for path in (folder / "tasks").iterdir()) == names
        for name in names:
            stored, again = (dataset.load_task(name, regenerate=yes) for yes in (False, True))
            kinds[f"{stored.kind} {stored.task_type.value}"] += 1
            for split in SPLITS:
                a, b = (task.get_table(split, mask_input_cols=False).df for task in (stored, again))
                if stored.task_type.value == "recommendation":
                    a, b = (x.assign(**{x.columns[2]: [list(y) for y in x.iloc[:, 2]]}) for x in (a, b))
                pd.testing.assert_frame_equal(a.astype(object), b.astype(object).reset_index(drop=True), check_dtype=False)
                assert len(a)
    assert {"autocomplete regression", "forecast regression", "forecast binary_classification", "forecast recommendation"} <= set(kinds), (
        kinds
    )


def test_a_validator_sees_labels_that_the_sql_does_not_say(some: list[Database], tasks: list[list[Task]], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    task = next(t for t in tasks[0] if t.kind == TaskKind.FORECAST)
    folder = write_relbench(some[0], tmp_path / "jaxrel-0", tasks=[task])
    (at,) = (folder / "tasks").iterdir()
    table = pq.read_table(at / "val.parquet")
    pq.write_table(table.slice(0, table.num_rows - 1), at / "val.parquet")
    assert validate(folder) == [f"tasks/{at.name}/val.parquet: has other labels than the database says"]
    manifest = yaml.safe_load((at / "manifest.yaml").read_text())
    (at / "manifest.yaml").write_text(yaml.safe_dump({**manifest, "sql": "SELECT nothing"}))
    (line,) = validate(folder)
    assert line.startswith(f"tasks/{at.name}: labels cannot be regenerated")


@pytest.fixture(scope="module")
def episode() -> Any:
    def of_task(db: Database, task: Task) -> Any:
        return sample_episode(jax.random.key(0), db, task, small("tiny").capacity)

    return traced_once(of_task)


def test_the_future_and_the_label_leave_no_trace(some: list[Database], tasks: list[list[Task]], episode: Any) -> None:
    hidden, changed = 0, 0
    for i, (db, of_database) in enumerate(zip(some[:4], tasks, strict=False)):
        for task in list(filter(drawn, of_database))[:6]:
            at = int(np.median(task.seed_time[task.row != NO_ROW]))
            other = later(db, at, np.random.default_rng(i))
            if task.kind == TaskKind.AUTOCOMPLETE:
                t = next(t for t in tables(db) if t.index == task.table)
                values = np.array(other.values)
                values[int(task.column), t.rows] = 1e9
                other = other.replace(values=values)
                hidden += 1
            a, b = (jax.device_get(episode(x, task)) for x in (db, other))
            past = (task.row != NO_ROW) & (task.seed_time <= at)
            np.testing.assert_array_equal(a.missing[past], b.missing[past])
            np.testing.assert_allclose(a.X[past], b.X[past], rtol=1e-6)
            changed += int((a.X[~past] != b.X[~past]).sum())
            names = feature_names(db, int(task.table))
            if task.kind == TaskKind.AUTOCOMPLETE:
                own = Catalog.default(db.schema).tables[int(task.table)].columns[int(task.column)].name
                assert a.missing[:, names.index(own)].all()
            np.testing.assert_array_equal(a.y, task.label)
            np.testing.assert_array_equal(a.train_mask | a.query_mask, task.labelled)
            assert (
                a.train_mask.sum() == 0
                or a.query_mask.sum() == 0
                or task.seed_time[a.train_mask].max() <= task.seed_time[a.query_mask].min()
            )
    assert hidden > 2 and changed > 1000


@pytest.mark.slow
def test_many_databases_side_by_side(some: list[Database], tasks: list[list[Task]]) -> None:
    batch = jax.tree.map(lambda *x: np.stack(x), *some[:3])
    together = jax.device_get(jax.jit(jax.vmap(lambda key, db: draw(key, db, None)))(keys()[:3, 0], batch))
    for b in range(3):
        alone, one = tasks[b][0], jax.tree.map(lambda x, b=b: x[b], together)
        for field in dataclasses.fields(Task):
            x, y = getattr(alone, field.name), getattr(one, field.name)
            if field.name in ("label", "score"):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(x, y, err_msg=field.name)


@pytest.fixture(scope="module")
def verdict() -> Any:
    return traced_once(judge)


def test_the_gate(verdict: Any) -> None:
    rng, n, F = np.random.default_rng(0), 400, 70
    x = rng.normal(size=(n, F)).astype(np.float32)
    x[:, 3] = np.exp(5 * x[:, 3])  # tails do not matter
    missing = rng.random((n, F)) < 0.1
    missing[:, 40:] = True  # features that a database has no use for
    x = np.where(missing, 0, x).astype(np.float32)
    signal = np.where(missing[:, 5], 0, x[:, 5]) + np.where(missing[:, 6], 0, x[:, 6]) ** 2
    noisy = (signal + 0.5 * rng.normal(size=n)).astype(np.float32)
    train, labelled = np.arange(n) < 250, rng.random(n) < 0.95

    def judged(label: Any, classes: int, values: Any = x, labels: Any = labelled) -> tuple[float, bool]:
        score, passed = verdict(values, missing, np.asarray(label, np.float32), labels, train, np.int32(classes))
        return float(score), bool(passed)

    assert judged(noisy, 0)[1] and judged(noisy > 1, 2)[1] and judged(np.digitize(noisy, np.quantile(noisy, [0.25, 0.5, 0.75])), 4)[1]
    assert 0.4 < judged(noisy, 0)[0] < 0.9
    for label, classes in ((rng.normal(size=n), 0), (rng.random(n) < 0.5, 2), (rng.integers(0, 4, n), 4)):
        assert not judged(label, classes)[1], "noise"
    assert not judged(np.full(n, 3.0), 0)[1] and not judged(np.ones(n), 2)[1], "constant"
    assert not judged(np.where(np.arange(n) < 380, 1, noisy > 1), 2)[1], "one class"
    assert not judged(np.where(rng.random(n) < 0.9, 0, noisy), 0)[1], "nearly constant"
    assert not judged(noisy, 0, labels=labelled & (np.arange(n) > 240))[1], "too few to train on"
    assert not judged(noisy, 0, labels=labelled & (np.arange(n) < 255))[1], "too few to test on"
    leak = x.copy()
    leak[:, 7] = np.where(missing[:, 7], 0, -(noisy**3))
    missing[:, 7] = False
    leak[:, 7] = -(noisy**3)
    assert not judged(noisy, 0, leak)[1] and not judged(noisy > 1, 2, leak)[1], "a feature is the label in another form"
    leak[:, 7] = np.where(noisy > 1, rng.normal(size=n) + 5, rng.normal(size=n))
    assert not judged(noisy > 1, 2, leak)[1] and judged(noisy, 0, leak)[1]


def test_single_features_separate_as_scikit_learn_says() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    from jaxrel.probe import _ranks, _targets, separation

    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=(200, 5)), 1).astype(np.float32)
    label = rng.integers(0, 3, 200).astype(np.float32)
    there = rng.random(200) < 0.8
    one, number = jnp.asarray(there, jnp.float32), x[:, 0] + np.round(rng.normal(size=200), 1).astype(np.float32)
    ranks = _ranks(jnp.asarray(x), one)
    apart, enough = separation(ranks, _targets(jnp.asarray(label), one, jnp.int32(3)), one, jnp.int32(3))
    assert np.asarray(enough).tolist() == [True] * 3 + [False] * (CLASSES - 3)
    for f in range(5):
        for c in range(3):
            assert float(apart[f, c]) == pytest.approx(roc_auc_score(label[there] == c, x[there, f]), abs=1e-5)
    rho, _ = separation(ranks, _targets(jnp.asarray(number), one, jnp.int32(0)), one, jnp.int32(0))
    for f in range(5):
        assert float(rho[f, 0]) == pytest.approx(spearmanr(x[there, f], number[there])[0], abs=1e-5)


def test_the_gate_of_recommendations() -> None:
    rng, n, parents = np.random.default_rng(0), 400, 50
    train, all_ = np.arange(n) < 250, np.ones(n, bool)
    even, skewed = rng.integers(0, parents, n), (parents * rng.random(n) ** 3).astype(int)
    often = np.where(rng.random(n) < 0.3, even, rng.integers(0, parents, n))
    none = np.full(n, -1.0, np.float32)
    for label, last, wanted in (
        (even, none, False),
        (skewed, none, True),
        (even, often, True),
        (even, even, False),
        (0 * even, none, False),
    ):
        found = judge_links(*(jnp.asarray(x) for x in (label.astype(np.float32), all_, train, last.astype(np.float32))), parents)
        assert bool(found[1]) == wanted


def test_cut_days_are_inside_and_apart() -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(-(2**31) + 10, 2**31 - 400 * DAY, 500)
    high = np.minimum(low + rng.integers(1, 2**32 - 1, 500), 2**31 - 2)
    high[::5] = np.minimum(low[::5] + rng.integers(1, 12 * DAY, 100), 2**31 - 2)
    args = low.astype(np.int32), high.astype(np.int32)
    val, test, fine = split_days(*args)
    for x, y in zip((val, test, fine), split_days(*(jnp.asarray(x) for x in args)), strict=True):
        np.testing.assert_array_equal(x, y)
    for a, b, v, t, ok in zip(low.tolist(), high.tolist(), val.tolist(), test.tolist(), fine.tolist(), strict=True):
        assert t == min((a + (b - a) * 9 // 10) // DAY, -(-b // DAY) - 1) and v == min((a + (b - a) * 8 // 10) // DAY, t - 1)
        assert ok == (a < v * DAY) and v < t and t * DAY < b


def test_bad_arguments_are_refused(some: list[Database]) -> None:
    capacity = small("tiny").capacity
    for more, message in (
        ({"rows": 3}, "rows: 3 are too few"),
        ({"tries": 0}, "tries: 0"),
        ({"kinds": ()}, "kinds: there is none"),
        ({"kinds": ("forecast",)}, "kinds: .'forecast',. are not all of TaskKind"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_task(jax.random.key(0), some[0], capacity, **more)
    with pytest.raises(ValueError, match="are not those of the database"):
        sample_task(jax.random.key(0), some[0], dataclasses.replace(capacity, rows=2 * capacity.rows))


def test_real_data_and_tables_without_times() -> None:
    """A shop in frames: its column is learnable from its parents, whatever its keys and offsets are."""
    rng = np.random.default_rng(0)
    level, n = rng.normal(size=300), 3000
    shop = pd.DataFrame({"code": [f"s{i}" for i in range(300)], "size": level + 0.3 * rng.normal(size=300)})
    at = rng.integers(0, 300, n)
    amount = level[at] + rng.normal(size=n)
    sale = pd.DataFrame({"shop": shop.code.to_numpy()[at], "amount": amount, "id": 10**12 + np.arange(n)})
    real = jaxrel.from_pandas({"shop": shop, "sale": sale}, {"shop": "code", "sale": "id"}, {"sale": {"shop": "shop"}})
    program = jax.jit(lambda key: sample_task(key, real.database, real.capacity, rows=512, tries=4))
    task = jax.device_get(program(jax.random.key(0)))
    assert task.passed and task.kind == TaskKind.AUTOCOMPLETE and task.labelled.sum() >= 280
    assert (task.seed_time[task.row != NO_ROW] == NO_TIME - 1).all() and (task.split == Split.TEST).any()
    assert len(set(task.row[task.row != NO_ROW].tolist())) == (task.row != NO_ROW).sum()
    with pytest.raises(UserError, match="has no time column|other units"):
        describe_task(task, real.database, real.catalog)
    assert write_tasks(Path("nowhere"), [task], real.database, real.catalog) == {}


@pytest.mark.slow
def test_there_may_be_more_pairs_of_entity_and_seed_time_than_31_bits_number() -> None:
    """300,000 entities, 8,000 days to train on, windows of a day: the events pause for years before the test day."""
    rng, n = np.random.default_rng(0), 300_000
    days = np.concatenate([[0], rng.integers(7990, 8002, 3000), rng.integers(9000, 10_000, 500), [10_000]])
    sale = pd.DataFrame({"shop": rng.integers(0, n, days.size), "at": pd.Timestamp("1990-01-01") + pd.to_timedelta(days, unit="D")})
    frames = {"shop": pd.DataFrame({"id": np.arange(n)}), "sale": sale}
    real = jaxrel.from_pandas(frames, {"shop": "id"}, {"sale": {"shop": "shop"}}, {"sale": "at"})
    task = jax.device_get(sample_task(jax.random.key(1), real.database, real.capacity, rows=64, tries=1, kinds=TaskKind.FORECAST))
    assert task.measure == Measure.COUNT and not task.active and task.window == DAY and (task.row != NO_ROW).all()
    assert (task.seed_time[task.split == Split.TRAIN] < task.seed_time[-1]).all()


@pytest.mark.slow
def test_the_capacity_does_not_choose_the_task() -> None:
    """The same data in larger arrays: the same descriptions, rows and labels."""
    rng = np.random.default_rng(1)
    shop = pd.DataFrame({"code": np.arange(200), "size": rng.normal(size=200)})
    at, n = (200 * rng.random(4000) ** 2).astype(int), 4000
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 1000 * DAY, n)), unit="s")
    sale = pd.DataFrame({"shop": at, "amount": rng.normal(size=n) + shop["size"].to_numpy()[at], "day": day})
    frames = {"shop": shop, "sale": sale}, {"shop": "code"}, {"sale": {"shop": "shop"}}, {"sale": "day"}
    least = jaxrel.from_pandas(*frames)
    sizes = least.capacity
    larger = dataclasses.replace(sizes, tables=5, columns=4, foreign_keys=3, rows=2 * sizes.rows)
    forecasts = 0
    programs = [
        (real.database, jax.jit(lambda key, db, c=real.capacity: sample_task(key, db, c, rows=ROWS, tries=1)))
        for real in (least, jaxrel.from_pandas(*frames, capacity=larger))
    ]
    for key in keys()[0]:
        a, b = (jax.device_get(program(key, db)) for db, program in programs)
        forecasts += int(a.kind == TaskKind.FORECAST)
        for field in dataclasses.fields(Task):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name in ("label", "score"):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
            elif field.name == "hidden":
                np.testing.assert_array_equal(x, y[: x.shape[0], : x.shape[1]])
            else:
                np.testing.assert_array_equal(x, y, err_msg=field.name)
    assert 3 <= forecasts < DRAWS
