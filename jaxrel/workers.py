"""A corpus by Ray: workers on one machine or on a cluster, each of which runs the engine on parts of the index range.

Ray starts the workers, hands out the parts, starts a worker again that died, and its cluster may grow; what a part is and how it is written
stays the engine's. So the corpus is that of one process, file for file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrel.engine import Report, Source, generate, outstanding
from jaxrel.errors import UserError
from jaxrel.presets import Preset

__all__ = ["generate_on_ray"]

_PARTS = 4  # a worker, so that none waits long for the slowest at the end
_LEAST = 4  # databases of a part where there are enough: each part costs a look at the folder and the loading of programs
_WAIT = 20  # seconds for the head of a cluster to answer
_TRIES = 2  # more of a part whose worker died


def _import_ray() -> Any:
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise UserError("Ray is not installed; install it with: pip install 'jaxrel[ray]'") from error
    return ray


def _parts(todo: Sequence[int], workers: int) -> list[range]:
    """Ranges that hold what is to be done, about `_PARTS` a worker.

    Example:
        >>> _parts([0, 1, 2, 3, 8, 9], 2)
        [range(0, 3), range(3, 10)]
    """
    size = max(min(_LEAST, -(-len(todo) // workers)), -(-len(todo) // (_PARTS * workers)))
    return [range(todo[i], todo[min(i + size, len(todo)) - 1] + 1) for i in range(0, len(todo), size)]


def _start(ray: Any, workers: int | None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one of this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"configure_logging": False, "log_to_driver": False, "logging_level": "error"}
    address = os.environ.get("RAY_ADDRESS")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():  # Ray itself asks for minutes
            socket.create_connection((host, int(port)), _WAIT).close()
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # JAX fears every fork; these become other programs at once
            if address:
                ray.init(**quiet)
            else:
                ray.init("local", num_cpus=max(workers or 0, os.cpu_count() or 1), include_dashboard=False, **quiet)
    except Exception as error:
        where = f"the Ray cluster of RAY_ADDRESS={address} cannot be joined" if address else "Ray cannot be started on this machine"
        raise UserError(f"{where}: {str(error).strip() or type(error).__name__}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray takes it


def _on_host(source: Source) -> Source:
    """The source as numpy arrays, so that a worker sees to its settings before JAX starts there."""
    numbers, rest = (source.prior, source.capacity) if isinstance(source, Preset) else source
    host: Source = (jax.device_get(numbers), rest)  # type: ignore[assignment]
    return host


def _lot(ray: Any, workers: int | None) -> tuple[int, int, int]:
    """Workers, and what each of them has for its own: cores and GPUs."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    accelerated = bool(importlib.metadata.entry_points(group="jax_plugins"))
    gpus = sum(int(node.get("GPU", 0)) for node in alive) if accelerated else 0
    cores = [int(node.get("CPU", 0)) for node in alive]
    most, what = (gpus, "GPUs") if gpus else (sum(cores), "cores")
    if workers is not None and workers > most:
        raise UserError(f"--workers: {workers} is more than the {most} {what} that Ray has here; use at most {most}")
    workers = workers or most
    return workers, max(1, min(sum(cores) // workers, max(cores))), int(gpus > 0)


class _Worker:
    """An actor: a process that runs the engine on one part after another, its programs compiled once."""

    def __init__(self, source: Source, out: Path, settings: dict[str, Any], cores: int) -> None:
        os.environ["PJRT_NPROC"] = str(cores)  # XLA's threads, where JAX has not started yet; those of Arrow Ray has bounded
        self._source, self._out, self._settings = source, out, settings

    def run(self, part: range) -> Report:
        return generate(self._source, self._out, start=part.start, databases=len(part), **self._settings)


def _reports(ray: Any, actors: Sequence[Any], parts: Sequence[range]) -> Iterator[Report]:
    """What the parts' runs report, as they end; raises the first error of one."""
    pool = ray.util.ActorPool(actors)
    for part in parts:
        pool.submit(lambda actor, part: actor.run.remote(part), part)
    while pool.has_next():
        try:
            yield pool.get_next_unordered()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"a Ray worker died ({reason}); whole databases are kept, the same call goes on from there") from error


def generate_on_ray(
    source: Source,
    out: str | os.PathLike[str],
    *,
    databases: int = 1,
    start: int = 0,
    workers: int | None = None,
    progress: Callable[[Report], None] | None = None,
    programs: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Report:
    """Write what `generate` writes, by the workers of a Ray cluster.

    The cluster is the one that the program has joined (``ray.init``), else that of the environment variable ``RAY_ADDRESS``, else one of
    this machine alone, for the time of the call. On a cluster all nodes have jaxrel installed in the same version, and ``out`` is a folder
    that all of them see.

    Args:
        source: as for `generate`.
        out: as for `generate`.
        databases: how many.
        start: index of the first.
        workers: how many processes compute; they share the cores equally. None is one a core; one a GPU where JAX has a plugin for them.
        progress: called with the report so far as parts of the range are done.
        programs: folder in which the workers keep compiled programs.
        settings: seed, prefix, format, catalog, overwrite, chunk_rows and tasks, as for `generate`.

    Returns:
        What was written and skipped by all workers together.

    Raises:
        UserError: where `generate` raises it, here or in a worker; where Ray is not installed, cannot be reached, or has too few cores.
    """
    began = time.monotonic()
    ray = _import_ray()
    out = Path(out).absolute()
    todo = outstanding(source, out, databases=databases, start=start, **settings)
    report = Report(databases, skipped=databases - len(todo), seconds=time.monotonic() - began)
    if not todo:
        return report
    settings |= {"programs": None if programs is None else Path(programs).absolute()}
    joined = ray.is_initialized()
    if not joined:
        _start(ray, workers)
    try:
        workers, cores, gpus = _lot(ray, workers)
        parts = _parts(todo, workers)
        remote = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=_TRIES, max_task_retries=_TRIES)(_Worker)
        settings |= {"threads": cores}
        actors = [remote.remote(_on_host(source), out, settings, cores) for _ in range(min(workers, len(parts)))]
        for done in _reports(ray, actors, parts):
            sums = {name: getattr(report, name) + getattr(done, name) for name in ("written", "rows", "cells", "tasks", "tasks_wanted")}
            report = dataclasses.replace(report, **sums, seconds=time.monotonic() - began)
            if progress is not None:
                progress(report)
    finally:
        if not joined:
            ray.shutdown()
    return report
