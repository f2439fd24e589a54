"""Latent homophily: the copula of the two ends of a link, the nodes that show their traits, and what columns make of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import BATCH, Table, each, keys, program, small, tables
from scipy import stats

from jaxrel.prior import Range
from jaxrel.random import named_key
from jaxrel.registry import MARGINALS
from jaxrel.traits import child_score, parent_score, trait_parents, trait_scores
from jaxrel.types import NO_ROW, NO_TABLE, STRENGTH, Database, Kind, LinkLaw, NodeKind

KEY = jnp.asarray([4, 9], jnp.uint32)
STRENGTHS = (-1.0, -0.5, -0.05, 0.0, 0.05, 0.5, 0.9, 1.0)
CHILDREN, PARENTS = 40_000, 500


@functools.cache
def linked() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each strength: parents and traits of the children, i64 and f64[strength, child]; traits of the parents."""

    def one(stream: jax.Array, strength: jax.Array) -> Any:
        rows, n = jnp.arange(CHILDREN, dtype=jnp.int32), jnp.int32(PARENTS)
        parents = trait_parents(stream, strength, rows, n)
        return parents, child_score(stream, rows), parent_score(stream, jnp.arange(PARENTS, dtype=jnp.int32), n)

    streams = named_key(KEY, jnp.arange(len(STRENGTHS), dtype=jnp.int32))
    strength = jnp.asarray([round(s * STRENGTH) for s in STRENGTHS], jnp.int32)
    return tuple(np.asarray(x) for x in jax.jit(jax.vmap(one))(streams, strength))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_traits_of_child_and_parent_have_their_rank_correlation(strength: float) -> None:
    parents, child, parent = (x[STRENGTHS.index(strength)] for x in linked())
    found = stats.spearmanr(child, parent[parents]).statistic
    if abs(strength) == 1:
        assert found * strength > 0.9999
    assert abs(found - round(strength * STRENGTH) / STRENGTH) < 4.5 / np.sqrt(CHILDREN)  # at most the error of independent ranks


@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_parent_is_equally_likely_and_every_trait_normal(strength: float) -> None:
    parents, child, parent = (x[STRENGTHS.index(strength)] for x in linked())
    assert stats.chisquare(np.bincount(parents, minlength=PARENTS)).pvalue > 1e-4
    assert stats.kstest(child, "norm").pvalue > 1e-4
    exact = stats.norm.ppf((np.arange(PARENTS) + 0.5) / PARENTS)
    np.testing.assert_allclose(np.sort(parent), exact, atol=1e-4)
    assert abs(stats.spearmanr(np.arange(PARENTS), parent).statistic) < 4.5 / np.sqrt(PARENTS)  # rows say nothing of their traits


def test_children_of_like_traits_share_parents_within_the_width() -> None:
    parents, child, parent = (x[STRENGTHS.index(0.9)] for x in linked())
    distance = np.abs(stats.norm.cdf(child) - stats.norm.cdf(parent[parents]))
    width = np.roots([1, -2, 0, 1 - round(0.9 * STRENGTH) / STRENGTH])
    width = width[(width > 0) & (width < 1)][0]
    assert distance.max() < width + 1 / PARENTS and distance.max() > 0.95 * width


def test_a_tile_of_many_databases_has_the_traits_of_each() -> None:
    streams, n = named_key(KEY, jnp.arange(4, dtype=jnp.int32)), jnp.asarray([900, 30, 777, 5], jnp.int32)
    rows, is_parent = jnp.tile(jnp.arange(5, dtype=jnp.int32), (4, 1)), jnp.asarray([True, False, False, True])
    together = jax.jit(trait_scores)(streams, is_parent, rows, n)
    for b in range(4):
        alone = parent_score(streams[b], rows[b], n[b]) if is_parent[b] else child_score(streams[b], rows[b])
        np.testing.assert_allclose(together[b], alone, atol=1e-6)


# ---------------------------------------------------------------- databases


@functools.cache
def databases(homophily: float, strength: float, trait: float, agree: float = 0.0) -> list[Database]:
    """Small databases in which nothing but links ties the tables together, and no key has another reason for another law."""
    preset = small("tiny")
    number, zero = jnp.float32, jnp.float32(0)
    links = {
        "homophily": number(homophily),
        "agree": number(agree),
        "strength": Range(low=number(strength), high=number(strength), power=zero),
    }
    none = Range(low=jnp.int32(0), high=jnp.int32(0), power=zero)
    scm = {"trait": number(trait), "gathers": none, "aggregates": none, "style": zero}
    schema = dict.fromkeys(("one_to_one", "junction", "degree_key", "capped_key", "timed_entity", "binned"), zero)
    sections = {"links": links, "scm": scm, "schema": schema}
    changed = {name: dataclasses.replace(getattr(preset.prior, name), **leaves) for name, leaves in sections.items()}
    prior = dataclasses.replace(preset.prior, **changed)
    return list(each(jax.device_get(program(preset.capacity)(keys(BATCH["tiny"], 300), prior))))


def trait_keys(db: Database) -> list[tuple[int, int]]:
    """(child table, key) of every key of the trait law."""
    return [(t, k) for t, k in np.argwhere((db.schema.fk_law == LinkLaw.TRAIT) & (db.schema.fk_parent != NO_TABLE)).tolist()]


