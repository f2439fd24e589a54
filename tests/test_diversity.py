"""The statistics of `bench/diversity.py` on tables made by hand, whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxrel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import diversity  # noqa: E402
import measures  # noqa: E402
import sources  # noqa: E402
from fake_database import fake_database  # noqa: E402
from measures import Relational, Target, describe, learn, targets  # noqa: E402

ROWS, PARENTS = 900, 60
RNG = np.random.default_rng(0)


def shop(**changes: Any) -> Relational:
    """60 towns and 900 visits: ``spent`` follows the town's wealth, ``crowd`` nothing, ``busy`` is about how many visits a town has."""
    rng = np.random.default_rng(1)
    wealth = rng.normal(size=PARENTS)
    town = rng.integers(0, PARENTS, ROWS) ** 2 // PARENTS
    crowd = rng.normal(size=ROWS)
    visits = np.bincount(town, minlength=PARENTS)
    frames = {
        "town": pd.DataFrame({"id": np.arange(PARENTS), "wealth": wealth, "busy": visits + rng.normal(size=PARENTS)}),
        "visit": pd.DataFrame(
            {
                "id": np.arange(ROWS),
                "town_id": pd.array(town, dtype="Int64"),
                "at": pd.to_datetime(np.arange(ROWS), unit="D"),
                "spent": wealth[town] + 0.1 * rng.normal(size=ROWS),
                "crowd": crowd,
                "full": pd.array(crowd > 0, dtype="boolean"),
                "weather": np.where(crowd > 1, "sun", np.where(crowd > 0, "rain", "fog")),
                "same": 3,
            }
        ),
    }
    frames["visit"].loc[:8, "crowd"] = np.nan
    frames |= changes
    return Relational(
        "shop", frames, {"town": "id", "visit": "id"}, {"town": None, "visit": "at"}, {"town": {}, "visit": {"town_id": "town"}}
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Forests of so few rows lose by threads, beside another test worker most of all."""
    import sklearn.ensemble  # noqa: F401, its thread pool must be loaded to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    return describe(shop(), np.random.default_rng(0))


def test_counts_kinds_and_missing_values(found: dict[str, list[float]]) -> None:
    assert found["tables"] == [2] and found["rows of a table"] == [PARENTS, ROWS]
    assert found["feature columns of a table"] == [2, 5] and found["foreign keys of a table"] == [0, 1]
    assert found["missing share of a column"] == pytest.approx([0, 0, 0, 9 / ROWS, 0, 0, 0])
    assert found["classes of a category"] == [2, 3]
    shares = {k: found[f"share of columns that are {k}"][0] for k in ("numeric", "integer", "categorical", "boolean")}
    assert shares == pytest.approx({"numeric": 4 / 7, "integer": 1 / 7, "categorical": 1 / 7, "boolean": 1 / 7})
    assert found["share of columns that are constant"] == pytest.approx([1 / 7])


def test_link_statistics_are_those_of_the_degrees(found: dict[str, list[float]]) -> None:
    degree = np.bincount(shop().frames["visit"]["town_id"].to_numpy(int), minlength=PARENTS)
    assert found["out-degree: maximum / mean"] == pytest.approx([degree.max() / (ROWS / PARENTS)])
    assert found["out-degree: share of parents without a child"] == pytest.approx([(degree == 0).mean()])
    pairwise = np.abs(degree[:, None] - degree[None, :]).sum() / (2 * PARENTS * degree.sum())
    assert found["out-degree: Gini"] == pytest.approx([pairwise])
    assert measures.gini(np.asarray([5, 5, 5])) == pytest.approx(0) and measures.gini(np.asarray([0, 0, 0, 8])) == pytest.approx(0.75)


def test_moments_and_correlations() -> None:
    x = np.asarray([0.0] * 90 + [1.0] * 10)
    frame = pd.DataFrame({"id": np.arange(100), "x": x, "y": np.arange(100.0), "z": -np.arange(100.0) ** 3})
    out = describe(Relational("one", {"t": frame}, {"t": "id"}, {"t": None}, {"t": {}}), RNG)
    p = 0.1
    assert out["skew"][0] == pytest.approx((1 - 2 * p) / np.sqrt(p * (1 - p)))
    assert out["excess kurtosis"][0] == pytest.approx((1 - 6 * p * (1 - p)) / (p * (1 - p)))
    assert out["correlation, absolute, in a row"][:3].count(pytest.approx(1.0)) == 1  # y and z, by ranks
    assert measures.rank_correlation(x, np.ones(100)) is None
    linked = describe(shop(), RNG)["correlation, absolute, across a key"]
    assert max(linked) > 0.95 and min(linked) < 0.1


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("renamed", True),
        ("reversed", True),
        ("coarser", False),
        ("noisy", False),
        ("shuffled classes", True),
    ],
)
def test_copies(other: str, same: bool) -> None:
    x, classes = RNG.normal(size=200), RNG.integers(0, 4, 200).astype(float)
    pairs = {
        "renamed": (x, np.exp(x)),
        "reversed": (x, -x),
        "coarser": (np.round(x, 1), np.round(x)),
        "noisy": (x, x + 0.1 * RNG.normal(size=200)),
        "shuffled classes": (classes, np.asarray([2.0, 0.0, 3.0, 1.0])[classes.astype(int)]),
    }
    assert measures.is_copy(*pairs[other]) is same


def test_targets_are_columns_that_can_be_learnt() -> None:
    assert targets(shop()) == [("visit", "spent"), ("visit", "crowd"), ("visit", "full"), ("visit", "weather")]


def test_what_comes_over_a_key_is_learnt_over_it_and_lost_by_shuffling() -> None:
    spent = learn(shop(), "visit", "spent", np.random.default_rng(2))
    assert not spent.by_row and spent.row < 0.1
    assert spent.by_all and spent.parents > 0.8 and spent.shuffled < 0.1 and not spent.copied


def test_what_stands_in_the_row_needs_no_key() -> None:
    full = learn(shop(), "visit", "full", np.random.default_rng(3))
    assert full.by_row and full.row > 0.9 and full.shuffled > 0.9
    noise = RNG.normal(size=ROWS)
    lonely = shop()
    lonely.frames["visit"]["dice"] = noise
    dice = learn(lonely, "visit", "dice", np.random.default_rng(4))
    assert not dice.by_row and not dice.by_all and max(dice.row, dice.children) < 0.05


def test_a_column_that_is_all_missing_hides_nothing() -> None:
    y, train, test = RNG.normal(size=200), np.arange(140), np.arange(140, 200)
    empty = np.full(200, np.nan)
    assert measures._fit([empty], y, False, train, test) == (0.0, False)
    score, beats = measures._fit([empty, y + 0.1 * RNG.normal(size=200)], y, False, train, test)
    assert score > 0.8 and beats


def test_children_tell_by_their_number_and_their_values() -> None:
    db = shop()
    links, rows = db.links(), np.arange(PARENTS)[::-1]
    block = measures.child_block(db, "town", rows, links)
    visits = db.frames["visit"].groupby("town_id")
    np.testing.assert_array_equal(block[0], visits.size().reindex(rows, fill_value=0))
    np.testing.assert_allclose(block[1], visits["spent"].mean().reindex(rows))
    np.testing.assert_allclose(block[2], visits["spent"].max().reindex(rows))
    mixed = measures.shuffled(links, RNG)["visit", "town_id"]
    assert sorted(mixed) == sorted(links["visit", "town_id"]) and (mixed != links["visit", "town_id"]).any()
    gathered = measures.parent_block(db, "visit", np.arange(5), {("visit", "town_id"): np.asarray([3, -1, 0, 0, 59])})
    np.testing.assert_allclose(gathered[0], db.frames["town"]["wealth"].to_numpy()[[3, 0, 0, 0, 59]] * [1, np.nan, 1, 1, 1])


def test_coverage_and_the_table() -> None:
    wide, narrow = list(np.linspace(0, 100, 101)), list(np.linspace(10, 90, 101))
    assert diversity.covers(wide, narrow) and not diversity.covers(narrow, wide) and diversity.covers([0.0, 0.0], [0.0])
    single = diversity.figures([Target(0.2, 0.3, 0.5, 0.4, True, True, False), Target(0.0, 0.1, 0.3, 0.2, False, True, False)])
    assert single["drop after shuffling, relative"] == pytest.approx(1 - 0.3 / 0.4)
    assert single["learnable from the row"] == 0.5 and single["a copy of another column"] == 0
    text = diversity.table({"a": ({"skew": wide}, single), "b": ({"skew": narrow}, single)}, every=False)
    assert "| skew | 50 [5, 95] | 50 [14, 86] | yes |" in text
    assert "**no**" in diversity.table({"b": ({"skew": narrow}, single), "a": ({"skew": wide}, single)}, every=True)


def test_a_written_database_is_read_back(tmp_path: Path) -> None:
    jaxrel.write_relbench(fake_database(), tmp_path / "jaxrel-0")
    (db,) = sources.databases(str(tmp_path), 5, 0, None)
    assert db.name == "jaxrel-0" and all(db.primary.values())
    found, learnt = diversity.measure(db, 300, 1, 0)
    assert found["tables"] == [3] and len(found["out-degree: Gini"]) == 4 and len(learnt) == 1
    for child, key, parent in db.keys():
        row = db.links()[child, key]
        assert row.max() < len(db.frames[parent]) and row.min() >= -1
    with pytest.raises(SystemExit, match=r"nowhere.*a preset's name"):
        list(sources.databases("nowhere", 1, 0, None))
