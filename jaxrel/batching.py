"""One leading batch axis: the seam through which a user's ``vmap`` reaches the programs that loop over tiles.

Under a plain ``vmap`` a loop's bound would be a batched predicate, a branch a choice of two results, and each database would walk its own
row axis while the others wait. So these programs are written for arrays that lead with ``B``: trip counts are the batch's maximum, a
branch is taken where anyone needs it, and tiles are shared out (`jaxrel.schedule`). `batched` lifts such a function to one database
(B = 1) and tells ``vmap`` to widen that axis.

Neither that seam nor a loop with a traced bound can be differentiated in reverse. So a function that gradients pass through is written over
a loop that it is given, and its derivative is that of the same function over `fixed_loop`, which runs to a static bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Loop", "batched", "by_platform", "fixed_loop", "product", "quick_loop"]

Loop = Callable[..., Any]


def product(subscripts: str, *operands: Any) -> Any:
    """``jnp.einsum`` in whole float32: left alone, GPUs and TPUs cut the operands of a matrix product to 10 or 8 binary digits."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _gpu_at_hand() -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def by_platform(kernel: Callable[..., Any], operators: Callable[..., Any], *args: Any) -> Any:
    """``kernel(*args)`` on CUDA GPUs, ``operators(*args)`` elsewhere; a process that has no GPU does not trace the kernel."""
    return jax.lax.platform_dependent(*args, cuda=kernel, default=operators) if _gpu_at_hand() else operators(*args)


def quick_loop(start: Any, stop: Any, most: int, body: Callable[..., Any], init: Any) -> Any:
    """``body(i, x)`` for i from ``start`` to ``stop``, which may be traced; ``most`` bounds it."""
    return jax.lax.fori_loop(start, stop, body, init)


def fixed_loop(start: int, stop: Any, most: int, body: Callable[..., Any], init: Any) -> Any:
    """The same to the static bound ``most``, idle from ``stop`` on: the form that reverse mode takes."""

    def step(i: Any, x: Any) -> Any:
        return jax.lax.cond(i < stop, lambda x: body(i, x), lambda x: x, x)

    return jax.lax.fori_loop(start, most, step, init)


def _no_tangent(x: Any) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


def batched(function: Callable[..., Any], derivative: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Lift a function of pytrees whose leaves all lead with a batch axis to one of single pytrees.

    Args:
        function: positional pytrees ``[B, …]`` in, a pytree ``[B, …]`` out; results must not depend on ``B`` or on neighbours.
        derivative: the same function in a form that JAX differentiates; None where no gradient passes.

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
        split = jax.tree.map(lambda x: x.reshape(axis_size, x.shape[0] // axis_size, *x.shape[1:]), out)
        return split, jax.tree.map(lambda _: True, split)

    @jax.custom_jvp
    def differentiable(*args: Any) -> Any:
        return with_axis(*args)

    @differentiable.defjvp
    def tangents(primals: Any, tangents: Any) -> tuple[Any, Any]:
        out = differentiable(*primals)
        return out, jax.tree.map(_no_tangent, out) if derivative is None else jax.jvp(derivative, primals, tangents)[1]

    def single(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[0], differentiable(*jax.tree.map(lambda x: x[None], args)))

    return single
