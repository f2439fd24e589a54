"""The data of written databases against their causal graphs: what holds, what is noticed, and how often the alarm is false."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_database import fake_database
from sampled import databases, each
from scipy import stats

from jaxrel.cli import main
from jaxrel.dependencies import Report, _compare, _cuts, _Graph, _separated, chi_squared_tail, exact_tail, measure_dependencies
from jaxrel.relbench import write_relbench

MANY = 48


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some dozens of tiny databases on disk."""
    out = tmp_path_factory.mktemp("tiny")
    return [write_relbench(db, out / f"jaxrel-{b}") for b, db in zip(range(MANY), each(databases("tiny")), strict=False)]


@pytest.fixture(scope="module")
def reports(corpus: list[Path]) -> list[Report]:
    return [measure_dependencies(folder, level=0.2) for folder in corpus]


def test_tails_of_chi_squared() -> None:
    known = ((1, 3.841459, 0.05), (2, 9.210340, 0.01), (9, 16.918978, 0.05), (225, 277.2689, 0.01), (225, 400.0, 6.078744e-12))
    for freedom, x, p in known:
        assert chi_squared_tail(x, freedom) == pytest.approx(p, rel=2e-4)
    assert chi_squared_tail(0.0, 5) == 1.0 and chi_squared_tail(1e6, 5) == 0.0


@pytest.mark.parametrize("counts", [[[1, 1], [11, 914]], [[0, 2], [3, 40]], [[3, 0], [0, 7]], [[8, 2], [1, 5]], [[900, 5], [4, 0]]])
def test_rare_classes_are_tested_exactly(counts: list[list[int]]) -> None:
    table = np.array(counts)
    assert exact_tail(table) == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6)
    x, y = (np.repeat(which, table.ravel()) for which in ([0, 0, 1, 1], [0, 1, 0, 1]))
    if table.sum() > 20:
        assert _compare([x], [y])[2] == pytest.approx(exact_tail(table), rel=1e-6)


def test_separation_is_that_of_networkx() -> None:
    """Random graphs with selection: a value is missing because of a column, so that the pair is seen given two more nodes."""
    rng = np.random.default_rng(1)
    found = {True: 0, False: 0}
    for _ in range(40):
        n = int(rng.integers(6, 14))
        edges = [[int(a), int(b)] for a in range(n) for b in range(a + 1, n) if rng.random() < 1.2 / n]
        columns = {f"c{i}": [int(node), 0] for i, node in enumerate(rng.choice(n, 5, replace=False))}
        missing = {name: str(rng.choice(list(columns))) for name in columns if rng.random() < 0.5}
        nodes = [{"kind": "mechanism"}] * n
        graph = _Graph({"t": {"nodes": nodes, "edges": edges, "gathers": [], "columns": columns, "missing": missing}})
        truth: nx.DiGraph[Any] = nx.DiGraph(edges)
        truth.add_nodes_from(range(n))
        truth.add_edges_from((columns[driver][0], f"missing {name}") for name, driver in missing.items())
        for a in columns:
            for b in columns:
                if a < b:
                    given = {f"missing {name}" for name in (a, b) if name in missing}
                    expected = nx.is_d_separator(truth, {columns[a][0]}, {columns[b][0]}, given)
                    assert _separated(graph.causes("t", a), graph.causes("t", b)) == expected
                    found[expected] += 1
    assert min(found.values()) > 50


def test_p_values_are_uniform_for_independent_columns_of_every_kind() -> None:
    rng = np.random.default_rng(2)
    n, low = 2000, 0
    kinds = {
        "normal": lambda: (rng.normal(size=n), False),
        "ties": lambda: (np.maximum(rng.exponential(size=n) - 0.7, 0.0), False),
        "labels": lambda: (np.minimum(rng.zipf(1.7, n), 40).astype(float), True),
        "few parents": lambda: (rng.normal(size=80)[(80 * rng.random(n) ** 3).astype(int)], False),
    }
    for make in kinds.values():
        for _ in range(n // 4):
            p = _compare(_cuts(*make()), _cuts(rng.normal(size=n), False))[2]
            low += p < 0.05
    assert low / n == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / n))


CURVES = {"absolute": np.abs, "square": np.square, "sine": lambda x: np.sin(6 * x), "sign": np.sign, "line": lambda x: x}


@pytest.mark.parametrize("name", CURVES)
def test_dependence_that_is_not_monotone_is_seen(name: str) -> None:
    rng, curve = np.random.default_rng(3), CURVES[name]
    x = rng.normal(size=1000)
    rows, strength, p = _compare(_cuts(x, False), _cuts(curve(x) + 0.2 * rng.normal(size=1000), False))
    assert rows == 1000 and strength > 0.2 and p < 1e-12


