"""Does the `plurel` preset match plurel 1.1.0? A two-sample test per statistic of its schema and link samplers, drawn by both sides."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxrel
from jaxrel.layouts import sample_dag
from jaxrel.random import named_key, reduce_key
from jaxrel.registry import LAYOUTS
from jaxrel.types import Kind

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from links import two_tables  # noqa: E402
from peer_plurel import GRAPH_SIZES, LINK_SIZES  # noqa: E402

LEVEL = 0.001
PEER_LAYOUTS = {
    "barabasi_albert": "BarabasiAlbert",
    "erdos_renyi": "ErdosRenyi",
    "watts_strogatz": "WattsStrogatz",
    "random_tree": "RandomTree",
    "reverse_random_tree": "ReverseRandomTree",
    "layered": "Layered",
    "cauchy": "RandomCauchy",
}
Draws = dict[str, list[float]]  # statistic → its values, independent of each other


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """p-value of "both samples come from one law": χ² on at most 30 distinct values (rare ones pooled), Kolmogorov–Smirnov on more."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    values = np.unique(np.concatenate([x, y]))
    if len(values) == 1:
        return 1.0
    if len(values) > 30:
        return float(stats.ks_2samp(x, y).pvalue)
    table = np.stack([(side[:, None] == values).sum(axis=0) for side in (x, y)])
    least = 5 * (len(x) + len(y)) / min(len(x), len(y))  # at least 5 expected on the smaller side
    cells: list[np.ndarray] = []
    open_cell = np.zeros(2, int)
    for column in table.T:
        open_cell = open_cell + column
        if open_cell.sum() >= least:
            cells.append(open_cell)
            open_cell = np.zeros(2, int)
    if open_cell.any():
        cells = [*cells[:-1], cells[-1] + open_cell] if cells else [open_cell]
    return float(stats.chi2_contingency(np.stack(cells, axis=1)).pvalue) if len(cells) > 1 else 1.0


def schema_statistics(tables: Sequence[Mapping[str, Any]], into: Draws) -> None:
    """Add one schema. Statistics of tables, columns and classes are pooled: both samplers draw these independently."""
    activity = [t for t in tables if t["activity"]]
    into["tables"].append(len(tables))
    into["tables that nothing references"].append(len(activity))
    into["foreign keys of the schema"].append(sum(t["parents"] for t in tables))
    into["most foreign keys of a table"].append(max(t["parents"] for t in tables))
    into["rows of an entity table"] += [t["rows"] for t in tables if not t["activity"]]
    into["rows of an activity table"] += [t["rows"] for t in activity]
    into["columns of a table"] += [len(t["classes"]) for t in tables]
    into["column is categorical"] += [c > 0 for t in tables for c in t["classes"]]
    into["classes of a category"] += [c for t in tables for c in t["classes"] if c > 0]


def degree_statistics(degrees: np.ndarray, into: Draws) -> None:
    """Add the out-degrees of one key's parents."""
    n, total = len(degrees), degrees.sum()
    ordered = np.sort(degrees)
    into["links: parents without a child"].append(np.mean(degrees == 0))
    into["links: maximum / mean"].append(ordered[-1] / degrees.mean())
    into["links: Gini"].append(float(2 * np.dot(np.arange(1, n + 1), ordered) / (n * total) - (n + 1) / n))
    for q in (0.25, 0.5, 0.75, 0.9, 0.99):
        into[f"links: {q:.0%} quantile of out-degrees"].append(float(np.quantile(ordered, q)))


