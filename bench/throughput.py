"""Throughput of every preset: compile, warm run, files and peak memory, each on its own; peers and a yardstick in the same run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import answers, cores, peak_mib, rows_and_cells, table, timed

HERE = Path(__file__).resolve().parent
PEERS = """\
Peers are measured too where they can be imported, or by the Pythons that --plurel-python and --tabicl-python name: environments of their
own, with a CPU build of torch first.

plurel 1.1.0, relational databases. Its wheel asks for Python 3.12, but it runs on 3.11:
  python -m venv peer
  peer/bin/pip install torch                 (any CPU build will do)
  peer/bin/pip install pytorch-frame networkx numpy pandas sqlalchemy tqdm relbench==1.1.0
  peer/bin/pip install --no-deps --ignore-requires-python plurel==1.1.0
  python bench/throughput.py --plurel-python peer/bin/python
tabicl 2.2.0, single tables:
  python -m venv single
  single/bin/pip install torch               (any CPU build will do)
  single/bin/pip install tabicl==2.2.0
  single/bin/pip install --no-deps xgboost   (its prior imports it)
  python bench/throughput.py --tabicl-python single/bin/python
"""


class _Memory:
    """Databases 1, 2, … of a corpus, made in memory by one program."""

    def __init__(self, preset: Any, repeats: int, batch: int) -> None:
        import jax
        import jax.numpy as jnp

        import jaxrel
        from jaxrel.random import named_key, reduce_key

        def one(key: jax.Array) -> Any:
            return jaxrel.sample_database(key, preset.prior, preset.capacity)

        self.one = jax.jit(one, compiler_options=jaxrel.COMPILER_OPTIONS)
        self.program = jax.jit(jax.vmap(one), compiler_options=jaxrel.COMPILER_OPTIONS) if batch > 1 else self.one
        root = reduce_key(jax.random.key(0, impl="threefry2x32"))  # the databases of seed 0, as the engine writes them
        each = [named_key(root, "database", i) for i in range((repeats + 1) * batch)]
        self.first, *self.keys = [jnp.stack(each[i : i + batch]) if batch > 1 else each[i] for i in range(0, len(each), batch)]
        self.singles = each[batch:]

    def rate(self, threads: int, cells: int) -> float:
        """Cells per second of all keys: each thread takes the next database, as the engine does on a CPU."""
        import jax

        def make(key: jax.Array) -> None:
            jax.block_until_ready(self.program(key))

        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(make, self.keys))
        return cells / (time.perf_counter() - began)


def _seconds_to_disk(databases: list[Any], folder: Path) -> float:
    """Median seconds that a database takes from arrays to files."""
    import jax

    import jaxrel

    seconds = []
    for i, db in enumerate(databases):
        began = time.perf_counter()
        jaxrel.write_relbench(jax.device_get(db), folder / f"bench-{i}")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _by_turns(
    memory: _Memory, threads: int, cells: int, preset: Any, start: int, databases: int, folder: Path
) -> tuple[float, float, float]:
    """Cells per second of all cores in memory, and from nothing to files by `jaxrel.generate`, of the same databases, and their ratio.

    Five times by turns, since a shared machine changes its pace; the medians. The programs are compiled before.
    """
    import jaxrel

    pairs = []
    jaxrel.generate(preset, folder, prefix="first")
    for i in range(5):
        in_memory = memory.rate(threads, cells)
        pairs.append((in_memory, jaxrel.generate(preset, folder, start=start, databases=databases, prefix=f"run{i}").cells_per_second))
    ratio = statistics.median(disk / in_memory for in_memory, disk in pairs)
    return statistics.median(x for x, _ in pairs), statistics.median(x for _, x in pairs), ratio


def measure(
    preset_name: str, repeats: int, batch: int, threads: int, with_numpy: bool, rows: int | None, with_files: bool
) -> dict[str, Any]:
    """Figures of one preset, in this process, without any persistent compilation cache."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    import jaxrel

    preset = jaxrel.presets.load(preset_name)
    if rows:
        preset = dataclasses.replace(preset, capacity=dataclasses.replace(preset.capacity, rows=rows))
    memory = _Memory(preset, repeats, batch)
    cold = timed(memory.program, memory.first)[0]

    def one_run(key: jax.Array) -> tuple[float, int, int]:  # what it made is let go of: a batch may fill the device
        seconds, db = timed(memory.program, key)
        return seconds, *rows_and_cells(db)

    sizes = [one_run(key) for key in memory.keys]
    warm = statistics.median(seconds for seconds, _, _ in sizes)
    figures = {
        "preset": preset_name,
        "compile_s": max(cold - warm, 0.0),
        "warm_s": warm / batch,
        "cells_per_s": statistics.median(cells / seconds for seconds, _, cells in sizes),
        "rows_per_s": statistics.median(rows / seconds for seconds, rows, _ in sizes),
    }
    if not with_files:
        return figures
    made, databases = sum(cells for _, _, cells in sizes), repeats * batch
    # One folder until the end: for half a minute after files were deleted, ext4 passes by their inodes, one by one, at every new file.
    with tempfile.TemporaryDirectory(prefix="jaxrel-bench-") as folder:
        figures["parquet_s"] = _seconds_to_disk([memory.one(key) for key in memory.singles[:3]], Path(folder))
        figures["peak_mib"] = peak_mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        in_memory, to_parquet, ratio = _by_turns(memory, threads, made, preset, batch, databases, Path(folder))
    figures |= {"cells_per_s_all_cores": in_memory, "cells_per_s_to_parquet": to_parquet, "parquet_ratio": ratio}
    if with_numpy:
        from numpy_kernel import numpy_rate

        figures["cells_per_s_numpy"] = numpy_rate([jax.device_get(memory.one(key)) for key in memory.singles[:repeats]])
    return figures


