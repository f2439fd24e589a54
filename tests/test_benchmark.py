"""A corpus with tasks: addressable, resumable, the same files whoever writes them, and loaded by the client."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_engine import files_of

from jaxrel import engine, files, stages
from jaxrel.progress import summary
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


def test_a_database_has_the_same_tasks_wherever_it_is_made(corpus: tuple[Path, engine.Report], tmp_path: Path, tiny: Any) -> None:
    out, _ = corpus
    before = stages._task._cache_size()
    assert engine.generate(tiny, tmp_path, start=2, tasks=TASKS, threads=1).written == 1
    assert files_of(tmp_path / "jaxrel-2") == files_of(out / "jaxrel-2")
    assert stages._task._cache_size() == before == 1, "traced again"
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
