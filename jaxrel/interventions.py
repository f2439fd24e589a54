"""Interventions: what a database would have been, had a node or a column been set, with every random number kept.

An intervention starts from a calibrated SCM, so structural functions stay where they are: what does not descend from it stays as it was,
bit for bit.

Reference: Pearl, "Causality", 2nd edition, 2009: the do operator; counterfactuals by abduction (here the noise is known), action and
prediction.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxrel.registry import MARGINALS
from jaxrel.simulation import simulate
from jaxrel.types import ALL_LANES, CODE_LANE, INTERVENTIONS, SCORES, Capacity, Database, Interventions, Kind, no_interventions

if TYPE_CHECKING:
    from jaxrel.catalog import Catalog

__all__ = ["counterfactual", "do", "join"]

_NORMAL = statistics.NormalDist()
_CODED = (Kind.CATEGORICAL, Kind.BOOLEAN)


def do(
    db: Database,
    table: str | int,
    *,
    column: str | int | None = None,
    node: int | None = None,
    value: float | str | None = None,
    function: Callable[[float], float] | None = None,
    rows: tuple[int, int] | None = None,
    catalog: Catalog | None = None,
) -> Interventions:
    """Set a node or a column to a value, or to an affine function of what it would have been.

    Args:
        db: a simulated database, without a batch axis.
        table: its name or number.
        column: name or number of the column whose node is set, in the column's own unit (a label or code of a category).
        node: or the number of a node of the table's SCM (`jaxrel.to_networkx`), all lanes; of a categorical node its code.
        value: what it is set to.
        function: or how it changes, ``x → a x + b``; it is probed at a few points.
        rows: first row and the row past the last; None: all.
        catalog: words of the database; None stands for `Catalog.default`.

    Returns:
        `Interventions` with one entry, for `simulate`, `simulate_rows` and `counterfactual`; `join` puts several together.

    Raises:
        ValueError: for an unknown table, column, node or label; for a column whose marginal has no inverse (it rounds, cuts or counts) or
            does not take the value; for a function that is not affine, or not on the scale on which the column is linear.
    """
    if db.scm is None or not bool(db.scm.calibrated):
        raise ValueError("db: has no calibrated SCM to intervene on; take a simulated Database")
    if (column is None) == (node is None) or (value is None) == (function is None):
        raise ValueError("do: give one of column and node, and one of value and function")
    t = _number(table, lambda: [words.name for words in _words(db, catalog).tables], int(db.schema.table_count), "table")
    scale, shift = (0.0, value) if function is None else _affine(function)
    if node is not None:
        n = _number(node, list, int(db.scm.node_count[t]), "node")
        lane = CODE_LANE if int(db.scm.node_classes[t, n]) else ALL_LANES
        if isinstance(shift, str) or shift is None:
            raise ValueError(f"value: {shift!r} is no number, which a node takes")
        entry = (n, lane, scale, float(shift))
    else:
        entry = _of_column(db, t, column, scale, shift, catalog)
    first, past = (0, int(db.schema.row_count[t])) if rows is None else rows
    fields = dict(zip(("node", "lane", "scale", "shift"), entry, strict=True)) | {"table": t, "first_row": first, "past_row": past}
    empty = no_interventions()
    return dataclasses.replace(empty, **{name: getattr(empty, name).at[0].set(x) for name, x in fields.items()})


def join(*several: Interventions) -> Interventions:
    """Put interventions together, in this order.

    Raises:
        ValueError: if they are more than `jaxrel.types.INTERVENTIONS`.
    """
    used = [np.flatnonzero(np.asarray(one.table) >= 0) for one in several]
    count = sum(len(x) for x in used)
    if count > INTERVENTIONS:
        raise ValueError(f"interventions: {count} at a time, but at most {INTERVENTIONS} fit; do them one after another")
    empty, fields = no_interventions(), {}
    for field in dataclasses.fields(Interventions):
        parts = [np.asarray(getattr(one, field.name))[x] for one, x in zip(several, used, strict=True)]
        blank = np.asarray(getattr(empty, field.name))
        fields[field.name] = jnp.asarray(np.concatenate([*parts, blank[count:]]).astype(blank.dtype))
    return Interventions(**fields)


def counterfactual(key: ArrayLike, db: Database, interventions: Interventions, capacity: Capacity) -> Database:
    """The database as it would have been: `simulate` with the same noise, links and structural functions.

    Args:
        key: the key that the database was sampled or simulated with.
        db: a simulated database.
        interventions: what is done.
        capacity: static sizes.

    Returns:
        A `Database`, row by row comparable with ``db``.
    """
    assert db.scm is not None
    return simulate(key, db.schema, db.links, db.scm, capacity, interventions)


def _words(db: Database, catalog: Catalog | None) -> Catalog:
    from jaxrel.convert import words_of  # pyarrow loads only where names are used

    return words_of(db, catalog)


def _number(which: str | int, names: Callable[[], list[str]], count: int, what: str) -> int:
    if isinstance(which, str):
        known = names()
        if which not in known:
            raise ValueError(f"{what} {which!r} is unknown; known are {', '.join(known)}")
        return known.index(which)
    if not 0 <= which < count:
        raise ValueError(f"{what} {which} is outside 0…{count - 1}")
    return int(which)


def _affine(function: Callable[[float], float]) -> tuple[float, float]:
    shift = float(function(0.0))
    scale = float(function(1.0)) - shift
    for x in (-3.0, 0.5, 7.0):
        if not math.isclose(float(function(x)), scale * x + shift, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError("function: is not affine (a x + b); set a value, or intervene on rows one range at a time")
    return scale, shift


def _of_column(
    db: Database, t: int, column: str | int | None, scale: float, shift: float | str | None, catalog: Catalog | None
) -> tuple[int, int, float, float]:
    """Node, lane, scale and shift of an intervention on a column: back through its unit, marginal and calibration."""
    scm = db.scm
    assert scm is not None and column is not None
    c = _number(column, lambda: [x.name for x in _words(db, catalog).tables[t].columns], int(db.schema.column_count[t]), "column")
    kind, n, lane = Kind(int(db.schema.column_kind[t, c])), int(scm.column_node[t, c]), int(scm.column_lane[t, c])
    if kind in _CODED:
        if not int(scm.node_classes[t, n]):
            raise ValueError(f"column {column!r}: cuts a real node into classes, which has no inverse; intervene on its node")
        if isinstance(shift, str):
            shift = _number(shift, lambda: list(_words(db, catalog).tables[t].columns[c].vocabulary), 0, "label")
        return n, CODE_LANE, scale, float(shift or 0.0)
    if isinstance(shift, str) or shift is None:
        raise ValueError(f"value: {shift!r} is no number, and column {column!r} is {kind.name.lower()}")
    unit, offset = float(scm.column_scale[t, c]), float(scm.column_offset[t, c])
    marginal = MARGINALS[int(scm.column_marginal[t, c])]
    if marginal == "identity":
        return n, lane, scale, (scale * offset + float(shift) - offset) / unit
    if scale != 0.0:
        raise ValueError(f"function: column {column!r} shows its node by the marginal {marginal!r}, which is not linear; set a value")
    shown, shape = (float(shift) - offset) / unit, float(scm.column_shape[t, c])
    lanes = {"signed_log": math.copysign(math.expm1(min(abs(shown), 80.0)), shown), "signed_sqrt": shown * abs(shown)}
    if marginal in lanes:
        return n, lane, 0.0, lanes[marginal]
    score = _score(marginal, shown, shape)
    if score is None:
        raise ValueError(f"column {column!r}: the marginal {marginal!r} has no inverse at {shift}; intervene on its node")
    return n, lane, 0.0, _lane(np.asarray(scm.column_knots)[t, c], score)


def _score(marginal: str, shown: float, shape: float) -> float | None:
    """The normal score that a marginal shows as ``shown``; None where there is none, or more than one."""
    exceeds: dict[str, Any] = {  # the exponential rank, -log(1 - u)
        "uniform": lambda: -math.log1p(-shown) if 0 < shown < 1 else None,
        "exponential": lambda: shown if shown > 0 else None,
        "pareto": lambda: math.log(shown) / shape if shown > 1 else None,
    }
    if marginal == "normal":
        return shown
    if marginal == "lognormal":
        return math.log(shown) / shape if shown > 0 else None
    if marginal not in exceeds or (rank := exceeds[marginal]()) is None:
        return None
    return -_NORMAL.inv_cdf(math.exp(-rank)) if rank < 30 else math.sqrt(2 * rank)


def _lane(knots: np.ndarray[Any, Any], score: float) -> float:
    """Where a lane has a normal score: the inverse of `jaxrel.columns.to_score`."""
    place = (score - SCORES[0]) / (SCORES[1] - SCORES[0])
    k = int(np.clip(math.floor(place), 0, len(SCORES) - 2))
    return float(knots[k] + (place - k) * (knots[k + 1] - knots[k]))
