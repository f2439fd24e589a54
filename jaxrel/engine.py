"""The engine: a corpus of databases on disk, compiled once, computed and written side by side, resumable at any database.

The caller's thread keeps the books. Computing threads (one more than cores on a CPU, else one a device) make databases while writer
threads bring others to disk; the queue between them is bounded, so memory is too. Database i is a function of the seed, i, and the prior
or schema alone: never of its neighbours, of the range that a run was asked for, or of what was resumed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrel import files, presets
from jaxrel._version import __version__
from jaxrel.catalog import Catalog
from jaxrel.errors import UserError
from jaxrel.prior import Prior, Weights, capacity_for, check
from jaxrel.processes import own_devices, own_share
from jaxrel.random import STREAM_VERSION, seed_key
from jaxrel.stages import Made, Plan, Stages
from jaxrel.streaming import CHUNK_ROWS
from jaxrel.types import HUGE, TILE, Capacity, Database, Schema, tiles_of

__all__ = ["FORMATS", "Report", "Source", "generate", "outstanding"]

FORMATS = ("relbench", "plain")
Source = presets.Preset | tuple[Prior, Capacity] | tuple[Schema, Catalog]
_MOST_SEEDS = 1 << 32  # a seed is one key word
_MOST_INDICES = 1 << 31  # an index is folded in as a non-negative int32
_MOST_TASKS = 100  # of a database
_TICK = 0.5  # seconds between two looks of the progress bar
_KEPT = 64 << 20  # bytes that a thread's part of glibc's heap keeps when they are freed
_MAPPED = 32 << 20  # bytes of the smallest block that glibc maps by itself, the most that it allows


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run has done so far; at its end, what it did.

    Attributes:
        databases: asked for; of several processes, this one's share.
        written: computed and brought to disk.
        skipped: found whole.
        rows: of the databases written.
        cells: values of their keys, times and feature columns.
        tasks: of the databases written.
        tasks_wanted: asked for, for these databases; fewer are written where the gate let fewer through.
        seconds: since the run began, compilation included.
    """

    databases: int
    written: int = 0
    skipped: int = 0
    rows: int = 0
    cells: int = 0
    tasks: int = 0
    tasks_wanted: int = 0
    seconds: float = 0.0

    @property
    def cells_per_second(self) -> float:
        """Cells brought to disk in a second of the whole run."""
        return self.cells / self.seconds if self.seconds > 0 else 0.0


