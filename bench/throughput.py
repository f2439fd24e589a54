"""Throughput of every preset: compile, warm run, files and peak memory, each on its own; a peer and a yardstick in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import answers, peak_mib, rows_and_cells, timed

HERE = Path(__file__).resolve().parent
PLUREL = """\
plurel 1.1.0 is measured too where it can be imported, or by a Python that --plurel-python names. Its wheel asks for Python 3.12, but it
runs on 3.11. In an environment of its own, a CPU build of torch first:
  python -m venv peer
  peer/bin/pip install torch                 (any CPU build will do)
  peer/bin/pip install pytorch-frame networkx numpy pandas sqlalchemy tqdm relbench==1.1.0
  peer/bin/pip install --no-deps --ignore-requires-python plurel==1.1.0
  python bench/throughput.py --plurel-python peer/bin/python
"""


def measure(preset_name: str, repeats: int, batch: int, threads: int) -> dict[str, Any]:
    """Figures of one preset, in this process, without any persistent compilation cache."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    import jaxrel

    preset = jaxrel.presets.load(preset_name)

    def one(key: jax.Array) -> Any:
        return jaxrel.sample_database(key, preset.prior, preset.capacity)

    program = jax.jit(jax.vmap(one) if batch > 1 else one, compiler_options=jaxrel.COMPILER_OPTIONS)
    keys = jax.random.split(jax.random.key(0), (repeats + 1) * batch).reshape(repeats + 1, batch)
    keys = keys if batch > 1 else keys[:, 0]
    cold, _ = timed(program, keys[0])
    runs = [timed(program, key) for key in keys[1:]]
    sizes = [(seconds, *rows_and_cells(db)) for seconds, db in runs]
    rates = []

    def run(key: jax.Array) -> None:
        jax.block_until_ready(program(key))

    for _ in range(3):  # as the engine does on CPU: each thread takes the next database
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, keys[1:]))
        rates.append(sum(cells for _, _, cells in sizes) / (time.perf_counter() - began))
    written, alone = [], jax.jit(one, compiler_options=jaxrel.COMPILER_OPTIONS) if batch > 1 else program
    for i in range(min(repeats, 3)):
        db = alone(keys[1 + i] if batch == 1 else keys[1 + i, 0])
        folder = Path(tempfile.mkdtemp(prefix="jaxrel-bench-"))
        try:
            began = time.perf_counter()
            jaxrel.write_relbench(jax.device_get(db), folder / "bench-0")
            written.append(time.perf_counter() - began)
        finally:
            shutil.rmtree(folder)
    warm = statistics.median(seconds for seconds, _, _ in sizes)
    return {
        "preset": preset_name,
        "compile_s": max(cold - warm, 0.0),
        "warm_s": warm / batch,
        "cells_per_s": statistics.median(cells / seconds for seconds, _, cells in sizes),
        "cells_per_s_all_cores": statistics.median(rates),
        "rows_per_s": statistics.median(rows / seconds for seconds, rows, _ in sizes),
        "parquet_s": statistics.median(written),
        "peak_mib": peak_mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
    }


def _plurel_rate(python: str | None, databases: int) -> float | None:
    """Median cells per second of one plurel process, or None where it is not installed."""
    python = python or sys.executable
    if subprocess.run([python, "-c", "import plurel"], capture_output=True, check=False).returncode:
        return None
    return statistics.median(run["cells"] / run["seconds"] for run in answers([python, str(HERE / "peer_plurel.py"), str(databases)]))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=PLUREL, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="preset names (default: all)")
    parser.add_argument("--repeats", type=int, default=7, help="warm runs, each with another key; the median counts (default: 7)")
    parser.add_argument("--batch", type=int, default=1, help="databases side by side under vmap (default: 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="databases at a time in the second figure (default: the cores)")
    parser.add_argument("--plurel-python", metavar="PATH", help="a Python that has plurel 1.1.0")
    parser.add_argument("--plurel-databases", type=int, default=5, metavar="N", help="databases that plurel makes (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.repeats, arguments.batch, arguments.threads)))
        return

    import jax
    from reference import reference_rate

    import jaxrel

    device = jax.devices()[0]
    yardstick = reference_rate()
    peer = _plurel_rate(arguments.plurel_python, arguments.plurel_databases)
    flags = ["--repeats", str(arguments.repeats), "--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    names = arguments.presets or jaxrel.presets.names()
    figures = [answers([sys.executable, __file__, "--one", name, *flags])[0] for name in names]
    setting = {
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxrel": jaxrel.__version__,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "yardstick_node_cells_per_s": yardstick,
        "plurel_cells_per_s": peer,
    }
    if arguments.json:
        print(json.dumps({**setting, "presets": figures}, indent=1))
        return
    print(", ".join(f"{key} {value:,.0f}" if isinstance(value, float) else f"{key} {value}" for key, value in setting.items()))
    print("One database at a time, and as many as there are threads; a peer's process is one of one thread.")
    print("| preset | compile s | warm s | cells/s | rows/s | cells/s, all threads | ÷ plurel | ÷ yardstick | Parquet s | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for f in figures:
        ratio = "not installed" if peer is None else f"{f['cells_per_s_all_cores'] / peer:,.1f}"
        print(
            f"| {f['preset']} | {f['compile_s']:.1f} | {f['warm_s']:.3f} | {f['cells_per_s']:,.0f} | {f['rows_per_s']:,.0f} "
            f"| {f['cells_per_s_all_cores']:,.0f} | {ratio} | {f['cells_per_s_all_cores'] / yardstick:.3f} "
            f"| {f['parquet_s']:.3f} | {f['peak_mib']:,.0f} |"
        )


if __name__ == "__main__":
    main()
