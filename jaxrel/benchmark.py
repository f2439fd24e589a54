"""Tasks as RelBench task folders: a manifest, natural SQL, and the labels that this very SQL says, of every entity.

A `jaxrel.tasks.Task` holds a sample; the folder holds the whole task: training seeds at validation − Δ, − 2Δ, … down to the first event,
validation and test at the dataset's own two days. `regenerate_labels` runs a task's SQL as RelBench does, over the dataset's Parquet files.

Reference: Robinson et al., "RelBench: a benchmark for deep learning on relational databases", NeurIPS 2024 (forecasts, seed times).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jaxrel.catalog import Catalog, TableWords
from jaxrel.convert import words_of
from jaxrel.encoding import unused_name
from jaxrel.errors import UserError
from jaxrel.splits import DAY
from jaxrel.tasks import Measure, Task, TaskKind
from jaxrel.types import NO_TABLE, Database, Kind

__all__ = ["SPLITS", "describe_task", "is_distinct", "regenerate_labels", "write_tasks"]

SPLITS = ("train", "val", "test")
_EVAL_K = 10  # recommendations that are scored
_SUFFIX = {
    Measure.EXISTS: "active",
    Measure.COUNT: "count",
    Measure.SUM: "sum",
    Measure.MEAN: "mean",
    Measure.MAX: "max",
    Measure.MANY: "many",
    Measure.LARGE: "large",
    Measure.NEXT: "next",
}
_SAYS = {
    Measure.EXISTS: "whether {entity} has any {child} in the next {days} days",
    Measure.COUNT: "how many {child} rows {entity} has in the next {days} days",
    Measure.SUM: "the sum of {column} over the {child} rows of {entity} in the next {days} days",
    Measure.MEAN: "the mean of {column} over the {child} rows of {entity} in the next {days} days",
    Measure.MAX: "the largest {column} of the {child} rows of {entity} in the next {days} days",
    Measure.MANY: "whether {entity} has at least {threshold} {child} rows in the next {days} days",
    Measure.LARGE: "whether {entity} has a {child} row with {column} above {threshold} in the next {days} days",
    Measure.NEXT: "in how many days, up to {days}, {entity} has its next {child} row",
}


@dataclasses.dataclass(frozen=True)
class _Names:
    """What a task's SQL names, quoted where DuckDB wants it."""

    entity: str
    pkey: str
    entity_time: str | None
    child: str
    fk: str
    time: str


def is_distinct(task: Task, others: Sequence[Task]) -> bool:
    """Whether none of some other tasks asks for the same, be it over another window."""

    def asks(task: Task) -> tuple[int, ...]:
        fields = (task.kind, task.measure, task.table, task.child, task.fk, task.other_fk, task.column)
        return tuple(int(x) for x in fields)

    return all(asks(task) != asks(other) for other in others)


def _reserved() -> set[str]:
    import duckdb

    with duckdb.connect() as sql:
        return {
            word for (word,) in sql.execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'").fetchall()
        }


def _quoted(name: str, reserved: set[str]) -> str:
    return f'"{name}"' if name.lower() in reserved or not name.isidentifier() or not name.isascii() else name


