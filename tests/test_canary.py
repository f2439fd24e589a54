"""A canary for wrong sums of jit(vmap(matrix @ row, then reduce)) on CPU (jax-ml/jax issue 39103).

JAX 0.10.2 gives them for the reported program and is refused by the package's requirements. Measured here: 0.10.0 and 0.10.1 give them too,
for a 3 x 3 matrix, a sum or a maximum, and 32,769 to 49,152 rows at once (every row past the 32,768th is wrong); 0.12 for none.
Those two are the newest that Python 3.11 can have, so the canary watches the shapes that the kernel computes: tiles of `TILE` rows,
alone and in batches. Should they go wrong, this fails before anybody trusts a database.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel.types import TILE

AS_USERS_DO = {"xla_backend_optimization_level": 3}  # the suite compiles at a lower level (conftest.py)
REDUCTIONS = {
    "sum": (lambda y: jnp.sum(y, axis=-2), lambda y: y.sum(-2)),
    "sum_of_squares": (lambda y: jnp.sum(y * y, axis=-2), lambda y: (y * y).sum(-2)),
    "max": (lambda y: jnp.max(y, axis=-2), lambda y: y.max(-2)),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("batch", [1, 2, 16, 33, 40])
@pytest.mark.parametrize(("width", "hidden"), [(1, 2), (3, 3), (4, 16), (7, 5)])
def test_tiles_agree_with_float64(batch: int, width: int, hidden: int, reduction: str) -> None:
    rng = np.random.default_rng([batch, width, hidden])
    matrix = rng.integers(-8, 9, (batch, hidden, width)).astype(np.float32)  # small integers: exact in float32, whatever the order
    lanes = rng.integers(-8, 9, (batch, width, TILE)).astype(np.float32)
    on_device, on_host = REDUCTIONS[reduction]
    want = on_host(np.einsum("bhw,bwr->bhr", matrix.astype(np.float64), lanes.astype(np.float64)))
    programs = {
        "vmap": lambda m, x: jax.vmap(lambda a, b: on_device(a @ b))(m, x),
        "einsum": lambda m, x: on_device(jnp.einsum("bhw,bwr->bhr", m, x)),
    }
    for name, program in programs.items():
        got = np.asarray(jax.jit(program, compiler_options=AS_USERS_DO)(matrix, lanes), np.float64)
        np.testing.assert_array_equal(got, want, err_msg=f"{name} on jax {jax.__version__}")


def test_the_reported_program() -> None:
    """One column of row numbers through the identity; every row's square must come back as it went in."""
    rows = 32_769
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(rows)
    norms = jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3, dtype=jnp.float32) @ row)))
    norms = jax.jit(norms, compiler_options=AS_USERS_DO)(jnp.asarray(x))
    np.testing.assert_array_equal(np.asarray(norms), x[:, 0] ** 2)
