"""Binned columns: categories that are a real lane cut into classes, by its rank or by its value, in order or permuted.

A class is a closed form of the rank ``u`` of the lane among its table's rows, so that hundreds of classes cost what two do. Classes cut
at random points alone are counted one by one; a prior gives those few of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.columns import log_survival
from jaxrel.draws import draw_choice, draw_share
from jaxrel.prior import SCMPrior
from jaxrel.random import Words, bits, chance, exp, log, mulhi, named_key, pair, uniform
from jaxrel.registry import CUTS
from jaxrel.style import Style
from jaxrel.types import NO_CUT, SCM, LabelOrder, Schema

__all__ = ["CUT_DRAWS", "cut_codes", "cut_key", "permute_codes", "sample_cuts"]

CUT_DRAWS = ("cut", "exponent", "permuted", "descending", "skew")
_ROUNDS = 12
_RAREST = 2e-4  # share of the rarest class that a skewed cut aims at
_POINTS = 64  # lanes of a column's words: rounds of the permutation from 0, points from here


def sample_cuts(
    key: Array | Words, database: Array, law: SCMPrior, binned: Array, classes: Array, most: Array, style: Style
) -> dict[str, Array]:
    """Sample how binned columns are cut.

    Args:
        key: u32[T, C, 2], one key a column.
        database: u32[2], a key of the database.
        law: the ``scm`` section.
        binned: bool[T, C].
        classes: i32[T, C].
        most: i32[], a column of more classes is cut by Zipf's law.
        style: of the columns' tables.

    Returns:
        ``column_cut`` and ``column_order`` of `jaxrel.types.SCM`, and ``column_shape`` of the columns that are binned: the exponent.
    """
    of_all = Words(database, ("permuted", "descending"))
    cut = draw_choice(key, "cut", law.cuts, style=style)
    cut = jnp.where(classes > most, CUTS.index("zipf"), cut)
    u = (bits(key, 0, "exponent") >> 20).astype(jnp.float32) * jnp.float32(2.0**-12)
    steep = 0.1875 + 1.4375 * u  # Zipf's exponent, exact; the closed form has none at 1
    steep = jnp.where(jnp.abs(steep - 1.0) < 0.02, 1.02, steep)
    shape = jnp.where(cut == CUTS.index("zipf"), steep, jnp.where(cut == CUTS.index("skewed"), _skew(key, classes), 1.0))
    permuted = chance(bits(key, 0, "permuted"), draw_share(of_all, "permuted", law.permuted))
    descending = chance(bits(key, 0, "descending"), draw_share(of_all, "descending", law.descending))
    order = jnp.where(permuted, LabelOrder.PERMUTED, jnp.where(descending, LabelOrder.DESCENDING, jnp.int32(LabelOrder.ASCENDING)))
    return {
        "column_cut": jnp.where(binned, cut, jnp.int32(NO_CUT)),
        "column_order": jnp.where(binned, order, jnp.int32(LabelOrder.ASCENDING)),
        "column_shape": shape,
    }


def _skew(key: Array | Words, classes: Array) -> Array:
    """f32[...]: exponents of the rank by which the first class, or the last one, has a share between `_RAREST` and an even one."""
    word, side = pair(key, 0, "skew")
    q = jnp.maximum(classes, 2).astype(jnp.float32)
    rare = jnp.exp(np.log(_RAREST) - uniform(word) * jnp.log(q * _RAREST))
    first, last = jnp.log(q) / -jnp.log(rare), jnp.log1p(-1.0 / q) / jnp.log1p(-rare)
    return jnp.where(side >> 31 == 1, first, last)


def permute_codes(key: Array, code: Array, n: Array) -> Array:
    """Permute the codes of columns, each by a random permutation of its own of any size, without a table.

    Args:
        key: u32[C, 2], one key a column.
        code: u32[C, rows], below n.
        n: u32[C], codes of each column.

    Returns:
        u32[C, rows].

    Reference:
        Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012 (swap-or-not).
    """
    words, hashes = pair(key[:, None, :], jnp.arange(_ROUNDS, dtype=jnp.int32)[None, :])
    n = jnp.maximum(n, 1)[:, None]
    for r in range(_ROUNDS):
        word, multiplier = words[:, r, None], hashes[:, r, None] | 1
        partner = mulhi(word, n) + n - code
        partner = jnp.where(partner >= n, partner - n, partner)
        swaps = (jnp.maximum(code, partner) * multiplier + (word << 16)) >> 31 == 1  # a bit that the pair has in common
        code = jnp.where(swaps, partner, code)
    return code


def cut_key(schema: Schema, scm: SCM, table: Array) -> Array:
    """u32[C, 2]: the streams of the cuts of one table's columns."""
    return named_key(scm.key, "cut", schema.table_id[table], schema.column_id[table])


def cut_codes(
    key: Array,
    seen: Array,
    w: Array,
    knots: Array,
    cut: Array,
    shape: Array,
    order: Array,
    classes: Array,
    most_points: Array,
    any_permuted: Array,
) -> Array:
    """Codes of binned columns.

    Args:
        key: u32[C, 2], one stream a column.
        seen: f32[C, rows], lanes.
        w: f32[C, rows], their normal scores.
        knots: f32[C, SCORES], their quantiles.
        cut: i32[C], index into `jaxrel.registry.CUTS`; of columns that are not cut anything comes back.
        shape: f32[C], exponent.
        order: i32[C], `LabelOrder`.
        classes: i32[C].
        most_points: i32[], most classes of a column of the batch that is cut at points.
        any_permuted: bool[], some column of the batch is permuted.

    Returns:
        f32[C, rows], whole numbers from 0 to classes - 1.
    """
    n = jnp.maximum(classes, 1)[:, None]
    q, shape = n.astype(jnp.float32), shape[:, None]
    below = log_survival(w)[1]  # the logarithm of the rank
    u = exp(below)
    rest = 1.0 - shape
    rest = jnp.where(jnp.abs(rest) < 1e-3, 1e-3, rest)
    span = exp(rest * log(q + 1.0)) - 1.0
    low, high = knots[:, :1], knots[:, -1:]
    by_rank = q * exp(jnp.maximum(shape * below, -80.0))
    value = by_rank
    for name, other in (
        ("zipf", exp(log(1.0 + u * span) / rest) - 1.0),  # rank of a density x^-shape on 1…q + 1
        ("width", q * (seen - low) / jnp.maximum(high - low, 1e-6)),
    ):
        value = jnp.where((cut == CUTS.index(name))[:, None], other, value)

    def count(j: Array, passed: Array) -> Array:
        point = uniform(bits(key, _POINTS + j))[:, None]
        return passed + jnp.where((j + 1 < n) & (u > point), 1.0, 0.0)

    at_points = (cut == CUTS.index("points"))[:, None]
    value = jnp.where(at_points, jax.lax.fori_loop(0, most_points - 1, count, jnp.zeros_like(u)), value)
    code = jnp.clip(jnp.floor(value), 0.0, q - 1.0).astype(jnp.int32)
    code = jnp.where((order == LabelOrder.DESCENDING)[:, None], n - 1 - code, code)

    def permute(code: Array) -> Array:
        mixed = permute_codes(key, code.astype(jnp.uint32), n[:, 0].astype(jnp.uint32)).astype(jnp.int32)
        return jnp.where((order == LabelOrder.PERMUTED)[:, None], mixed, code)

    return jax.lax.cond(any_permuted, permute, lambda x: x, code).astype(jnp.float32)
