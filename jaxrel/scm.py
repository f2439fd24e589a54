"""Stage three: the structural causal model of every table, sampled as data for the kernel.

Nodes of a table come in an order in which parents precede children: exogenous nodes, gather nodes, the first mechanism node, gather
nodes of self-references (they read that first mechanism, which descends from none of them), more mechanism nodes, aggregate nodes where
children are summed up, the other mechanism nodes (the kernel's second pass, which no other table reads), and last a summary of
all columns where the prior asks for one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.aggregates import sample_aggregates
from jaxrel.batching import Loop, batched, fixed_loop, quick_loop
from jaxrel.columns import COLUMN_DRAWS, sample_columns
from jaxrel.cuts import CUT_DRAWS, sample_cuts
from jaxrel.draws import draw_choice, draw_flag, draw_integer, draw_integers, draw_real, rate, tabulated
from jaxrel.exogenous import EXOGENOUS_DRAWS, sample_exogenous
from jaxrel.layouts import sample_dag
from jaxrel.mechanisms import EDGE_DRAWS, sample_edges
from jaxrel.prior import Prior, SCMPrior
from jaxrel.random import Words, below, bits, chance, named_key, reduce_key, row_bits, running_sum
from jaxrel.registry import CUTS
from jaxrel.rounding import divide
from jaxrel.style import SCM_CHOICES, SCM_RANGES, Style, sample_style
from jaxrel.traits import sample_traits
from jaxrel.types import (
    AGGREGATES,
    ALL_LANES,
    CODE_LANE,
    EXPORTS,
    NO_TABLE,
    SCM,
    SCORES,
    Aggregate,
    Capacity,
    Form,
    Kind,
    NodeKind,
    Schema,
)

__all__ = ["sample_scm"]

_EDGES_AT_ONCE = 256
# Draws that are made together: of a table, of its nodes and keys when it draws its graph, of each node, edge and column.
_OF_TABLE = ("observed", "nodes", "layout", "summary", "aggregates")
_OF_PLACE = ("kept parent", "late root", "favourite", "heir", "column")
_OF_KEY = ("gathers", "export")
_OF_NODE = ("width", "classes", "categorical", "noise", "combine", "noise law", "even", "spread", *EXOGENOUS_DRAWS)
_OF_EDGE = ("copy", "single lane", "source lane", *EDGE_DRAWS)
_OF_COLUMN = ("lane", *COLUMN_DRAWS, *CUT_DRAWS)
_DAY = 86_400


@struct.dataclass
class _TableGraph:
    """One table's node graph, before edges are listed."""

    count: Array  # i32[]
    kind: Array  # i32[N]
    adjacency: Array  # bool[N, N], [parent, child]
    column_node: Array  # i32[C]
    gather_fk: Array  # i32[N]
    gather_export: Array  # i32[N]
    export_node: Array  # i32[EXPORTS]
    pass2_start: Array  # i32[]
    aggregates: dict[str, Array]  # [AGGREGATES] each
    fits: Array  # bool[]


def _node_count(key: Array | Words, prior: Prior, columns: Array, style: Style) -> Array:
    """i32[]: nodes besides gathers and summary: at least the drawn number, and enough for all columns."""
    law = prior.scm
    low, high = rate(law.observed.low), rate(law.observed.high)
    observed = low + below(bits(key, 0, "observed"), high - low + 1).astype(jnp.uint32)
    share = jnp.maximum(observed >> 8, 1)  # in 2^-16, so that columns · 2^16 fits a word
    extra = ((columns.astype(jnp.uint32) << 16) + share - 1) // share
    extra = jnp.where(high > 0, extra.astype(jnp.int32), 0)
    return jnp.maximum(draw_integer(key, "nodes", law.nodes, style=style), columns + extra + law.spare.astype(jnp.int32))


