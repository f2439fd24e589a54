"""The link stage alone: many child rows to many parents by the hierarchical block model; compile, warm run, peak memory."""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxrel
from jaxrel.times import flat_times
from jaxrel.types import TILE, LinkLaw, row_offsets


def two_tables(parents: int, children: int) -> tuple[jaxrel.Schema, jaxrel.Capacity]:
    """A schema of one parent table and one child table with one key, and its capacity."""
    rows = jnp.asarray([parents, children], jnp.int32)
    offset, tiles = row_offsets(rows)
    zeros = jnp.zeros((2, 1), jnp.int32)
    schema = jaxrel.Schema(
        key=jnp.asarray([1, 2], jnp.uint32),
        table_count=jnp.int32(2),
        table_id=jnp.arange(2, dtype=jnp.uint32),
        row_count=rows,
        row_offset=offset,
        is_activity=jnp.asarray([False, True]),
        has_time=jnp.asarray([False, False]),
        time_start=jnp.zeros(2, jnp.int32),
        time_span=jnp.zeros(2, jnp.int32),
        **flat_times(2),
        column_count=jnp.zeros(2, jnp.int32),
        column_id=zeros.astype(jnp.uint32),
        column_kind=zeros,
        column_classes=zeros,
        column_null=zeros.astype(jnp.uint32),
        column_binned=zeros > 0,
        fk_parent=jnp.asarray([[-1], [0]], jnp.int32),
        fk_id=zeros.astype(jnp.uint32),
        fk_null=zeros.astype(jnp.uint32),
        fk_law=jnp.full((2, 1), LinkLaw.CLUSTER, jnp.int32),
        fk_owner=zeros,
        fk_capacity=zeros,
        fits=jnp.asarray(True),
    )
    capacity = jaxrel.Capacity(2, 1, 1, int(tiles) * TILE, 1, 1, 1, 1, 1, 2)
    return schema, capacity


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parents", type=int, default=1_000_000)
    parser.add_argument("--children", type=int, default=10_000_000)
    parser.add_argument("--levels", type=int, default=3, help="levels of the block model, each of 3 clusters (default: 3)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    schema, capacity = two_tables(arguments.parents, arguments.children)
    prior = jaxrel.presets.load("default").prior
    fixed = {"low": jnp.int32(arguments.levels), "high": jnp.int32(arguments.levels)}
    links = dataclasses.replace(
        prior.links,
        uniform=jnp.float32(0),
        levels=dataclasses.replace(prior.links.levels, **fixed),
        clusters=dataclasses.replace(prior.links.clusters, low=jnp.int32(3), high=jnp.int32(3)),
        popularity=jaxrel.Weights(weight=jnp.asarray([0.0, 1.0, 0.0, 0.0], jnp.float32)),
    )
    prior = dataclasses.replace(prior, links=links)
    program = jax.jit(jaxrel.sample_links, static_argnames="capacity")
    times = []
    for seed in range(arguments.repeats + 1):
        began = time.perf_counter()
        out = jax.block_until_ready(program(jax.random.key(seed), prior, schema, capacity=capacity))
        times.append(time.perf_counter() - began)
    start = int(schema.row_offset[1])
    rows = np.asarray(out.parent_row[0, start : start + arguments.children])
    assert rows.min() >= 0 and rows.max() < arguments.parents
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    warm = statistics.median(times[1:])
    print(
        f"{jax.devices()[0].device_kind}: {arguments.children:,} rows to {arguments.parents:,} parents, {arguments.levels} levels: "
        f"first run {times[0]:.1f} s, warm {warm:.2f} s ({arguments.children / warm / 1e6:.1f} M links/s), peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
