"""What a file format allows: cells per second of pyarrow writing columns that are ready, by themselves and on all cores.

Random float32 columns, plainly encoded, without compression and with Snappy; and codes below 10 through a dictionary. Each thread writes
files of its own, again and again. No generator that ends in Parquet is faster than this on the same machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from figures import cores, keep_to, table, threads_rate

WAYS = ("float32, plain", "float32, plain, Snappy", "codes, dictionary", "codes, dictionary, Snappy")


def columns(way: str, rows: int, count: int) -> tuple[Any, dict[str, Any]]:
    """A table that is ready, and how it is written."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    if way.startswith("float32"):
        made = [pa.array(rng.standard_normal(rows, dtype=np.float32)) for _ in range(count)]
    else:
        words = pa.array([f"class {i}" for i in range(10)])
        made = [pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 10, rows, dtype=np.int32)), words) for _ in range(count)]
    options = {"use_dictionary": way.startswith("codes"), "compression": "snappy" if way.endswith("Snappy") else "none"}
    return pa.table({f"c{i}": column for i, column in enumerate(made)}), options


def measure(folder: Path, rows: int, count: int, repeats: int) -> list[dict[str, Any]]:
    """Cells per second of each way, on one core and on all, and bytes per cell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    every, found = cores(), []
    pa.set_cpu_count(1)  # each of our threads is one
    for way in WAYS:
        data, options = columns(way, rows, count)

        def write(data: Any, options: dict[str, Any]) -> None:
            pq.write_table(data, folder / f"{threading.get_ident()}.parquet", **options)

        work = functools.partial(write, data, options)
        work()
        figures: dict[str, Any] = {"way": way, "bytes_per_cell": next(folder.iterdir()).stat().st_size / (rows * count)}
        for name, chosen in (("one", every[:1]), ("all", every)):
            keep_to(chosen)
            figures[name] = statistics.median(threads_rate(work, rows * count, len(chosen), 0.3) for _ in range(repeats))
        found.append(figures)
        for path in folder.iterdir():
            path.unlink()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write below this folder (default: the system's temporary one)")
    parser.add_argument("--rows", type=int, default=100_000, help="of a file (default: 100,000)")
    parser.add_argument("--columns", type=int, default=20, help="of a file (default: 20)")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many counts (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxrel-bench-", dir=arguments.out) as folder:
        found = measure(Path(folder), arguments.rows, arguments.columns, arguments.repeats)

    import pyarrow

    if arguments.json:
        print(json.dumps({"cores": len(cores()), "pyarrow": pyarrow.__version__, "ways": found}, indent=1))
        return
    print(f"{os.cpu_count()} cores, pyarrow {pyarrow.__version__}, files of {arguments.rows:,} rows and {arguments.columns} columns")
    rows = [[f["way"], f"{f['one']:,.0f}", f"{f['all']:,.0f}", f"{f['bytes_per_cell']:.2f}"] for f in found]
    print(table(["columns", "cells/s, one core", "cells/s, all cores", "bytes a cell"], rows))


if __name__ == "__main__":
    main()
