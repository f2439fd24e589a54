"""Cost of a cell and peak memory as a database or a corpus grows: along rows, databases, tables, columns and devices.

rows       a SQL schema of one small entity table and one activity table, which has 10^3, 10^4, … rows
databases  so many databases of a preset in one run
tables     SQL schemas of so many tables, each with a key to an earlier one, all with about the same number of cells
columns    SQL schemas of two tables of so many feature columns, all with about the same number of cells
devices    databases side by side under ``vmap``, their keys sharded over so many simulated devices of this machine

All but the last are runs of the command line, ``python -m jaxrel generate``, in a process of its own, a second time with the programs of
the first (``warm``); memory and processor seconds are that process's. "CPU ns a cell, more" is what the cells beyond those of the line
before have cost of all cores, where their number grows; else what all have cost beyond the axis's first schema with one row a table:
neither the start of the process counts in it nor what else runs on the machine. Along tables and columns it is the mean over ``--seeds``:
what a cell takes goes with the graph that is drawn for its table, and a schema of two tables is two draws.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from figures import answers, cost, peak_mib, rows_and_cells, table, timed

KINDS = ("double precision", "integer", "boolean", "varchar(8) NOT NULL CHECK ({} IN ('north', 'east', 'south', 'west'))")


def _table(name: str, columns: int, parent: str | None, time_column: bool) -> str:
    """CREATE TABLE with a primary key, maybe a key and a time, and feature columns of four kinds by turns."""
    lines = [f"{name}_id integer PRIMARY KEY"]
    lines += [f"{parent}_id integer NOT NULL REFERENCES {parent} ({parent}_id)"] if parent else []
    lines += ["event_time timestamp NOT NULL"] if time_column else []
    lines += [f"c{i} {KINDS[i % len(KINDS)].format(f'c{i}')}" for i in range(columns)]
    return f"CREATE TABLE {name} (\n  " + ",\n  ".join(lines) + "\n);\n"


def tree(tables: int, columns: int) -> str:
    """A schema whose table i refers to table (i - 1) / 2; the leaves have a time."""
    lines = []
    for i in range(tables):
        is_leaf = 2 * i + 1 >= tables
        lines.append(_table(f"t{i}", columns, f"t{(i - 1) // 2}" if i else None, is_leaf and i > 0))
    return "".join(lines)


def run(arguments: Sequence[str], cache: Path) -> dict[str, float]:
    """What one process of the command line costs."""
    command = [sys.executable, "-m", "jaxrel", "generate", *arguments, "--quiet", "--overwrite"]
    return cost(command, {"XDG_CACHE_HOME": str(cache)})


def written(folder: Path) -> dict[str, int]:
    """Rows, cells and bytes of the tables of all databases in a folder."""
    import pyarrow.parquet as pq

    found = {"rows": 0, "cells": 0, "bytes": 0}
    for path in folder.glob("*/db/*.parquet"):
        facts = pq.read_metadata(path)
        found["rows"] += facts.num_rows
        found["cells"] += facts.num_rows * facts.num_columns
        found["bytes"] += path.stat().st_size
    return found


def measure(size: int, arguments: Sequence[str], work: Path, repeats: int, seeds: int = 1) -> dict[str, Any]:
    """Cold and warm seconds, memory and what was written, of one size along an axis; of several seeds the mean."""
    out = work / "out"
    commands = [[*arguments, "--seed", str(seed), "--out", str(out)] for seed in range(seeds)]
    cold = run(commands[0], work)
    each = []
    for command in commands:
        warm = [run(command, work) for _ in range(repeats)]
        each.append({name: statistics.median(one[name] for one in warm) for name in warm[0]})
    mean = {name: statistics.fmean(one[name] for one in each) for name in each[0]}
    seconds = {"cold_s": cold["s"], "warm_s": mean["s"], "warm_cpu_s": mean["cpu_s"]}
    figures = {"size": size, **seconds, "peak_mib": max(one["peak_mib"] for one in each), **written(out)}
    shutil.rmtree(out)
    return figures


def _sizes(first: int, last: int, factor: int) -> Iterator[int]:
    """``first``, times ``factor`` and so on, and ``last``."""
    while first < last:
        yield first
        first *= factor
    yield last


def _schema(work: Path, text: str, rows: dict[str, int]) -> list[str]:
    file = work / "schema.sql"
    file.write_text(text, encoding="utf-8")
    return ["--sql", str(file), *(word for name, n in rows.items() for word in ("--rows", f"{name}={n}"))]


def along_rows(asked: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """One activity table of more and more rows."""
    text = _table("place", 4, None, False) + _table("visit", 8, "place", True)
    for rows in _sizes(1000, asked.most_rows, 10):
        yield measure(rows, _schema(work, text, {"place": 1000, "visit": rows}), work, asked.repeats)


def along_databases(asked: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """More and more databases of a preset."""
    for databases in _sizes(1, asked.most_databases, 4):
        yield measure(databases, ["--preset", asked.preset, "--databases", str(databases)], work, asked.repeats)


def _least(text: str, work: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """A schema of two tables with one row each: what sizes with the same number of cells are compared with."""
    return measure(2, _schema(work, text, {"t0": 1, "t1": 1}), work, asked.repeats, asked.seeds)


def along_tables(asked: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """More and more tables of fewer and fewer rows, about eight columns each in all."""
    least = _least(tree(2, 6), work, asked)
    for tables in _sizes(2, asked.most_tables, 5):
        rows = max(asked.cells // (8 * tables), 1)
        schema = _schema(work, tree(tables, 6), {f"t{i}": rows for i in range(tables)})
        yield measure(tables, schema, work, asked.repeats, asked.seeds) | {"least": least}


def along_columns(asked: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Wider and wider tables of fewer and fewer rows."""
    least = _least(tree(2, 4), work, asked)
    for columns in _sizes(4, asked.most_columns, 4):
        rows = max(asked.cells // (2 * (columns + 2)), 1)
        schema = _schema(work, tree(2, columns), {"t0": rows, "t1": rows})
        yield measure(columns, schema, work, asked.repeats, asked.seeds) | {"least": least}


def on_devices(preset: str, batch: int, repeats: int) -> dict[str, Any]:
    """Databases side by side on all devices of this process, each device a part of the keys."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_enable_compilation_cache", False)
    import jaxrel

    source = jaxrel.presets.load(preset)
    devices = jax.devices()
    sharded = NamedSharding(Mesh(np.asarray(devices), ("databases",)), PartitionSpec("databases"))
    keys = jax.device_put(jax.random.split(jax.random.key(0), batch), sharded)

    def one(key: Any) -> Any:
        return jaxrel.sample_database(key, source.prior, source.capacity)

    program = jax.jit(jax.vmap(one), in_shardings=sharded, out_shardings=sharded, compiler_options=jaxrel.COMPILER_OPTIONS)
    cold, db = timed(program, keys)
    before = time.process_time()
    warm = statistics.median(timed(program, keys)[0] for _ in range(repeats))
    spent = (time.process_time() - before) / repeats
    digest = hashlib.sha256(np.asarray(db.links.parent_row).tobytes() + np.asarray(db.time).tobytes()).hexdigest()[:12]
    rows, cells = rows_and_cells(jax.device_get(db))
    peak = peak_mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    seconds = {"cold_s": cold, "warm_s": warm, "warm_cpu_s": spent}
    return {"size": len(devices), **seconds, "peak_mib": peak, "rows": rows, "cells": cells, "integers": digest}


def along_devices(asked: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """More and more simulated devices for the same databases."""
    for devices in _sizes(1, asked.most_devices, 2):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        options = ["--preset", asked.preset, "--batch", str(asked.batch), "--repeats", str(max(asked.repeats, 3))]
        yield answers([sys.executable, __file__, "--child", *options], {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})[0]


AXES: dict[str, Callable[[argparse.Namespace, Path], Iterator[dict[str, Any]]]] = {
    "rows": along_rows,
    "databases": along_databases,
    "tables": along_tables,
    "columns": along_columns,
    "devices": along_devices,
}


def report(axis: str, figures: Sequence[dict[str, Any]]) -> str:
    """One table of an axis."""
    head = [axis, "cold s", "warm s", "warm CPU s", "cells", "cells/s", "rows/s", "CPU ns a cell, more", "peak MiB"]
    lines, before = [], None
    for f in figures:
        before = f.get("least", before)
        grown = f["cells"] - before["cells"] if before else 0
        each = f"{1e9 * (f['warm_cpu_s'] - before['warm_cpu_s']) / grown:,.0f}" if before and grown > f["cells"] / 2 else ""
        seconds = [f"{f['cold_s']:.1f}", f"{f['warm_s']:.2f}", f"{f['warm_cpu_s']:.2f}"]
        rates = [f"{f['cells'] / f['warm_s']:,.0f}", f"{f['rows'] / f['warm_s']:,.0f}"]
        lines.append([f"{f['size']:,}", *seconds, f"{f['cells']:,}", *rates, each, f"{f['peak_mib']:,.0f}"])
        before = f
    text = table(head, lines)
    if axis == "devices":
        text += f"\n\nThe same links and times on any number of devices: {'yes' if len({f['integers'] for f in figures}) == 1 else 'NO'}."
    return text


def _number(text: str) -> int:
    return int(float(text))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"what grows: {', '.join(AXES)} (default: all)")
    for name, most, of in (
        ("rows", 10**6, "rows of the activity table"),
        ("databases", 64, "databases of a run"),
        ("tables", 300, "tables"),
        ("columns", 200, "feature columns of a table"),
        ("devices", 8, "simulated devices"),
    ):
        parser.add_argument(f"--most-{name}", type=_number, default=most, metavar="N", help=f"most {of} (default: {most:,})")
    parser.add_argument("--cells", type=_number, default=24_000_000, metavar="N", help="along tables and columns (default: 2.4e7)")
    parser.add_argument("--preset", default="tiny", help="of databases and devices (default: tiny)")
    parser.add_argument("--batch", type=int, default=8, metavar="B", help="databases side by side on devices (default: 8)")
    parser.add_argument("--repeats", type=int, default=1, help="warm runs, of which the median counts (default: 1)")
    parser.add_argument(
        "--seeds", type=int, default=6, metavar="N", help="databases drawn along tables and columns, whose mean counts (default: 6)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(on_devices(arguments.preset, arguments.batch, arguments.repeats)))
        return

    for axis in arguments.axes:
        if axis not in AXES:
            parser.error(f"{axis!r} is no axis; use {', '.join(AXES)}")

    import jaxrel

    found = {}
    if not arguments.json:
        print(f"{os.cpu_count()} cores, jaxrel {jaxrel.__version__}")
    for axis in arguments.axes or AXES:
        with tempfile.TemporaryDirectory(prefix="jaxrel-bench-") as work:
            found[axis] = list(AXES[axis](arguments, Path(work)))
        if not arguments.json:
            print(f"\n{report(axis, found[axis])}", flush=True)
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), "jaxrel": jaxrel.__version__, **found}, indent=1))


if __name__ == "__main__":
    main()
