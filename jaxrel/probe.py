"""The gate of tasks: whether the features of some rows say something of a label, and whether one of them says it all.

Every feature is replaced by its rank among the rows (a missing one is below all), so neither units nor tails matter. From the ranks
come, in one pass, how well each feature alone tells the labels apart (AUROC of a class against the others; rank correlation), and the
kernel of a ridge probe: features weighted by how much they say of the training labels, a linear and a Gaussian kernel added. What the
probe predicts for the other, later rows is its score.

Reference: Fan and Lv, "Sure independence screening", JRSS B 2008 (weights); Saunders, Gammerman and Vovk, "Ridge regression learning
algorithm in dual variables", ICML 1998.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["CLASSES", "LEAK", "judge", "judge_links", "separation"]

CLASSES = 16  # most classes of a task
LEAK = 0.97  # a single feature of this AUROC or absolute rank correlation; 0.98 would be the label in another form, less some chance
_TOO_EASY = 0.985  # of the probe
_LEAST_TRAIN, _LEAST_OTHER = 40, 20  # labelled rows
_LEAST_CLASS = 5  # rows of a class, and of all others, that an AUROC is taken of
_MINORITY = 0.1  # least share of all classes but the commonest
_COMMONEST = 0.8  # most of a number's commonest value
_ERRORS = 3.0  # a score must be so many standard errors above chance
_CHUNK = 64  # features ranked at once
_RIDGE = 0.3


def _ranks(x: Array, there: Array) -> Array:
    """f32[n, m]: for each cell of f32[n, m], how many of the rows that are there have less in its column; equal ones count half."""
    ordered = jnp.sort(jnp.where(there[:, None] > 0, x, jnp.inf).T, axis=1)

    def of_column(ordered: Array, x: Array) -> Array:
        less, no_more = (jnp.searchsorted(ordered, x, side=side).astype(jnp.float32) for side in ("left", "right"))
        return 0.5 * (less + no_more)

    return jax.vmap(of_column)(ordered, x.T).T


def _targets(label: Array, there: Array, classes: Array) -> Array:
    """f32[n, CLASSES]: one column for each class, 0 or 1; of a number, its rank in the first column, from 0 to 1."""
    code = jnp.arange(CLASSES, dtype=jnp.int32)
    one = (label.astype(jnp.int32)[:, None] == code[None, :]) & (code < classes)[None, :]
    rank = _ranks(label[:, None], there) / jnp.maximum(jnp.sum(there), 1.0)
    number = jnp.where(code[None, :] == 0, rank, 0.0)
    return jnp.where(classes > 0, one.astype(jnp.float32), number) * there[:, None]


def separation(ranks: Array, targets: Array, there: Array, classes: Array) -> tuple[Array, Array]:
    """How well each column alone tells the labels apart.

    Args:
        ranks: f32[n, m], of its cells, `_ranks`.
        targets: f32[n, CLASSES], `_targets`.
        there: f32[n], 1 for rows that count.
        classes: i32[], 0: a number.

    Returns:
        f32[m, CLASSES] and bool[CLASSES]: AUROC of each class against the others; of a number, its rank correlation in the first; and
        which of them have enough rows.
    """
    n, of_class = jnp.sum(there), jnp.sum(targets, axis=0)
    sums = (ranks * there[:, None]).T @ targets  # [m, CLASSES]
    others = n - of_class
    auroc = (sums - (0.5 * of_class * of_class)[None, :]) / jnp.maximum(of_class * others, 1.0)[None, :]
    enough = (of_class >= _LEAST_CLASS) & (others >= _LEAST_CLASS)
    number = _correlations(ranks, targets, there)
    first = jnp.arange(CLASSES, dtype=jnp.int32) == 0
    return jnp.where(classes > 0, auroc, number), jnp.where(classes > 0, enough, first)


def _correlations(x: Array, y: Array, there: Array) -> Array:
    """f32[m, k]: correlations of the columns of two matrices over the rows that are there; 0 for constant ones."""
    n = jnp.maximum(jnp.sum(there), 1.0)

    def unit(z: Array) -> Array:
        z = (z - jnp.sum(z * there[:, None], axis=0, keepdims=True) / n) * there[:, None]
        size = jnp.sum(z * z, axis=0, keepdims=True)
        return jnp.where(size > 1e-6 * n, z / jnp.sqrt(jnp.maximum(size, 1e-12)), 0.0)

    return unit(x).T @ unit(y)


def _kernel(values: Array, missing: Array, targets: Array, there: Array, train: Array, classes: Array) -> tuple[Array, Array]:
    """The Gram matrix f32[n, n] of weighted ranks, and the largest separation f32[] of any one column."""
    n, F = values.shape
    live = jnp.any(~missing, axis=0)
    order = jnp.nonzero(live, size=F, fill_value=F)[0].astype(jnp.int32)
    count, rows, trained = jnp.sum(live, dtype=jnp.int32), jnp.sum(there), jnp.sum(train)
    noise = 2.0 / jnp.sqrt(jnp.maximum(trained, 1.0))

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        first, gram, most = state
        at = first + jnp.arange(_CHUNK, dtype=jnp.int32)
        column = order[jnp.minimum(at, F - 1)]
        known = (at < count)[None, :]
        column = jnp.minimum(column, F - 1)
        x = jnp.where(missing[:, column] | ~known, -jnp.inf, values[:, column])
        ranks = _ranks(x, there)
        apart, enough = separation(ranks, targets, there, classes)
        one = jnp.where(classes > 0, jnp.maximum(apart, 1.0 - apart), jnp.abs(apart))
        most = jnp.maximum(most, jnp.max(jnp.where(enough[None, :] & known.T, one, 0.0)))
        z = (ranks / jnp.maximum(rows, 1.0) - 0.5) * there[:, None] * jnp.float32(12**0.5)
        said = jnp.max(jnp.abs(_correlations(ranks, targets, train)), axis=1)
        z = z * jnp.maximum(said - noise, 0.0)[None, :]
        return first + _CHUNK, gram + z @ z.T, most

    start = (jnp.int32(0), jnp.zeros((n, n), jnp.float32), jnp.float32(0))
    _, gram, most = jax.lax.while_loop(lambda state: state[0] < count, step, start)
    return gram, most


def _predict(gram: Array, targets: Array, there: Array, train: Array) -> Array:
    """f32[n, CLASSES]: kernel ridge, fitted to the training rows."""
    diagonal = jnp.diagonal(gram)
    scale = jnp.maximum(jnp.sum(diagonal * there) / jnp.maximum(jnp.sum(there), 1.0), 1e-12)
    apart = jnp.maximum(diagonal[:, None] + diagonal[None, :] - 2.0 * gram, 0.0)
    kernel = (gram / scale + jnp.exp(-apart / scale)) * there[:, None] * there[None, :]
    mean = jnp.sum(targets * train[:, None], axis=0) / jnp.maximum(jnp.sum(train), 1.0)
    wanted = (targets - mean[None, :]) * train[:, None]
    system = kernel * train[:, None] * train[None, :] + jnp.diag(1.0 - train + _RIDGE * train)
    dual = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), wanted) * train[:, None]
    return kernel @ dual


def judge(values: Array, missing: Array, label: Array, labelled: Array, train: Array, classes: Array) -> tuple[Array, Array]:
    """Judge a task by the features of some of its rows.

    Args:
        values: f32[n, F], 0 where missing.
        missing: bool[n, F].
        label: f32[n].
        labelled: bool[n].
        train: bool[n], the rows that the probe is fitted to; it is scored on the others.
        classes: i32[], 0: a number.

    Returns:
        f32[], the probe's AUROC (the mean over the classes) or rank correlation, and bool[]: there are labels enough of more than one
        kind, the probe is clearly better than chance and not perfect, and no single feature separates the labels.
    """
    there, fitted = labelled.astype(jnp.float32), (labelled & train).astype(jnp.float32)
    other = there - fitted
    targets = _targets(label, there, classes)
    gram, most = _kernel(values, missing, targets, there, fitted, classes)
    predicted = _predict(gram, targets, there, fitted)
    n = jnp.sum(other)
    if_class = jnp.where(classes > 0, targets * other[:, None], targets)
    apart, enough = separation(_ranks(predicted, other), if_class, other, classes)
    diagonal = jnp.diagonal(apart)
    groups = jnp.sum(enough.astype(jnp.float32))
    score = jnp.sum(jnp.where(enough, diagonal, 0.0)) / jnp.maximum(groups, 1.0)
    score = jnp.where(groups > 0, score, 0.0)

    def share(among: Array) -> Array:  # of the commonest label
        same = (label[:, None] == label[None, :]).astype(jnp.float32) * among[None, :] * among[:, None]
        return jnp.max(jnp.sum(same, axis=1)) / jnp.maximum(jnp.sum(among), 1.0)

    varied = jnp.where(classes > 0, 1.0 - _MINORITY, _COMMONEST)
    varied_enough = (share(fitted) <= varied) & (share(other) <= varied)
    few = jnp.clip(jnp.sum(if_class, axis=0), 1.0, jnp.maximum(n - 1.0, 1.0))
    error = jnp.sqrt((n + 1.0) / (12.0 * few * jnp.maximum(n - few, 1.0)))  # of an AUROC, where nothing is learnt (Mann and Whitney, 1947)
    error = jnp.sum(jnp.where(enough, error, 0.0)) / jnp.maximum(groups, 1.0) / jnp.sqrt(jnp.maximum(groups / 2.0, 1.0))  # of their mean
    least = jnp.where(classes > 0, 0.5 + jnp.maximum(_ERRORS * error, 0.06), jnp.maximum(_ERRORS / jnp.sqrt(jnp.maximum(n, 1.0)), 0.12))
    passed = (jnp.sum(fitted) >= _LEAST_TRAIN) & (n >= _LEAST_OTHER) & varied_enough
    return score, passed & (score >= least) & (score <= _TOO_EASY) & (most < LEAK)


def judge_links(label: Array, labelled: Array, train: Array, last: Array, parents: Any) -> tuple[Array, Array]:
    """Judge a recommendation task without features: by how much some rows are preferred, and how often the last choice returns.

    Args:
        label: f32[n], rows of the table that is recommended from.
        labelled: bool[n].
        train: bool[n], labelled rows to train on.
        last: f32[n], what was chosen last, negative: nothing.
        parents: i32[], rows of that table.

    Returns:
        f32[], how many times likelier than an even guess the better of two guesses is on the other rows, a random training label or the
        last choice; and bool[]: there are labels enough, more than one, and the guesses are neither no better than even nor (almost) sure.
    """
    fitted, other = train.astype(jnp.float32), (labelled & ~train).astype(jnp.float32)
    n, m = jnp.sum(other), jnp.sum(fitted)
    same = (label[:, None] == label[None, :]).astype(jnp.float32)
    popular = jnp.sum((same @ fitted) * other) / jnp.maximum(n * m, 1.0)
    again = jnp.sum((last == label).astype(jnp.float32) * other) / jnp.maximum(n, 1.0)
    commonest = jnp.max((same @ fitted) * fitted) / jnp.maximum(m, 1.0)
    wide = jnp.asarray(parents).astype(jnp.float32)
    preferred = (popular * wide >= 1.3) & (popular * n * m >= 50.0)  # pairs of equal labels: fewer may be chance
    loyal = (again * wide >= 1.3) & (again * n >= 5.0)
    passed = (m >= _LEAST_TRAIN) & (n >= _LEAST_OTHER) & (commonest <= _COMMONEST) & (again < LEAK)
    return jnp.maximum(popular, again) * wide, passed & (preferred | loyal)
