"""Cells per second of plurel 1.1.0, one process, one thread, its defaults. Prints one JSON object a database.

A script of its own, because plurel lives in an environment of its own (torch, an old relbench): `python peer_plurel.py DATABASES`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings


def main() -> None:
    """Time the databases of seeds 0, 1, …, each from nothing to its data frames."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from plurel import Config, SyntheticDataset

    for seed in range(int(sys.argv[1])):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            began = time.perf_counter()
            frames = [table.df for table in SyntheticDataset(seed=seed, config=Config()).make_db().table_dict.values()]
            seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "rows": sum(map(len, frames)), "cells": sum(frame.size for frame in frames)}), flush=True)


if __name__ == "__main__":
    main()