def _thin(key: Array | Words, i: Array, adjacency: Array, n: Array, prior: Prior) -> Array:
    """Give the nodes of a large graph as many parents as those of one of ``dense`` nodes have, at random, and one at least."""
    share = rate(jnp.minimum(divide(prior.scm.dense, jnp.maximum(n, 1).astype(jnp.float32)), 1.0))
    kept = chance(row_bits(named_key(key, "thin"), i[None, :], i[:, None]), share)
    order = jnp.cumsum(adjacency, axis=0, dtype=jnp.int32)
    favourite = order == below(bits(key, i, "kept parent"), jnp.maximum(order[-1], 1))[None, :] + 1
    return adjacency & (kept | favourite)


def _spread_roots(key: Array | Words, i: Array, adjacency: Array, n: Array, prior: Prior) -> Array:
    """Give parents to exogenous nodes beyond the allowed share: those with the highest numbers get a random earlier one."""
    share = (rate(prior.scm.roots) >> 8).astype(jnp.int32)  # in 2^-16
    allowed = jnp.maximum((n * share) >> 16, 1)
    is_root = ~jnp.any(adjacency, axis=0) & (i < n)
    late = is_root & (running_sum(is_root) > allowed)
    parent = below(bits(key, i, "late root"), i)
    return adjacency | (late[None, :] & (i[:, None] == parent[None, :]))


