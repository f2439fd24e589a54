"""Many databases in memory, on one device or sharded over a mesh: the databases that `generate` writes, without the disk.

A database is a pure function of its key, so a batch needs nothing but its share of the indices on each device: no collective runs, and the
databases of one device share its lanes (`jaxrel.schedule`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jaxrel.database import sample_database
from jaxrel.prior import Prior
from jaxrel.random import named_key, reduce_key
from jaxrel.types import Capacity, Database

__all__ = ["database_key", "over_mesh", "sample_databases"]


def database_key(root: Array, index: ArrayLike) -> Array:
    """The key of a database of a corpus.

    Args:
        root: u32[2], the reduced root key of the corpus.
        index: i32[...], which database.

    Returns:
        u32[..., 2].
    """
    return named_key(root, "database", index)


def sample_databases(key: ArrayLike, first: ArrayLike, count: int, prior: Prior, capacity: Capacity, mesh: Mesh | None = None) -> Database:
    """Sample databases ``first … first + count - 1`` of a corpus, side by side.

    Database i is that of ``generate(..., seed=s)`` where ``key`` is ``jax.random.key(s)``: integers exactly, reals to rounding. Under
    `jax.jit` the count, the capacity and the mesh are static, and a later batch is another ``first``.

    Args:
        key: root of the corpus: a PRNG key, typed or raw, of any implementation.
        first: i32[], index of the first.
        count: static, how many: B.
        prior: the distribution over databases; its leaves may be traced.
        capacity: static sizes.
        mesh: static; the batch is sharded over all its axes, in their order. None: on one device, under whatever surrounds the call.

    Returns:
        A `Database` whose leaves lead with B.

    Raises:
        ValueError: if the count is less than 1, or not a multiple of the mesh's devices.
        TypeError: if ``key`` is not one PRNG key.

    Example:
        >>> import jax, jaxrel
        >>> tiny, mesh = jaxrel.presets.load("tiny"), jax.make_mesh((1,), ("databases",))
        >>> sample = jax.jit(jaxrel.sample_databases, static_argnames=("count", "capacity", "mesh"))
        >>> jax.eval_shape(lambda key: sample(key, 0, 8, tiny.prior, tiny.capacity, mesh=mesh), jax.random.key(0)).fits.shape
        (8,)
    """

    def sample(root: Array, first: Array, prior: Prior, count: int) -> Database:
        indices = first + jnp.arange(count, dtype=jnp.int32)
        return jax.vmap(lambda index: sample_database(database_key(root, index), prior, capacity))(indices)

    return over_mesh(sample, count, mesh)(reduce_key(key), jnp.asarray(first, jnp.int32), prior)


def over_mesh(function: Callable[[Array, Array, Prior, int], Any], count: int, mesh: Mesh | None) -> Callable[[Array, Array, Prior], Any]:
    """Have each device of a mesh work on its share of some databases.

    Args:
        function: of the root key, the index of the first database, the prior, and the number of databases; its result leads with them.
        count: how many there are in all.
        mesh: they are shared over all its axes, in their order; None: one device takes all.

    Returns:
        The function of the first three, for all databases.

    Raises:
        ValueError: as `sample_databases`.
    """
    if count < 1:
        raise ValueError(f"count: {count} is less than 1")
    if mesh is None:
        return lambda root, first, prior: function(root, first, prior, count)
    if count % mesh.size:
        below = count - count % mesh.size
        other = f"{below} or {below + mesh.size}" if below else str(mesh.size)
        raise ValueError(f"count: {count} databases cannot be shared equally by the {mesh.size} devices of the mesh; use {other}")
    width, axes = count // mesh.size, mesh.axis_names

    def share(root: Array, first: Array, prior: Prior) -> Any:
        return function(root, first + jax.lax.axis_index(axes) * width, prior, width)

    return jax.shard_map(share, mesh=mesh, in_specs=P(), out_specs=P(axes), check_vma=False)
