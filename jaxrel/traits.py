"""Latent homophily: like links to like, by a trait of the child and a trait of its parent that the SCM may read.

Under the trait law a child row has the trait ``u``, a random word, and a parent row the trait ``v = (rank + ½) / n``, its rank in a keyed
order of the parent table. The parent of a child is the row whose rank is that of ``v = fold(u + δ)``, where ``δ`` is uniform in ±w and the
fold reflects at 0 and 1. On a circle of circumference 2, of which the fold takes two points to one, ``u + δ`` stays uniform: so every
parent is equally likely, whatever w. Spearman's rank correlation of u and v is ``1 - 2 w² + w³``: 1 at w = 0, 0 at w = 1 (independent);
of ``1 - u`` in place of u, its negative. (Of the triangle wave's Fourier series, ``96/π⁴ Σ sinc(k w)/k⁴`` over odd k.)

Traits are words and keyed orders: exogenous, evaluated by counters in the link stage and in the kernel. No stage waits for another.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.draws import draw_flag
from jaxrel.prior import SCMPrior
from jaxrel.random import index_permutation, inverse_permutation, mulhi, named_key, row_pair
from jaxrel.types import NO_TABLE, STRENGTH, LinkLaw, Schema

__all__ = ["child_score", "parent_score", "sample_traits", "trait_parents", "trait_scores"]

_FINE = np.linspace(0.0, 1.0, 1 << 16)
# half width w of δ by the rank correlation in 1/STRENGTH, in 2^-31: the inverse of 1 - 2 w² + w³, which falls from 1 to 0
_WIDTHS = np.interp(np.arange(STRENGTH + 1) / STRENGTH, (1 - 2 * _FINE**2 + _FINE**3)[::-1], _FINE[::-1])
_WIDTHS = np.round(_WIDTHS * 2**31).astype(np.uint32)


def _child_words(stream: Array, rows: Array) -> tuple[Array, Array]:
    """A child's trait in 2^-31, and the word of its δ: u32[...] each."""
    word, other = row_pair(named_key(stream, "trait"), rows)
    return word >> 1, other


def _parent_order(stream: Array) -> Array:
    """u32[..., 2]: the key of the order in which parent rows have their trait."""
    return named_key(stream, "trait order")


def trait_parents(stream: Array, strength: Array, rows: Array, n: Array) -> Array:
    """The trait law: parents of some child rows.

    Args:
        stream: u32[..., 2], the key's stream.
        strength: i32[...], Spearman's correlation of the two traits, in 1/STRENGTH.
        rows: i32[...], child rows.
        n: i32[...], parent rows.

    Returns:
        i32[...]: rows of the parent table, each equally likely.
    """
    u, word = _child_words(stream, rows)
    width = jnp.asarray(_WIDTHS)[jnp.minimum(jnp.abs(strength), STRENGTH)]
    u = jnp.where(strength < 0, u ^ 0x7FFFFFFF, u)
    turn = u + mulhi(word, width + width) - width  # on the circle of 2^32; where w = 1 the double width wraps to 0
    turn = jnp.where(width >> 31 == 1, word, turn)
    v = jnp.where(turn >> 31 == 1, ~turn, turn)
    rank = mulhi(v + v, n.astype(jnp.uint32)).astype(jnp.int32)
    return inverse_permutation(_parent_order(stream), rank, n)


def _normal_score(odds: Array) -> Array:
    """Φ⁻¹((1 + odds) / 2), f32[...], within ±5.3."""
    limit = jnp.float32(1 - 2.0**-23)
    return jax.lax.erf_inv(jnp.clip(odds, -limit, limit)) * jnp.float32(np.sqrt(2.0))


def child_score(stream: Array, rows: Array) -> Array:
    """f32[...]: normal score of the trait of some child rows of the key of this stream."""
    u, _ = _child_words(stream, rows)
    return _normal_score((u.astype(jnp.int32) - (1 << 30)).astype(jnp.float32) * jnp.float32(2.0**-30))


def parent_score(stream: Array, rows: Array, n: Array) -> Array:
    """f32[...]: normal score of the trait of some of the n parent rows of the key of this stream."""
    rank = index_permutation(_parent_order(stream), rows, n)
    return _normal_score((2 * rank + 1 - n).astype(jnp.float32) / jnp.maximum(n, 1).astype(jnp.float32))


def trait_scores(stream: Array, is_parent: Array, rows: Array, n: Array) -> Array:
    """Traits of some rows of every database, on the side of the key that their table is.

    Args:
        stream: u32[B, 2], the keys' streams.
        is_parent: bool[B], the rows are of the parent table.
        rows: i32[B, rows].
        n: i32[B], rows of their tables.

    Returns:
        f32[B, rows], normal scores.
    """
    stream = stream[:, None]
    known = parent_score(stream, jnp.where(is_parent[:, None], rows, 0), jnp.where(is_parent, n, 1)[:, None])
    return jnp.where(is_parent[:, None], known, child_score(stream, rows))


def sample_traits(key: Array, law: SCMPrior, schema: Schema, nodes: Array, exogenous: Array) -> dict[str, Array]:
    """Choose the exogenous nodes that show a trait: for a key, one in the child table and one in the parent table, or none in either.

    A table's exogenous nodes, its first nodes, take the traits in the order of the keys, as far as there are nodes.

    Args:
        key: u32[2].
        law: the ``scm`` section.
        schema: one schema.
        nodes: i32[N], node numbers.
        exogenous: i32[T], exogenous nodes of each table.

    Returns:
        The ``trait_*`` fields of `jaxrel.types.SCM`.
    """
    tables, keys = schema.fk_parent.shape
    shown = draw_flag(named_key(key, "trait", schema.table_id[:, None], schema.fk_id), "shown", law.trait)
    shown = (shown & (schema.fk_law == LinkLaw.TRAIT) & (schema.fk_parent != NO_TABLE)).reshape(-1)
    t, at = jnp.arange(tables, dtype=jnp.int32)[:, None], jnp.arange(tables * keys, dtype=jnp.int32)[None, :]
    concerns = shown[None, :] & ((at // keys == t) | (schema.fk_parent.reshape(1, -1) == t))
    place = jnp.cumsum(concerns, axis=1, dtype=jnp.int32) - 1
    place = jnp.where(concerns & (place < exogenous[:, None]), place, nodes.shape[0])
    which = jnp.full((tables, nodes.shape[0]), -1, jnp.int32).at[t, place].set(jnp.broadcast_to(at, place.shape), mode="drop")
    return {"trait_table": jnp.where(which < 0, jnp.int32(NO_TABLE), which // keys), "trait_fk": jnp.maximum(which, 0) % keys}
