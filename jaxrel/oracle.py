"""The oracle of a column: the best prediction that anybody could make who knew the true values of its node's parents.

No model beats it, so it tells how much of a column is noise. A categorical node's probabilities have a closed form (Gumbel noise on scores
makes a softmax); whatever else a column does with its lane, cuts into classes among it, is integrated over the law of the node's noise.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel import struct
from jaxrel.categories import class_scores, prototype_key, prototypes
from jaxrel.columns import from_score, in_units, to_score
from jaxrel.cuts import cut_codes, cut_key
from jaxrel.noise import noise_of, uneven
from jaxrel.simulation import Truth
from jaxrel.types import NO_CUT, SCM, Capacity, Database, NodeKind, Schema

if TYPE_CHECKING:
    from jaxrel.catalog import Catalog

__all__ = ["Oracle", "column_oracle", "noise_points"]

_POINTS = 256  # of the quadrature over noise: of equal mass, each the mean of its part of the law


@struct.dataclass
class Oracle:
    """What can be known of a column at some rows, given the true parents of its node."""

    mean: Array  # f32[rows], expected value; of a category the expected code
    probability: Array  # f32[rows, Q], of each category; zeros for other kinds
    error: Array  # f32[], expected squared error of the mean; of a category the expected share of wrong best guesses
    noise_share: Array  # f32[], share of the variance that is noise; of a category the share of the entropy


@functools.cache
def noise_points() -> np.ndarray[Any, Any]:
    """f32[laws, points]: the laws of `jaxrel.registry.NOISES`, cut into parts of equal mass, each by its mean."""
    from jaxrel.registry import NOISES

    i, j = np.meshgrid(np.arange(1024), np.arange(1024), indexing="ij")  # an even grid over both random words
    first, second = (jnp.asarray(((x.reshape(1, -1) + 0.5) * 2**22).astype(np.uint32)) for x in (i, j))
    words = first, second
    laws = [np.sort(np.asarray(noise_of(words, jnp.full(1, law, jnp.int32)))[0]) for law in range(len(NOISES))]
    return np.stack([law.reshape(_POINTS, -1).mean(axis=1) for law in laws]).astype(np.float32)


def _of_classes(p: Array, real: Array) -> Oracle:
    """The oracle of a column of categories from their probabilities f32[Q, rows], at the rows that exist, bool[rows]."""
    rows = jnp.maximum(jnp.sum(real, dtype=jnp.float32), 1.0)

    def entropy(p: Array) -> Array:
        return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0.0), axis=0)

    def average(x: Array) -> Array:
        return jnp.sum(jnp.where(real, x, 0.0)) / rows

    shares = jnp.sum(jnp.where(real[None, :], p, 0.0), axis=1) / rows
    return Oracle(
        mean=jnp.sum(p * jnp.arange(p.shape[0], dtype=jnp.float32)[:, None], axis=0),
        probability=p.T,
        error=average(1.0 - jnp.max(p, axis=0)),
        noise_share=average(entropy(p)) / jnp.maximum(entropy(shares), 1e-9),
    )


@functools.partial(jax.jit, static_argnames="capacity")
def _categorical(schema: Schema, scm: SCM, truth: Truth, t: Array, n: Array, real: Array, capacity: Capacity) -> Oracle:
    """Gumbel noise on the scores of a categorical node: a softmax."""
    width, classes, noise = scm.node_width[t, n][None], scm.node_classes[t, n], scm.node_noise[t, n]
    prototype = prototypes(prototype_key(scm.key, schema.table_id[t], n)[None], width, capacity)
    score = class_scores(prototype, width, truth.signal[n][None])[0]  # [Q, rows]
    there = (jnp.arange(score.shape[0], dtype=jnp.int32) < classes)[:, None]
    return _of_classes(jax.nn.softmax(jnp.where(there, score / jnp.maximum(noise, 1e-6), -jnp.inf), axis=0), real)


def _noise_amount(scm: SCM, truth: Truth, t: Array, c: Array) -> tuple[Array, Array]:
    """Signal of the lane that a column observes, f32[rows], and the scale of the noise on it."""
    n, lane = scm.column_node[t, c], scm.column_lane[t, c]
    deviation = jnp.where(scm.node_scale[t, n, lane] == 0.0, 1.0, scm.node_noise[t, n])  # as in the kernel: a dead signal is pure noise
    deviation = jnp.where(scm.node_kind[t, n] == NodeKind.MECHANISM, deviation, 0.0)
    signal = truth.signal[n, lane]
    return signal, deviation * uneven(signal, scm.node_spread[t, n])


@functools.partial(jax.jit, static_argnames="classes")
def _cut(schema: Schema, scm: SCM, truth: Truth, t: Array, c: Array, points: Array, real: Array, classes: int) -> Oracle:
    """A real lane cut into classes: how often noise carries the signal into each of them."""
    signal, amount = _noise_amount(scm, truth, t, c)
    key = cut_key(schema, scm, t)[c][None]
    knots = scm.column_knots[t, c][None]
    cut, shape, order, count = (x[t, c][None] for x in (scm.column_cut, scm.column_shape, scm.column_order, schema.column_classes))

    def codes(lanes: Array) -> Array:
        score = to_score(lanes[None], knots)
        return cut_codes(key, lanes[None], score, knots, cut, shape, order, count, count[0], jnp.asarray(True))[0]

    q = jnp.arange(classes, dtype=jnp.float32)[:, None]

    def add(k: Array, p: Array) -> Array:
        return p + (codes(signal + amount * points[k])[None, :] == q).astype(jnp.float32)

    p = jax.lax.fori_loop(0, points.shape[0], add, jnp.zeros((classes, signal.shape[0]), jnp.float32)) / points.shape[0]
    n = scm.column_node[t, c]
    actual = (codes(truth.lanes[n, scm.column_lane[t, c]])[None, :] == q).astype(jnp.float32)
    overall = jnp.sum(jnp.where(real[None, :], actual, 0.0), axis=1) / jnp.maximum(jnp.sum(real, dtype=jnp.float32), 1.0)
    no_parents = scm.node_kind[t, n] == NodeKind.EXOGENOUS  # all that is known are the frequencies of the classes
    return _of_classes(jnp.where(no_parents, overall[:, None], p), real)


@functools.partial(jax.jit, static_argnames="capacity")
def _real(schema: Schema, scm: SCM, truth: Truth, t: Array, c: Array, points: Array, real: Array, capacity: Capacity) -> Oracle:
    n, lane = scm.column_node[t, c], scm.column_lane[t, c]
    rows = jnp.maximum(jnp.sum(real, dtype=jnp.float32), 1.0)

    def average(x: Array) -> Array:
        return jnp.sum(jnp.where(real, x, 0.0)) / rows

    def shown(lanes: Array) -> Array:
        score = to_score(lanes[None], scm.column_knots[t, c][None])
        seen = from_score(lanes[None], score, scm.column_marginal[t, c][None], scm.column_shape[t, c][None])[0]
        value = scm.column_offset[t, c] + scm.column_scale[t, c] * seen
        return in_units(value[None], schema.column_kind[t, c][None])[0]

    signal, amount = _noise_amount(scm, truth, t, c)
    actual = shown(truth.lanes[n, lane])
    overall = average(actual)

    def add(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        value = shown(signal + amount * points[k]) - overall
        return sums[0] + value, sums[1] + jnp.square(value)

    zero = jnp.zeros_like(signal)
    total, squares = (x / points.shape[0] for x in jax.lax.fori_loop(0, points.shape[0], add, (zero, zero)))
    no_parents = scm.node_kind[t, n] == NodeKind.EXOGENOUS  # all that is known is the column's mean
    variance = average(jnp.square(actual - overall))
    error = jnp.where(no_parents, variance, average(jnp.maximum(squares - jnp.square(total), 0.0)))
    return Oracle(
        mean=overall + jnp.where(no_parents, 0.0, total),
        probability=jnp.zeros((signal.shape[0], capacity.classes), jnp.float32),
        error=error,
        noise_share=jnp.clip(error / jnp.maximum(variance, 1e-30), 0.0, 1.0),
    )


def column_oracle(db: Database, truth: Truth, table: int, column: int | str, capacity: Capacity, catalog: Catalog | None = None) -> Oracle:
    """The oracle of one column at the first rows of a table.

    Args:
        db: a simulated database, without a batch axis.
        truth: `explain_rows` of the table from its first tile on.
        table: its number.
        column: its number or name.
        capacity: static sizes.
        catalog: words of the database; None stands for `Catalog.default`.

    Returns:
        `Oracle`; averages are over the rows of ``truth`` that exist. A column that observes an exogenous node has its mean for an oracle;
        one that observes a gather or aggregate node is known exactly.

    Raises:
        ValueError: if the database has no calibrated SCM, or there is no such column.
    """
    scm = db.scm
    if scm is None or not bool(scm.calibrated):
        raise ValueError("db: has no calibrated SCM, hence no oracle; take a simulated Database")
    if isinstance(column, str):
        from jaxrel.convert import words_of

        names = [words.name for words in words_of(db, catalog).tables[table].columns]
        if column not in names:
            raise ValueError(f"column {column!r} is unknown; known are {', '.join(names)}")
        column = names.index(column)
    if not 0 <= column < int(db.schema.column_count[table]):
        raise ValueError(f"column {column} is outside 0…{int(db.schema.column_count[table]) - 1}")
    t, c = jnp.int32(table), jnp.int32(column)
    n = scm.column_node[t, c]
    real = jnp.arange(truth.signal.shape[-1], dtype=jnp.int32) < db.schema.row_count[t]
    if int(scm.node_classes[t, n]):
        return _categorical(db.schema, scm, truth, t, n, real, capacity)
    points = jnp.asarray(noise_points()[int(scm.node_law[t, n])])
    if int(scm.column_cut[t, c]) != NO_CUT:
        classes = 1 << (int(db.schema.column_classes[t, c]) - 1).bit_length()  # a power of two: few programs
        return _cut(db.schema, scm, truth, t, c, points, real, classes)
    return _real(db.schema, scm, truth, t, c, points, real, capacity)
