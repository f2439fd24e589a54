"""The composition of the stages: a key in, a database out."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxrel.links import sample_links
from jaxrel.prior import Prior
from jaxrel.schema import sample_schema
from jaxrel.scm import sample_scm
from jaxrel.simulation import simulate
from jaxrel.types import Capacity, Database

__all__ = ["sample_database"]


def sample_database(key: ArrayLike, prior: Prior, capacity: Capacity) -> Database:
    """Sample a relational database: schema, links, SCM and every cell.

    Args:
        key: a PRNG key, typed or raw, of any implementation.
        prior: the distribution over databases; its leaves may be traced.
        capacity: static sizes.

    Returns:
        A `Database`; ``fits`` is False where a draw had to be clipped to the capacity.

    Raises:
        TypeError: if ``key`` is not one PRNG key.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> db = jax.jit(jaxrel.sample_database, static_argnums=2)(jax.random.key(0), tiny.prior, tiny.capacity)
        >>> bool(db.fits)
        True
    """
    schema = sample_schema(key, prior, capacity)
    links = sample_links(key, prior, schema, capacity)
    scm = sample_scm(key, prior, schema, capacity)
    return simulate(key, schema, links, scm, capacity)
