"""A small relational transformer in flax.nnx: it reads contexts of `jaxrel.sample_contexts` and says what the masked cell holds.

Nothing in it knows a database: tables and columns are told apart by their numbers and by who may attend to whom. Each attention layer has
a head for each mask of `jaxrel.attention_masks` (column, feature, neighbour, full), where Ranjan et al. (arXiv 2510.06377) have four
layers one after another; and no text is read. The target looks at the cells of its own column in other rows and takes a weighted mean of
them, to which the rest of the network adds: untrained, it predicts about the mean, or the shares of the classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jaxrel
from jaxrel import Kind

__all__ = ["CLASSES", "FAR", "RelationalTransformer", "loss_of", "merged"]

CLASSES = 32  # codes that are told apart; a target of more is not learnt from
FAR = 5.0  # deviations from the mean at which numbers are cut, targets too
_CENTRES = (-3.0, -2.0, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2.0, 3.0)


def merged(contexts: jaxrel.Contexts) -> jaxrel.Contexts:
    """Contexts of some databases, [D, M, …], as [D M, …]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), contexts)


def _bumps(value: Array) -> Array:
    value = jnp.clip(value, -FAR, FAR)[..., None]
    return jnp.concatenate([value, jnp.exp(-2 * (value - jnp.asarray(_CENTRES)) ** 2)], axis=-1)


def features(contexts: jaxrel.Contexts, hidden: Array) -> Array:
    """What each token says of itself, f32[M, U, 90]: its value unless it is hidden, its kind, its place, how it stands to the target."""
    c = contexts
    number, table = jnp.arange(c.token_row.shape[1])[None, :], c.token_table
    real, is_time, target = c.token_row >= 0, c.token_column == jaxrel.TIME_COLUMN, number == c.target[:, None]
    code = (c.token_kind == Kind.CATEGORICAL) | (c.token_kind == Kind.BOOLEAN)
    shown = real & ~target & ~hidden
    bumps = _bumps(jnp.where(is_time, c.token_value - 4, c.token_value))  # log(1 + days): 4 are two months
    own = jnp.maximum(c.target, 0)[:, None]
    same_table = real & (table == jnp.take_along_axis(table, own, axis=1))
    same_column = same_table & (c.token_column == jnp.take_along_axis(c.token_column, own, axis=1))
    parts = [
        bumps * (shown & ~code & ~is_time)[..., None],
        bumps * (shown & is_time)[..., None],
        jax.nn.one_hot(c.token_value.astype(jnp.int32) % CLASSES, CLASSES) * (shown & code)[..., None],
        jax.nn.one_hot(c.token_kind, len(Kind)),
        jax.nn.one_hot(c.token_column % 16, 16),
        jax.nn.one_hot(table % 8, 8),
        jnp.stack([target | hidden, target, c.token_row == 0, same_table, same_column], axis=-1).astype(jnp.float32),
    ]
    return jnp.concatenate(parts, axis=-1) * real[..., None]