def _table_graph(stream: Array, prior: Prior, capacity: Capacity, schema: Schema, styles: Style, table: Array) -> _TableGraph:
    style = styles.of(table)
    law, N = prior.scm, capacity.nodes
    i, k = jnp.arange(N, dtype=jnp.int32), jnp.arange(capacity.foreign_keys, dtype=jnp.int32)
    key = Words(Words(Words(stream, _OF_TABLE), _OF_PLACE, i), _OF_KEY, k)
    columns = schema.column_count[table]
    parents = schema.fk_parent[table]
    referenced = jnp.any((schema.fk_parent == table) & (jnp.arange(schema.fk_parent.shape[0], dtype=jnp.int32) != table)[:, None])
    wished = jnp.where(table < schema.table_count, _node_count(key, prior, columns, style), 0)
    n = jnp.minimum(wished, N)
    layout = draw_choice(key, "layout", law.layouts, style=style)
    dag = _thin(key, i, sample_dag(named_key(key, "graph"), layout, n, N, prior.layouts), n, prior)
    dag = _spread_roots(key, i, dag, n, prior)
    is_root = ~jnp.any(dag, axis=0) & (i < n)
    is_inner = jnp.any(dag, axis=0) & (i < n)
    roots, inner = jnp.sum(is_root, dtype=jnp.int32), jnp.sum(is_inner, dtype=jnp.int32)

    # gathers: of each key some exports; of a self-reference only export 0, the first mechanism
    is_self = parents == table
    wanted = jnp.where(parents == NO_TABLE, 0, jnp.clip(draw_integer(key, "gathers", law.gathers, k, style), 0, EXPORTS))
    wanted = jnp.where(is_self, jnp.minimum(wanted, (inner >= 2).astype(jnp.int32)), wanted)
    wanted = jnp.where(inner >= 1, wanted, 0)
    ahead = jnp.where(is_self, 0, wanted)
    before = roots + jnp.sum(ahead, dtype=jnp.int32)
    itself = jnp.sum(wanted - ahead, dtype=jnp.int32)
    summary = draw_flag(key, "summary", law.summary) & referenced
    aggregates = sample_aggregates(key, law, schema, table, EXPORTS)
    heard = (aggregates["aggregate_table"] != NO_TABLE) & (inner >= 2) & ~summary  # a summary is read by others, hence of the first pass
    aggregates["aggregate_table"] = jnp.where(heard, aggregates["aggregate_table"], NO_TABLE)
    sums = jnp.sum(heard, dtype=jnp.int32)
    second = jnp.where(sums > 0, (inner + 1) // 2, inner)  # rank of the first mechanism that may descend from an aggregate
    total = before + inner + itself + sums + summary.astype(jnp.int32)
    pass2_start = jnp.where(sums > 0, before + second + itself, total)

    # position of each node of the DAG in the table's order
    rank = running_sum(is_inner) - 1
    position = jnp.where(is_root, running_sum(is_root) - 1, before + rank + jnp.where(rank >= 1, itself, 0))
    position = position + jnp.where(is_inner & (rank >= second), sums, 0)
    position = jnp.where(is_root | is_inner, position, N)
    source = jnp.zeros(N, jnp.int32).at[position].set(i, mode="drop")  # node of the DAG at a position
    from_dag = jnp.zeros(N, bool).at[position].set(is_root | is_inner, mode="drop")
    kind = jnp.where(from_dag & is_root[source], NodeKind.EXOGENOUS, jnp.int32(NodeKind.MECHANISM))

    # gather nodes: number g lies at roots + g (other tables) or right after the first mechanism (itself)
    first = jnp.where(is_self, before + 1 + running_sum(wanted - ahead) - wanted, roots + running_sum(ahead) - ahead)
    slot = jnp.arange(EXPORTS, dtype=jnp.int32)
    at = jnp.where(slot[None, :] < wanted[:, None], first[:, None] + slot[None, :], N)  # [K, EXPORTS]
    turn = below(bits(key, k, "export"), EXPORTS)
    export = jnp.where(law.summary > 0, (slot[None, :] + 1) % EXPORTS, (slot[None, :] + turn[:, None]) % EXPORTS)
    export = jnp.where(is_self[:, None], 0, export)
    put = lambda x: jnp.zeros(N, jnp.int32).at[at.reshape(-1)].set(jnp.broadcast_to(x, at.shape).reshape(-1), mode="drop")  # noqa: E731
    gather_fk, gather_export = put(k[:, None]), put(export)
    is_gather = jnp.zeros(N, bool).at[at.reshape(-1)].set(True, mode="drop")
    late = (is_gather & (i >= before)).astype(jnp.int32)  # a self-reference feeds none before the second mechanism
    kind = jnp.where(is_gather, NodeKind.GATHER, kind)
    is_aggregate = (i >= pass2_start) & (i < pass2_start + sums)
    kind = jnp.where(is_aggregate, NodeKind.AGGREGATE, kind)

    # edges: the DAG's, from gathers and aggregates into mechanisms, from columns into the summary
    adjacency = dag[source][:, source] & from_dag[:, None] & from_dag[None, :]
    is_mechanism = from_dag & is_inner[source]
    mechanism_rank = jnp.where(is_mechanism, rank[source], -1)
    fed = chance(row_bits(named_key(key, "gather edge"), i[None, :], i[:, None]), rate(law.gather_edge))
    favourite = below(bits(key, i, "favourite"), jnp.maximum(inner - late, 1)) + late
    fed = (fed | (mechanism_rank[None, :] == favourite[:, None])) & is_mechanism[None, :] & (mechanism_rank[None, :] >= late[:, None])
    adjacency = adjacency | (is_gather[:, None] & fed)
    heir = below(bits(key, i, "heir"), jnp.maximum(inner - second, 1)) + second
    hears = chance(row_bits(named_key(key, "aggregate edge"), i[None, :], i[:, None]), rate(law.gather_edge))
    hears = (hears | (mechanism_rank[None, :] == heir[:, None])) & is_mechanism[None, :] & (mechanism_rank[None, :] >= second)
    adjacency = adjacency | (is_aggregate[:, None] & hears)

    # columns observe distinct nodes: the first three mechanisms, the others whatever comes
    luck = bits(key, i, "column")[source]
    ranks = jnp.argsort(jnp.argsort(jnp.where(is_mechanism, luck >> 1, jnp.uint32(0xFFFFFFFF)), stable=True), stable=True)
    others = jnp.where(from_dag, (luck >> 2) + 3, jnp.uint32(0xFFFFFFFF))
    order = jnp.argsort(jnp.where(is_mechanism & (ranks < 3), ranks.astype(jnp.uint32), others), stable=True)
    c = jnp.arange(capacity.columns, dtype=jnp.int32)
    column_node = order[c % jnp.maximum(n, 1)].astype(jnp.int32)
    observed = jnp.zeros(N, bool).at[jnp.where(c < columns, column_node, N)].set(True, mode="drop")
    at_summary = summary & (i == total - 1)
    adjacency = adjacency | (observed[:, None] & at_summary[None, :])

    # exports: the first mechanism, the summary (or a random mechanism), a random mechanism
    mechanisms = jnp.argsort(~is_mechanism, stable=True).astype(jnp.int32)
    draw = mechanisms[below(bits(key, slot, "exported"), jnp.maximum(second, 1))]  # of the first pass
    export_node = jnp.where(slot == 0, mechanisms[0], jnp.where((slot == 1) & summary, total - 1, draw))
    return _TableGraph(
        count=jnp.minimum(total, N),
        kind=kind,
        adjacency=adjacency & (i < total)[:, None] & (i < total)[None, :],
        column_node=column_node,
        gather_fk=gather_fk,
        gather_export=gather_export,
        export_node=export_node,
        pass2_start=jnp.minimum(pass2_start, N),
        aggregates=aggregates,
        fits=(wished + jnp.sum(wanted, dtype=jnp.int32) + sums + summary.astype(jnp.int32) <= N) & (columns <= jnp.maximum(n, 1)),
    )


def _table_graphs(keys: Array, prior: Prior, capacity: Capacity, schema: Schema, styles: Style) -> _TableGraph:
    """The graphs of all tables, [T] each. One table after another: a branch is then one layout, where a batch of tables makes all seven."""
    tables = jnp.arange(capacity.tables, dtype=jnp.int32)

    def graph(table: Array) -> _TableGraph:
        return _table_graph(keys[table], prior, capacity, schema, styles, table)

    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(graph, tables[0]))
    nothing = jnp.full(AGGREGATES, NO_TABLE, jnp.int32)
    blank = dataclasses.replace(blank, aggregates=blank.aggregates | {"aggregate_table": nothing}, fits=jnp.ones((), bool))
    return jax.lax.map(lambda table: jax.lax.cond(table < schema.table_count, graph, lambda _: blank, table), tables)


