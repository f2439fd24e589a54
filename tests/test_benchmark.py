"""A corpus with tasks: addressable, resumable, the same files whoever writes them, and loaded by the client."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from fake_database import fake_database, sql_catalog
from test_engine import files_of

from jaxrel import engine, files, presets, stages
from jaxrel.benchmark import describe_task
from jaxrel.database import rows_in_use, sample_database, shortened
from jaxrel.inspect import inspect, inspect_html
from jaxrel.programs import COMPILER_OPTIONS
from jaxrel.progress import summary
from jaxrel.relbench import write_relbench
from jaxrel.tasks import Measure, Task, TaskKind, sample_task
from jaxrel.types import NO_ROW, NO_TABLE, Capacity, Database
from jaxrel.validate import validate

TASKS, DATABASES = 2, 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> tuple[Path, engine.Report]:
    out = tmp_path_factory.mktemp("benchmark")
    return out, engine.generate(tiny, out, databases=DATABASES, tasks=TASKS)


def test_tasks_are_written_counted_and_sound(corpus: tuple[Path, engine.Report]) -> None:
    out, report = corpus
    manifests = [yaml.safe_load(path.read_text()) for path in sorted(out.glob("*/tasks/*/manifest.yaml"))]
    assert report.tasks == len(manifests) >= DATABASES and report.tasks_wanted == TASKS * DATABASES
    assert f", {report.tasks} of {report.tasks_wanted} tasks in " in summary(report)
    assert validate(out) == []
    digest = files.read_digest(out / "jaxrel-0")
    assert digest is not None and digest["tasks"] == TASKS
    assert all("\n" in manifest["sql"] and "INTERVAL '{timedelta}'" in manifest["sql"] for manifest in manifests if "sql" in manifest)


def test_tasks_are_listed_where_people_look(corpus: tuple[Path, engine.Report], tmp_path: Path) -> None:
    folder = next(path for path in sorted(corpus[0].iterdir()) if (path / "tasks").is_dir())
    card, text, page = (folder / "README.md").read_text(), inspect(folder), inspect_html(folder)
    for path in folder.glob("tasks/*/manifest.yaml"):
        manifest = yaml.safe_load(path.read_text())
        assert all(manifest["name"] in shown for shown in (card, text, page))
        assert manifest["description"] in card and manifest["description"] in text
    broken = shutil.copytree(folder, tmp_path / "broken")
    next(broken.glob("tasks/*/manifest.yaml")).write_text("[")
    with pytest.raises(ValueError, match="manifest.yaml: cannot be read"):
        inspect(broken)


@pytest.mark.parametrize("name", ["tiny", pytest.param("default", marks=pytest.mark.slow)])
def test_tasks_do_not_depend_on_how_long_the_row_axis_is(name: str) -> None:
    preset = presets.load(name)
    preset = preset.small or preset
    jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    db = jit(sample_database, static_argnums=2)(jax.random.key(0), preset.prior, preset.capacity)
    rows = rows_in_use(db)
    assert rows < preset.capacity.rows and not np.any(db.links.parent_row[:, rows:] != NO_ROW) and np.all(db.missing[:, rows:])

    def drawn(db: Database, capacity: Capacity) -> list[Any]:
        draw = jit(lambda key, db: sample_task(key, db, capacity, tries=1, timed=True))
        return [jax.device_get(draw(jax.random.key(i), db)) for i in range(8)]

    found = drawn(db, preset.capacity), drawn(shortened(db, rows), dataclasses.replace(preset.capacity, rows=rows))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_database_has_the_same_tasks_wherever_it_is_made(corpus: tuple[Path, engine.Report], tmp_path: Path, tiny: Any) -> None:
    out, _ = corpus
    before = stages._task._cache_size()
    assert engine.generate(tiny, tmp_path, start=2, tasks=TASKS, threads=1).written == 1
    assert files_of(tmp_path / "jaxrel-2") == files_of(out / "jaxrel-2")
    assert stages._task._cache_size() == before <= 2, "traced again"  # a short and a long row axis
    assert engine.generate(tiny, out, databases=DATABASES, tasks=TASKS).skipped == DATABASES
    with pytest.raises(ValueError, match="another tasks"):
        engine.generate(tiny, out, databases=DATABASES)


def test_tasks_that_cannot_be_are_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only RelBench's has tasks; use --format relbench"):
        engine.generate(tiny, tmp_path / "a", tasks=1, format="plain")
    with pytest.raises(ValueError, match="tasks: 101 is outside 0…100"):
        engine.generate(tiny, tmp_path / "a", tasks=101)
    huge = (tiny.prior, dataclasses.replace(tiny.capacity, rows=2**22))
    with pytest.raises(ValueError, match="never in memory as a whole, so they have no tasks"):
        engine.generate(huge, tmp_path / "a", tasks=1)
    assert not list(tmp_path.iterdir())


def planned(kind: TaskKind, table: int, **more: Any) -> Task:
    """A description, without rows."""
    none = np.zeros(0, np.float32)
    given = {"child": 2, "window": 3 * 86_400, "column": -1, "active": True, **more, "kind": kind, "table": table}
    zeros = dict.fromkeys(("measure", "fk", "other_fk", "threshold", "classes", "score", "passed"), 0)
    return Task(**{name: none for name in ("row", "seed_time", "label", "labelled", "split", "hidden")}, **{**zeros, **given})


FORECAST, PRICE, COUNT = TaskKind.FORECAST, {"column": 0}, {"column": 1}
PLANS = [
    planned(FORECAST, 0, measure=Measure.EXISTS),
    planned(FORECAST, 1, measure=Measure.COUNT, fk=1),
    planned(FORECAST, 1, measure=Measure.MANY, fk=2, threshold=2.0),
    planned(FORECAST, 2, measure=Measure.NEXT, fk=3, active=False),
    planned(TaskKind.RECOMMENDATION, 0, other_fk=1),
    planned(TaskKind.AUTOCOMPLETE, 2, column=3, classes=2),
    planned(TaskKind.AUTOCOMPLETE, 1, column=2, classes=4),
    planned(TaskKind.AUTOCOMPLETE, 2, column=1),
    planned(FORECAST, 0, measure=Measure.SUM, **PRICE),
    planned(FORECAST, 0, measure=Measure.LARGE, threshold=np.float32(0.1), **PRICE),
    planned(FORECAST, 0, measure=Measure.LARGE, threshold=4.0, **COUNT),
    planned(FORECAST, 0, measure=Measure.MEAN, **COUNT),
]


def test_declared_schemas_keep_the_tasks_that_need_no_units(tmp_path: Path) -> None:
    import relbench

    folders = [write_relbench(fake_database(), tmp_path / f"jaxrel-{i}", c, tasks=PLANS) for i, c in enumerate((None, sql_catalog()))]
    names = [sorted(path.name for path in (folder / "tasks").iterdir()) for folder in folders]
    assert len(names[0]) == len(PLANS) - 1, "all sellers are there before the validation day"
    assert names[1] == [
        "purchase-purchase-next",
        "purchase-purchase_count",
        "purchase-purchase_open",
        "seller-purchase-helper_id-many",
        "seller-purchase-seller_id-count",
        "shop-purchase-active",
        "shop-purchase-next-seller_id",
    ]
    for folder in folders:
        assert validate(folder) == []
        dataset = relbench.load_dataset(folder)
        for name in dataset.get_task_names():
            assert len(dataset.load_task(name, regenerate=True).get_table("train")) > 0
    with pytest.raises(ValueError, match="purchase.purchase_price is stored in other units"):
        describe_task(PLANS[8], fake_database(), sql_catalog())
    with pytest.raises(ValueError, match="shop has no time column"):
        describe_task(planned(TaskKind.AUTOCOMPLETE, 0, column=0), fake_database(), sql_catalog())
    with pytest.raises(ValueError, match="the database has none of the kinds that were asked for"):
        describe_task(planned(TaskKind.AUTOCOMPLETE, NO_TABLE), fake_database(), sql_catalog())


def test_the_sql_reads_naturally() -> None:
    manifest = describe_task(PLANS[2], fake_database(), sql_catalog())
    assert (
        manifest["sql"]
        == """SELECT
    t.timestamp AS timestamp,
    e.id AS id,
    CAST(count(c.helper_id) >= 2 AS INTEGER) AS target
FROM timestamps AS t
JOIN seller AS e ON e.hired <= t.timestamp
LEFT JOIN purchase AS c
    ON c.helper_id = e.id
    AND c.placed > t.timestamp
    AND c.placed <= t.timestamp + INTERVAL '{timedelta}'
WHERE EXISTS (
    SELECT 1 FROM purchase AS p
    WHERE p.helper_id = e.id AND p.placed <= t.timestamp
)
GROUP BY t.timestamp, e.id"""
    )
    assert manifest["description"] == "Predict whether each seller has at least 2 purchase rows in the next 3 days."