def describe_task(task: Task, db: Database, catalog: Catalog | None = None, names: Sequence[str] = ()) -> dict[str, Any]:
    """The manifest of a task.

    Args:
        task: one task of the database, without a batch axis; its rows are not read.
        db: one database; its schema is read.
        catalog: its words; None stands for `Catalog.default`.
        names: that the task cannot have, those of other tasks of the dataset.

    Returns:
        What ``tasks/<name>/manifest.yaml`` holds.

    Raises:
        UserError: if there is no task, or RelBench's format cannot hold it: its table has no time or no primary key, or its column is
            stored in other units than the arrays are.
    """
    catalog, reserved = words_of(db, catalog), _reserved()
    tables, fk_parent = catalog.tables, np.asarray(db.schema.fk_parent)
    kind, measure, column = TaskKind(int(task.kind)), Measure(int(task.measure)), int(task.column)
    if int(task.table) == NO_TABLE:
        raise UserError("task: the database has none of the kinds that were asked for; draw others")
    entity = tables[int(task.table)]
    if entity.primary_key is None:
        raise UserError(f"task: table {entity.name} has no primary key, which RelBench needs; choose another task")
    if kind == TaskKind.AUTOCOMPLETE:
        return _autocomplete(entity, column, int(task.classes), names)
    child, fk, days = tables[int(task.child)], int(task.fk), int(task.window) // DAY
    key = child.foreign_keys[fk]
    assert child.time_column is not None
    words = _Names(
        entity=_quoted(entity.name, reserved),
        pkey=_quoted(entity.primary_key, reserved),
        entity_time=None if entity.time_column is None else _quoted(entity.time_column, reserved),
        child=_quoted(child.name, reserved),
        fk=_quoted(key.name, reserved),
        time=_quoted(child.time_column, reserved),
    )
    twice = sum(p == int(task.table) for p in fk_parent[int(task.child)]) > 1
    stem = f"{entity.name}-{child.name}" + (f"-{key.name}" if twice else "")
    manifest: dict[str, Any] = {"name": "", "kind": "forecast"}
    common = {"timedelta": f"{days} days"}
    if kind == TaskKind.RECOMMENDATION:
        other = child.foreign_keys[int(task.other_fk)]
        target = tables[int(fk_parent[int(task.child), int(task.other_fk)])]
        assert target.primary_key is not None
        time = unused_name("timestamp", {key.name, other.name})
        to = [None if x is None else _quoted(x, reserved) for x in (target.name, target.primary_key, target.time_column, other.name)]
        manifest |= {
            "name": _fresh(f"{stem}-next-{other.name}", names),
            "task_type": "recommendation",
            "description": f"Predict which {target.name} each {entity.name} has {child.name} rows with in the next {days} days.",
            "src_entity_table": entity.name,
            "src_entity_col": key.name,
            "dst_entity_table": target.name,
            "dst_entity_col": other.name,
            "time_col": time,
            "eval_k": _EVAL_K,
            **common,
            "sql": _recommendation_sql(words, to, time, bool(task.active)),
        }
    else:
        value = child.columns[column] if column >= 0 else None
        if value is not None and (value.type or value.offset or value.unit != 1):
            raise UserError(f"task: {child.name}.{value.name} is stored in other units than the arrays are; choose another task")
        target_col = unused_name("target", {entity.primary_key})
        time = unused_name("timestamp", {entity.primary_key, target_col})
        whole = value is None or value.kind == Kind.INTEGER
        threshold = str(int(task.threshold)) if whole else str(np.float32(task.threshold))
        says = _SAYS[measure].format(
            entity=f"each {entity.name}", child=child.name, days=days, column=value and value.name, threshold=threshold
        )
        literal = threshold if whole else f"CAST('{threshold}' AS FLOAT)"
        suffix = _SUFFIX[measure] if value is None else f"{value.name}-{_SUFFIX[measure]}"
        binary = measure in (Measure.EXISTS, Measure.MANY, Measure.LARGE)
        of = None if value is None else _quoted(value.name, reserved)
        manifest |= {
            "name": _fresh(f"{stem}-{suffix}", names),
            "task_type": "binary_classification" if binary else "regression",
            "description": f"Predict {says}.",
            "entity_table": entity.name,
            "entity_col": entity.primary_key,
            "target_col": target_col,
            "time_col": time,
            **common,
            "sql": _forecast_sql(words, measure, of, literal, target_col, time, bool(task.active)),
        }
    return {**manifest, "manifest_version": 1}


def _fresh(name: str, names: Sequence[str]) -> str:
    return next(x for x in (name, *(f"{name}-{i}" for i in range(2, len(names) + 3))) if x not in names)


def _autocomplete(entity: TableWords, column: int, classes: int, names: Sequence[str]) -> dict[str, Any]:
    target = entity.columns[column]
    if entity.time_column is None:
        raise UserError(f"task: table {entity.name} has no time column, which RelBench's autocomplete tasks need; choose another table")
    task_type = "regression" if not classes else "binary_classification" if target.kind == Kind.BOOLEAN else "multiclass_classification"
    return {
        "name": _fresh(f"{entity.name}-{target.name}", names),
        "kind": "autocomplete",
        "task_type": task_type,
        "description": f"Predict {target.name} of each row of {entity.name} from all that is known at its time.",
        "entity_table": entity.name,
        "entity_col": entity.primary_key,
        "target_col": target.name,
        "time_col": entity.time_column,
        "manifest_version": 1,
    }