def test_sound_databases_are_seldom_reported(reports: list[Report]) -> None:
    """At a level of 20 %, at most so many; at 1 %, hardly any; and the test sees plenty of pairs."""
    assert sum(report.separated for report in reports) > 400
    alarms = sum(bool(report.problems) for report in reports) / MANY
    assert alarms <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / MANY), alarms


def test_most_edges_leave_a_dependence(reports: list[Report]) -> None:
    inside = [edge for report in reports for edge in report.edges if not edge.key]
    across = [edge for report in reports for edge in report.edges if edge.key]
    assert len(inside) > 200 and np.mean([edge.weak for edge in inside]) < 0.4
    assert len(across) > 100 and np.mean([edge.weak for edge in across]) < 0.6
    for edge in (*inside, *across):
        assert 0 <= edge.strength <= 1 and edge.weak == (edge.p > 0.01)


def change(folder: Path, table: str, column: str, new: Any) -> None:
    path = folder / "db" / f"{table}.parquet"
    old = pq.ParquetFile(path).read()
    pq.write_table(old.set_column(old.column_names.index(column), column, new(old)), path)


def test_a_shuffled_column_loses_its_edges(corpus: list[Path], reports: list[Report], tmp_path: Path) -> None:
    tried = 0
    for folder, report in zip(corpus, reports, strict=True):
        strong = [edge for edge in report.edges if edge.p < 1e-6 and not edge.key]
        if len(strong) < 2:
            continue
        table, column = strong[0].effect.split(".")
        copied = Path(shutil.copytree(folder, tmp_path / folder.name))
        order = np.random.default_rng(4).permutation
        change(copied, table, column, lambda old, c=column, order=order: old[c].combine_chunks().take(pa.array(order(old.num_rows))))
        after = {(e.cause, e.effect, e.key): e for e in measure_dependencies(copied).edges}
        for edge in report.edges:
            touched = f"{table}.{column}" in (edge.cause, edge.effect)
            now = after[edge.cause, edge.effect, edge.key]
            assert now.p > 1e-4 if touched else now == edge, (edge, now)
        assert after[strong[0].cause, strong[0].effect, ""].weak
        tried += 1
        if tried == 5:
            return
    raise AssertionError("too few databases with strong edges")


