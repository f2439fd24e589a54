"""What a database asks of a machine, counted from its own arrays: FLOPs, activations, bytes and random draws.

Three counts of one database:

- *needed*: what its columns need. Nodes and lanes that no column descends from are left out.
- *stated*: what its SCM states: every node, each edge at its own width, hidden units and layers, each row once.
- *executed*: what the kernel does: padded sizes, whole tiles, pilots, the second pass, edges from gathers once per child row.

In the first two, an edge out of a gather counts once per parent row where there are fewer of these, since it is the same for all children.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["COUNTS", "count"]

COUNTS = ("needed", "stated", "executed")


def _arrays(part: Any, *names: str) -> list[np.ndarray]:
    return [np.asarray(getattr(part, name)) for name in names]


class _Edges:
    """The edges in use of one database, side by side."""

    def __init__(self, db: Any) -> None:
        scm = db.scm
        start, nodes = _arrays(scm, "edge_start", "node_count")
        tables = int(db.schema.table_count)
        counts = np.concatenate([np.diff(start[t])[: nodes[t]] for t in range(tables)])
        first = np.concatenate([start[t, : nodes[t]] for t in range(tables)])
        of_node = np.repeat(np.arange(counts.size), counts)
        index = first[of_node] + np.arange(of_node.size) - np.repeat(np.cumsum(counts) - counts, counts)
        self.table = np.repeat(np.arange(tables), nodes[:tables])[of_node]
        self.node = np.concatenate([np.arange(n) for n in nodes[:tables]])[of_node]
        fields = _arrays(scm, *(f"edge_{name}" for name in ("parent", "hidden", "layers", "width", "lane", "activation")))
        self.parent, self.hidden, self.layers, self.width, self.lane, self.activation = (x[index] for x in fields)


def _needed_lanes(db: Any, edges: _Edges) -> np.ndarray:
    """bool[T, N, W]: lanes that some column descends from. A categorical node's choice looks at all its lanes."""
    from jaxrel.types import ALL_LANES, CODE_LANE, NO_TABLE, NodeKind

    scm, schema = db.scm, db.schema
    width, classes, kind, count = _arrays(scm, "node_width", "node_classes", "node_kind", "node_count")
    column_node, column_lane = _arrays(scm, "column_node", "column_lane")
    gather_fk, gather_export, export, second = _arrays(scm, "gather_fk", "gather_export", "export_node", "pass2_start")
    child, child_export, fk_parent = *_arrays(scm, "aggregate_table", "aggregate_export"), np.asarray(schema.fk_parent)
    lanes = np.arange(np.asarray(scm.node_shift).shape[-1])
    in_use = lanes < width[..., None]
    need = np.zeros(in_use.shape, bool)
    tables = int(schema.table_count)
    for t in range(tables):
        c = np.arange(int(schema.column_count[t]))
        need[t, column_node[t, c], column_lane[t, c]] = True
    own_lanes = (lanes == edges.lane[:, None]) | (edges.lane == ALL_LANES)[:, None] | (edges.lane == CODE_LANE)[:, None]
    while True:
        before = need.sum()
        need |= (need.any(axis=2) & (classes > 0))[..., None]
        need &= in_use
        alive = need[edges.table, edges.node]
        reads = np.where((edges.layers == 0)[:, None], alive, own_lanes & alive.any(axis=1)[:, None])
        np.logical_or.at(need, (edges.table, edges.parent), reads)
        for t in range(tables):
            for n in np.flatnonzero((kind[t] == NodeKind.GATHER) & (np.arange(kind.shape[1]) < count[t])):
                parent = fk_parent[t, gather_fk[t, n]]
                need[parent, export[parent, gather_export[t, n]]] |= need[t, n]
            for slot in np.flatnonzero(child[t] != NO_TABLE):
                need[child[t, slot], export[child[t, slot], child_export[t, slot]]] |= need[t, second[t] + slot]
        need &= in_use
        if need.sum() == before:
            return need