def shown(db: Database, table: Table) -> dict[tuple[int, int], np.ndarray]:
    """By key, the lanes in which columns of a table show traits as they are: f64[rows], of plain numeric columns without gaps."""
    out = {}
    for c, node in enumerate(db.scm.column_node[table.index, : len(table.values)].tolist()):
        plain = db.scm.column_marginal[table.index, c] == MARGINALS.index("identity") and not table.missing[c].any()
        if plain and db.schema.column_kind[table.index, c] == Kind.NUMERIC and db.scm.trait_table[table.index, node] != NO_TABLE:
            key = int(db.scm.trait_table[table.index, node]), int(db.scm.trait_fk[table.index, node])
            out[key] = table.values[c].astype(np.float64)
    return out


def test_homophilous_keys_lead_to_tables_without_time_and_never_to_themselves() -> None:
    share = []
    for db in databases(0.5, 0.9, 1.0):
        used, own = db.schema.fk_parent != NO_TABLE, np.arange(len(db.schema.fk_parent))[:, None]
        assert ((db.schema.fk_law == LinkLaw.TREE) == (used & (db.schema.fk_parent == own))).all()
        for t, k in trait_keys(db):
            assert db.schema.fk_parent[t, k] != t and not db.schema.has_time[db.schema.fk_parent[t, k]]
            assert db.links.levels[t, k] == 0 and db.links.strength[t, k] == round(0.9 * STRENGTH)
        share += (db.schema.fk_law == LinkLaw.TRAIT)[used & (db.schema.fk_parent != own)].tolist()
    assert abs(np.mean(share) - 0.5) < 5 * np.sqrt(0.25 / len(share))


def test_a_trait_is_shown_at_both_ends_by_first_nodes() -> None:
    both = 0
    for db in databases(0.5, 0.9, 1.0):
        ends: dict[tuple[int, int], list[int]] = {}
        for t in range(int(db.schema.table_count)):
            exogenous = int((db.scm.node_kind[t, : db.scm.node_count[t]] == NodeKind.EXOGENOUS).sum())
            of_table = [(c, k) for c, k in trait_keys(db) if t in (c, db.schema.fk_parent[c, k])]
            nodes = np.flatnonzero(db.scm.trait_table[t] != NO_TABLE)
            assert nodes.tolist() == list(range(min(exogenous, len(of_table))))
            found = [(int(db.scm.trait_table[t, n]), int(db.scm.trait_fk[t, n])) for n in nodes]
            assert found == of_table[: len(found)]
            for key in found:
                ends.setdefault(key, []).append(t)
        both += sum(len(tables) == 2 for tables in ends.values())
    assert both > 50
    assert all((db.scm.trait_table == NO_TABLE).all() for db in databases(0.5, 0.0, 0.0))


def test_a_node_shows_the_score_of_its_trait() -> None:
    sides = {True: 0, False: 0}
    for db in databases(0.5, 0.9, 1.0):
        for table in tables(db):
            rows = jnp.arange(table.values.shape[1], dtype=jnp.int32)
            for (child, k), lane in shown(db, table).items():
                stream = named_key(jnp.asarray(db.links.key), db.schema.table_id[child], db.schema.fk_id[child, k])
                is_parent = child != table.index
                score = parent_score(stream, rows, jnp.int32(rows.size)) if is_parent else child_score(stream, rows)
                assert stats.spearmanr(lane, np.asarray(score)).statistic > 0.999  # a rising function of it: the node's own law
                sides[is_parent] += 1
    assert min(sides.values()) > 3, sides


def correlations(databases: list[Database]) -> list[float]:
    """|Spearman| between each plain column of a child and each of its parent's through each homophilous key, largest of each key."""
    out = []
    for db in databases:
        by_index = {table.index: table for table in tables(db)}
        for t, k in trait_keys(db):
            child, parent = by_index[t], by_index[int(db.schema.fk_parent[t, k])]
            linked = child.parent_row[k] != NO_ROW
            numeric = [(db.schema.column_kind[x.index, : len(x.values)] == Kind.NUMERIC) & ~x.missing.any(1) for x in (child, parent)]
            x = child.values[numeric[0]][:, linked]
            y = parent.values[numeric[1]][:, child.parent_row[k][linked]]
            x, y = (v[v.max(1) > v.min(1)] for v in (x, y))
            if len(x) and len(y):
                table = np.abs(stats.spearmanr(np.concatenate([x, y]), axis=1).statistic)
                out.append(float(np.max(table[: len(x), len(x) :])) if np.ndim(table) else float(table))
    return out


def test_columns_of_child_and_parent_go_together_where_like_links_to_like() -> None:
    alike, strangers = correlations(databases(0.5, 0.9, 1.0)), correlations(databases(0.5, 0.0, 1.0))
    assert min(len(alike), len(strangers)) > 50
    assert np.mean(np.array(alike) > 0.25) > np.mean(np.array(strangers) > 0.25) + 0.2  # 0.33 against 0.01


def test_keys_agree_with_the_first_clustered_key_of_their_table() -> None:
    followers = 0
    for db in databases(0.5, 0.0, 0.0, 1.0):
        own = np.arange(db.links.agree.shape[1])
        for t, agree in enumerate(db.links.agree):
            levels, clustered = db.links.levels[t], (db.schema.fk_law[t] == LinkLaw.CLUSTER) & (db.schema.fk_parent[t] != NO_TABLE)
            first = int(np.argmax(levels > 0)) if (levels > 0).any() else len(own)
            np.testing.assert_array_equal(agree, np.where(clustered & (own > first), first, own))
            followers += int((agree != own).sum())
            for name in ("levels", "parent_clusters", "child_clusters", "affinity"):
                law = getattr(db.links, name)[t]
                np.testing.assert_array_equal(law, law[agree])
    assert followers > 10
    assert all((db.links.agree == np.arange(db.links.agree.shape[1])).all() for db in databases(0.5, 0.9, 1.0))
