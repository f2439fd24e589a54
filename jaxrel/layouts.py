"""Random DAG layouts under jit and vmap: traced size, static capacity, and the same graph at any capacity.

A layout is a function ``(key, i, n, words, prior) -> bool[capacity, capacity]``, ``[parent, child]``, upper triangular, nodes numbered
topologically; ``i`` are the numbers, i32[capacity], ``words`` random words u32[capacity, capacity], one a pair. Every draw is keyed by
the node or pair it belongs to and decided by integers. The same samplers make the schema graph and the node graphs of the SCMs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.draws import draw_integer, draw_share, rate
from jaxrel.prior import LayoutPrior
from jaxrel.random import Words, below, bits, chance, named_key, pair, row_bits, running_sum
from jaxrel.registry import LAYOUTS

__all__ = ["SAMPLERS", "sample_dag"]

_MOST_LAYERS = 64  # the prior's bound on depth
_OF_GRAPH = ("probability", "neighbours", "rewire", "depth", "A")  # draws of any layout, one a graph
_OF_NODE = ("drop", "parent", "layer", "child", "cauchy", "from", "to")  # and one a node

Sampler = Callable[[Array | Words, Array, Array, Array, LayoutPrior], Array]

# Quantile tables of the standard logistic and Cauchy laws at 4,096 midpoints, in 2^-10, so that no transcendental decides an edge.
_MIDPOINTS = (np.arange(4096) + 0.5) / 4096
_LOGISTIC = np.round(np.log(_MIDPOINTS / (1 - _MIDPOINTS)) * 1024).astype(np.int32)
_CAUCHY = np.round(np.tan(np.pi * (_MIDPOINTS - 0.5)) * 1024).astype(np.int32)


def _upper(n: Array, capacity: int) -> Array:
    """bool[capacity, capacity]: pairs (parent, child) with parent < child < n."""
    i = jnp.arange(capacity, dtype=jnp.int32)
    return (i[:, None] < i[None, :]) & (i[None, :] < n)


def barabasi_albert(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Preferential attachment: a star of ``attach`` rays; then each node chooses ``attach`` earlier ones in proportion to their degree.

    Afterwards each sink with several parents loses one of them with probability ``sink_drop``; all but the first node keep a parent.

    Reference: Barabási and Albert, Science 286 (1999); the drop is PluRel's (arXiv 2602.04029).
    """
    most, capacity = 8, words.shape[0]
    attach = jnp.minimum(prior.attach.astype(jnp.int32), most)
    up_to = (i[:, None] <= i[None, :]).astype(jnp.float32)
    luck = bits(key, i[:, None], most + jnp.arange(most, dtype=jnp.int32)[None, :])

    def join(degree: Array, v: Array) -> tuple[Array, Array]:
        in_star = v <= attach

        def pick(j: int, picked: Array) -> Array:
            weight = jnp.where((i < v) & ~picked, jnp.where(in_star, (i == 0).astype(jnp.int32), degree), 0)
            # a sum of degrees is an integer far below 2^24: exact in floats, in any order
            cumulative = jnp.matmul(weight.astype(jnp.float32), up_to, precision="highest").astype(jnp.int32)
            chosen = jnp.sum(cumulative <= below(luck[v, j], cumulative[-1]), dtype=jnp.int32)
            return picked | ((i == chosen) & (j < jnp.where(in_star, jnp.minimum(v, 1), attach)))

        picked = jax.lax.fori_loop(0, attach, pick, jnp.zeros(capacity, bool))
        joined = jnp.where(i == v, jnp.sum(picked, dtype=jnp.int32), picked.astype(jnp.int32))
        return degree + joined, picked

    _, rows = jax.lax.scan(join, jnp.zeros(capacity, jnp.int32), i)
    adjacency = rows.T & _upper(n, capacity)
    parents = jnp.sum(adjacency, axis=0, dtype=jnp.int32)
    drop = chance(bits(key, i, "drop"), rate(prior.sink_drop)) & ~jnp.any(adjacency, axis=1) & (parents > 1)
    which = jnp.argmax(jnp.where(adjacency, words.T | 1, jnp.uint32(0)), axis=0).astype(jnp.int32)  # the luckiest of its parents
    return adjacency & ~((i[:, None] == which[None, :]) & drop[None, :])


