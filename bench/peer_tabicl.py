"""Single tables from the prior of TabICL (package `tabicl`), one process, one thread, its defaults.

A script of its own, because tabicl lives in an environment of its own (torch). ``python peer_tabicl.py BATCHES`` prints a JSON object for
each batch of tables: rows, cells (features and the target) and seconds. Tables have no keys, times, links or missing values.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import time
import warnings


def batches(first: int, count: int, prior: str, tables: int, rows: int) -> None:
    """Time batches of tables, one for each seed from ``first`` on; the first, which is a warm-up, is not printed."""
    import numpy as np
    import torch
    from tabicl.prior import PriorDataset

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        source = PriorDataset(prior_type=prior, batch_size=tables, max_seq_len=rows, n_jobs=1)
    for i in range(count + 1):
        seed = first + i
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            _, _, features, lengths, _ = source.get_batch()
        seconds = time.perf_counter() - began
        cells = int(((features + 1) * lengths).sum())
        if i:
            print(json.dumps({"seconds": seconds, "tables": tables, "rows": int(lengths.sum()), "cells": cells}), flush=True)


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, metavar="BATCHES")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the batches (default: 0)")
    parser.add_argument("--prior", default="graph_scm", help="mlp_scm, tree_scm, mix_scm or graph_scm (default: graph_scm, of version 2)")
    parser.add_argument("--tables", type=int, default=8, help="of a batch (default: 8)")
    parser.add_argument("--rows", type=int, default=1024, help="of a table (default: 1024)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    batches(arguments.first, arguments.count, arguments.prior, arguments.tables, arguments.rows)


if __name__ == "__main__":
    sys.exit(main())
