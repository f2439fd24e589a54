"""One line on a terminal: databases, rows, cells per second, time left. Away from a terminal, one line at the end."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from jaxrel.engine import Report

__all__ = ["Progress", "summary"]

_WIDTH = 24  # characters of the bar


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def summary(report: Report) -> str:
    """What a run did, in one line.

    Example:
        >>> summary(Report(databases=3, written=2, skipped=1, rows=4000, cells=30000, seconds=6.0))
        '2 databases written, 1 whole already, 4,000 rows, 30,000 cells in 6.0 s (5,000 cells/s)'
    """
    skipped = f", {report.skipped:,} whole already" if report.skipped else ""
    noun = "database" if report.written == 1 else "databases"
    tasks = f", {report.tasks:,} of {report.tasks_wanted:,} tasks" if report.tasks_wanted else ""
    return (
        f"{report.written:,} {noun} written{skipped}, {report.rows:,} rows, {report.cells:,} cells{tasks} in {report.seconds:.1f} s"
        f" ({report.cells_per_second:,.0f} cells/s)"
    )


class Progress:
    """Called with each report; ends with `close`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._first: tuple[float, int] | None = None  # when the first database was there, and how many were then

    def __call__(self, report: Report) -> None:
        if not self._live:
            return
        finished = report.written + report.skipped
        if self._first is None and report.written:
            self._first = (time.monotonic(), report.written)  # what came before is mostly compilation: it says nothing of the rest
        filled = _WIDTH * finished // report.databases
        bar = "█" * filled + "·" * (_WIDTH - filled)
        line = f"{bar} {finished:,}/{report.databases:,} databases, {report.rows:,} rows, {self._pace(report)}"
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()

    def _pace(self, report: Report) -> str:
        if self._first is None:
            return f"compiling, {_duration(report.seconds)}"
        began, count = self._first
        left = report.databases - report.skipped - report.written
        pace = f"{report.cells_per_second:,.0f} cells/s"
        if report.written > count and left:
            pace += f", {_duration(left * (time.monotonic() - began) / (report.written - count))} left"
        return pace

    def close(self, line: str = "") -> None:
        """Clear the bar; write a last line."""
        if self._live:
            self._stream.write("\r\x1b[K")
        if line:
            self._stream.write(f"{line}\n")
        self._stream.flush()