def _was_active(of: _Names) -> str:
    return f"WHERE EXISTS (\n    SELECT 1 FROM {of.child} AS p\n    WHERE p.{of.fk} = e.{of.pkey} AND p.{of.time} <= t.timestamp\n)\n"


def _forecast_sql(of: _Names, measure: Measure, column: str | None, threshold: str, target: str, time: str, active: bool) -> str:
    events = f"count(c.{of.fk})"
    says = {
        Measure.EXISTS: f"CAST({events} > 0 AS INTEGER)",
        Measure.COUNT: events,
        Measure.SUM: f"CAST(coalesce(sum(c.{column}), 0) AS FLOAT)",
        Measure.MEAN: f"CAST(avg(c.{column}) AS FLOAT)",
        Measure.MAX: f"CAST(max(c.{column}) AS FLOAT)",
        Measure.MANY: f"CAST({events} >= {threshold} AS INTEGER)",
        Measure.LARGE: f"CAST(coalesce(max(c.{column}) > {threshold}, false) AS INTEGER)",
        Measure.NEXT: f"CAST(date_diff('second', t.timestamp, min(c.{of.time})) / 86400.0 AS FLOAT)",
    }[measure]
    join = "JOIN" if measure in (Measure.MEAN, Measure.MAX, Measure.NEXT) else "LEFT JOIN"
    entities = f"CROSS JOIN {of.entity} AS e" if of.entity_time is None else f"JOIN {of.entity} AS e ON e.{of.entity_time} <= t.timestamp"
    known = f"\nHAVING count(c.{column}) > 0" if measure in (Measure.MEAN, Measure.MAX) else ""
    return (
        f"SELECT\n    t.timestamp AS {time},\n    e.{of.pkey} AS {of.pkey},\n    {says} AS {target}\n"
        f"FROM timestamps AS t\n{entities}\n"
        f"{join} {of.child} AS c\n"
        f"    ON c.{of.fk} = e.{of.pkey}\n"
        f"    AND c.{of.time} > t.timestamp\n"
        f"    AND c.{of.time} <= t.timestamp + INTERVAL '{{timedelta}}'\n"
        f"{_was_active(of) if active else ''}GROUP BY t.timestamp, e.{of.pkey}{known}"
    )


def _recommendation_sql(of: _Names, to: Sequence[str | None], time: str, active: bool) -> str:
    target, pkey, born, key = to
    exists = "" if of.entity_time is None else f" AND e.{of.entity_time} <= t.timestamp"
    there = "" if born is None else f" AND d.{born} <= t.timestamp"
    return (
        f"SELECT\n    t.timestamp AS {time},\n    e.{of.pkey} AS {of.fk},\n    list(DISTINCT d.{pkey} ORDER BY d.{pkey}) AS {key}\n"
        "FROM timestamps AS t\n"
        f"JOIN {of.child} AS c\n"
        f"    ON c.{of.time} > t.timestamp\n"
        f"    AND c.{of.time} <= t.timestamp + INTERVAL '{{timedelta}}'\n"
        f"JOIN {of.entity} AS e ON e.{of.pkey} = c.{of.fk}{exists}\n"
        f"JOIN {target} AS d ON d.{pkey} = c.{key}{there}\n"
        f"{_was_active(of) if active else ''}GROUP BY t.timestamp, e.{of.pkey}"
    )


def _microseconds(day: str) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


