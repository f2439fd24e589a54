"""Masked-cell prediction on streamed databases: each step samples new ones, their contexts, and learns from them, in one program.

`notebooks/pretrain.ipynb` runs it and says what generation takes of a step; `study.py` compares what models learn from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from model import CLASSES, FAR, RelationalTransformer, loss_of, merged

import jaxrel
from jaxrel import Kind
from jaxrel.random import bits, chance, named_key, reduce_key

__all__ = ["CONTEXTS", "DATABASES", "SHAPE", "Learner", "contexts_of", "learner", "merged", "new_contexts"]

SHAPE: dict[str, Any] = {"tokens": 64, "rows_per_context": 20, "fan_out": 8, "hops": 3, "classes": CLASSES}
DATABASES, CONTEXTS = 4, 24  # of a step, and of a database
HIDDEN = 0.2  # share of the numbers of a context that are masked beside the target while the model learns


def contexts_of(key: Array, db: jaxrel.Database, count: int = CONTEXTS) -> jaxrel.Contexts:
    """Contexts of some cells of a database."""
    cells = jaxrel.sample_cells(key, db, count)
    return jaxrel.sample_contexts(key, db, cells.table, cells.row, cells.seed_time, cells.column, **SHAPE)


def new_contexts(root: Array, step: Array, preset: Any, databases: int = DATABASES, count: int = CONTEXTS) -> jaxrel.Contexts:
    """The contexts of one step, of databases that no other step sees."""
    first = step * databases
    dbs = jaxrel.sample_databases(root, first, databases, preset.prior, preset.capacity)
    keys = named_key(reduce_key(root), "contexts", first + jnp.arange(databases, dtype=jnp.int32))
    return merged(jax.vmap(lambda key, db: contexts_of(key, db, count))(keys, dbs))


@dataclasses.dataclass(frozen=True)
class Learner:
    """A model as pure functions of its state, a pytree."""

    init: Callable[[int], Any]  # of a seed
    learn: Callable[[Any, jaxrel.Contexts, Array], tuple[Any, Array]]  # one step, u32[2] chooses what else is hidden; the target's loss
    predict: Callable[[Any, jaxrel.Contexts], tuple[Array, Array]]


def learner(steps: int, width: int = 64, layers: int = 3, rate: float = 4e-3) -> Learner:
    """A relational transformer and AdamW with warm-up and cosine decay."""
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, max(steps // 20, 1), steps, 0.02 * rate), weight_decay=0.01),
    )
    graph = nnx.graphdef(RelationalTransformer(width, layers, rngs=nnx.Rngs(0)))

    def init(seed: int) -> Any:
        params = nnx.state(RelationalTransformer(width, layers, rngs=nnx.Rngs(seed)), nnx.Param)
        return params, optimiser.init(params)

    def predict(state: Any, contexts: jaxrel.Contexts) -> tuple[Array, Array]:
        return nnx.merge(graph, state[0])(contexts)[:2]

    def learn(state: Any, contexts: jaxrel.Contexts, key: Array) -> tuple[Any, Array]:
        c = contexts
        number = (c.token_kind == Kind.NUMERIC) | (c.token_kind == Kind.INTEGER)
        luck = bits(key, jnp.arange(c.token_row.size, dtype=jnp.int32)).reshape(c.token_row.shape)
        hidden = number & chance(luck, jnp.uint32(HIDDEN * 2**24)) & (jnp.arange(c.token_row.shape[1]) != c.target[:, None])

        def mean_loss(params: Any) -> tuple[Array, Array]:
            number, scores, guess = nnx.merge(graph, params)(contexts, hidden)
            loss, weight = loss_of(number, scores, contexts)
            others = optax.huber_loss(guess, jnp.clip(c.token_value, -FAR, FAR)) * hidden
            main = jnp.sum(loss) / jnp.maximum(jnp.sum(weight), 1.0)
            return main + jnp.sum(others) / jnp.maximum(jnp.sum(hidden), 1.0), main

        params, memory = state
        (_, value), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, memory = optimiser.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    return Learner(init, learn, predict)
