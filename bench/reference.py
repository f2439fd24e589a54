"""A yardstick for machines: node-cells per second of a fixed, narrow structural causal model.

The program never changes and shares no code with jaxrel, so "jaxrel's cells/s divided by this figure" can be compared between machines, and
a slow day of a shared machine shows as a slow yardstick.
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["reference_rate"]

NODES, PARENTS, WIDTH, HIDDEN, ROWS = 16, 4, 4, 16, 65_536


def _table(weights_in: Array, weights_out: Array, parents: Array, noise: Array) -> Array:
    """f32[NODES, WIDTH, ROWS]: every node sums small tanh networks of earlier nodes and adds noise."""

    def node(i: Array, values: Array) -> Array:
        hidden = jnp.tanh(jnp.einsum("phw,pwr->phr", weights_in[i], values[parents[i]]))
        value = jnp.einsum("pwh,phr->wr", weights_out[i], hidden) + noise[i][:, None] * values[0]
        return jax.lax.dynamic_update_slice(values, value[None], (i, 0, 0))

    start = jnp.sin(jnp.arange(NODES * WIDTH * ROWS, dtype=jnp.float32)).reshape(NODES, WIDTH, ROWS)
    return jax.lax.fori_loop(1, NODES, node, start)


def reference_rate(repeats: int = 5) -> float:
    """Median node-cells per second (nodes x rows; each is WIDTH lanes and PARENTS networks)."""
    keys = jax.random.split(jax.random.key(0), 4)
    weights_in = jax.random.normal(keys[0], (NODES, PARENTS, HIDDEN, WIDTH), jnp.float32)
    weights_out = jax.random.normal(keys[1], (NODES, PARENTS, WIDTH, HIDDEN), jnp.float32) / HIDDEN
    earlier = jnp.arange(1, NODES + 1, dtype=jnp.int32)[:, None]
    parents = jax.random.randint(keys[2], (NODES, PARENTS), 0, 1 << 30, jnp.int32) % earlier
    noise = jax.random.uniform(keys[3], (NODES, WIDTH), jnp.float32)
    program = jax.jit(_table)
    program(weights_in, weights_out, parents, noise).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        program(weights_in, weights_out, parents, noise).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return (NODES - 1) * ROWS / statistics.median(seconds)


if __name__ == "__main__":
    print(f"{reference_rate() / 1e6:.2f} M node-cells/s on {jax.devices()[0].device_kind}")
