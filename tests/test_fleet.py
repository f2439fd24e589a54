"""Several devices, several processes: the same databases as one device and one process make."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sampled import databases, tables
from test_engine import files_of
from test_promises import assert_close

import jaxrel
from jaxrel import processes, workers
from jaxrel.errors import UserError
from jaxrel.types import TILE

CORPUS = 12  # databases of seed 0 that one process, two processes and Ray's workers write
CACHE = Path(os.environ["XDG_CACHE_HOME"])


def on_eight_devices(what: str, file: Path) -> dict[str, Any]:
    """Results of `on_eight_devices`."""
    script = Path(__file__).with_name("on_eight_devices.py")
    env = {"JAX_COMPILATION_CACHE_DIR": str(CACHE / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # compiled without optimisation, in half of the time: it rounds differently, and decides nothing else
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env["XLA_FLAGS"] += " --xla_disable_hlo_passes=cpu-parallel-task-assigner"
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, script, what, file], env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_eight_devices("batches", tmp_path_factory.mktemp("eight") / "batches")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    out = tmp_path_factory.mktemp("one")
    command(out, "--quiet").check_returncode()
    return out


def arguments(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "jaxrel", "generate", "--preset", "tiny", "--databases", str(CORPUS), "--out", str(out), *more]


def command(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(out, *more), capture_output=True, text=True, check=False)


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


# ---------------------------------------------------------------- devices


def test_eight_devices_sample_what_one_does(batches: dict[str, Any]) -> None:
    db = batches["of ROOT"]
    assert_close(db, jax.tree.map(lambda x: x[: len(db.values)], databases("tiny")), most=1 / 2000)  # differently compiled


def test_a_batch_is_shared_equally_or_refused(tiny: Any) -> None:
    class Six:
        size = 6

    for count, words in ((8, "8 databases .* 6 devices .* use 6 or 12"), (4, "use 6$"), (0, "count: 0 is less than 1")):
        with pytest.raises(ValueError, match=words):
            jaxrel.sample_databases(jax.random.key(0), 0, count, tiny.prior, tiny.capacity, Six())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_a_batch_in_memory_is_what_is_written(batches: dict[str, Any], corpus: Path) -> None:
    import pyarrow.parquet as pq

    cells, wrong = 0, 0
    for i in range(10):
        made = jaxrel.to_arrow(jax.tree.map(lambda x, i=i: x[i], batches["of seed 0"]))
        written = {path.stem: pq.read_table(path) for path in (corpus / f"jaxrel-{2 + i}" / "db").iterdir()}
        assert made.keys() == written.keys()
        for name, table in made.items():
            assert table.column_names == written[name].column_names
            for ours, theirs in zip(table.to_pandas().items(), written[name].to_pandas().items(), strict=True):
                (column, a), (_, b) = ours, theirs
                cells += len(a)
                if a.dtype.kind == "f":
                    np.testing.assert_array_equal(a.isna(), b.isna(), err_msg=column)
                    wrong += int((np.abs(a - b) > 1e-4 * b.std()).sum())
                else:
                    wrong += int((~((a == b) | (a.isna() & b.isna()))).sum())
    assert cells > 30_000 and wrong <= cells / 2_000, f"{wrong} of {cells} cells differ"


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_chunks_of_a_table_on_other_devices_are_its_rows(tmp_path: Path) -> None:
    found = on_eight_devices("chunks", tmp_path / "chunks")
    whole, longest = found["whole"], 0
    of = {table.index: table for table in tables(whole)}
    for i, (t, tile) in enumerate(found["tiles"]):
        table, longest = of[t], max(longest, tile)
        size = min(TILE, table.values.shape[1] - tile * TILE)
        here = slice(tile * TILE, tile * TILE + size)
        for chunks in (found["chunks"], found["moved"]):
            np.testing.assert_array_equal(chunks.values[i, : len(table.values), :size], table.values[:, here])
            np.testing.assert_array_equal(chunks.missing[i, : len(table.values), :size], table.missing[:, here])
            np.testing.assert_array_equal(chunks.time[i, :size], table.time[here])
    assert longest, "no table has two tiles"


# ---------------------------------------------------------------- processes


def test_shares_are_contiguous_and_cover_the_range() -> None:
    for count in (0, 1, 7, 12):
        for parts in (1, 3, 16):
            shares = [processes.share(range(5, 5 + count), part, parts) for part in range(parts)]
            assert [i for share in shares for i in share] == list(range(5, 5 + count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--process", "1"], ["not all processes", "2 s"]),  # nobody listens there
        (["--process", "0"], ["not all processes", "2 s"]),  # nobody comes
    ],
)
def test_processes_that_do_not_meet_say_so(more: list[str], words: list[str], tmp_path: Path) -> None:
    coordinator = ["--coordinator", f"localhost:{free_port()}", "--processes", "2", "--timeout", "2"]
    done = command(tmp_path / "out", "--executor", "distributed", *coordinator, *more)
    assert done.returncode == 2, done
    assert done.stderr.startswith("jaxrel: localhost:") and done.stderr.count("\n") == 1 and done.stdout == ""
    assert all(word in done.stderr for word in words) and not list(tmp_path.iterdir())


def test_a_port_in_use_and_no_cluster_say_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as server, pytest.raises(UserError, match="cannot listen on port .*choose another"):
        processes.connect(f"localhost:{server.getsockname()[1]}", 2, 0)
    alone = command(tmp_path / "out", "--executor", "distributed", "--timeout", "20")
    assert alone.returncode == 2 and alone.stderr.count("\n") == 1 and "give --coordinator, --processes and --process" in alone.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_two_processes_write_the_corpus_of_one(corpus: Path, tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "new" / "out"
    joined = ["--executor", "distributed", "--coordinator", f"localhost:{port}", "--processes", "2", "--process"]
    both = [subprocess.Popen(arguments(out, *joined, str(i)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(2)]
    for process in both:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0 and stderr.startswith(f"{CORPUS // 2} databases written, "), stderr
    assert files_of(out) == files_of(corpus)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in corpus.iterdir())


# ---------------------------------------------------------------- Ray


def test_without_ray_a_sentence_says_what_to_install(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'jaxrel\[ray\]'"):
        jaxrel.generate_on_ray(tiny, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_a_sentence(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="the Ray cluster of RAY_ADDRESS=127.* cannot be joined: .*refused"):
        jaxrel.generate_on_ray(tiny, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_parts_hold_what_is_to_be_done_and_are_neither_tiny_nor_few() -> None:
    for todo in (range(1), range(3), range(100), [*range(10), *range(50, 90)]):
        for count in (1, 2, 8):
            parts = workers._parts(list(todo), count)
            assert [i for part in parts for i in part if i in todo] == list(todo)
            assert len(parts) <= 4 * count and len(parts) >= min(count, len(todo) // 4)


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_two_workers_of_ray_write_the_corpus_of_one_process(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    done = command(tmp_path, "--executor", "ray", "--workers", "2")
    assert done.returncode == 0 and done.stderr.startswith(f"{CORPUS} databases written, ") and done.stderr.count("\n") == 1, done
    assert files_of(tmp_path) == files_of(corpus)
    again = command(tmp_path, "--executor", "ray", "--workers", "2")
    assert again.returncode == 0 and f"{CORPUS} whole already" in again.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_a_mistake_of_a_worker_of_ray_is_its_sentence(tmp_path: Path, tiny: Any) -> None:
    """In a cluster of our own, which stays; the seed is one that no run takes, past the checks of the process that asks."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    workers._start(ray, 2)
    try:
        worker = ray.remote(workers._Worker).remote(workers._on_host(tiny), tmp_path, {"seed": -1}, 1)
        with pytest.raises(UserError, match=r"^seed: -1 is outside 0…4294967295$"):
            list(workers._reports(ray, [worker], [range(2)]))
        with pytest.raises(UserError, match="--workers: 100000 is more than the"):
            jaxrel.generate_on_ray(tiny, tmp_path, workers=100_000)
        reports: list[Any] = []
        kept = CACHE / "jaxrel" / "programs"
        report = jaxrel.generate_on_ray(tiny, tmp_path, databases=2, workers=1, progress=reports.append, programs=kept)
        assert report.written == 2 and reports[-1] == report and ray.is_initialized()
    finally:
        ray.shutdown()
