"""Random DAG layouts under jit and vmap: traced size, static capacity, and the same graph at any capacity.

A layout is a function ``(key, n, words, prior) -> bool[capacity, capacity]``, ``[parent, child]``, upper triangular, nodes numbered
topologically; ``words`` are random words u32[capacity, capacity], one a pair. Every draw is keyed by the node or pair it belongs to
and decided by integers. The same samplers make the schema graph and the node graphs of the SCMs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.prior import LayoutPrior, draw_integer, draw_share, rate
from jaxrel.random import below, bits, chance, named_key, pair, row_bits
from jaxrel.registry import LAYOUTS

__all__ = ["SAMPLERS", "sample_dag"]

Sampler = Callable[[Array, Array, Array, LayoutPrior], Array]

# Quantile tables of the standard logistic and Cauchy laws at 4,096 midpoints, in 2^-10, so that no transcendental decides an edge.
_MIDPOINTS = (np.arange(4096) + 0.5) / 4096
_LOGISTIC = np.round(np.log(_MIDPOINTS / (1 - _MIDPOINTS)) * 1024).astype(np.int32)
_CAUCHY = np.round(np.tan(np.pi * (_MIDPOINTS - 0.5)) * 1024).astype(np.int32)


def _upper(n: Array, capacity: int) -> Array:
    """bool[capacity, capacity]: pairs (parent, child) with parent < child < n."""
    i = jnp.arange(capacity, dtype=jnp.int32)
    return (i[:, None] < i[None, :]) & (i[None, :] < n)


def barabasi_albert(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Preferential attachment: node v chooses ``attach`` distinct earlier nodes with probability proportional to their degree.

    Reference: Barabási and Albert, Science 286 (1999).
    """
    most, capacity = 8, words.shape[0]
    attach = jnp.minimum(prior.attach.astype(jnp.int32), most)
    i = jnp.arange(capacity, dtype=jnp.int32)
    up_to = (i[:, None] <= i[None, :]).astype(jnp.float32)
    luck = bits(key, i[:, None], most + jnp.arange(most, dtype=jnp.int32)[None, :])

    def join(degree: Array, v: Array) -> tuple[Array, Array]:
        def pick(j: int, picked: Array) -> Array:
            weight = jnp.where((i < v) & ~picked, jnp.where(v <= attach, 1, degree), 0)
            # a sum of degrees is an integer far below 2^24: exact in floats, in any order
            cumulative = jnp.matmul(weight.astype(jnp.float32), up_to, precision="highest").astype(jnp.int32)
            chosen = jnp.sum(cumulative <= below(luck[v, j], cumulative[-1]), dtype=jnp.int32)
            return picked | ((i == chosen) & (j < jnp.minimum(attach, v)))

        picked = jax.lax.fori_loop(0, attach, pick, jnp.zeros(capacity, bool))
        joined = jnp.where(i == v, jnp.sum(picked, dtype=jnp.int32), picked.astype(jnp.int32))
        return degree + joined, picked

    _, rows = jax.lax.scan(join, jnp.zeros(capacity, jnp.int32), i)
    return rows.T & _upper(n, capacity)


