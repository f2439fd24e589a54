"""The command line: what it does, and one sentence for everything that it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrel import presets
from jaxrel.cli import main
from jaxrel.progress import Progress

SQL = """\
CREATE TABLE town (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL);
CREATE TABLE shop (id INT PRIMARY KEY, town_id INT REFERENCES {});
"""


def toml(old: str, new: str) -> Callable[[Path], list[str]]:
    """Arguments for a copy of the tiny preset with one place changed."""

    def make(folder: Path) -> list[str]:
        text = presets.path("tiny").read_text(encoding="utf-8")
        assert old in text
        (folder / "prior.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
        return ["--config", str(folder / "prior.toml")]

    return make


def sql(text: str, *more: str) -> Callable[[Path], list[str]]:
    """Arguments for a SQL file."""

    def make(folder: Path) -> list[str]:
        (folder / "given.sql").write_text(text, encoding="utf-8")
        return ["--sql", str(folder / "given.sql"), *more]

    return make


def plain(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(arguments)


MISTAKES = {
    "unknown preset": (plain("--preset", "tinny"), ["tinny", "tiny"]),
    "misspelt key": (toml("sink_drop", "sink_dorp"), ["prior.toml", "sink_dorp"]),
    "low above high": (toml("tables = { low = 2", "tables = { low = 5"), ["prior.toml", "schema.tables"]),
    "beyond capacity": (toml("rows = 4096", "rows = 1024"), ["prior.toml", "capacity.rows"]),
    "no TOML": (toml("[schema]", "[schema"), ["prior.toml"]),
    "no config file": (plain("--config", "nowhere.toml"), ["nowhere.toml"]),
    "no sql file": (plain("--sql", "nowhere.sql"), ["nowhere.sql"]),
    "no text": (sql("CREATE TABLE town (id INT PRIMARY KEY);\0"), ["given.sql", "UTF-8"]),
    "sql syntax": (sql("CREATE TABLE town (id INT PRIMARY KEY"), ["given.sql"]),
    "missing table": (sql(SQL.format("city")), ["given.sql", "city"]),
    "unsupported type": (sql("CREATE TABLE town (id INT PRIMARY KEY, area GEOMETRY)"), ["given.sql", "area"]),
    "rows of an unknown table": (sql(SQL.format("town"), "--rows", "village=3"), ["village"]),
    "rows twice": (sql(SQL.format("town"), "--rows", "town=3", "--rows", "town=4"), ["--rows", "town"]),
    "rows without a number": (sql(SQL.format("town"), "--rows", "town"), ["--rows", "TABLE=N"]),
    "rows without sql": (plain("--preset", "tiny", "--rows", "town=3"), ["--rows", "--sql"]),
    "scale of nothing": (sql(SQL.format("town"), "--scale", "0"), ["--scale"]),
    "unknown dialect": (sql(SQL.format("town"), "--dialect", "cobol"), ["--dialect", "cobol"]),
    "two sources": (plain("--preset", "tiny", "--config", "x.toml"), ["--config", "--preset"]),
    "no databases": (plain("--preset", "tiny", "--databases", "0"), ["--databases"]),
    "negative seed": (plain("--preset", "tiny", "--seed", "-1"), ["--seed"]),
    "no folder name": (plain("--preset", "tiny", "--name", "a/b"), ["a/b"]),
    "unknown format": (plain("--preset", "tiny", "--format", "csv"), ["--format", "csv"]),
    "tasks without RelBench": (plain("--preset", "tiny", "--tasks", "2", "--format", "plain"), ["tasks", "--format relbench"]),
    "negative tasks": (plain("--preset", "tiny", "--tasks", "-2"), ["--tasks", "-2"]),
    "unknown executor": (plain("--executor", "slurm"), ["--executor", "slurm"]),
    "process without its executor": (plain("--process", "1"), ["--process", "--executor distributed"]),
    "workers without ray": (plain("--workers", "2"), ["--workers", "--executor ray"]),
    "process without coordinator": (
        plain("--executor", "distributed", "--process", "1", "--processes", "2"),
        ["--coordinator: missing", "go together"],
    ),
    "a process too many": (
        plain("--executor", "distributed", "--coordinator", "localhost:1234", "--processes", "2", "--process", "2"),
        ["--process", "2 is not one of the 2 processes 0…1"],
    ),
    "coordinator without port": (
        plain("--executor", "distributed", "--coordinator", "localhost", "--processes", "2", "--process", "1"),
        ["--coordinator", "localhost", "HOST:PORT"],
    ),
    "unknown option": (plain("--preset", "tiny", "--fast"), ["--fast"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = MISTAKES[mistake]
    given = tmp_path / "given"
    given.mkdir()
    arguments = make(given)
    assert main(["generate", "--out", str(tmp_path / "new" / "out"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxrel: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert [path.name for path in tmp_path.iterdir()] == ["given"], "it left something behind"


OTHERS = [[], ["make"], ["generate"], ["inspect", "nowhere"], ["validate", "nowhere"], ["validate", "--dependencies"], ["presets", "tinny"]]


@pytest.mark.parametrize("arguments", OTHERS)
def test_other_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxrel: ") and err.count("\n") == 1, err


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["generate", "--preset", "tiny", "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == ""


def test_generate_validate_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["generate", "--preset", "tiny", "--out", str(out), "--databases", "2", "--start", "3", "--name", "demo"]) == 0
    printed, err = capsys.readouterr()
    assert printed == "" and err.startswith("2 databases written, ") and err.count("\n") == 1
    assert sorted(path.name for path in out.iterdir()) == ["demo-3", "demo-4"]
    assert main(["validate", str(out)]) == 0
    assert capsys.readouterr().out == "2 databases, every rule holds\n"
    assert main(["inspect", str(out / "demo-3")]) == 0
    described = capsys.readouterr().out
    for table in (out / "demo-3" / "db").iterdir():
        assert table.stem in described
    assert main(["inspect", str(out / "demo-3"), "--html", str(tmp_path / "page.html")]) == 0
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    broken = next((out / "demo-3" / "db").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["validate", str(out)]) == 1
    assert f"{out / 'demo-3'}: " in capsys.readouterr().out


def test_sql_names_the_folder_after_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    school = Path(__file__).parent.parent / "configs" / "school.sql"  # with the rows that another test asks for: the same programs
    arguments = sql(school.read_text(encoding="utf-8"), "--rows", "students=1000")(tmp_path)
    assert main(["generate", "--out", str(tmp_path / "out"), "--quiet", *arguments]) == 0
    assert capsys.readouterr() == ("", "")
    assert "students" in {path.stem for path in (tmp_path / "out" / "given-0" / "db").iterdir()}


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert {"default", "hoppe", "plurel", "tiny"} <= set(capsys.readouterr().out.split())
    assert main(["presets", "tiny"]) == 0
    assert capsys.readouterr().out == presets.path("tiny").read_text(encoding="utf-8")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["generate", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0 and capsys.readouterr().out


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "jaxrel", "presets", "tinny"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_the_bar_shows_databases_pace_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from jaxrel.engine import Report

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter([10.0, 12.0])
    monkeypatch.setattr("jaxrel.progress.time.monotonic", lambda: next(clock, 12.0))
    terminal = Terminal()
    progress = Progress(terminal)
    progress(Report(10, seconds=3.0))
    progress(Report(10, written=1, rows=100, cells=1000, seconds=5.0))
    progress(Report(10, written=2, rows=200, cells=2000, seconds=7.0))
    progress.close("done")
    shown = terminal.getvalue()
    for word in ("compiling", "2/10 databases", "200 rows", "286 cells/s", "0:16 left", "done\n"):
        assert word in shown
