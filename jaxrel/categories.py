"""Categorical nodes: each category has a prototype; a row takes the category whose prototype its signal, with Gumbel noise, fits best."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel.aggregates import as_ordered
from jaxrel.batching import product
from jaxrel.random import Key, gumbel, named_key, normals, row_bits, row_pair
from jaxrel.types import Capacity

__all__ = ["NO_BID", "bid", "class_scores", "classify", "prototype_key", "prototypes", "sharpened", "winner"]

_CODES = 255  # the highest code of a category
NO_BID = -(2**31)  # below every bid
_GUMBEL = 4096  # lanes of a row's words: noise from 0, Gumbel noise of the classes from here


def prototype_key(key: Array, table_id: Array, node: Array) -> Array:
    """u32[..., 2]: the stream of a node's prototypes, of the SCM's key."""
    return named_key(key, "prototype", table_id, node)


def prototypes(key: Array, width: Array, capacity: Capacity) -> Array:
    """f32[B, Q, W]: what each category of a categorical node looks like, of the nodes' keys u32[B, 2] and widths i32[B]."""
    q, w = jnp.arange(capacity.classes, dtype=jnp.int32), jnp.arange(capacity.width, dtype=jnp.int32)
    prototype, _ = normals(row_pair(key[:, None, None, :], q[None, :, None], w[None, None, :]))
    return jnp.where((w[None, :] < width[:, None])[:, None, :], prototype, 0.0)


def class_scores(prototype: Array, width: Array, signal: Array) -> Array:
    """Scores of all categories, f32[B, Q, rows], of prototypes f32[B, Q, W], widths i32[B] and signals f32[B, W, rows].

    With Gumbel noise of scale ``node_noise`` the highest score wins: categories have the probabilities of a softmax of score / scale.
    """
    return product("bqw,bwr->bqr", sharpened(prototype, width[:, None, None]), signal)


def sharpened(prototype: Array, width: Array) -> Array:
    """Prototypes of nodes of some width, as their scores are made of."""
    return prototype * (3.0 / jnp.sqrt(jnp.maximum(width, 1).astype(jnp.float32)))


def classify(value: Array, prototype: Array, width: Array, classes: Array, scale: Array, noise_key: Array, rows: Array) -> Array:
    """The category of every row of one categorical node of every database: the best score plus Gumbel noise.

    Args:
        value: f32[B, W, rows], the signal.
        prototype: f32[B, Q, W], `prototypes`.
        width: i32[B], lanes of the node.
        classes: i32[B], its categories.
        scale: f32[B], of the Gumbel noise.
        noise_key: u32[B, 2], the node's noise stream.
        rows: i32[B, rows], row ids.

    Returns:
        i32[B, rows], codes below ``classes``.
    """
    score = class_scores(prototype, width, jax.lax.stop_gradient(value))

    def challenge(c: Array, best: Array) -> Array:  # one class after another: all at once, XLA computes every score anew for each use
        own = jax.lax.dynamic_index_in_dim(score, c, 1, keepdims=False)
        return jnp.where((c < classes)[:, None], jnp.maximum(best, bid(c, own, scale[:, None], noise_key[:, None, :], rows)), best)

    lowest = jnp.full(value.shape[::2], NO_BID, jnp.int32)
    return jnp.minimum(winner(jax.lax.fori_loop(0, jnp.max(classes), challenge, lowest)), prototype.shape[1] - 1)


def bid(c: Array, score: Array, scale: Array, noise_key: Key, rows: Array) -> Array:
    """What a category bids for some rows: its score plus Gumbel noise, i32[...] in the order of the sums, its code in the low bits."""
    ordered = as_ordered(score + scale * gumbel(row_bits(noise_key, rows, _GUMBEL + c)))
    return (ordered & ~_CODES) | (_CODES - c)


def winner(highest: Array) -> Array:
    """The category that made the highest bid, i32[...]."""
    return _CODES - (highest & _CODES)