def erdos_renyi(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Every ordered pair is drawn with one probability, drawn for the graph; a pair is an edge if it is drawn in either order.

    Reference: Erdős and Rényi (1959), G(n, p) as a directed graph, made undirected as PluRel (arXiv 2602.04029) does.
    """
    drawn = chance(words, draw_share(key, "probability", prior.probability))
    return (drawn | drawn.T) & _upper(n, words.shape[0])


def watts_strogatz(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A ring in which each node has k neighbours on each side; then each edge's far end moves with one probability.

    Edges move one after another, each to a node that its near end does not yet touch, so that none is lost.

    Reference: Watts and Strogatz, Nature 393 (1998).
    """
    most, capacity = 8, words.shape[0]  # the prior's bound on neighbours
    ring = jnp.maximum(n, 1)
    half = jnp.minimum(draw_integer(key, "neighbours", prior.neighbours), ring // 2)
    rewire = draw_share(key, "rewire", prior.rewire)
    d = jnp.arange(most, dtype=jnp.int32)
    far = jnp.where((i < n)[None, :] & (d < half)[:, None], (i[None, :] + 1 + d[:, None]) % ring, -1)  # the far end of edge d of node i
    moves = chance(bits(key, i[None, :], d[:, None]), rewire) & (far >= 0)
    turns = jnp.asarray([0, 16, 8, 24, 4, 20, 12, 28], jnp.uint32)

    def move(step: Array, far: Array) -> Array:
        d, u = step // capacity, step % capacity
        touched = jnp.any((far == u) | (far[:, u, None] == i[None, :]), axis=0)
        free = ~touched & (i != u) & (i < n)
        shift = turns[d]  # the node's words, turned for each of its edges: a hash would cost ten times as much
        luck = (words[u] << shift) | (words[u] >> ((32 - shift) & 31)) | 1  # the luckiest free node is the new far end
        target = jnp.argmax(jnp.where(free, luck, jnp.uint32(0))).astype(jnp.int32)
        new = jnp.where(moves[d, u] & jnp.any(free), target, far[d, u])
        return jax.lax.dynamic_update_slice(far, new[None, None], (d, u))

    rounds = jnp.clip(prior.neighbours.high.astype(jnp.int32), 0, most)
    far = jax.lax.fori_loop(0, rounds * capacity, move, far)
    adjacency = jnp.any(far[:, :, None] == i[None, None, :], axis=0)
    return (adjacency | adjacency.T) & _upper(n, capacity)


def random_tree(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A uniform labelled tree, edges away from its root: node i hangs below min(U_i, i - 1), U_i uniform on the nodes.

    Reference: Aldous, "A random tree model associated with random graphs", 1990 (labels are exchangeable and dropped).
    """
    parent = jnp.minimum(below(bits(key, i, "parent"), n), i - 1)
    return (i[:, None] == parent[None, :]) & _upper(n, words.shape[0])


def reverse_random_tree(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """A uniform labelled tree, edges towards its root."""
    capacity = words.shape[0]
    mirrored = jnp.clip(n - 1 - i, 0, capacity - 1)
    return random_tree(key, i, n, words, prior)[mirrored][:, mirrored].T & _upper(n, capacity)


def layered(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """Layers of random size, fully connected one to the next, each edge dropped with one probability.

    Every layer has a node, the others fall into layers at random. Every node of a later layer keeps at least one parent, every node of an
    earlier layer at least one child.
    """
    depth = jnp.minimum(draw_integer(key, "depth", prior.depth), jnp.maximum(n, 1))
    capacity = words.shape[0]
    levels = jnp.arange(_MOST_LAYERS, dtype=jnp.int32)
    extra = jnp.where((depth <= i) & (i < n), below(bits(key, i, "layer"), depth), -1)
    sizes = (levels < depth).astype(jnp.int32) + jnp.sum(extra[:, None] == levels[None, :], axis=0, dtype=jnp.int32)
    ends = jnp.concatenate([jnp.zeros(2, jnp.int32), running_sum(sizes), n[None], n[None]])  # layer l lies in ends[l + 1]…ends[l + 2]
    layer = jnp.minimum(jnp.sum(ends[None, 2:-2] <= i[:, None], axis=1, dtype=jnp.int32), _MOST_LAYERS - 1)
    above_first, first, past, below_past = (ends[layer + k] for k in range(4))
    adjacent = (layer[:, None] + 1 == layer[None, :]) & _upper(n, capacity)
    kept = adjacent & ~chance(words, rate(prior.drop))
    parent = above_first + below(bits(key, i, "parent"), first - above_first)
    child = past + below(bits(key, i, "child"), below_past - past)
    kept = kept | (adjacent & ~jnp.any(kept, axis=0)[None, :] & (i[:, None] == parent[None, :]))
    return kept | (adjacent & ~jnp.any(kept, axis=1)[:, None] & (i[None, :] == child[:, None]))


def cauchy(key: Array | Words, i: Array, n: Array, words: Array, prior: LayoutPrior) -> Array:
    """P(i → j) = sigmoid(A + B_i + C_j) with standard Cauchy A, B_i, C_j: hubs and isolated regions.

    Reference: the random Cauchy graph of TabICL (Qu et al., arXiv 2502.05564) and PluRel (arXiv 2602.04029).
    """
    capacity = words.shape[0]
    b, c = pair(key, i, "cauchy")
    quantile = jnp.asarray(_CAUCHY)
    score = quantile[bits(key, 0, "A") >> 20] + quantile[b >> 20][:, None] + quantile[c >> 20][None, :]
    return (jnp.asarray(_LOGISTIC)[words >> 20] < score) & _upper(n, capacity)


SAMPLERS: dict[str, Sampler] = {
    f.__name__: f for f in (barabasi_albert, erdos_renyi, watts_strogatz, random_tree, reverse_random_tree, layered, cauchy)
}
assert tuple(SAMPLERS) == LAYOUTS


def _connect(key: Array | Words, i: Array, adjacency: Array, n: Array) -> Array:
    """Join the components in a chain, in the order of their lowest nodes: a random node of each to a random node of the next."""
    capacity = adjacency.shape[0]
    reach = (adjacency | adjacency.T | jnp.eye(capacity, dtype=bool)).astype(jnp.float32)

    def square(_: int, reach: Array) -> Array:
        return (reach @ reach > 0).astype(jnp.float32)

    together = jax.lax.fori_loop(0, max(1, (capacity - 1).bit_length()), square, reach) > 0
    lowest, size = jnp.argmax(together, axis=1).astype(jnp.int32), jnp.sum(together, axis=1, dtype=jnp.int32)
    rank = jnp.sum(together & (i[None, :] < i[:, None]), axis=1, dtype=jnp.int32)  # of a node inside its component
    leads = (lowest == i) & (i < n)
    before = jnp.max(jnp.where(leads[None, :] & (i[None, :] < i[:, None]), i[None, :], -1), axis=1)  # who leads the component before

    def member(component: Array, word: Array) -> Array:  # a random node of each of some components, by their leaders
        chosen = below(word, size[jnp.maximum(component, 0)])
        is_it = (lowest[None, :] == component[:, None]) & (rank[None, :] == chosen[:, None])
        return jnp.sum(jnp.where(is_it, i[None, :], 0), axis=1, dtype=jnp.int32)

    u, v = member(before, bits(key, i, "from")), member(i, bits(key, i, "to"))
    joins = leads & (before >= 0)
    low, high = (joins[:, None] & (end[:, None] == i[None, :]) for end in (jnp.minimum(u, v), jnp.maximum(u, v)))
    return adjacency | (low.T.astype(jnp.float32) @ high.astype(jnp.float32) > 0)


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
    ahead = Words(Words(key, _OF_GRAPH), _OF_NODE, i)
    # one layout is taken, so all may read the same words
    branches = [functools.partial(sampler, ahead, i, n, words, prior) for sampler in SAMPLERS.values()]
    return _connect(ahead, i, jax.lax.switch(layout, branches), n)