def peer_draws(python: str, draws: int) -> Draws:
    """The peer's side, drawn by a Python that has it."""
    done = subprocess.run([python, str(HERE / "peer_plurel.py"), str(draws), "--samplers"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python}: plurel's samplers failed:\n{done.stderr[-2000:]}")
    out: Draws = defaultdict(list)
    names = {theirs: ours for ours, theirs in PEER_LAYOUTS.items()}
    for line in done.stdout.splitlines():
        draw = json.loads(line)
        if "schema" in draw:
            schema_statistics(draw["schema"], out)
        elif "layout" in draw:
            for what in ("edges", "sources", "sinks"):
                out[f"{names[draw['layout']]}, {draw['n']} nodes: {what}"].append(draw[what])
        else:
            degree_statistics(np.asarray(draw["degrees"]), out)
    return out


def own_draws(preset_name: str, draws: int, seed: int) -> Draws:
    """jaxrel's side: the schema, layout and link stages of a preset."""
    preset = jaxrel.presets.load(preset_name)
    root = named_key(reduce_key(jax.random.key(seed)), "match")
    keys = named_key(root, jnp.arange(draws, dtype=jnp.uint32))
    out: Draws = defaultdict(list)

    schemas = jax.device_get(jax.jit(jax.vmap(lambda k: jaxrel.sample_schema(k, preset.prior, preset.capacity)))(keys))
    for i in range(draws):
        s = jax.tree.map(lambda x, i=i: x[i], schemas)
        tables = []
        for t in range(int(s.table_count)):
            kind, count = s.column_kind[t], int(s.column_count[t])
            classes = np.where(kind == Kind.CATEGORICAL, s.column_classes[t], 0)[:count].tolist()
            parents = int(np.sum(s.fk_parent[t] >= 0))
            tables.append({"rows": int(s.row_count[t]), "activity": bool(s.is_activity[t]), "parents": parents, "classes": classes})
        schema_statistics(tables, out)

    capacity = max(GRAPH_SIZES)

    def graphs(layout: jax.Array, n: jax.Array) -> jax.Array:
        return jax.vmap(lambda k: sample_dag(named_key(k, "graph", layout, n), layout, n, capacity, preset.prior.layouts))(keys)

    sample = jax.jit(graphs)
    for name in LAYOUTS:
        for n in GRAPH_SIZES:
            adjacency = np.asarray(sample(jnp.int32(LAYOUTS.index(name)), jnp.int32(n)))[:, :n, :n]
            out[f"{name}, {n} nodes: edges"] = adjacency.sum(axis=(1, 2)).tolist()
            out[f"{name}, {n} nodes: sources"] = (~adjacency.any(axis=1)).sum(axis=1).tolist()
            out[f"{name}, {n} nodes: sinks"] = (~adjacency.any(axis=2)).sum(axis=1).tolist()

    schema, pair_capacity = two_tables(*LINK_SIZES)
    links = jax.jit(lambda k: jaxrel.sample_links(k, preset.prior, schema, pair_capacity).parent_row[0])
    start = int(schema.row_offset[1])
    for key in keys:
        rows = np.asarray(links(key))[start : start + LINK_SIZES[1]]
        degree_statistics(np.bincount(rows, minlength=LINK_SIZES[0]), out)
    return out


def main() -> int:
    """Draw both sides, test, print a table; the exit status is 1 where a statistic is rejected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plurel-python", metavar="PATH", default=sys.executable, help="a Python that has plurel 1.1.0")
    parser.add_argument("--preset", default="plurel", help="preset under test (default: plurel)")
    parser.add_argument("--draws", type=int, default=300, help="draws of each sampler on each side (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ours, theirs = own_draws(arguments.preset, arguments.draws, arguments.seed), peer_draws(arguments.plurel_python, arguments.draws)
    print(f"| statistic | plurel 1.1.0 | {arguments.preset} | p | same law at {LEVEL:g} |\n|---|---:|---:|---:|---|")
    rejected = 0
    for name in ours:
        p = p_value(ours[name], theirs[name])
        rejected += p < LEVEL
        means = (f"{np.mean(side[name]):.4g}" for side in (theirs, ours))
        print(f"| {name} | {' | '.join(means)} | {p:.2g} | {'yes' if p >= LEVEL else '**no**'} |")
    print(f"\n{rejected} of {len(ours)} statistics rejected at {LEVEL:g}; {len(ours) * LEVEL:.2g} would be by chance. Numbers are means.")
    return int(rejected > 0)


if __name__ == "__main__":
    sys.exit(main())