def _rows(db: Any, executed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each table that are computed, and of these the ones of a second pass."""
    from jaxrel.types import NO_TABLE, TILE

    tables = int(db.schema.table_count)
    rows = np.asarray(db.schema.row_count)[:tables].astype(np.int64)
    if not executed:
        return rows, np.zeros_like(rows)
    tiles = -(-rows // TILE)
    whole = (tiles + (tiles > 1)) * TILE
    return whole, whole * (np.asarray(db.scm.aggregate_table)[:tables, 0] != NO_TABLE)


def _edge_work(db: Any, edges: _Edges, lanes: np.ndarray, capacity: Any | None) -> tuple[float, np.ndarray]:
    """FLOPs of the matrix products of all edges, and activations by class; at a capacity's sizes where one is given."""
    from jaxrel.mechanisms import ACTIVATION_CLASS
    from jaxrel.types import ALL_LANES, NodeKind

    scm = db.scm
    kind, gather_fk, second = _arrays(scm, "node_kind", "gather_fk", "pass2_start")
    rows, again = _rows(db, capacity is not None)
    per_edge = rows[edges.table] + again[edges.table]
    out = lanes[edges.table, edges.node].sum(axis=1)
    hidden, width = edges.hidden.astype(np.int64), edges.width.astype(np.int64)
    if capacity is None:
        gathers = kind[edges.table, edges.parent] == NodeKind.GATHER
        parent = np.asarray(db.schema.fk_parent)[edges.table, gather_fk[edges.table, edges.parent]]
        per_edge = np.where(gathers, np.minimum(per_edge, rows[np.maximum(parent, 0)]), per_edge)
    else:
        first = edges.node < second[edges.table]
        per_edge = np.where(first, per_edge, again[edges.table])  # the first pass ends before them
        hidden = np.full_like(hidden, capacity.hidden)
        out = np.full_like(out, capacity.width)
        width = np.where(edges.lane == ALL_LANES, capacity.width, 1)
    works = (edges.layers > 0) & lanes[edges.table, edges.node].any(axis=1)
    flop = 2 * hidden * (width + np.maximum(edges.layers - 1, 0) * hidden + out)
    layer = np.arange(edges.activation.shape[1])[None, :]
    used = works[:, None] & (layer < edges.layers[:, None])
    weight = np.where(used, (per_edge * hidden)[:, None], 0).ravel()
    by_class = np.bincount(ACTIVATION_CLASS[edges.activation].ravel(), weight, ACTIVATION_CLASS.max() + 1)
    return float((flop * per_edge)[works].sum()), by_class


def _draws(db: Any, lanes: np.ndarray, capacity: Any | None) -> float:
    """Pairs of random words: a lane's noise, a class's Gumbel noise, an exogenous value, a value that may be missing, a key."""
    from jaxrel.types import NodeKind

    kind, classes, count, second = _arrays(db.scm, "node_kind", "node_classes", "node_count", "pass2_start")
    rows, again = _rows(db, capacity is not None)
    total = 0.0
    for t, n in enumerate(rows):
        index = np.arange(kind.shape[1])
        once, twice = index < second[t], index < count[t]
        some = lanes[t].any(axis=1)
        noise = lanes[t].sum(axis=1) if capacity is None else np.full(index.size, capacity.width)
        of_node = np.where(classes[t] > 0, classes[t], noise)
        of_node = some * np.where(kind[t] == NodeKind.MECHANISM, of_node, kind[t] == NodeKind.EXOGENOUS)
        first = twice if capacity is None else once
        total += float(of_node[first].sum() * n + of_node[twice].sum() * again[t])
        total += float(n * ((np.asarray(db.schema.column_null)[t] > 0).sum() + (np.asarray(db.schema.fk_parent)[t] >= 0).sum()))
    return total


def _bytes(db: Any, lanes: np.ndarray) -> float:
    """Bytes between the caches and memory: results written once (a value and its flag, a time, a key), exports written and read."""
    from jaxrel.types import NO_TABLE, NodeKind

    scm, schema = db.scm, db.schema
    rows, _ = _rows(db, False)
    kind, count, gather_fk, gather_export, export = _arrays(scm, "node_kind", "node_count", "gather_fk", "gather_export", "export_node")
    child, child_export = _arrays(scm, "aggregate_table", "aggregate_export")
    fk_parent = np.asarray(schema.fk_parent)
    total, written = 0.0, set()
    for t, n in enumerate(rows):
        total += n * (5.0 * int(schema.column_count[t]) + 4.0 * bool(schema.has_time[t]) + 4.0 * int((fk_parent[t] >= 0).sum()))
        for g in np.flatnonzero((kind[t] == NodeKind.GATHER) & (np.arange(kind.shape[1]) < count[t])):
            parent = fk_parent[t, gather_fk[t, g]]
            total += 4.0 * n * lanes[t, g].sum()
            written.add((int(parent), int(export[parent, gather_export[t, g]])))
        for slot in np.flatnonzero(child[t] != NO_TABLE):
            c = int(child[t, slot])
            node = int(export[c, child_export[t, slot]])
            total += 4.0 * rows[c] * lanes[c, node].sum()
            written.add((c, node))
    return total + sum(4.0 * rows[t] * lanes[t, n].sum() for t, n in written)


def count(db: Any, capacity: Any) -> dict[str, dict[str, Any]]:
    """The three counts of one database (numpy leaves): FLOPs, activations by class, bytes, draws."""
    edges = _Edges(db)
    width = np.asarray(db.scm.node_width)
    every = np.arange(capacity.width) < width[..., None]
    counts = {}
    for name in COUNTS:
        used = np.asarray(db.scm.node_used)[..., None]  # what the kernel computes
        lanes = {"needed": _needed_lanes(db, edges), "stated": every, "executed": every & used}[name]
        sizes = capacity if name == "executed" else None
        flop, activations = _edge_work(db, edges, lanes, sizes)
        counts[name] = {"flop": flop, "activations": activations, "bytes": _bytes(db, lanes), "draws": _draws(db, lanes, sizes)}
    return counts
