"""The engine: addressable, resumable, never half a database, whatever stops it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrel import engine, files, presets, stages
from jaxrel.errors import UserError

MANY = 40  # databases of the runs that are stopped on the way


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "jaxrel", "generate", "--preset", "tiny", "--out", str(out), "--databases", str(MANY), *more]


def start_and_wait_for(out: Path, databases: int) -> subprocess.Popen[str]:
    """Start the command line and return once it has written a few databases."""
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(list(out.glob("jaxrel-*"))) < databases:
        assert process.poll() is None, f"ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "no databases within 300 s"
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    report = engine.generate(presets.load("tiny"), out, databases=MANY)
    assert (report.written, report.skipped) == (MANY, 0)
    return out


def test_report_counts_what_was_written(corpus: Path, tmp_path: Path, tiny: Any) -> None:
    import pyarrow.parquet as pq

    seen: list[engine.Report] = []
    report = engine.generate(tiny, tmp_path / "a" / "b", databases=2, progress=seen.append)
    tables = [pq.read_metadata(path) for path in (tmp_path / "a" / "b").glob("*/db/*.parquet")]
    assert report.rows == sum(table.num_rows for table in tables)
    assert report.cells == sum(table.num_rows * table.num_columns for table in tables)
    assert seen[-1].written == 2 and report.seconds > 0 and report.cells_per_second > 0


def test_a_database_alone_is_the_one_of_the_corpus(corpus: Path, tmp_path: Path, tiny: Any) -> None:
    engine.generate(tiny, tmp_path, databases=1, start=7)
    assert files_of(tmp_path / "jaxrel-7") == files_of(corpus / "jaxrel-7")
    assert [path.name for path in tmp_path.iterdir()] == ["jaxrel-7"]


def test_databases_differ(corpus: Path) -> None:
    shapes = {frozenset(path.name for path in (corpus / f"jaxrel-{i}" / "db").iterdir()) for i in range(MANY)}
    assert len(shapes) > MANY // 2


def test_no_file_tells_when_or_where_it_was_made(corpus: Path) -> None:
    traces = [str(corpus), os.uname().nodename, f"{Path.home()}/", time.strftime("%Y-%m-%d")]
    telling = [trace.encode() for trace in traces if len(trace) >= 6]  # a shorter one stands in random bytes by chance
    for path in corpus.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [trace for trace in telling if trace in content], f"{path.name} tells where or when"


def test_a_second_run_skips_and_changes_nothing(corpus: Path, tiny: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    report = engine.generate(tiny, corpus, databases=MANY)
    assert (report.written, report.skipped, report.cells) == (0, MANY, 0)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_killed_and_resumed_equals_uninterrupted(corpus: Path, tmp_path: Path, tiny: Any) -> None:
    process = start_and_wait_for(tmp_path, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert 3 <= len(whole) < MANY, "the run was not stopped on the way"
    for folder in whole:
        assert files_of(folder) == files_of(corpus / folder.name)
    (tmp_path / f".jaxrel-{MANY - 1}.partial-{files._HOST}-4194303").mkdir()  # what a killed process may leave; no process has that number
    report = engine.generate(tiny, tmp_path, databases=MANY)
    assert report.skipped == len(whole) and report.written == MANY - len(whole)
    assert files_of(tmp_path) == files_of(corpus)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_cleanly(corpus: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start_and_wait_for(tmp_path, 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.count("\n") == 1 and stderr.startswith("jaxrel: stopped")
    for folder in tmp_path.iterdir():
        assert files_of(folder) == files_of(corpus / folder.name), "a folder is not whole"


def test_another_run_is_refused_and_replaced_only_on_request(tmp_path: Path, tiny: Any) -> None:
    engine.generate(tiny, tmp_path, databases=1)
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"jaxrel-0: holds a database of another run \(another seed\).*--overwrite"):
        engine.generate(tiny, tmp_path, databases=2, seed=1)
    assert files_of(tmp_path) == before, "the refused run left something"
    assert engine.generate(tiny, tmp_path, databases=1, seed=1, overwrite=True).written == 1
    assert files_of(tmp_path) != before
    assert engine.generate(tiny, tmp_path, databases=1, seed=1).skipped == 1


def test_the_prior_is_part_of_what_a_run_is(tmp_path: Path, tiny: Any) -> None:
    engine.generate(tiny, tmp_path)
    scm = tiny.prior.scm
    other = dataclasses.replace(tiny.prior, scm=dataclasses.replace(scm, noise=dataclasses.replace(scm.noise, high=scm.noise.high * 0.5)))
    with pytest.raises(UserError, match="another prior"):
        engine.generate((other, tiny.capacity), tmp_path)
    roomier = dataclasses.replace(tiny.capacity, rows=2 * tiny.capacity.rows)  # capacity never changes a database
    assert engine.generate((tiny.prior, roomier), tmp_path).skipped == 1


def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "jaxrel-0").mkdir()
    (tmp_path / "jaxrel-0" / "thesis.tex").write_text("three years")
    with pytest.raises(UserError, match="not written by jaxrel"):
        engine.generate(tiny, tmp_path, overwrite=True)
    assert (tmp_path / "jaxrel-0" / "thesis.tex").read_text() == "three years"


def test_a_folder_that_cannot_be_written(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        engine.generate(tiny, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(corpus: Path, tmp_path: Path, tiny: Any) -> None:
    """The limit on file sizes stands for a full disk: it fails the same write in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(UserError, match=r"jaxrel-\d: cannot be written .*free some space"):
            engine.generate(tiny, tmp_path / "new" / "out", databases=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_an_error(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clipped(stages.Stages):
        def __call__(self, *arguments: Any) -> Any:
            made = super().__call__(*arguments)
            return dataclasses.replace(made, database=dataclasses.replace(made.database, fits=np.bool_(False)))

    monkeypatch.setattr(engine, "Stages", Clipped)
    with pytest.raises(UserError, match="database 4 of seed 0 does not fit its capacity"):
        engine.generate(tiny, tmp_path / "out", start=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [{"seed": -1}, {"seed": 1 << 32}, {"databases": 0}, {"start": -1}, {"start": (1 << 31) - 1, "databases": 2}, {"prefix": "a/b"},
     {"prefix": ""}, {"prefix": "my-synthetic"}, {"format": "csv"}],
)  # fmt: skip
def test_arguments_out_of_range(tmp_path: Path, tiny: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        engine.generate(tiny, tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_one_program_serves_every_seed_and_prior(corpus: Path, tmp_path: Path, tiny: Any) -> None:
    all_five = (stages._schema, stages._laws, stages._links, stages._scm, stages._simulate)
    before = [stage._cache_size() for stage in all_five]
    scm = tiny.prior.scm
    other = dataclasses.replace(tiny.prior, scm=dataclasses.replace(scm, noise=dataclasses.replace(scm.noise, high=scm.noise.high * 0.5)))
    engine.generate((other, tiny.capacity), tmp_path, seed=123, databases=3)
    assert min(before) > 0, "the corpus was made by other programs"
    assert before == [stage._cache_size() for stage in all_five]  # other tests of this process may have compiled other capacities


def test_programs_are_kept_loaded_and_mended(tmp_path: Path) -> None:
    """In a process of its own: programs are kept where JAX keeps none."""
    script = """
import sys
from functools import partial
from pathlib import Path
import jax, numpy as np
from jaxrel.programs import compile_or_load
traces = []
@jax.jit
def double(x):
    traces.append(1)
    return {"twice": 2 * x}
folder = Path(sys.argv[1])
@partial(jax.jit, static_argnames="power")
def raised(doubled, power):
    return doubled["twice"] ** power
x = np.ones(3, np.float32)
programs = compile_or_load({"double": double, "raised": raised}, {"double": ("x",), "raised": ("double",)}, {"x": x}, {"power": 2}, folder)
doubled = programs["double"](np.full(3, 4, np.float32))
assert doubled["twice"].tolist() == [8, 8, 8] and programs["raised"](doubled).tolist() == [64, 64, 64]
print(len(traces), *sorted(path.suffix for path in folder.iterdir()))
"""

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "kept")], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == "1 .program .program"
    assert run() == "0 .program .program"
    for kept in (tmp_path / "kept").iterdir():
        kept.write_bytes(kept.read_bytes()[:50])
    assert run() == "1 .program .program"
    assert run() == "0 .program .program"


def test_a_kept_program_writes_the_same_files(corpus: Path, tmp_path: Path) -> None:
    """The corpus was made by the program that JAX compiled in this process."""
    for _ in range(2):  # compiled or loaded, then loaded
        subprocess.run([*command(tmp_path), "--quiet", "--overwrite"], check=True, capture_output=True)
        assert files_of(tmp_path) == files_of(corpus)


def test_all_devices_are_used_and_write_the_same_files(corpus: Path, tmp_path: Path) -> None:
    """Two simulated ones: what the first compiles, the second loads."""
    script = """
import os, sys
os.cpu_count = lambda: 2
from jaxrel import engine, presets, stages
used = set()
fetched = stages._fetched
def watched(database, device):
    used.update(database.values.devices())
    return fetched(database, device)
stages._fetched = watched
engine.generate(presets.load("tiny"), sys.argv[1], databases=4, programs=sys.argv[2])
print(len(used))
"""
    kept, out = tmp_path / "kept", tmp_path / "out"
    two = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", script, out, kept], env=two, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "2", "a device was idle"
    assert len(list(kept.iterdir())) == 5, "each stage is compiled once"
    written = files_of(out)
    assert written == {name: digest for name, digest in files_of(corpus).items() if name in written} and len(list(out.iterdir())) == 4


def test_a_run_compiles_five_programs_and_nothing_beside_them(tmp_path: Path) -> None:
    code = f"""
import logging, jax
jax.config.update("jax_log_compiles", True)
names = []
class Listen(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("Compiling "):
            names.append(record.getMessage().split()[1])
logging.getLogger("jax").addHandler(Listen())
import jaxrel
jaxrel.generate(jaxrel.presets.load("tiny"), {str(tmp_path / "out")!r}, databases=5)
print(sorted(names))
"""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["XDG_CACHE_HOME"]) / "xla")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == str([f"jit({name})" for name in ("_laws", "_links", "_schema", "_scm", "_simulate")])