class Block(nnx.Module):
    """Attention with one head for each mask, and two dense layers; before each a norm, around each a bypass."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.before, self.between = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(4))
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array, masks: Array, reader: Array | None = None) -> Array:
        """One layer.

        Args:
            x: f32[M, U, width].
            masks: bool[M, 4, readers, U].
            reader: f32[M, 1, width], the only token that reads; None: all do.

        Returns:
            f32[M, readers, width].
        """
        h = self.before(x)
        y, r = (x, h) if reader is None else (reader, self.before(reader))

        def heads(x: Array) -> Array:
            return x.reshape(*x.shape[:2], masks.shape[1], -1)

        q, k, v = heads(self.query(r)), heads(self.key(h)), heads(self.value(h))
        score = jnp.einsum("mqhd,mkhd->mhqk", q, k) * q.shape[-1] ** -0.5
        weight = jax.nn.softmax(jnp.where(masks, score, -1e9), axis=-1)
        y = y + self.out(jnp.einsum("mhqk,mkhd->mqhd", weight, v).reshape(y.shape))
        return y + self.down(jax.nn.gelu(self.up(self.between(y))))


class RelationalTransformer(nnx.Module):
    """Some blocks, in the last of which the target alone reads; then a mean of its column's cells, and what is added to it."""

    def __init__(self, width: int = 64, layers: int = 3, *, rngs: nnx.Rngs) -> None:
        self.into = nnx.Linear(2 * (len(_CENTRES) + 1) + CLASSES + len(Kind) + 16 + 8 + 5, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(layers)])
        self.last, self.seen = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.query, self.key = (nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(2))
        self.out = nnx.Linear(width, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.guess = nnx.Linear(width, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, contexts: jaxrel.Contexts, hidden: Array | None = None) -> tuple[Array, Array, Array]:
        """What the masked cells hold.

        Args:
            contexts: M of them.
            hidden: bool[M, U], further tokens that are masked, for training; None: none.

        Returns:
            f32[M], the target's standardised number; f32[M, CLASSES], the logarithms of its codes' probabilities; f32[M, U], a number
            for each token.
        """
        hidden = jnp.zeros(contexts.token_row.shape, bool) if hidden is None else hidden
        masks = jaxrel.attention_masks(contexts)
        every = jnp.stack([masks.column, masks.feature, masks.neighbour, masks.full], axis=1)
        x = self.into(features(contexts, hidden))
        for block in self.blocks[:-1]:
            x = block(x, every)
        own = jnp.maximum(contexts.target, 0)
        target = jnp.take_along_axis(x, own[:, None, None], axis=1)
        t = self.last(self.blocks[-1](x, jnp.take_along_axis(every, own[:, None, None, None], axis=2), target)[:, 0])
        added = self.out(t)

        column = jnp.take_along_axis(masks.column, own[:, None, None], axis=1)[:, 0] & (jnp.arange(x.shape[1]) != own[:, None]) & ~hidden
        seen = self.seen(x)
        score = jnp.einsum("md,mud->mu", self.query(t), self.key(seen)) * t.shape[-1] ** -0.5
        weight = jax.nn.softmax(jnp.where(column, score, -1e9), axis=1) * jnp.any(column, axis=1, keepdims=True)
        trust = jax.nn.sigmoid(added[:, :1] - 2)  # in cells of the context against those that the statistics were taken from
        number = trust[:, 0] * jnp.sum(weight * jnp.clip(contexts.token_value, -FAR, FAR), axis=1) + added[:, 1]

        classes = contexts.target_classes[:, None]
        possible = jnp.arange(CLASSES)[None, :] < classes
        codes = jax.nn.one_hot(contexts.token_value.astype(jnp.int32), CLASSES) * column[..., None]
        counts = (contexts.target_counts + 0.5) * possible
        common = counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 0.5)
        share = trust * jnp.einsum("mu,muc->mc", weight, codes) + (1 - trust) * common
        scores = jax.nn.log_softmax(jnp.where(possible, jnp.log(share + 1e-4), -1e9))
        return number, scores, self.guess(seen)[..., 0]


def loss_of(number: Array, scores: Array, contexts: jaxrel.Contexts) -> tuple[Array, Array]:
    """The loss of each prediction and its weight, f32[M] each: Huber's of a number, the cross-entropy of a code; weight 0: no target."""
    is_code, code = contexts.target_classes > 0, contexts.target_value.astype(jnp.int32)
    of_number = optax.huber_loss(number, jnp.clip(contexts.target_value, -FAR, FAR))
    of_code = -jnp.take_along_axis(scores, jnp.clip(code, 0, CLASSES - 1)[:, None], axis=1)[:, 0]
    weight = contexts.target_known & ~(is_code & ((contexts.target_classes > CLASSES) | (contexts.target_classes < 2)))
    return jnp.where(weight, jnp.where(is_code, of_code, of_number), 0.0), weight.astype(jnp.float32)
