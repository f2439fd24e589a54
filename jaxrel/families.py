"""Mechanism families: samplers of parameters of the universal form. This file is all that a family touches: write its sampler, add
it to `SAMPLERS` (at the end: the order is that of the codes), and every prior may name it; the kernel knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel.registry import ACTIVATIONS
from jaxrel.types import DEEPEST, Form

if TYPE_CHECKING:  # a prior names families: it comes after them
    from jaxrel.prior import SCMPrior

__all__ = ["FAMILIES", "SAMPLERS", "Drawn", "Sampler"]


class Drawn(dict[str, Array]):
    """Parameters of the universal form: form, hidden, layers, depth, gain, bias (arrays over edges) and activation [..., L]."""


Sampler = Callable[[Drawn, "SCMPrior"], Drawn]


def _linear(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """y = v (w · x): one projection of the parent."""
    return _shallow(drawn, "identity", hidden=1)


def _matrix(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """y = A x, of full rank where there are units enough."""
    return _shallow(drawn, "identity", hidden=jnp.minimum(prior.width.high, prior.hidden.high))


def _mlp(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Dense layers with an activation drawn for each."""
    return drawn


def _tree(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """A sum of oblivious decision trees of one depth: groups of 2^depth linear units of which the winner speaks."""
    depth = drawn["depth"]
    return _shallow(drawn, "winner", form=Form.TREE, depth=depth, hidden=jnp.maximum(drawn["hidden"] >> depth, 1) << depth)


def _fourier(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Random Fourier features (Rahimi and Recht 2007): sines of random projections, phases over a whole turn."""
    return _shallow(drawn, "sine", hidden=prior.hidden.high, gain=2.0 * drawn["gain"], bias=2.0)


def _quadratic(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Squares of random projections, hence all products of two lanes."""
    return _shallow(drawn, "square")


def _threshold(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Hard steps of random projections."""
    return _shallow(drawn, "step")


def _product(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Products of two random projections each, summed: (u · x)(v · x) as a difference of squares."""
    return _shallow(drawn, "square", form=Form.PAIRS, hidden=(drawn["hidden"] + 1) & ~1)


def _discretize(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """The value of the nearest of 2^depth random prototypes."""
    return _shallow(drawn, "winner", form=Form.CELLS, depth=drawn["depth"], hidden=1 << drawn["depth"])


def _soft_assignment(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """Values of 2^depth random prototypes, weighted by their responsibilities (the E step of a Gaussian mixture)."""
    return _shallow(drawn, "share", form=Form.CELLS, depth=drawn["depth"], hidden=1 << drawn["depth"])


def _gaussian_process(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """A draw of a Gaussian process with a squared exponential kernel of length scale 1 / gain, by as many Fourier features as fit."""
    return _shallow(drawn, "sine", hidden=prior.hidden.high, gain=0.7 * drawn["gain"], bias=2.0)


def _lookup(drawn: Drawn, prior: SCMPrior) -> Drawn:
    """A value of its own for each category of the parent; of a real parent, the nearest prototype's."""
    depth = 31 - jax.lax.clz(jnp.maximum(jnp.minimum(prior.hidden.high, 1 << DEEPEST), 2))
    depth = jnp.maximum(depth, prior.depth.high)
    return _shallow(drawn, "winner", form=Form.LOOKUP, depth=depth, hidden=1 << depth)


def _shallow(drawn: Drawn, name: str, **changes: Any) -> Drawn:
    """One hidden layer with one activation, and what else a family fixes."""
    changes |= {"layers": 1, "activation": ACTIVATIONS.index(name)}
    return Drawn(drawn | {k: jnp.broadcast_to(jnp.asarray(v, drawn[k].dtype), drawn[k].shape) for k, v in changes.items()})


SAMPLERS: dict[str, Sampler] = {
    "linear": _linear,
    "mlp": _mlp,
    "tree": _tree,
    "fourier": _fourier,
    "quadratic": _quadratic,
    "threshold": _threshold,
    "matrix": _matrix,
    "product": _product,
    "discretize": _discretize,
    "soft_assignment": _soft_assignment,
    "gaussian_process": _gaussian_process,
    "lookup": _lookup,
}
FAMILIES = tuple(SAMPLERS)  # names, in the order of their codes
