"""Databases of plurel 1.1.0, one process, one thread, its defaults; and draws of its samplers.

A script of its own, because plurel lives in an environment of its own (torch, an old relbench).

``python peer_plurel.py DATABASES [--first SEED] [--out DIR]`` makes the databases of seeds 0, 1, … and prints one JSON object each: rows,
cells, seconds from nothing to data frames. With ``--out`` they are written as ``DIR/plurel-<seed>`` in the RelBench layout.
``python peer_plurel.py DRAWS --samplers`` prints draws of its schema and link samplers, for `plurel_match.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

GRAPH_SIZES = (3, 5, 8, 12, 20)  # nodes of the graphs whose edges are counted
LINK_SIZES = (600, 3000)  # parents and children of the keys whose out-degrees are compared


def write(tables: dict[str, Any], folder: Path) -> None:
    """Write one database as ``manifest.yaml`` and ``db/<table>.parquet``."""
    (folder / "db").mkdir(parents=True, exist_ok=True)
    words = {}
    for name, table in tables.items():
        table.df.to_parquet(folder / "db" / f"{name}.parquet", index=False)
        words[name] = {"pkey": table.pkey_col, "time_col": table.time_col, "fkeys": table.fkey_col_to_pkey_table}
    manifest = {"name": folder.name, "manifest_version": 1, "description": "plurel 1.1.0", "tables": words}
    (folder / "manifest.yaml").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")  # JSON is YAML


def databases(first: int, count: int, out: Path | None) -> None:
    """Time the databases of seeds ``first`` and on, each from nothing to its data frames."""
    from plurel import Config, SyntheticDataset

    for seed in range(first, first + count):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            began = time.perf_counter()
            tables = SyntheticDataset(seed=seed, config=Config()).make_db().table_dict
            seconds = time.perf_counter() - began
        frames = [table.df for table in tables.values()]
        if out is not None:
            write(tables, out / f"plurel-{seed}")
        print(json.dumps({"seconds": seconds, "rows": sum(map(len, frames)), "cells": sum(frame.size for frame in frames)}), flush=True)


def samplers(draws: int) -> None:
    """Draws of the schema builder, of every graph layout at fixed sizes, and of the link sampler at one size: a JSON object each."""
    import numpy as np
    from plurel import Config, SyntheticDataset
    from plurel.bipartite import sample_bipartite_assignments
    from plurel.dag import DAG_REGISTRY
    from plurel.utils import set_random_seed
    from torch_frame import stype

    config = Config()
    for seed in range(1, draws + 1):
        data = SyntheticDataset(seed=seed, config=config)
        graph = data.configure_table_relationships(num_tables=int(config.database_params.num_tables_choices.sample_uniform()))
        tables = []
        for t in graph.nodes:
            words = graph.nodes[t]
            features = [c for name, c in words["columns"].items() if name.startswith("feature")]
            kinds = [len(c["categories"]) if c["_stype"] == stype.categorical else 0 for c in features]
            activity = graph.out_degree(t) == 0
            tables.append({"rows": int(words["num_rows"]), "activity": activity, "parents": graph.in_degree(t), "classes": kinds})
        print(json.dumps({"schema": tables}), flush=True)
    for layout, cls in DAG_REGISTRY.items():
        for n in GRAPH_SIZES:
            for seed in range(1, draws + 1):
                graph = cls(num_nodes=n, dag_params=config.dag_params, seed=seed).graph
                sources, sinks = ([d for _, d in degree()].count(0) for degree in (graph.in_degree, graph.out_degree))
                print(json.dumps({"layout": layout, "n": n, "edges": graph.number_of_edges(), "sources": sources, "sinks": sinks}))
    law = config.scm_params
    for seed in range(draws):
        set_random_seed(1_000_003 + seed)
        levels = law.bi_hsbm_levels_choices.sample_uniform()
        sides = [law.bi_hsbm_clusters_per_level_choices.sample_uniform(size=levels) for _ in range(2)]
        rows = sample_bipartite_assignments(*LINK_SIZES, *sides)
        print(json.dumps({"degrees": np.bincount(rows, minlength=LINK_SIZES[0]).tolist()}), flush=True)


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the databases (default: 0)")
    parser.add_argument("--out", type=Path, help="write the databases below this folder")
    parser.add_argument("--samplers", action="store_true", help="draws of the samplers instead of databases")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    if arguments.samplers:
        samplers(arguments.count)
    else:
        databases(arguments.first, arguments.count, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
