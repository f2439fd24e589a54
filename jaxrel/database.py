"""The composition of the stages: a key in, a database out."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
from jax.typing import ArrayLike

from jaxrel.links import sample_links
from jaxrel.prior import Prior
from jaxrel.schema import sample_schema
from jaxrel.scm import sample_scm
from jaxrel.simulation import simulate
from jaxrel.types import TILE, Capacity, Database, tiles_of

__all__ = ["rows_in_use", "sample_database", "shortened"]


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


def rows_in_use(db: Database) -> int:
    """How far the tables of one concrete database reach on the row axis: a multiple of `TILE`."""
    offset, count = jax.device_get((db.schema.row_offset, db.schema.row_count))
    return max(int((offset + TILE * tiles_of(count)).max()), TILE)


@partial(jax.jit, static_argnames="rows")
def shortened(db: Database, rows: int) -> Database:
    """The same database on a shorter row axis: padding alone is cut off.

    Args:
        db: one database, of R ≥ ``rows`` rows.
        rows: static, at least its `rows_in_use`, a multiple of `TILE`.

    Returns:
        A `Database` whose capacity has that many rows.
    """
    links = dataclasses.replace(db.links, parent_row=db.links.parent_row[:, :rows])
    aggregates = None if db.aggregates is None else db.aggregates[:, :, :rows]
    return dataclasses.replace(
        db, links=links, aggregates=aggregates, values=db.values[:, :rows], missing=db.missing[:, :rows], time=db.time[:rows]
    )