def test_a_copied_column_is_found(corpus: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for folder in corpus:
        record = json.loads((folder / "jaxrel.json").read_text())
        graph = _Graph(record["causal_graph"])
        for table, part in record["causal_graph"].items():
            kind = {c: entry["kind"] for c, entry in record["tables"][table]["features"].items() if c not in part["missing"]}
            alike = [(a, b) for a in kind for b in kind if a < b and kind[a] == kind[b] and kind[a] in ("numeric", "integer", "date")]
            pairs = [(a, b) for a, b in alike if _separated(graph.causes(table, a), graph.causes(table, b))]
            if pairs and tried < 3:
                (a, b), tried = pairs[0], tried + 1
                copied = Path(shutil.copytree(folder, tmp_path / folder.name))
                change(copied, table, b, lambda old, a=a: old[a])
                found = measure_dependencies(copied).problems
                assert any(line.startswith((f"{table}.{a} and {table}.{b} ", f"{table}.{b} and {table}.{a} ")) for line in found), found
                assert main(["validate", "--dependencies", str(copied)]) == 1
                printed = capsys.readouterr().out
                assert f"{copied}: {found[0]}\n" in printed and "every rule holds" not in printed
                break
    assert tried == 3


def test_a_graph_that_lacks_an_edge_of_each_table_is_refuted(corpus: list[Path], tmp_path: Path) -> None:
    refuted = 0
    for folder in corpus[:20]:
        copied = Path(shutil.copytree(folder, tmp_path / folder.name))
        graph = json.loads((folder / "jaxrel.json").read_text())["causal_graph"]
        edit(copied, causal_graph={table: part | {"edges": part["edges"][1:]} for table, part in graph.items()})
        refuted += bool(measure_dependencies(copied).problems)
    assert refuted > 8, refuted  # a first edge may be weak, or not the only way


def by_hand(folder: Path, *, later: int = 0) -> Path:
    """Shops and sales: a price that is a parabola in the shop's size, and a turnover that averages the shop's sales."""
    rng = np.random.default_rng(6)
    shops, sales = 300, 6000
    shop, day = np.sort(rng.integers(0, shops, sales)), np.timedelta64(1, "D")
    size, amount = rng.normal(size=shops), rng.normal(size=sales)
    opened = np.datetime64("2020-01-01", "us") + np.arange(shops) * day
    tables = {
        "shop": {"shop_id": np.arange(shops), "opened": opened, "size": size},
        "sale": {"sale_id": np.arange(sales), "shop_id": shop, "sold": opened[shop] + (1 - later) * day, "amount": amount},
    }
    mean = np.bincount(shop, amount, shops) / np.maximum(np.bincount(shop, minlength=shops), 1)
    tables["shop"]["turnover"] = mean + 0.05 * rng.normal(size=shops)
    tables["sale"]["price"] = size[shop] ** 2 + 0.3 * rng.normal(size=sales)
    exogenous, mechanism = {"kind": "exogenous"}, {"kind": "mechanism"}
    graph = {
        "shop": {
            "nodes": [exogenous, {"kind": "aggregate"}],
            "edges": [],
            "gathers": [],
            "aggregates": [{"node": 1, "foreign_key": "shop_id", "child": "sale", "child_node": 0}],
            "columns": {"size": [0, 0], "turnover": [1, 0]},
            "missing": {},
        },
        "sale": {
            "nodes": [exogenous, {"kind": "gather"}, mechanism],
            "edges": [[1, 2, "quadratic", 1.0, 1, 4]],
            "gathers": [{"node": 1, "foreign_key": "shop_id", "parent": "shop", "parent_node": 0}],
            "columns": {"amount": [0, 0], "price": [2, 0]},
            "missing": {},
        },
    }
    entries = {
        name: {
            "primary_key": f"{name}_id",
            "time_column": time,
            "foreign_keys": {"shop_id": {"parent": "shop"}} if name == "sale" else {},
            "features": {column: {"kind": "numeric"} for column in graph[name]["columns"]},
        }
        for name, time in (("shop", "opened"), ("sale", "sold"))
    }
    (folder / "db").mkdir(parents=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / "db" / f"{name}.parquet")
    (folder / "jaxrel.json").write_text(json.dumps({"tables": entries, "causal_graph": graph}))
    return folder


def test_edges_up_and_down_a_foreign_key(tmp_path: Path) -> None:
    report = measure_dependencies(by_hand(tmp_path / "shops"))
    assert report.problems == () and report.separated == 3  # size and turnover, amount and price, amount and the shop's size
    edges = {(edge.cause, edge.effect): edge for edge in report.edges}
    assert set(edges) == {("shop.size", "sale.price"), ("sale.amount", "shop.turnover")}
    assert all(edge.key == "shop_id" and edge.strength > 0.4 for edge in edges.values())
    assert edges["sale.amount", "shop.turnover"].rows == 300 and edges["shop.size", "sale.price"].rows == 6000
    assert "shop.size → sale.price (shop_id)" in str(report) and "2 edges between observed columns, 0 weak" in str(report)


def test_a_child_before_its_parent(tmp_path: Path) -> None:
    assert measure_dependencies(by_hand(tmp_path / "good", later=1)).problems == ()
    assert measure_dependencies(by_hand(tmp_path / "bad", later=2)).problems == (
        "sale: 6000 rows are older than the row of shop that shop_id refers to",
    )


@pytest.mark.parametrize(("series", "problems"), [(True, 0), (False, 1)])
def test_the_order_of_the_rows_is_a_cause_of_every_series(series: bool, problems: int, tmp_path: Path) -> None:
    trend = np.linspace(-1.0, 1.0, 500)
    noise = np.random.default_rng(7).normal(size=(2, 500))
    (tmp_path / "db").mkdir()
    pq.write_table(pa.table({"a": trend + noise[0], "b": trend + noise[1]}), tmp_path / "db" / "t.parquet")
    nodes = [{"kind": "exogenous", "series": series}] * 2
    graph = {"t": {"nodes": nodes, "edges": [], "gathers": [], "columns": {"a": [0, 0], "b": [1, 0]}, "missing": {}}}
    features = {"a": {"kind": "numeric"}, "b": {"kind": "numeric"}}
    tables = {"t": {"primary_key": None, "time_column": None, "foreign_keys": {}, "features": features}}
    (tmp_path / "jaxrel.json").write_text(json.dumps({"tables": tables, "causal_graph": graph}))
    report = measure_dependencies(tmp_path)
    assert len(report.problems) == problems and report.separated == problems and report.edges == ()


def test_the_command_line(corpus: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--dependencies", str(corpus[0].parent)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("edges between observed columns") == MANY and printed.endswith(f"{MANY} databases, every rule holds\n")


MISTAKES = {
    "no record": (lambda folder: (folder / "jaxrel.json").unlink(), "is missing"),
    "no graph": (lambda folder: edit(folder, causal_graph=None), "holds no causal graph"),
    "another graph": (lambda folder: edit(folder, causal_graph={"nowhere": {"nodes": []}}), "does not describe the tables"),
    "another table": (lambda folder: edit(folder, causal_graph={"nowhere": EMPTY}), "nowhere.parquet: cannot be read"),
}
EMPTY: dict[str, Any] = {"nodes": [], "edges": [], "gathers": [], "columns": {}, "missing": {}}


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "jaxrel.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, words = MISTAKES[mistake]
    folder = write_relbench(fake_database(), tmp_path / "jaxrel-0")
    spoil(folder)
    assert main(["validate", "--dependencies", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxrel: ") and err.count("\n") == 1 and words in err, err
