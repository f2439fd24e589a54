"""The causal graph of a database: one description, which ``jaxrel.json`` keeps, networkx shows and the tests of dependence read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.catalog import Catalog
from jaxrel.families import FAMILIES
from jaxrel.types import NO_TABLE, Aggregate, Database, NodeKind

if TYPE_CHECKING:  # loads slowly, and writing files does not need it
    import networkx as nx

__all__ = ["describe_graph", "to_digraph"]


def describe_graph(db: Database, catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Describe the SCM of a database in JSON values.

    Args:
        db: one database with an SCM, without a batch axis.
        catalog: its words.

    Returns:
        By table name, parents first:
        ``nodes``, each with kind, classes (0: real), width and noise, and ``series`` where the value follows the order of the rows;
        ``edges`` inside the table, [cause, effect, family, scale, layers, hidden units];
        ``gathers``: node, foreign_key, and the parent and parent_node it reads;
        ``aggregates``: node, child, foreign_key (the child's), child_node, and aggregate (count, sum, …) of the child rows that refer here;
        ``traits``: node, and the table and foreign_key of the homophilous link whose trait it shows;
        ``columns``: [node, lane] by name;
        ``missing``: by the name of a column whose values are missing the likelier the higher another one ranks, that other (or itself).
    """
    scm = db.scm
    assert scm is not None
    node = {name: np.asarray(getattr(scm, f"node_{name}")) for name in ("count", "kind", "classes", "width", "noise")}
    edge = {name: np.asarray(getattr(scm, f"edge_{name}")) for name in ("start", "parent", "family", "scale", "layers", "hidden")}
    column = {name: np.asarray(getattr(scm, f"column_{name}")) for name in ("node", "lane", "driver")}
    exported, fk_parent, null = np.asarray(scm.export_node), np.asarray(db.schema.fk_parent), np.asarray(db.schema.column_null)
    gather_fk, gather_export = np.asarray(scm.gather_fk), np.asarray(scm.gather_export)
    aggregate = {name: np.asarray(getattr(scm, f"aggregate_{name}")) for name in ("table", "fk", "export", "law")}
    trait_table, trait_fk = np.asarray(scm.trait_table), np.asarray(scm.trait_fk)
    of_rows = ((np.asarray(scm.series_trend) != 0), (np.asarray(scm.series_cycle) != 0), (np.asarray(scm.series_rho) > 0))
    follows_order = np.logical_or.reduce((*of_rows, trait_table != NO_TABLE))  # a trait: what the links go by
    graph = {}
    for t, words in enumerate(catalog.tables):
        nodes, edges, gathers, aggregates, traits = [], [], [], [], []
        for n in range(int(node["count"][t])):
            kind = NodeKind(node["kind"][t, n])
            entry = {"kind": kind.name.lower()} | {name: int(node[name][t, n]) for name in ("classes", "width")}
            nodes.append(entry | {"noise": _short(node["noise"][t, n])})
            if kind == NodeKind.EXOGENOUS and follows_order[t, n]:
                nodes[-1]["series"] = True
            if kind == NodeKind.GATHER:
                k = int(gather_fk[t, n])
                read = int(exported[int(fk_parent[t, k]), gather_export[t, n]])
                fk = words.foreign_keys[k]
                gathers.append({"node": n, "foreign_key": fk.name, "parent": fk.parent, "parent_node": read})
            if (child := int(trait_table[t, n])) != NO_TABLE:
                other = catalog.tables[child]
                traits.append({"node": n, "table": other.name, "foreign_key": other.foreign_keys[int(trait_fk[t, n])].name})
            if kind == NodeKind.AGGREGATE:
                child, k, export, law = (int(of[t, n - int(scm.pass2_start[t])]) for of in aggregate.values())
                other = catalog.tables[child]
                heard = {"child": other.name, "foreign_key": other.foreign_keys[k].name, "child_node": int(exported[child, export])}
                aggregates.append({"node": n, **heard, "aggregate": Aggregate(law).name.lower()})
            for e in range(int(edge["start"][t, n]), int(edge["start"][t, n + 1])):
                numbers = _short(edge["scale"][e]), int(edge["layers"][e]), int(edge["hidden"][e])
                edges.append([int(edge["parent"][e]), n, FAMILIES[int(edge["family"][e])], *numbers])
        names = [c.name for c in words.columns]
        drivers = {name: int(column["driver"][t, c]) for c, name in enumerate(names) if null[t, c]}
        graph[words.name] = {
            "nodes": nodes,
            "edges": edges,
            "gathers": gathers,
            "aggregates": aggregates,
            "traits": traits,
            "columns": {name: [int(column["node"][t, c]), int(column["lane"][t, c])] for c, name in enumerate(names)},
            "missing": {name: names[driver] for name, driver in drivers.items() if driver >= 0},
        }
    return graph


def _short(x: np.float32) -> float:
    """The shortest decimal that stands for a float32."""
    return float(str(x))


def to_digraph(graph: dict[str, dict[str, Any]], catalog: Catalog) -> nx.DiGraph[tuple[int, int]]:
    """Turn a description into a networkx graph.

    Args:
        graph: of `describe_graph`.
        catalog: the words it was described with.

    Returns:
        Nodes ``(table, node)`` by number, with table (its name), kind, classes, width, noise and columns (names of those that observe
        it); edges cause → effect with family, scale, layers and hidden, or, between tables, foreign_key (its slot), name, and from a child
        table aggregate.
    """
    import networkx as nx

    digraph: nx.DiGraph[tuple[int, int]] = nx.DiGraph()
    number = {words.name: t for t, words in enumerate(catalog.tables)}
    for table, part in graph.items():
        observed: dict[int, tuple[str, ...]] = {}
        for name, (n, _) in part["columns"].items():
            observed[n] = (*observed.get(n, ()), name)
        for n, node in enumerate(part["nodes"]):
            shown = {name: node[name] for name in ("kind", "classes", "width", "noise")}
            digraph.add_node((number[table], n), table=table, **shown, columns=observed.get(n, ()))
    for words, part in zip(catalog.tables, graph.values(), strict=True):
        t, slots = number[words.name], [fk.name for fk in words.foreign_keys]
        for trait in part["traits"]:
            digraph.nodes[t, trait["node"]]["trait"] = number[trait["table"]], trait["foreign_key"]
        for gather in part["gathers"]:
            cause, name = (number[gather["parent"]], gather["parent_node"]), gather["foreign_key"]
            digraph.add_edge(cause, (t, gather["node"]), foreign_key=slots.index(name), name=name)
        for hears in part["aggregates"]:
            child, name = number[hears["child"]], hears["foreign_key"]
            slot = [fk.name for fk in catalog.tables[child].foreign_keys].index(name)
            edge = {"foreign_key": slot, "name": name, "aggregate": hears["aggregate"]}
            digraph.add_edge((child, hears["child_node"]), (t, hears["node"]), **edge)
        for cause, effect, family, scale, layers, hidden in part["edges"]:
            digraph.add_edge((t, cause), (t, effect), family=family, scale=scale, layers=layers, hidden=hidden)
    return digraph
