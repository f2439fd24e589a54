"""One leading batch axis: the seam through which a user's ``vmap`` reaches the programs that loop over tiles.

Inside them trip counts and write indices must be the same for all databases of a batch (under a plain ``vmap`` a dynamic slice update
becomes a scatter and a loop bound a batched predicate). So they are written for arrays that lead with ``B`` and take the batch's
maximum as the trip count; `batched` lifts such a function to one database (B = 1) and tells ``vmap`` to widen that axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["batched"]


def batched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lift a function of pytrees whose leaves all lead with a batch axis to one of single pytrees.

    Args:
        function: positional pytrees ``[B, …]`` in, a pytree ``[B, …]`` out; results must not depend on ``B`` or on neighbours.

    Returns:
        A function without the axis; under ``vmap``, nested or not, it makes one call of ``function`` with all databases side by side.
    """

    @jax.custom_batching.custom_vmap
    def with_axis(*args: Any) -> Any:
        return function(*args)

    @with_axis.def_vmap
    def rule(axis_size: int, in_batched: Any, *args: Any) -> tuple[Any, Any]:
        def merge(x: Any, is_batched: bool) -> Any:
            x = x if is_batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
            return x.reshape(axis_size * x.shape[1], *x.shape[2:])

        merged = jax.tree.map(merge, args, tuple(in_batched))
        out = with_axis(*merged)
        split = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), out)
        return split, jax.tree.map(lambda _: True, split)

    def single(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[0], with_axis(*jax.tree.map(lambda x: x[None], args)))

    return single
