"""What the benchmark programs share: cells, clocks, children that answer in JSON, threads kept to some cores, and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["answers", "cores", "cost", "keep_to", "peak_mib", "rows_and_cells", "table", "threads_rate", "timed"]


def rows_and_cells(db: Any) -> tuple[int, int]:
    """Rows and cells (keys, times, feature columns) of the real rows, by database of a batch or of one, summed."""
    import numpy as np

    schema = db.schema
    rows = np.asarray(schema.row_count).astype(np.int64)  # [..., T]; 0 past the last table
    foreign = np.sum(np.asarray(schema.fk_parent) >= 0, axis=-1)
    columns = 1 + foreign + np.asarray(schema.has_time) + np.asarray(schema.column_count)
    real = np.arange(rows.shape[-1]) < np.asarray(schema.table_count)[..., None]
    return int((rows * real).sum()), int((rows * columns * real).sum())


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds until the result is there, and the result."""
    import jax

    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began, result


def threads_rate(work: Callable[[], Any], amount: float, threads: int, least: float = 0.03) -> float:
    """``amount`` a second, summed over threads that do the work again and again at the same time, each for at least so many seconds.

    The work must let go of Python's lock. Call it once before: the first time counts too.
    """
    start = threading.Barrier(threads)

    def one(_: int) -> float:
        start.wait()
        began, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - began < least:
            work()
            times += 1
        return times * amount / (time.perf_counter() - began)

    if threads == 1:
        return one(0)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(one, range(threads)))


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def keep_to(chosen: Sequence[int]) -> bool:
    """Keep all threads of this process, those of XLA too, to some cores; False where the system cannot."""
    threads = Path("/proc/self/task")
    if not (hasattr(os, "sched_setaffinity") and threads.is_dir()):
        return False
    for thread in threads.iterdir():
        os.sched_setaffinity(int(thread.name), chosen)
    return True


def peak_mib(maximum: int) -> float:
    """``ru_maxrss`` in MiB."""
    return maximum / (1 << 20 if sys.platform == "darwin" else 1024)


def cost(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds, processor seconds and peak MiB of a program; ends this program where that one fails."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-2000:].decode(errors='replace')}")
    return {"s": seconds, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": peak_mib(used.ru_maxrss)}


def answers(command: Sequence[str], environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The JSON objects that a program prints, one a line; ends this program where that one fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all but the first column to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
