"""What a first database waits for: seconds of a cold and of a warm process, and the programs that are compiled.

Each preset through the command line, ``python -m jaxrel generate``, in a fresh process whose program folder is empty; then in another that
finds the programs there. And in one process, by `jaxrel.generate` over some databases, the names of all programs that XLA compiles: as many
for one database as for all, or a database is compiled anew.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import answers, cost, table

_FINISHED = re.compile(r"Finished XLA compilation of (\S+) in ([0-9.e+-]+) sec")


def first_database(preset: str, cache: Path, name: str) -> dict[str, float]:
    """What a process costs that writes one database."""
    command = [sys.executable, "-m", "jaxrel", "generate", "--preset", preset, "--databases", "1", "--out", str(cache / name), "--quiet"]
    return cost(command, {"XDG_CACHE_HOME": str(cache)})


class _Finished(logging.Handler):
    """Programs that XLA has compiled, with their seconds, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.programs: list[tuple[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := _FINISHED.search(record.getMessage()):
            self.programs.append((found[1], float(found[2])))


def programs(preset: str, databases: int) -> dict[str, Any]:
    """Programs compiled for the first database, and for the others, in this process; their seconds by name."""
    import jax

    import jaxrel

    jax.config.update("jax_log_compiles", True)  # of all threads: the context manager is its own thread's
    handler = _Finished()
    logging.getLogger("jax").addHandler(handler)
    logging.getLogger("jax").propagate = False
    source = jaxrel.presets.load(preset)
    counts: list[int] = []
    with tempfile.TemporaryDirectory(prefix="jaxrel-bench-") as folder:
        for start, some in ((0, 1), (1, databases - 1)):
            if some:
                jaxrel.generate(source, folder, databases=some, start=start)
            counts.append(len(handler.programs) - sum(counts))
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for name, s in handler.programs:
        seconds[name].append(s)
    by_name = {name: {"times": len(all_of), "seconds": sum(all_of)} for name, all_of in seconds.items()}
    return {"first": counts[0], "others": counts[1], "databases": databases, "programs": by_name}


def measure(preset: str, databases: int) -> dict[str, Any]:
    """All figures of one preset."""
    with tempfile.TemporaryDirectory(prefix="jaxrel-bench-") as folder:
        cold, warm = (first_database(preset, Path(folder), f"out-{name}") for name in ("cold", "warm"))
        kept = [path.stat().st_size for path in Path(folder).rglob("*.program")]
    found = answers([sys.executable, __file__, "--one", preset, "--databases", str(databases)])[0]
    return {"preset": preset, "cold": cold, "warm": warm, "kept_programs": len(kept), "kept_mib": sum(kept) / 2**20, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="preset names (default: all)")
    parser.add_argument("--databases", type=int, default=8, help="databases over which programs are counted (default: 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(programs(arguments.one, arguments.databases)))
        return

    import jaxrel

    figures = [measure(name, arguments.databases) for name in arguments.presets or jaxrel.presets.names()]
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), "jaxrel": jaxrel.__version__, "presets": figures}, indent=1))
        return
    print(f"{os.cpu_count()} cores, jaxrel {jaxrel.__version__}; the command line in processes of its own")
    head = [
        "preset",
        "cold s",
        "CPU s",
        "warm s",
        "CPU s",
        "programs kept",
        "MiB",
        "compiled first",
        f"compiled for {arguments.databases - 1} more",
    ]
    rows = []
    for f in figures:
        numbers = [
            f"{f['cold']['s']:.1f}",
            f"{f['cold']['cpu_s']:.1f}",
            f"{f['warm']['s']:.2f}",
            f"{f['warm']['cpu_s']:.2f}",
            str(f["kept_programs"]),
            f"{f['kept_mib']:.1f}",
            str(f["first"]),
            str(f["others"]),
        ]
        rows.append([f["preset"], *numbers])
    print(table(head, rows))
    for f in figures:
        by_time = sorted(f["programs"].items(), key=lambda item: -item[1]["seconds"])
        words = [f"{name} {of['seconds']:.2f}" + (f" ({of['times']} times)" if of["times"] > 1 else "") for name, of in by_time]
        print(f"{f['preset']}, seconds of XLA by program: {', '.join(words)}")


if __name__ == "__main__":
    main()
