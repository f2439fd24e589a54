"""How near each preset comes to what the machine could do: cells per second against the roofline of products, activations and memory.

A cell is one value of a key, time or feature column of a real row. What a cell needs is counted from the arrays of the very databases that
are timed (`work.py`): FLOPs of the matrix products, activations, bytes. What the machine does is measured by the same operators, alone
(`rates.py`). The roofline is the lowest of the three rates divided by what a cell needs of it; "in turn" is the rate if products,
activations, random draws and memory traffic waited for one another, as they do where they share the units of a core. Machine and
databases are timed by turns: a round measures both, and the median round counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from figures import answers, cores, keep_to, rows_and_cells, table, threads_rate

RESOURCES = ("flop", "activations", "bytes")  # of the roofline; draws count in turn only
STAGES = ("schema", "links", "scm", "simulate")


def bounds(need: dict[str, Any], rates: dict[str, float]) -> dict[str, Any]:
    """Cells per second that each resource allows, the lowest of them, and the rate in turn; of counts per cell and a machine's rates."""
    seconds = {
        "flop": need["flop"] / max(rates[name] for name in rates if name.startswith("flop")),
        "activations": sum(n / rates[f"activations_{which}"] for which, n in enumerate(need["activations"])),
        "bytes": need["bytes"] / rates["bytes"],
        "draws": need["draws"] / rates["draws"],
    }
    limit = max(RESOURCES, key=seconds.__getitem__)
    allowed = {name: 1.0 / s for name, s in seconds.items()}
    return {"cells_per_s": allowed, "limit": limit, "roofline": 1.0 / seconds[limit], "in_turn": 1.0 / sum(seconds.values())}


class _Stages:
    """The stages of a preset, each a program of its own, and the seconds spent in each."""

    def __init__(self, preset: Any) -> None:
        import jax

        import jaxrel

        prior, capacity = preset.prior, preset.capacity

        def program(function: Any) -> Any:
            return jax.jit(function, compiler_options=jaxrel.COMPILER_OPTIONS)

        self._schema = program(lambda key: jaxrel.sample_schema(key, prior, capacity))
        self._links = program(lambda key, schema: jaxrel.sample_links(key, prior, schema, capacity))
        self._scm = program(lambda key, schema: jaxrel.sample_scm(key, prior, schema, capacity))
        self._simulate = program(lambda key, schema, links, scm: jaxrel.simulate(key, schema, links, scm, capacity))
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def __call__(self, key: Any) -> Any:
        import jax

        def one(name: str, program: Any, *arguments: Any) -> Any:
            began = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            self.seconds[name] += time.perf_counter() - began
            return result

        schema = one("schema", self._schema, key)
        links = one("links", self._links, key, schema)
        scm = one("scm", self._scm, key, schema)
        return one("simulate", self._simulate, key, schema, links, scm)