def _used_nodes(graph: _TableGraph, observed: Array, parent: Array) -> Array:
    """bool[T, N]: nodes that columns or other tables show something of. ``parent``: i32[T, N], where the keys of gathers lead to."""
    T, N = observed.shape
    t, i = jnp.arange(T, dtype=jnp.int32), jnp.arange(N, dtype=jnp.int32)
    gathers = (graph.kind == NodeKind.GATHER) & (i[None, :] < graph.count[:, None])
    read = jnp.zeros((T, EXPORTS), bool).at[jnp.where(gathers, parent, T), graph.gather_export].set(True, mode="drop")
    child = graph.aggregates["aggregate_table"]
    read = read.at[jnp.where(child == NO_TABLE, T, child), graph.aggregates["aggregate_export"]].set(True, mode="drop")
    used = observed.at[t[:, None], jnp.where(read, graph.export_node, N)].set(True, mode="drop")

    def back(k: Array, used: Array) -> Array:
        n = N - 1 - k
        return used.at[:, n].set(used[:, n] | jnp.any(graph.adjacency[:, n] & used, axis=-1))

    return jax.lax.fori_loop(0, N, back, used)


def _list_edges(adjacency: Array, capacity: int) -> tuple[Array, Array, Array, Array, Array]:
    """Edges in the order (table, child, parent): start i32[T, N+1], and of each edge table, child, parent i32[E]; and whether all fit."""
    tables, nodes, _ = adjacency.shape
    by_child = jnp.swapaxes(adjacency, 1, 2).reshape(-1)
    indegree = jnp.sum(adjacency, axis=1, dtype=jnp.int32)  # [T, N]
    ends = jnp.cumsum(indegree.reshape(-1), dtype=jnp.int32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    index = jnp.arange(tables, dtype=jnp.int32)[:, None] * nodes + jnp.arange(nodes + 1, dtype=jnp.int32)[None, :]
    start = starts[index]
    place = jnp.where(by_child, jnp.cumsum(by_child, dtype=jnp.int32) - 1, capacity)
    flat = jnp.zeros(capacity, jnp.int32).at[place].set(jnp.arange(by_child.shape[0], dtype=jnp.int32), mode="drop")
    return jnp.minimum(start, capacity), flat // (nodes * nodes), (flat // nodes) % nodes, flat % nodes, ends[-1] <= capacity


def _days(schema: Schema) -> tuple[Array, Array]:
    """First day and number of days of all events, i32[]; of a database without any, ten years from 2010 on."""
    far = jnp.int32(2**31 - 1)
    first = jnp.min(jnp.where(schema.has_time, schema.time_start, far)) // _DAY
    last = jnp.max(jnp.where(schema.has_time, schema.time_start + schema.time_span, -far)) // _DAY
    timed = jnp.any(schema.has_time)
    return jnp.where(timed, first, 14610), jnp.where(timed, last - first + 1, 3652)


@functools.cache
def _sample_edges(capacity: Capacity) -> Any:
    """The mechanisms of the edges in use, some hundred at a time: a capacity holds many times the edges of a usual schema."""
    size = min(_EDGES_AT_ONCE, capacity.edges)

    def some(
        i: Array,
        stream: Array,
        law: SCMPrior,
        styles: Style,
        kind: Array,
        width: Array,
        classes: Array,
        ends: tuple[Array, Array, Array],
        count: Array,
    ) -> dict[str, Array]:
        table, child, parent = (jax.lax.dynamic_slice_in_dim(x, i * size, size) for x in ends)
        key, style = Words(named_key(stream[table], child, parent), _OF_EDGE), styles.of(table)
        edges = sample_edges(key, law, capacity, style)
        copies = (kind[table, parent] == NodeKind.GATHER) & draw_flag(key, "copy", law.gather_copy)
        one_lane = draw_flag(key, "single lane", law.single_lane, style=style)
        lanes = jnp.maximum(width[table, parent], 1)
        lane = jnp.where(one_lane, below(bits(key, 0, "source lane"), lanes), ALL_LANES)
        looks_up = edges["edge_form"] == Form.LOOKUP
        by_code = looks_up & (classes[table, parent] > 0)
        edges["edge_form"] = jnp.where(looks_up & ~by_code, Form.CELLS, edges["edge_form"])  # a real parent has no code
        lane = jnp.where(by_code, CODE_LANE, lane)
        edges |= {"edge_key": key[...], "edge_lane": lane, "edge_width": jnp.where(lane == ALL_LANES, lanes, 1)}
        edges["edge_layers"] = jnp.where(copies, 0, edges["edge_layers"])
        edges["misfit"] = ~edges.pop("fits")
        in_use = jnp.minimum(i * size, capacity.edges - size) + jnp.arange(size, dtype=jnp.int32) < count
        return {name: jnp.where(in_use.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype)) for name, x in edges.items()}

    def all_in_use(*args: Any, loop: Loop) -> dict[str, Array]:  # every leaf leads with B
        draw = jax.vmap(some, (None, *(0 for _ in args)))
        fresh = jax.eval_shape(draw, jnp.int32(0), *args)
        blank = {name: jnp.zeros((x.shape[0], capacity.edges, *x.shape[2:]), x.dtype) for name, x in fresh.items()}

        def step(i: Array, edges: dict[str, Array]) -> dict[str, Array]:
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=i * size, axis=1)
            return jax.tree.map(put, edges, draw(i, *args))

        return loop(0, -(-jnp.max(args[-1]) // size), -(-capacity.edges // size), step, blank)

    return batched(functools.partial(all_in_use, loop=quick_loop), functools.partial(all_in_use, loop=fixed_loop))


def sample_scm(key: ArrayLike, prior: Prior, schema: Schema, capacity: Capacity) -> SCM:
    """Sample the SCM of every table of a schema.

    Args:
        key: a PRNG key, typed or raw.
        prior: ``scm`` and ``layouts`` sections are read.
        schema: one schema.
        capacity: static sizes.

    Returns:
        An `SCM` that is not calibrated: `simulate` measures ``node_shift`` and ``node_scale`` on its way.

    Reference:
        PluRel (arXiv 2602.04029), conditional causal mechanisms; TabICL (arXiv 2502.05564), random Cauchy graphs and tree mechanisms.

    Example:
        >>> import jax, jaxrel
        >>> tiny, key = jaxrel.presets.load("tiny"), jax.random.key(0)
        >>> schema = jax.jit(jaxrel.sample_schema, static_argnums=2)(key, tiny.prior, tiny.capacity)
        >>> scm = jax.jit(jaxrel.sample_scm, static_argnums=3)(key, tiny.prior, schema, tiny.capacity)
        >>> bool(scm.calibrated)
        False
    """
    key, prior = named_key(reduce_key(key), "scm"), tabulated(prior)
    law, T, N, W = prior.scm, capacity.tables, capacity.nodes, capacity.width
    t, i, c = (jnp.arange(size, dtype=jnp.int32) for size in (T, N, capacity.columns))
    table_key = named_key(key, "table", schema.table_id)
    styles = sample_style(key, schema.table_id, law.style, SCM_RANGES, SCM_CHOICES)
    style = styles.of(t[:, None])
    graph = _table_graphs(table_key, prior, capacity, schema, styles)

    node_key = Words(named_key(table_key[:, None], "node", i), _OF_NODE)
    drawn = draw_integers(node_key, {"width": law.width, "classes": prior.schema.classes}, style=style)
    drawn_width = drawn["width"]
    width = jnp.clip(drawn_width, 1, W)
    width = jnp.where(graph.kind == NodeKind.EXOGENOUS, 1, width)  # an exogenous node is a scalar
    parent = jnp.take_along_axis(schema.fk_parent, graph.gather_fk, axis=1)
    gathered = graph.export_node[jnp.maximum(parent, 0), graph.gather_export]
    width = jnp.where(graph.kind == NodeKind.GATHER, width[jnp.maximum(parent, 0), gathered], width)
    slot = jnp.clip(i[None, :] - graph.pass2_start[:, None], 0, AGGREGATES - 1)
    child, export, heard = (
        jnp.take_along_axis(graph.aggregates[f"aggregate_{name}"], slot, axis=1) for name in ("table", "export", "law")
    )
    child = jnp.maximum(child, 0)
    of_child = jnp.where(heard == Aggregate.COUNT, 1, width[child, graph.export_node[child, export]])
    width = jnp.where(graph.kind == NodeKind.AGGREGATE, of_child, width)

    used = c[None, :] < schema.column_count[:, None]
    labelled = used & ((schema.column_kind == Kind.CATEGORICAL) | (schema.column_kind == Kind.BOOLEAN))
    to_node = jnp.where(used, graph.column_node, N)
    observed = jnp.zeros((T, N), bool).at[t[:, None], to_node].set(True, mode="drop")
    scored = labelled & ~schema.column_binned
    of_column = jnp.zeros((T, N), jnp.int32).at[t[:, None], to_node].set(jnp.where(scored, schema.column_classes, 0), mode="drop")
    hidden_class = draw_flag(node_key, "categorical", law.categorical, style=style) & (graph.kind == NodeKind.MECHANISM)
    hidden_class = hidden_class & (jnp.any(scored) | ~jnp.any(labelled))  # where all categories are cut afterwards, all nodes are real
    drawn_classes = jnp.minimum(drawn["classes"], capacity.classes)
    is_node = i[None, :] < graph.count[:, None]
    is_summary = graph.kind == NodeKind.MECHANISM
    is_summary = is_summary & (graph.export_node[:, 1:2] == i[None, :]) & (i[None, :] == graph.count[:, None] - 1)
    classes = jnp.where(observed, of_column, jnp.where(hidden_class & ~is_summary, drawn_classes, 0))
    classes = jnp.where(is_node & (graph.kind != NodeKind.GATHER) & (graph.kind != NodeKind.AGGREGATE), classes, 0)

    start, edge_table, child, parent_node, edges_fit = _list_edges(graph.adjacency, capacity.edges)
    stream = named_key(table_key, "edge")
    edges = _sample_edges(capacity)(stream, law, styles, graph.kind, width, classes, (edge_table, child, parent_node), start[-1, -1])
    fits = jnp.all(graph.fits) & edges_fit & ~jnp.any(edges.pop("misfit"))
    fits = fits & jnp.all(jnp.where(is_node, drawn_width, 0) <= W)

    column_key = Words(named_key(table_key[:, None], "column", schema.column_id), _OF_COLUMN)
    lane = below(bits(column_key, 0, "lane"), jnp.take_along_axis(width, graph.column_node, axis=1))
    shown = sample_columns(column_key, law, schema.column_kind, schema.column_count, _days(schema), style)
    cuts = sample_cuts(column_key, key, law, schema.column_binned, schema.column_classes, prior.schema.classes.high, style)
    # a lane that follows a category, cut by its width or in halves, would be that category again: it is cut at random points
    labels = jnp.where(graph.kind == NodeKind.GATHER, classes[jnp.maximum(parent, 0), gathered], classes) > 0
    for _ in range(4):  # by four steps at most
        labels = labels | jnp.any(graph.adjacency & labels[:, :, None], axis=1)
    follows = jnp.take_along_axis(labels, graph.column_node, axis=1)
    again = follows & ((cuts["column_cut"] == CUTS.index("width")) | (cuts["column_cut"] == CUTS.index("equal")))
    cuts["column_cut"] = jnp.where(again, jnp.int32(CUTS.index("points")), cuts["column_cut"])
    shown |= cuts | {"column_shape": jnp.where(schema.column_binned, cuts["column_shape"], shown["column_shape"])}
    noise = draw_real(node_key, "noise", law.noise, style=style)
    # two categories that follow from one another without noise, or an integer too coarse for its noise, would say the same
    is_cut = jnp.zeros((T, N), bool).at[t[:, None], to_node].set(follows & schema.column_binned, mode="drop")
    floor = jnp.where(observed & (classes > 0), law.label_noise, jnp.where(is_cut, law.label_noise / 3.0, 0.0))  # scores vary by 3
    noise = jnp.maximum(noise, floor)
    finest = 1.0 / jnp.maximum(jnp.take_along_axis(noise, graph.column_node, axis=1), 1e-2)
    in_units = (schema.column_kind == Kind.INTEGER) & (shown["column_scale"] > 1.0)  # a unit of its own stays
    shown["column_scale"] = jnp.where(in_units, jnp.maximum(shown["column_scale"], finest), shown["column_scale"])
    return SCM(
        key=key,
        node_count=graph.count,
        node_kind=graph.kind,
        node_used=_used_nodes(graph, observed, parent),
        node_width=width,
        node_classes=classes,
        node_combine=draw_choice(node_key, "combine", law.combine, style=style),
        node_noise=noise,
        node_law=draw_choice(node_key, "noise law", law.noises, style=style),
        node_spread=jnp.where(
            draw_flag(node_key, "even", law.even, style=style), 0.0, draw_real(node_key, "spread", law.spread, style=style)
        ),
        gather_fk=graph.gather_fk,
        gather_export=graph.gather_export,
        export_node=graph.export_node,
        pass2_start=graph.pass2_start,
        **graph.aggregates,
        **sample_exogenous(node_key, law, schema.is_activity[:, None], schema.has_time[:, None], style),
        edge_start=start,
        edge_parent=parent_node,
        **edges,
        column_node=graph.column_node,
        column_lane=lane,
        **shown,
        **sample_traits(key, law, schema, i, jnp.sum(graph.kind == NodeKind.EXOGENOUS, axis=1, dtype=jnp.int32)),
        node_shift=jnp.zeros((T, N, W), jnp.float32),
        node_scale=jnp.ones((T, N, W), jnp.float32),
        column_knots=jnp.zeros((T, capacity.columns, len(SCORES)), jnp.float32),
        calibrated=jnp.asarray(False),
        fits=fits,
    )