def _peer_rates(package: str, python: str | None, arguments: list[str], processes: int) -> tuple[float, float] | None:
    """Cells per second of one process of a peer, and of several at a time, summed; None where it is not installed."""
    python = python or sys.executable
    if subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        return None

    def one(process: int) -> float:
        command = [python, str(HERE / f"peer_{package}.py"), *arguments, "--first", str(1000 * process)]
        return statistics.median(made["cells"] / made["seconds"] for made in answers(command))

    with ThreadPoolExecutor(processes) as pool:
        return one(0), sum(pool.map(one, range(processes)))


def _ratio(rate: float, peer: float | None) -> str:
    return "not installed" if peer is None else f"{rate / peer:,.1f}"


def report(setting: dict[str, Any], figures: list[dict[str, Any]]) -> str:
    """A table of all presets."""
    in_memory = "parquet_s" not in figures[0]
    head = ["preset", "compile s", "warm s", "cells/s", "rows/s"]
    if not in_memory:
        head += ["cells/s, all threads", "÷ yardstick", "to Parquet, cells/s", "÷ in memory", "Parquet s", "peak MiB"]
        head += ["÷ plurel, one process", "÷ plurel, all cores"]
        head += ["÷ tabicl, one process"] if setting["tabicl_cells_per_s"] else []
        head += ["÷ NumPy"] if "cells_per_s_numpy" in figures[0] else []
    lines = []
    for f in figures:
        one = f["cells_per_s"]
        values = {
            "preset": f["preset"],
            "compile s": f"{f['compile_s']:.1f}",
            "warm s": f"{f['warm_s']:.4f}",
            "cells/s": f"{one:,.0f}",
            "rows/s": f"{f['rows_per_s']:,.0f}",
        }
        if not in_memory:
            every = f["cells_per_s_all_cores"]
            values |= {
                "cells/s, all threads": f"{every:,.0f}",
                "÷ yardstick": f"{every / setting['yardstick_node_cells_per_s']:.3f}",
                "to Parquet, cells/s": f"{f['cells_per_s_to_parquet']:,.0f}",
                "÷ in memory": f"{f['parquet_ratio']:.2f}",
                "Parquet s": f"{f['parquet_s']:.3f}",
                "peak MiB": f"{f['peak_mib']:,.0f}",
                "÷ plurel, one process": _ratio(one, setting["plurel_cells_per_s"]),
                "÷ plurel, all cores": _ratio(every, setting["plurel_cells_per_s_all_cores"]),
                "÷ tabicl, one process": _ratio(one, setting["tabicl_cells_per_s"]),
                "÷ NumPy": _ratio(one, f.get("cells_per_s_numpy")),
            }
        lines.append([values[name] for name in head])
    return table(head, lines)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=PEERS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="preset names (default: all)")
    parser.add_argument("--repeats", type=int, default=12, help="warm runs, each of another database; the median counts (default: 12)")
    parser.add_argument("--batch", type=int, default=1, help="databases side by side under vmap (default: 1)")
    parser.add_argument("--rows", type=int, help="rows of the capacity, where the preset's are more than the memory holds so often")
    parser.add_argument("--in-memory", action="store_true", help="one batch at a time in memory alone, as it counts on an accelerator")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="databases at a time in the second figure (default: the cores)")
    parser.add_argument("--numpy", action="store_true", help="the kernel's work in plain NumPy too, on one core")
    parser.add_argument("--plurel-python", metavar="PATH", help="a Python that has plurel 1.1.0")
    parser.add_argument("--plurel-databases", type=int, default=5, metavar="N", help="databases of a process of plurel (default: 5)")
    parser.add_argument("--tabicl-python", metavar="PATH", help="a Python that has tabicl 2.2.0")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        a = arguments
        print(json.dumps(measure(a.one, a.repeats, a.batch, a.threads, a.numpy, a.rows, not a.in_memory)))
        return

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process holds the accelerator too, while each preset's runs
    import jax
    from reference import reference_rate

    import jaxrel

    device = jax.devices()[0]
    yardstick, processes = reference_rate(), len(cores())
    plurel = tabicl = None
    if not arguments.in_memory:
        plurel = _peer_rates("plurel", arguments.plurel_python, [str(arguments.plurel_databases)], processes)
        tabicl = _peer_rates("tabicl", arguments.tabicl_python, ["9"], processes)
    flags = ["--repeats", str(arguments.repeats), "--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    flags += ["--numpy"] if arguments.numpy else []
    flags += ["--rows", str(arguments.rows)] if arguments.rows else []
    flags += ["--in-memory"] if arguments.in_memory else []
    names = arguments.presets or jaxrel.presets.names()
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # NumPy's; XLA takes no notice
    figures = [answers([sys.executable, __file__, "--one", name, *flags], one_thread)[0] for name in names]
    setting = {
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxrel": jaxrel.__version__,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "yardstick_node_cells_per_s": yardstick,
    }
    for name, rates in (("plurel", plurel), ("tabicl", tabicl)):
        setting |= {f"{name}_cells_per_s": rates and rates[0], f"{name}_cells_per_s_all_cores": rates and rates[1]}
    if arguments.json:
        print(json.dumps({**setting, "presets": figures}, indent=1))
        return
    for name in ("plurel", "tabicl"):
        if setting[f"{name}_cells_per_s"] is None and not arguments.in_memory:
            print(f"{name} is not installed: no figure; --help says how to install it, and --{name}-python where it is")
    print(", ".join(f"{key} {value:,.0f}" if isinstance(value, float) else f"{key} {value}" for key, value in setting.items()))
    if not arguments.in_memory:
        print("One database at a time, and as many as there are threads; peers: one process of one thread, and one for each core.")
    print(report(setting, figures))


if __name__ == "__main__":
    main()
