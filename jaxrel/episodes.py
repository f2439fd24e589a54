"""Episodes for models that learn in context: the rows of one task as features and labels, fixed in shape, without the disk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.features import DEPTHS, SLOTS, row_features
from jaxrel.tasks import Split, Task, TaskKind, sample_task
from jaxrel.totals import ChildTotals, total_children
from jaxrel.types import Capacity, Database

__all__ = ["Episode", "sample_episode"]

_KINDS = (TaskKind.AUTOCOMPLETE, TaskKind.FORECAST)  # whose labels are classes or numbers


@struct.dataclass
class Episode:
    """A data set to learn from in context, and rows to predict."""

    X: Array  # f32[M, F], `jaxrel.row_features` as of each row's seed time; a missing one is 0
    missing: Array  # bool[M, F]
    y: Array  # f32[M], labels; 0 where there is none
    train_mask: Array  # bool[M], labelled rows that may be learnt from
    query_mask: Array  # bool[M], labelled rows to predict, later than those; the rest is padding
    task: Task  # its classes say what y is


def sample_episode(
    key: ArrayLike,
    db: Database,
    task: Task | None,
    capacity: Capacity,
    *,
    rows: int = 1024,
    depth: int = DEPTHS,
    slots: int = SLOTS,
    tries: int = 8,
    totals: ChildTotals | None = None,
) -> Episode:
    """The features and labels of a task's rows.

    Args:
        key: a PRNG key, of the task that is drawn; not read where one is given.
        db: one database, generated or real; under ``vmap``, many.
        task: of the database; None: one is drawn, autocomplete or forecast, by `sample_task`.
        capacity: what the database is padded to.
        rows: static, of a task that is drawn; a given one has its own.
        depth: static, of the features: 0, 1 or 2.
        slots: static, as in `row_features`.
        tries: static, as in `sample_task`.
        totals: `total_children` of the database, for more calls than one; None: made here.

    Returns:
        An `Episode` of M rows and `feature_count(capacity, depth, slots)` features. Where ``task.passed`` is False, no task of the database
        was let through, and the episode is better left out (its weight in a loss set to 0).

    Raises:
        TypeError: if ``key`` is not one PRNG key.
        ValueError: as `sample_task` and `row_features` do.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> def episode(key):
        ...     db = jaxrel.sample_database(key, tiny.prior, tiny.capacity)
        ...     return jaxrel.sample_episode(key, db, None, tiny.capacity, rows=64, depth=1)
        >>> jax.eval_shape(episode, jax.random.key(0)).X.shape == (64, jaxrel.feature_count(tiny.capacity, 1))
        True
    """
    db = jax.tree.map(jnp.asarray, db)
    totals = total_children(db) if totals is None else totals
    if task is None:
        task = sample_task(key, db, capacity, rows=rows, tries=tries, kinds=_KINDS, totals=totals)
    seen = row_features(db, task.table, task.row, task.seed_time, totals, depth=depth, slots=slots, hidden=task.hidden)
    train = task.split == Split.TRAIN
    return Episode(seen.values, seen.missing, task.label, task.labelled & train, task.labelled & ~train, task)