def _sha256(tree: Any, text: str = "") -> str:
    """Digest of a pytree's paths, shapes and 32-bit values, and of a text."""
    digest = hashlib.sha256(text.encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        values = np.asarray(leaf)
        values = values.astype(np.float32 if values.dtype.kind == "f" else values.dtype)
        digest.update(f"{jax.tree_util.keystr(path)}:{values.dtype.kind}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _plain_lanes(prior: Prior) -> Prior:
    """The prior of a user's schema: real columns are standardised lanes, which the catalog maps to the declared types."""
    one, zero, first = jax.device_put((np.float32(1), np.float32(0), np.eye(1, prior.scm.marginals.weight.shape[0], dtype=np.float32)[0]))
    same = dataclasses.replace(prior.scm.value_scale, low=one, high=one, power=zero)
    scm = dataclasses.replace(prior.scm, value_scale=same, value_offset=zero, marginals=Weights(weight=first))
    return dataclasses.replace(prior, scm=scm)


def _plan(source: Source, catalog: Catalog | None, seed: int, format: str | None, chunk_rows: int, tasks: int) -> Plan:
    versions = {"stream_version": STREAM_VERSION, "jaxrel": __version__, "jax": jax.__version__}
    if isinstance(source, tuple) and isinstance(source[0], Schema):
        schema, words = source
        prior = _plain_lanes(presets.load("default").prior)
        capacity = capacity_for(schema, prior)
        text = json.dumps(dataclasses.asdict(words), sort_keys=True)
        keyless = dataclasses.replace(schema, key=jax.device_put(np.zeros(2, np.uint32)))
        identity = {"prior": _sha256(prior), "schema": _sha256(keyless, text)}
        catalog, format = words, format or "plain"
    else:
        prior, capacity = (source.prior, source.capacity) if isinstance(source, presets.Preset) else source
        check(prior, capacity)
        identity = {"prior": _sha256(prior)}
        if catalog is not None:
            identity["catalog"] = _sha256((), json.dumps(dataclasses.asdict(catalog), sort_keys=True))
        schema, format = None, format or "relbench"
    if format not in FORMATS:
        raise UserError(f"format: {format!r} is unknown; use one of {', '.join(FORMATS)}")
    if tasks and format != "relbench":
        raise UserError(f"tasks: {tasks} are asked for in the format {format!r}, but only RelBench's has tasks; use --format relbench")
    if tasks and capacity.rows > HUGE:
        raise UserError(
            f"tasks: databases of more than {HUGE:,} rows are never in memory as a whole, so they have no tasks; ask for fewer rows"
        )
    asked = {"tasks": tasks} if tasks else {}
    digest = {"seed": seed, "format": format, **asked, **identity, **versions}
    return Plan(prior, schema, capacity, digest, catalog, format, chunk_rows, tasks)


def _check_arguments(seed: int, databases: int, start: int, prefix: str, chunk_rows: int, tasks: int) -> None:
    if not 0 <= seed < _MOST_SEEDS:
        raise UserError(f"seed: {seed} is outside 0…{_MOST_SEEDS - 1}")
    if databases < 1:
        raise UserError(f"databases: {databases} is less than 1")
    if start < 0 or start + databases > _MOST_INDICES:
        raise UserError(f"start: indices {start}…{start + databases - 1} are not all inside 0…{_MOST_INDICES - 1}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", prefix):
        raise UserError(f"name: {prefix!r} is no folder name; use letters, digits, '_', '-' and '.', with a letter or digit first")
    if chunk_rows < TILE or chunk_rows % TILE:
        raise UserError(f"chunk rows: {chunk_rows} is not a multiple of {TILE}; use {max(tiles_of(chunk_rows), 1) * TILE}")
    if not 0 <= tasks <= _MOST_TASKS:
        raise UserError(f"tasks: {tasks} is outside 0…{_MOST_TASKS} for a database")
    if "synthetic" in prefix.lower():
        raise UserError(f"name: {prefix!r} contains 'synthetic', and the relational transformer skips such folders; choose another")


def _outstanding(out: Path, prefix: str, indices: range, digest: dict[str, Any], overwrite: bool) -> list[int]:
    """Indices without a whole database; refuses folders of another run before anything is computed."""
    todo = []
    for index in indices:
        folder = out / f"{prefix}-{index}"
        if not folder.exists():
            todo.append(index)
            continue
        found = files.read_digest(folder)
        if found == {**digest, "index": index} and not overwrite:
            continue
        if found is None and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is in the way and was not written by jaxrel; move it, or choose another --out or --name")
        if found is not None and not overwrite:
            changed = ", ".join(sorted(k for k in found.keys() | digest.keys() if k != "index" and found.get(k) != digest.get(k)))
            raise UserError(f"{folder}: holds a database of another run (another {changed or 'index'}); use --overwrite or another --out")
        todo.append(index)
    return todo


def outstanding(
    source: Source,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    databases: int = 1,
    start: int = 0,
    prefix: str = "jaxrel",
    format: str | None = None,
    catalog: Catalog | None = None,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    tasks: int = 0,
) -> list[int]:
    """What `generate` would compute, whichever process does it.

    Args:
        source: this and all others as for `generate`.

    Returns:
        Indices without a whole database.

    Raises:
        UserError: as `generate` does before it computes anything.
    """
    _check_arguments(seed, databases, start, prefix, chunk_rows, tasks)
    digest = _plan(source, catalog, seed, format, chunk_rows, tasks).digest
    return _outstanding(Path(out), prefix, range(start, start + databases), digest, overwrite)


@contextlib.contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Make ``out`` and its parents, be sure it can be written, and remove those of them that end up empty, unless others may need them."""
    made: list[Path] = []
    try:
        try:
            for folder in reversed([out, *out.parents]):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    made += [folder] if jax.process_count() == 1 else []
            os.rmdir(tempfile.mkdtemp(prefix=".jaxrel-probe-", dir=out))
        except OSError as error:
            raise UserError(f"{out}: this folder cannot be written ({error.strerror}); choose another --out") from error
        yield
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: it keeps what was written
                folder.rmdir()


@contextlib.contextmanager
def _enough_memory(index: int) -> Iterator[None]:
    """Say which database it was that did not fit."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(f"database {index} does not fit into memory; use a smaller capacity or fewer rows") from error
        raise


def _size(database: Database, catalog: Catalog | None) -> tuple[int, int]:
    """Rows and cells of the real rows: keys, times and feature columns."""
    schema = database.schema
    tables = int(schema.table_count)
    keys = [1] * tables if catalog is None else [int(table.primary_key is not None) for table in catalog.tables]
    rows = np.asarray(schema.row_count)[:tables].astype(np.int64)
    foreign = np.sum(np.asarray(schema.fk_parent)[:tables] >= 0, axis=-1)
    columns = np.asarray(keys[:tables]) + foreign + np.asarray(schema.has_time)[:tables] + np.asarray(schema.column_count)[:tables]
    return int(rows.sum()), int((rows * columns).sum())


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep what one database freed for the next: else its arrays are fresh pages each time, a twelfth of a run's CPU time."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for option, value in ((-1, _KEPT), (-2, _KEPT), (-3, _MAPPED)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
                mallopt(option, value)


class _Pipeline:
    """Some computing threads, some writing threads, and the bounded queue between them.

    All are daemons: a compilation cannot be interrupted, and nothing may keep an interrupted process alive.
    """

    def __init__(
        self, todo: Sequence[int], compute: Callable[[int], Any], write: Callable[[int, Any], Any], computers: int, writers: int
    ) -> None:
        self._todo, self._compute, self._write, self._writers = todo, compute, write, writers
        self._ready: queue.Queue[tuple[int, Any] | None] = queue.Queue(maxsize=writers)
        self._left, self._computers, self._computing, self._turn = iter(todo), computers, computers, threading.Lock()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._slots = threading.Semaphore(writers)

    def __enter__(self) -> _Pipeline:
        targets = [self._run_compute] * self._computers + [self._run_write] * self._writers
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Start nothing more; let what is being written become whole. Only an interrupt does not wait for the device."""
        self._stop.set()
        if kind is None or issubclass(kind, Exception):
            for thread in self._threads:
                thread.join()
        else:
            for _writer in range(self._writers):
                self._slots.acquire()
            self._slots.release(self._writers)

    def results(self, tick: Callable[[], None]) -> Iterator[Any]:
        """What `write` returned, once for every index, in order of completion; raises the first error."""
        for _ in self._todo:
            result = self._next(tick)
            if isinstance(result, BaseException):
                raise result
            yield result

    def _next(self, tick: Callable[[], None]) -> Any:
        while True:
            try:
                return self._done.get(timeout=_TICK)
            except queue.Empty:
                tick()

    def _run_compute(self) -> None:
        try:
            while not self._stop.is_set():
                with self._turn:
                    index = next(self._left, None)
                if index is None:
                    break
                self._ready.put((index, self._compute(index)))
        except BaseException as error:  # handed to the caller's thread
            self._done.put(error)
        with self._turn:
            self._computing -= 1
            last = self._computing == 0
        for _ in range(self._writers if last else 0):
            self._ready.put(None)

    def _run_write(self) -> None:
        while (item := self._ready.get()) is not None:
            with self._slots:
                if self._stop.is_set():  # drop it, so that the computing thread never waits in vain
                    continue
                try:
                    self._done.put(self._write(*item))
                except BaseException as error:  # handed to the caller's thread
                    self._done.put(error)


def generate(
    source: Source,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    databases: int = 1,
    start: int = 0,
    prefix: str = "jaxrel",
    format: str | None = None,
    catalog: Catalog | None = None,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    tasks: int = 0,
    progress: Callable[[Report], None] | None = None,
    programs: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Report:
    """Write databases ``start … start + databases - 1`` of a corpus to ``<out>/<prefix>-<index>/``.

    Database i is drawn from ``named_key(seed_key(seed), "database", i)``. A folder that already holds it, written by
    a run with the same seed, prior or schema, format and versions, is skipped: a run that was stopped goes on when it is called again.

    All devices of the process compute, or the one that ``jax.default_device`` names. Where `jax.distributed` joins several processes, each
    calls this with the same arguments and sees to a contiguous share of the indices; together they write what one process would, and none
    waits for another. On Linux the process's heap keeps up to 64 MiB of freed memory a thread from then on.

    Args:
        source: a preset, a prior with its capacity, or a schema with its catalog (as `read_sql` returns them).
        out: folder of the corpus; made where it is missing.
        seed: root of the corpus, 0…2^32 - 1.
        databases: how many.
        start: index of the first.
        prefix: what folder names begin with.
        format: "relbench" or "plain"; None is "plain" for a schema with a catalog, else "relbench".
        catalog: names for the databases of a prior whose schema is always the same; None draws default names.
        overwrite: replace databases of another run.
        chunk_rows: rows computed at once of a database of more than `jaxrel.types.HUGE` rows, whose cells are never in memory as a whole;
            a multiple of 1,024. It bounds memory and changes no value.
        tasks: prediction tasks of each database, most: as many distinct ones are written as `jaxrel.sample_task` lets through in eight
            tries for each.
        progress: called with the report so far, after each database and twice a second between.
        programs: folder in which compiled programs are kept for later processes; the command line gives one.
        threads: how many cores are used; None uses all. On a CPU each computes a database at a time, elsewhere each device does.

    Returns:
        What was written and skipped: of this process's own share, where there are several processes.

    Raises:
        UserError: one sentence, where an argument, the prior, the output folder or the disk is at fault; whole databases stay.
    """
    began = time.monotonic()
    out = Path(out)
    _check_arguments(seed, databases, start, prefix, chunk_rows, tasks)
    plan = _plan(source, catalog, seed, format, chunk_rows, tasks)
    indices = own_share(range(start, start + databases))
    todo = _outstanding(out, prefix, indices, plan.digest, overwrite)
    report = Report(len(indices), skipped=len(indices) - len(todo), seconds=time.monotonic() - began)
    root = seed_key(seed)

    idle: queue.SimpleQueue[Stages] = queue.SimpleQueue()  # one for each computing thread

    def compute(index: int) -> Made:
        program = idle.get()
        try:
            with _enough_memory(index):
                made = program(root, np.int32(index))
        finally:
            idle.put(program)
        if not made.database.fits:
            raise UserError(f"database {index} of seed {seed} does not fit its capacity; raise [capacity] in the configuration")
        return made

    def write(index: int, made: Made) -> tuple[int, int, int]:
        folder = out / f"{prefix}-{index}"
        with _enough_memory(index):  # of a database in passing, the rows are computed here
            _write(made, folder, plan, {**plan.digest, "index": index}, overwrite=folder.exists())
        return *_size(made.database, plan.catalog), sum(1 for _ in folder.glob("tasks/*/manifest.yaml"))

    def tick() -> None:
        nonlocal report
        report = dataclasses.replace(report, seconds=time.monotonic() - began)
        if progress is not None:
            progress(report)

    if out.is_dir():
        files.remove_partial(out, [f"{prefix}-{index}" for index in indices])
    if todo:
        _keep_freed_memory()
        with _output_folder(out), contextlib.ExitStack() as stack:
            devices, lock = own_devices(), threading.RLock()
            cores = threads or os.cpu_count() or 1
            writers = min(4, (cores + 2) // 2, len(todo))  # one at least waits for the disk now and then
            # One more than cores, unless told, for while one hands over what it made, XLA's idle threads would spin beside the writers.
            computers = min(cores + (threads is None) if devices[0].platform == "cpu" else len(devices), len(todo))
            if programs is None and min(len(devices), computers) > 1:
                programs = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrel-programs-"))
            kept = None if programs is None else Path(programs)
            each = [Stages(plan, kept, device, lock) for device in devices[:computers]]
            for turn in range(computers):
                idle.put(each[turn % len(each)])
            with _Pipeline(todo, compute, write, computers, writers) as pipeline:
                for rows, cells, found in pipeline.results(tick):
                    sums = {"written": 1, "rows": rows, "cells": cells, "tasks": found, "tasks_wanted": tasks}
                    report = dataclasses.replace(report, **{name: getattr(report, name) + more for name, more in sums.items()})
                    tick()
    return report


def _write(made: Made, folder: Path, plan: Plan, digest: dict[str, Any], overwrite: bool) -> None:
    from jaxrel.relbench import write_plain, write_relbench  # Parquet and YAML load only when something is written

    how: dict[str, Any] = {"digest": digest, "overwrite": overwrite, "rows": made.rows}
    if plan.format == "relbench":
        write_relbench(made.database, folder, plan.catalog, **how, tasks=made.tasks)
    else:
        write_plain(made.database, folder, plan.catalog, **how)
