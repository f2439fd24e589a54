"""The benchmarks' own arithmetic: what is counted is right on a database small enough to count by hand."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from fake_database import fake_database

import jaxrel
from jaxrel.mechanisms import activate
from jaxrel.registry import ACTIVATIONS
from jaxrel.types import ALL_LANES, TILE, Capacity, NodeKind

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from figures import table  # noqa: E402
from numpy_kernel import ACTIVATION  # noqa: E402
from roofline import bounds  # noqa: E402
from scaling import tree  # noqa: E402
from tasks import distances, is_learnable, leaking, quality  # noqa: E402
from work import count  # noqa: E402

EXOGENOUS, GATHER, MECHANISM = NodeKind.EXOGENOUS, NodeKind.GATHER, NodeKind.MECHANISM
CAPACITY = Capacity(tables=2, foreign_keys=1, columns=2, rows=4 * TILE, nodes=4, edges=8, width=3, hidden=8, layers=2, classes=2)


def database() -> SimpleNamespace:
    """A parent of 100 rows with a root and a child of it; 2,000 rows that gather it: an observed mechanism and one that nobody reads."""
    T, N, C, E, W = 2, 4, 2, 8, 3
    of_edges = {  # root → parent's node; gather → observed, root → observed; root → unread
        "parent": [0, 1, 0, 0],
        "hidden": [4, 2, 8, 8],
        "layers": [2, 1, 1, 1],
        "width": [1, 3, 1, 1],
        "lane": [0, ALL_LANES, 0, 0],
        "activation": [[ACTIVATIONS.index("tanh")] * 2] * 4,
    }
    padded = {f"edge_{k}": np.pad(np.asarray(v), [(0, E - 4), *[(0, 0)] * (np.ndim(v) - 1)]) for k, v in of_edges.items()}
    scm = SimpleNamespace(
        **padded,
        edge_start=np.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 3, 4]]),
        node_count=np.asarray([2, 4]),
        node_kind=np.asarray([[EXOGENOUS, MECHANISM, 0, 0], [EXOGENOUS, GATHER, MECHANISM, MECHANISM]]),
        node_used=np.asarray([[True, True, False, False], [True, True, True, False]]),
        node_width=np.asarray([[1, 3, 0, 0], [1, 3, 2, 2]]),
        node_classes=np.zeros((T, N), np.int32),
        node_shift=np.zeros((T, N, W), np.float32),
        gather_fk=np.zeros((T, N), np.int32),
        gather_export=np.zeros((T, N), np.int32),
        export_node=np.asarray([[1, 1, 1], [2, 2, 2]]),
        pass2_start=np.asarray([2, 4]),
        aggregate_table=np.full((T, 2), -1),
        aggregate_export=np.zeros((T, 2), np.int32),
        column_node=np.asarray([[0, 0], [2, 0]]),
        column_lane=np.asarray([[0, 0], [1, 0]]),
    )
    schema = SimpleNamespace(
        table_count=np.int32(2),
        row_count=np.asarray([100, 2000]),
        column_count=np.asarray([1, 1]),
        column_null=np.zeros((T, C), np.uint32),
        has_time=np.asarray([False, True]),
        fk_parent=np.asarray([[-1], [0]]),
    )
    return SimpleNamespace(schema=schema, scm=scm)


def test_work_by_hand() -> None:
    counts = count(database(), CAPACITY)
    # parent: 1 → 4 → 4 → 3; through the key: 3 → 2 → 2, once per parent row; 1 → 8 → 2; the unread 1 → 8 → 2
    parent, gathered, observed = 2 * (4 + 16 + 12), 2 * (6 + 4), 2 * (8 + 16)
    assert counts["stated"]["flop"] == 100 * (parent + gathered) + 2000 * 2 * observed
    assert counts["stated"]["activations"].sum() == 100 * (8 + 2) + 2000 * 16
    # of the observed node one lane, of the unread one none
    assert counts["needed"]["flop"] == 100 * (parent + 2 * (6 + 2)) + 2000 * 2 * (8 + 8)
    # one tile of the parent; two tiles and a pilot of the child; all at 3, 8 and 2, but for the node that nothing shows
    whole = 2 * 8 * (1 + 8 + 3) * TILE + 2 * 8 * (3 + 3 + 1 + 3) * 3 * TILE
    assert counts["executed"]["flop"] == whole
    # a value and its flag, a time, a key; the exported node written once and read once per child row
    assert counts["stated"]["bytes"] == 100 * 5 + 2000 * (5 + 4 + 4) + 100 * 3 * 4 + 2000 * 3 * 4
    assert counts["stated"]["draws"] == 100 * (1 + 3) + 2000 * (1 + 2 + 2 + 1)
    assert counts["needed"]["draws"] == 100 * (1 + 3) + 2000 * (1 + 1 + 1)


def test_bounds() -> None:
    need = {"flop": 10.0, "activations": [2.0, 1.0], "bytes": 4.0, "draws": 1.0}
    rates = {"flop_narrow": 5.0, "flop_large": 20.0, "activations_0": 4.0, "activations_1": 1.0, "bytes": 8.0, "draws": 4.0}
    found = bounds(need, rates)
    assert found["limit"] == "activations"
    assert found["roofline"] == pytest.approx(1 / 1.5)
    assert found["in_turn"] == pytest.approx(1 / (0.5 + 1.5 + 0.5 + 0.25))


def test_numpy_knows_every_activation() -> None:
    assert set(ACTIVATION) | {"winner", "share"} == set(ACTIVATIONS)  # those two look at a group of units
    x = np.linspace(-4, 4, 256, dtype=np.float32)  # not 0, where a step may go either way
    codes = jnp.arange(len(ACTIVATIONS), dtype=jnp.int32)
    batch = jnp.broadcast_to(jnp.asarray(x), (len(ACTIVATIONS), 1, x.size))
    ours = np.asarray(activate(batch, jnp.zeros((len(ACTIVATIONS), 1), jnp.float32), codes, jnp.ones(len(ACTIVATIONS), bool)))
    for name, function in ACTIVATION.items():
        np.testing.assert_allclose(ours[ACTIVATIONS.index(name), 0], function(x), atol=0.05, err_msg=name)


def test_schemas_that_grow() -> None:
    schema, catalog = jaxrel.read_sql(tree(7, 6), rows={f"t{i}": 10 for i in range(7)})
    assert [len(words.columns) for words in catalog.tables] == [6] * 7
    parent = {words.name: [fk.parent for fk in words.foreign_keys] for words in catalog.tables}
    assert parent == {"t0": [], "t1": ["t0"], "t2": ["t0"], "t3": ["t1"], "t4": ["t1"], "t5": ["t2"], "t6": ["t2"]}
    assert {words.name for words, timed in zip(catalog.tables, np.asarray(schema.has_time), strict=True) if timed} == {
        "t3",
        "t4",
        "t5",
        "t6",
    }


def test_table() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_what_tasks_are_measured_by() -> None:
    rng, y = np.random.default_rng(0), np.arange(200) % 2
    X = np.stack([rng.normal(size=200), np.where(y == 1, np.nan, 3.0), np.full(200, 2.0)], axis=1)
    assert leaking(X, y, 2) == [(1, 0, 1.0), (1, 1, 0.0)] and leaking(X[:, [0, 2]], y, 2) == []
    assert leaking(np.exp(-X[:, :1]), X[:, 0], 0) == [(0, 0, -1.0)]
    scores = np.stack([1.0 - y, 1.0 * y], axis=1)
    assert quality(scores, y, 2) == 1 and quality(0 * scores, y, 2) == 0.5 and quality(X[:, :1], 2 * X[:, 0], 0) == pytest.approx(1)
    assert is_learnable(scores + rng.normal(size=(200, 2)), y, 2) and not is_learnable(rng.normal(size=(200, 2)), y, 2)


def test_distances_follow_the_keys() -> None:
    db = fake_database()  # node 6 of table 2 hears node 5, which gathers node 3 of table 1: 0 → 1 → 2 → 3, columns show 0 … 4
    column_node = db.scm.column_node.copy()
    column_node[2, 4] = 6
    db = db.replace(scm=dataclasses.replace(db.scm, column_node=column_node))
    auto = SimpleNamespace(kind=0, table=2, child=-1, column=4)
    assert sorted(distances(db, auto)) == [1, 1, 1, 1]
    assert sorted(distances(db, SimpleNamespace(kind=1, table=0, child=2, column=4))) == [2, 2, 2, 2]
    assert sorted(distances(db, SimpleNamespace(kind=0, table=2, child=-1, column=2))) == [0, 0]
    assert distances(db, SimpleNamespace(kind=1, table=0, child=2, column=-1)) == []