class _Dataset:
    """A RelBench dataset on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))
        self.val, self.test = (_microseconds(self.manifest[key]) for key in ("val_timestamp", "test_timestamp"))

    def spec(self, table: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest["tables"][table]
        return found

    def column(self, table: str, columns: Sequence[str]) -> pa.Table:
        return pq.ParquetFile(self.folder / "db" / f"{table}.parquet").read(columns=list(columns))

    def first_event(self) -> int:
        """Microseconds since 1970."""
        firsts = []
        for name, spec in self.manifest["tables"].items():
            if spec["time_col"] is not None:
                first = pc.min(self.column(name, [spec["time_col"]])[spec["time_col"]]).cast(pa.timestamp("us")).cast(pa.int64()).as_py()
                firsts += [] if first is None else [first]
        return min(firsts)

    def seed_times(self, step: int) -> dict[str, list[int]]:
        """By split, as RelBench has them."""
        train = range(self.val - step, self.first_event() - 1, -step)
        return {"train": sorted(train), "val": [self.val], "test": [self.test]}


def regenerate_labels(folder: Path, task: Mapping[str, Any]) -> dict[str, pa.Table]:
    """The labels of a task, from the database alone, as ``relbench.load_dataset(folder).load_task(name, regenerate=True)`` makes them.

    Args:
        folder: of a RelBench dataset.
        task: its manifest, of a forecast (recommendations too) or an autocomplete task with one evaluation time.

    Returns:
        By split, labels in the order of time, then entity.
    """
    dataset = _Dataset(folder)
    return _existing(dataset, task) if task["kind"] == "autocomplete" else _forecast(dataset, task)


def _existing(dataset: _Dataset, task: Mapping[str, Any]) -> dict[str, pa.Table]:
    time, key, target = task["time_col"], task["entity_col"], task["target_col"]
    table = dataset.column(task["entity_table"], [time, key, target]).select([time, key, target])
    if pa.types.is_integer(table[target].type) and table[target].null_count:  # what RelBench's pandas makes of them
        table = table.set_column(2, target, table[target].cast(pa.float64()))
    if pa.types.is_dictionary(table[target].type):  # what DuckDB makes of them on RelBench's way
        coded = pa.dictionary(table[target].type.index_type, table[target].type.value_type, ordered=True)
        chunks = [pa.DictionaryArray.from_arrays(x.indices, x.dictionary, ordered=True) for x in table[target].chunks]
        table = table.set_column(2, target, pa.chunked_array(chunks, coded))
    seconds = table[time].cast(pa.timestamp("us"))
    val, test = (pa.scalar(x, pa.int64()).cast(pa.timestamp("us")) for x in (dataset.val, dataset.test))
    early, late = pc.less_equal(seconds, val), pc.greater(seconds, test)
    parts = {"train": early, "val": pc.and_(pc.invert(early), pc.invert(late)), "test": late}
    known = pc.is_valid(table[target])
    return {split: table.filter(pc.and_(inside, known)) for split, inside in parts.items()}  # in the order of time, then key, already


def _forecast(dataset: _Dataset, task: Mapping[str, Any]) -> dict[str, pa.Table]:
    import duckdb

    step = datetime.timedelta(days=int(task["timedelta"].removesuffix(" days")))
    query, order = (
        task["sql"].replace("{timedelta}", f"{step.days} days"),
        [task["time_col"], task.get("entity_col") or task["src_entity_col"]],
    )
    labels = {}
    with duckdb.connect(config={"threads": 1}) as sql:  # the engine's own threads write one database each
        for name in dataset.manifest["tables"]:
            file = str(dataset.folder / "db" / f"{name}.parquet").replace("'", "''")
            sql.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_parquet('{file}')")
        for split, times in dataset.seed_times(step.days * 86_400_000_000).items():
            sql.register("timestamps", pa.table({"timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us"))}))
            found: pa.Table = sql.sql(query).to_arrow_table()
            labels[split] = found.sort_by([(column, "ascending") for column in order])
    return labels


def write_tasks(folder: Path, tasks: Sequence[Task], db: Database, catalog: Catalog | None = None) -> dict[str, str]:
    """Write tasks of a database into its dataset folder.

    Args:
        folder: of the dataset, its tables and manifest written.
        tasks: of the database.
        db: the database; its schema is read.
        catalog: its words; None stands for `Catalog.default`.

    Returns:
        By name, what each task that was written asks; left out are those that RelBench's format cannot hold, or that have no label in a
        split.
    """
    written: dict[str, str] = {}
    for task in tasks:
        try:
            manifest = describe_task(task, db, catalog, list(written))
        except UserError:
            continue
        labels = regenerate_labels(folder, manifest)
        if not all(table.num_rows for table in labels.values()):
            continue
        target = folder / "tasks" / manifest["name"]
        target.mkdir(parents=True)
        (target / "manifest.yaml").write_text(
            yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=4096), encoding="utf-8", newline="\n"
        )
        for split, table in labels.items():
            coded = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
            pq.write_table(table.replace_schema_metadata(None), target / f"{split}.parquet", use_dictionary=coded, compression="snappy")
        written[manifest["name"]] = manifest["description"]
    return written


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that SQL can be read."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