def measure(preset_name: str, databases: int, rounds: int) -> dict[str, Any]:
    """Counts, rates and cells per second of one preset, in this process: on one core, then on all."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_compilation_cache", False)
    from rates import machine_works
    from work import COUNTS, count

    import jaxrel

    preset = jaxrel.presets.load(preset_name)
    run, every = _Stages(preset), cores()
    keys = list(jax.random.split(jax.random.key(0), databases))
    totals: dict[str, dict[str, Any]] = {name: {} for name in COUNTS}
    rows = total = 0
    for key in keys:  # the first compiles
        db = jax.device_get(run(key))
        rows, total = (a + b for a, b in zip((rows, total), rows_and_cells(db), strict=True))
        for name, counted in count(db, preset.capacity).items():
            for resource, amount in counted.items():
                totals[name][resource] = totals[name].get(resource, 0) + amount
        del db
    per_cell = {name: {resource: (np.asarray(v) / total).tolist() for resource, v in of.items()} for name, of in totals.items()}
    works = machine_works(preset.capacity.width, preset.capacity.hidden, len(every))
    for work, _ in works.values():
        work()

    def one_round(threads: int) -> dict[str, Any]:
        rates = {name: threads_rate(*work, threads) for name, work in works.items()}
        run.seconds = dict.fromkeys(STAGES, 0.0)
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:  # as the engine does: each thread takes the next database
            list(pool.map(run, keys))
        reached = total / (time.perf_counter() - began)
        shares = {name: s / sum(run.seconds.values()) for name, s in run.seconds.items()}
        found = {how: bounds(per_cell[how], rates) for how in COUNTS}
        fractions = {f"{how}_{of}": reached / found[how][of] for how in COUNTS for of in ("roofline", "in_turn")}
        by = {f"{how}_{name}": found[how]["cells_per_s"][name] for how in COUNTS for name in RESOURCES}
        return {"cells_per_s": reached, "rates": rates, "shares": shares, "fractions": fractions, "by": by}

    figures: dict[str, Any] = {"preset": preset_name, "databases": databases, "rows": rows, "cells": total, "per_cell": per_cell}
    for name, chosen in (("one", every[:1]), ("all", every)):
        kept = keep_to(chosen)
        done = [one_round(len(chosen)) for _ in range(rounds)]
        middle = jax.tree.map(lambda *values: statistics.median(values), *done)
        figures[name] = {"cores": len(chosen), "kept_to_cores": kept, **middle}
    return figures


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def report(figures: list[dict[str, Any]]) -> str:
    """Tables: the machine, what a cell needs, how near the roofline is, and where the time goes."""
    machine, needs, reached, spent = [], [], [], []
    for f in figures:
        for part in (f["one"], f["all"]):
            rates, start = part["rates"], [f["preset"], str(part["cores"])]
            by_class = " ".join(f"{rates[name] / 1e9:.2f}" for name in rates if name.startswith("activations"))
            flops = [f"{rates[k] / 1e9:.1f}" for k in ("flop_narrow", "flop_hidden", "flop_large")]
            machine.append([*start, *flops, by_class, *(f"{rates[k] / 1e9:.2f}" for k in ("tanh", "draws", "bytes"))])
            for how in ("stated", "needed"):
                by = {name: part["by"][f"{how}_{name}"] for name in RESOURCES}
                limit = min(by, key=by.__getitem__)
                fractions = [f"{part['fractions'][f'{how}_{of}']:.3f}" for of in ("roofline", "in_turn")]
                reached.append([*start, how, _short(part["cells_per_s"]), *map(_short, by.values()), limit, *fractions])
            spent.append([*start, *(f"{part['shares'][name]:.3f}" for name in STAGES), f"{part['fractions']['executed_in_turn']:.3f}"])
        for how, need in f["per_cell"].items():
            amounts = [need["flop"], sum(need["activations"]), need["bytes"], need["draws"]]
            needs.append([f["preset"], how, *map(_short, amounts)])
    head = ["preset", "cores", "GFLOP/s W→H", "H→H", "large", "G activations/s, by class", "G tanh/s", "G draws/s", "GB/s copied"]
    parts = [table(head, machine), table(["preset", "count, per cell", "FLOP", "activations", "bytes", "draws"], needs)]
    head = ["preset", "cores", "count", "cells/s", "by FLOP", "by activations", "by bytes", "limit", "fraction of roofline", "of in turn"]
    parts.append(table(head, reached))
    parts.append(table(["preset", "cores", *(f"share of {name}" for name in STAGES), "executed work in turn / time"], spent))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="preset names (default: all)")
    parser.add_argument("--databases", type=int, default=24, help="databases that are counted and timed (default: 24)")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many counts (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.databases, arguments.rounds)))
        return

    import jax

    import jaxrel

    flags = ["--databases", str(arguments.databases), "--rounds", str(arguments.rounds)]
    names = arguments.presets or jaxrel.presets.names()
    figures = [answers([sys.executable, __file__, "--one", name, *flags])[0] for name in names]
    setting = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__, "jaxrel": jaxrel.__version__}
    if arguments.json:
        print(json.dumps({**setting, "presets": figures}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    print(report(figures))


if __name__ == "__main__":
    main()