def erdos_renyi(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Every pair is an edge with one probability, drawn for the graph. Reference: Erdős and Rényi (1959), G(n, p)."""
    share = draw_share(key, "probability", prior.probability)
    return chance(words, share) & _upper(n, words.shape[0])


def watts_strogatz(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A ring in which each node has k neighbours on each side; each edge's far end is rewired with one probability.

    Reference: Watts and Strogatz, Nature 393 (1998).
    """
    half = draw_integer(key, "neighbours", prior.neighbours)
    rewire = draw_share(key, "rewire", prior.rewire)
    capacity = words.shape[0]
    i = jnp.arange(capacity, dtype=jnp.int32)
    ring = jnp.maximum(n, 1)

    def ring_edges(d: Array, adjacency: Array) -> Array:
        word, far = pair(key, i, d)
        other = (i + 1 + below(far, ring - 1)) % ring
        target = jnp.where(chance(word, rewire), other, (i + d) % ring)
        return adjacency | ((target[:, None] == i[None, :]) & (i < n)[:, None] & (d <= half))

    adjacency = jax.lax.fori_loop(1, 9, ring_edges, jnp.zeros((capacity, capacity), bool))  # 8: the prior's bound on neighbours
    return (adjacency | adjacency.T) & _upper(n, capacity)


def random_tree(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A uniform labelled tree, edges away from its root: node i hangs below min(U_i, i - 1), U_i uniform on the nodes.

    Reference: Aldous, "A random tree model associated with random graphs", 1990 (labels are exchangeable and dropped).
    """
    i = jnp.arange(words.shape[0], dtype=jnp.int32)
    parent = jnp.minimum(below(bits(key, i, "parent"), n), i - 1)
    return (i[:, None] == parent[None, :]) & _upper(n, words.shape[0])


def reverse_random_tree(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A uniform labelled tree, edges towards its root."""
    capacity = words.shape[0]
    mirrored = jnp.clip(n - 1 - jnp.arange(capacity, dtype=jnp.int32), 0, capacity - 1)
    return random_tree(key, n, words, prior)[mirrored][:, mirrored].T & _upper(n, capacity)


def layered(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Layers of nearly equal size, fully connected one to the next, each edge dropped with one probability.

    Every node of a later layer keeps at least one parent, every node of an earlier layer at least one child.
    """
    depth = jnp.minimum(draw_integer(key, "depth", prior.depth), jnp.maximum(n, 1))
    capacity = words.shape[0]
    i = jnp.arange(capacity, dtype=jnp.int32)
    layer = i * depth // jnp.maximum(n, 1)
    adjacent = (layer[:, None] + 1 == layer[None, :]) & _upper(n, capacity)
    kept = adjacent & ~chance(words, rate(prior.drop))
    first, past = -(-layer * n // depth), -(-(layer + 1) * n // depth)  # rows of the node's own layer
    below_past = -(-(layer + 2) * n // depth)
    above_first = -(-(layer - 1) * n // depth)
    parent = above_first + below(bits(key, i, "parent"), first - above_first)
    child = past + below(bits(key, i, "child"), below_past - past)
    needs_parent = ~jnp.any(kept, axis=0)[None, :] & (i[:, None] == parent[None, :])
    needs_child = ~jnp.any(kept, axis=1)[:, None] & (i[None, :] == child[:, None])
    return kept | ((needs_parent | needs_child) & adjacent)


def cauchy(key: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """P(i → j) = sigmoid(A + B_i + C_j) with standard Cauchy A, B_i, C_j: hubs and isolated regions.

    Reference: the random Cauchy graph of TabICL (Qu et al., arXiv 2502.05564) and PluRel (arXiv 2602.04029).
    """
    capacity = words.shape[0]
    b, c = pair(key, jnp.arange(capacity, dtype=jnp.int32), "cauchy")
    quantile = jnp.asarray(_CAUCHY)
    score = quantile[bits(key, 0, "A") >> 20] + quantile[b >> 20][:, None] + quantile[c >> 20][None, :]
    return (jnp.asarray(_LOGISTIC)[words >> 20] < score) & _upper(n, capacity)


SAMPLERS: dict[str, Sampler] = {
    f.__name__: f for f in (barabasi_albert, erdos_renyi, watts_strogatz, random_tree, reverse_random_tree, layered, cauchy)
}
assert tuple(SAMPLERS) == LAYOUTS


def _connect(key: Array, adjacency: Array, n: Array) -> Array:
    """Give the lowest node of each later component a random earlier parent."""
    capacity = adjacency.shape[0]
    i = jnp.arange(capacity, dtype=jnp.int32)
    reach = (adjacency | adjacency.T | jnp.eye(capacity, dtype=bool)).astype(jnp.float32)

    def square(_: int, reach: Array) -> Array:
        return (reach @ reach > 0).astype(jnp.float32)

    reach = jax.lax.fori_loop(0, max(1, (capacity - 1).bit_length()), square, reach)
    lowest = (jnp.argmax(reach > 0, axis=1).astype(jnp.int32) == i) & (i < n) & (i > 0)
    parent = below(bits(key, i, "connect"), i)
    return adjacency | (lowest[None, :] & (i[:, None] == parent[None, :]))


def sample_dag(key: Array, layout: Array, n: Array, capacity: int, prior: LayoutPrior) -> Array:
    """Sample one connected DAG of a given layout.

    Args:
        key: u32[2].
        layout: i32[], index into `jaxrel.registry.LAYOUTS`.
        n: i32[], nodes.
        capacity: static, nodes that the result has room for.
        prior: parameters of the layouts.

    Returns:
        bool[capacity, capacity], ``[parent, child]`` with parent < child < n.
    """
    i = jnp.arange(capacity, dtype=jnp.int32)
    words = row_bits(named_key(key, "pair"), i[None, :], i[:, None])
    adjacency = jnp.zeros((capacity, capacity), bool)
    for code, sampler in enumerate(SAMPLERS.values()):  # one layout is taken, so all may read the same words
        adjacency = jnp.where(layout == code, sampler(key, n, words, prior), adjacency)
    return _connect(key, adjacency, n)
