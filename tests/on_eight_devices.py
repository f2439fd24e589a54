"""What eight simulated devices compute, for `test_fleet`: a process of its own, since the number of devices is fixed when JAX starts.

``python on_eight_devices.py WHAT FILE`` pickles there ``batches``, databases of `sampled.ROOT` and of seed 0, or ``chunks``, the rows
of a database of several tiles, chunk by chunk, or ``stream``, two batches of `test_feeding`'s contexts. That there are eight says XLA_FLAGS
of its environment: collecting tests imports this file.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import jaxrel
from jaxrel.prior import Range
from jaxrel.types import TILE, Database

DEVICES, COUNT = 8, 16
ROOT = jnp.asarray([2026, 7], jnp.uint32)  # as in `sampled`


def _chunks(key: jax.Array, db: Database, capacity: Any, mesh: Any) -> tuple[list[tuple[int, int]], list[Any]]:
    """Table and tile of every chunk of a database, and their rows twice: each chunk by a device, then by another one."""
    tiles = [(t, j) for t in range(int(db.schema.table_count)) for j in range(-(-int(db.schema.row_count[t]) // TILE))]

    def rows(turn: Any, tiles: Any, db: Database) -> Any:
        table, first = tiles[(jax.lax.axis_index(mesh.axis_names) - turn) % len(tiles)]
        done = jaxrel.simulate_rows(key, db.schema, db.links, db.scm, capacity, table, first, 1, db.aggregates)
        return jax.tree.map(lambda x: x[None], done)

    sharded = jax.jit(jax.shard_map(rows, mesh=mesh, in_specs=P(), out_specs=P(mesh.axis_names), check_vma=False))
    found = []
    for turn in (0, 2):
        done = jax.device_get(sharded(jnp.int32(turn), jnp.asarray(tiles, jnp.int32), db))
        found.append(jax.tree.map(lambda x, turn=turn: x[turn : turn + len(tiles)], done))
    return tiles, found


def main(what: str, file: Path) -> None:
    tiny = jaxrel.presets.load("tiny")
    mesh = jax.make_mesh((4, 2), ("host", "device"))
    sample = jax.jit(jaxrel.sample_databases, static_argnames=("count", "capacity", "mesh"))

    def batch(key: jax.Array, first: int, prior: Any) -> Database:
        return sample(key, first, COUNT, prior, tiny.capacity, mesh=mesh)

    if what == "stream":
        from test_feeding import contexts

        batches = jaxrel.stream(tiny.small.prior, tiny.small.capacity, DEVICES, ROOT, make=contexts, mesh=mesh)
        found = [next(batches) for _ in range(2)]
        assert len(found[0]["contexts"].token_value.sharding.device_set) == DEVICES
    elif what == "batches":
        found = {"of ROOT": batch(ROOT, 0, tiny.prior), "of seed 0": batch(jax.random.key(0), 2, tiny.prior)}
        for db in found.values():
            assert len(db.values.sharding.device_set) == DEVICES and not db.values.is_fully_replicated
    else:
        exactly = Range(low=jnp.int32(2), high=jnp.int32(2), power=jnp.float32(0))
        long = Range(low=jnp.int32(1500), high=jnp.int32(2000), power=jnp.float32(0))
        schema = dataclasses.replace(tiny.prior.schema, tables=exactly, activity_rows=long)
        batches = jax.device_get(batch(ROOT, 0, dataclasses.replace(tiny.prior, schema=schema)))
        db, key = jax.tree.map(lambda x: x[0], batches), jaxrel.fleet.database_key(ROOT, 0)
        tiles, (chunks, moved) = _chunks(key, db, tiny.capacity, mesh)
        found = {"whole": db, "tiles": tiles, "chunks": chunks, "moved": moved}
    file.write_bytes(pickle.dumps(jax.device_get(found)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
