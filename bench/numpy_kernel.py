"""The kernel's work in plain NumPy, as a yardstick: whole tables at once, no tiles, no padding, each edge at its own sizes.

Given are a database's schema, links, times and SCM, as jaxrel has drawn them; computed is every node of every table (mechanisms, their
combination, standardisation, noise, categories, gathers, aggregates) and what the columns show of them. Weights and noise are NumPy's own
draws, of the shapes and laws that the SCM states; the values are therefore other values of the same kind. Autoregression and calendars of
exogenous nodes are left out, and how missing values follow other columns: in NumPy's favour.

`python bench/numpy_kernel.py` compares it with `jaxrel.simulate` on the same databases, both on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from figures import answers, cores, keep_to, rows_and_cells, table, timed

__all__ = ["compute", "numpy_rate"]

Array = np.ndarray[Any, Any]


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.1 * x),
    "abs": np.abs,
    "square": np.square,
    "step": lambda x: (x > 0).astype(np.float32),
    "sign": np.sign,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "elu": _elu,
    "selu": lambda x: 1.0507 * np.where(x > 0, x, 1.6733 * np.expm1(np.minimum(x, 0))),
    "softplus": lambda x: np.logaddexp(x, np.float32(0)),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _sigmoid(1.702 * x),
    "sine": np.sin,
    "cosine": np.cos,
    "gaussian": lambda x: np.exp(-0.5 * x * x),
    "laplace_bump": lambda x: np.exp(-np.abs(x)),
    "hard_sigmoid": lambda x: np.clip(0.25 * x + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "log_sigmoid": lambda x: -np.logaddexp(-x, np.float32(0)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "snake": lambda x: x + np.square(np.sin(x)),
    "signed_square": lambda x: x * np.abs(x),
    "relu_squared": lambda x: np.square(np.maximum(x, 0)),
    "log_abs": lambda x: np.log1p(np.abs(x)),
    "signed_log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "sine_ramp": lambda x: x + np.sin(x),
}


class _Database:
    """One database's computation; arrays of its pytrees by name, as NumPy has them."""

    def __init__(self, db: Any, seed: int) -> None:
        self.db, self.rng = db, np.random.default_rng(seed)
        self.scm = {name: np.asarray(getattr(db.scm, name)) for name in db.scm.__dataclass_fields__}
        self.rows = np.asarray(db.schema.row_count)
        self.offset = np.asarray(db.schema.row_offset)
        self.fk_parent, self.parent_row = np.asarray(db.schema.fk_parent), np.asarray(db.links.parent_row)
        self.tables = int(db.schema.table_count)
        self.lanes: list[dict[int, Array]] = [{} for _ in range(self.tables)]  # f32[width, rows] of each node
        self.codes: list[dict[int, Array]] = [{} for _ in range(self.tables)]

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def weights(self, e: int, *shape: int) -> Array:
        """Weights of an edge, of which its density is kept."""
        kept = self.rng.random(shape, dtype=np.float32) < self.scm["edge_density"][e] / 2.0**24
        return np.where(kept, self.normal(*shape), np.float32(0))

    def parents(self, t: int, fk: int) -> Array:
        return self.parent_row[fk, self.offset[t] : self.offset[t] + self.rows[t]]

    def exogenous(self, t: int, n: int) -> Array:
        from jaxrel.types import KNOTS

        z, moment = self.normal(self.rows[t]), np.linspace(0, 1, self.rows[t], dtype=np.float32)
        field = {name: self.scm[f"series_{name}"][t, n] for name in ("trend", "power", "cycle", "period", "noise")}
        value = field["noise"] * np.interp(z, np.linspace(-4, 4, KNOTS), self.scm["noise_knots"][t, n]).astype(np.float32)
        if field["trend"] or field["cycle"]:
            turns = moment * np.float32(2.0**24 * 2 * np.pi / max(int(field["period"]), 1))
            value = value + field["trend"] * moment ** field["power"] + field["cycle"] * np.sin(turns)
        return value[None, :]

    def gather(self, t: int, n: int) -> Array:
        parent = self.fk_parent[t, self.scm["gather_fk"][t, n]]
        exported = self.scm["export_node"][parent, self.scm["gather_export"][t, n]]
        row = self.parents(t, self.scm["gather_fk"][t, n])
        return np.where(row >= 0, self.lanes[parent][exported][:, row], np.float32(0))

    def aggregate(self, t: int, n: int) -> Array:
        from jaxrel.types import Aggregate

        slot = n - self.scm["pass2_start"][t]
        child, fk, law = (self.scm[f"aggregate_{name}"][t, slot] for name in ("table", "fk", "law"))
        lanes = self.lanes[child][self.scm["export_node"][child, self.scm["aggregate_export"][t, slot]]]
        row, count = self.parents(child, fk), int(self.rows[t])
        there = row >= 0
        row, lanes = row[there], lanes[:, there]
        children = np.bincount(row, minlength=count).astype(np.float32)
        if law == Aggregate.COUNT:
            return children[None, :]
        if law in (Aggregate.SUM, Aggregate.MEAN):
            sums = np.stack([np.bincount(row, lane, count) for lane in lanes]).astype(np.float32)
            return sums if law == Aggregate.SUM else sums / np.maximum(children, 1)
        if law == Aggregate.LAST:
            out = np.zeros((lanes.shape[0], count), np.float32)
            out[:, row] = lanes  # of several the last one stays
            return out
        extreme, start = (np.minimum, np.inf) if law == Aggregate.MIN else (np.maximum, -np.inf)
        out = np.full((lanes.shape[0], count), start, np.float32)
        for total, lane in zip(out, lanes, strict=True):
            extreme.at(total, row, lane)
        return np.where(children > 0, out, np.float32(0))

    def edge(self, t: int, e: int, width: int) -> Array:
        """What one edge brings: f32[width, rows]."""
        from jaxrel.registry import ACTIVATIONS
        from jaxrel.types import ALL_LANES, CODE_LANE

        scm, parent = self.scm, int(self.scm["edge_parent"][e])
        x = self.lanes[t][parent]
        if scm["edge_layers"][e] == 0:
            return np.pad(x[:width], ((0, max(width - x.shape[0], 0)), (0, 0)))
        lane, hidden, depth = int(scm["edge_lane"][e]), int(scm["edge_hidden"][e]), int(scm["edge_depth"][e])
        if lane == CODE_LANE:
            x = self.codes[t][parent][None, :].astype(np.float32)
        elif lane != ALL_LANES:
            x = x[lane : lane + 1]
        gain, bias = scm["edge_gain"][e], scm["edge_bias"][e]
        for layer in range(int(scm["edge_layers"][e])):
            fan_in = np.float32(np.sqrt(x.shape[0]))
            x = (self.weights(e, hidden, x.shape[0]) * (gain / fan_in)) @ x + bias * self.normal(hidden, 1)
            name = ACTIVATIONS[scm["edge_activation"][e, layer]]
            if name in ("winner", "share"):
                groups = x.reshape(-1, min(1 << depth, hidden), x.shape[1])
                ahead = groups - groups.max(axis=1, keepdims=True)
                if name == "winner":
                    x = (ahead == 0).astype(np.float32).reshape(x.shape)
                else:
                    raised = np.exp(ahead)
                    x = (raised / raised.sum(axis=1, keepdims=True)).reshape(x.shape)
            else:
                x = ACTIVATION[name](np.clip(x, -50, 50)).astype(np.float32, copy=False)
        return (self.weights(e, width, hidden) / np.float32(np.sqrt(hidden))) @ x

    def mechanism(self, t: int, n: int) -> Array:
        from jaxrel.types import Combine

        scm, combine, width = self.scm, self.scm["node_combine"][t, n], int(self.scm["node_width"][t, n])
        signal: Array | None = None
        for e in range(scm["edge_start"][t, n], scm["edge_start"][t, n + 1]):
            y = np.clip(self.edge(t, e, width), -1e4, 1e4) * scm["edge_scale"][e]
            if signal is None:
                signal = y
            elif combine == Combine.SUM:
                signal += y
            elif combine == Combine.PRODUCT:
                signal = np.clip(signal * y, -1e6, 1e6)
            elif combine == Combine.MAX:
                np.maximum(signal, y, out=signal)
            else:
                signal = np.logaddexp(signal, y)
        return np.zeros((width, self.rows[t]), np.float32) if signal is None else signal

    def classify(self, t: int, n: int, signal: Array) -> Array:
        """The category of each row, and its prototype."""
        classes, width = int(self.scm["node_classes"][t, n]), signal.shape[0]
        prototypes = self.normal(classes, width)
        gumbel = -np.log(self.rng.standard_exponential((classes, signal.shape[1]), dtype=np.float32))
        score = (prototypes * np.float32(3 / np.sqrt(width))) @ signal + self.scm["node_noise"][t, n] * gumbel
        self.codes[t][n] = score.argmax(axis=0)
        return prototypes.T[:, self.codes[t][n]]

    def noise(self, law: int, *shape: int) -> Array:
        from jaxrel.registry import NOISES

        name = NOISES[law]
        if name in ("uniform", "beta"):
            u = self.rng.random(shape, dtype=np.float32)
            if name == "uniform":
                return np.float32(np.sqrt(12)) * (u - np.float32(0.5))
            return np.float32(np.sqrt(2)) * np.sin(np.float32(2 * np.pi) * u)
        if name == "laplace":
            return self.rng.laplace(0, np.sqrt(0.5), shape).astype(np.float32)
        if name == "student":
            return (self.rng.standard_t(4, shape) / np.sqrt(2)).astype(np.float32)
        return self.normal(*shape)

    def nodes(self, t: int, first: int, past: int) -> None:
        from jaxrel.types import NodeKind

        by_kind = {
            NodeKind.EXOGENOUS: self.exogenous,
            NodeKind.GATHER: self.gather,
            NodeKind.MECHANISM: self.mechanism,
            NodeKind.AGGREGATE: self.aggregate,
        }
        for n in range(first, past):
            kind = NodeKind(self.scm["node_kind"][t, n])
            value = by_kind[kind](t, n)
            if kind != NodeKind.GATHER:
                spread = value.std(axis=1, keepdims=True)
                value = np.clip((value - value.mean(axis=1, keepdims=True)) / np.maximum(spread, np.float32(2e-3)), -30, 30)
            if self.scm["node_classes"][t, n] > 0:
                value = self.classify(t, n, value)
            elif kind == NodeKind.MECHANISM:
                value = value + self.scm["node_noise"][t, n] * self.noise(int(self.scm["node_law"][t, n]), *value.shape)
            self.lanes[t][n] = value

    def column(self, t: int, c: int) -> tuple[Array, Array]:
        """Values and flags of one column."""
        from jaxrel.registry import CUTS, MARGINALS
        from jaxrel.types import NO_CUT, SCORES, Kind, LabelOrder

        scm, schema = self.scm, self.db.schema
        node, cut, kind = int(scm["column_node"][t, c]), int(scm["column_cut"][t, c]), int(schema.column_kind[t, c])
        marginal, shape = MARGINALS[scm["column_marginal"][t, c]], scm["column_shape"][t, c]
        classes = max(int(schema.column_classes[t, c]), 1)
        if kind in (Kind.CATEGORICAL, Kind.BOOLEAN) and cut == NO_CUT:
            value = self.codes[t].get(node, np.zeros(self.rows[t])).astype(np.float32)
        else:
            value = self.lanes[t][node][scm["column_lane"][t, c]]
            if cut != NO_CUT or marginal not in ("identity", "standard"):
                places = np.linspace(0.5 / 19, 1 - 0.5 / 19, len(SCORES))
                knots = np.quantile(value, places)
                u = np.interp(value, knots, places).astype(np.float32)
                w = np.interp(value, knots, SCORES).astype(np.float32)
                rank = -np.log1p(-u)
                if cut != NO_CUT:
                    if CUTS[cut] == "points":
                        code = np.searchsorted(np.sort(self.rng.random(classes - 1)), u)
                    else:
                        code = np.minimum(classes * u**shape, classes - 1).astype(np.int64)
                    permuted = scm["column_order"][t, c] == LabelOrder.PERMUTED
                    value = (self.rng.permutation(classes)[code] if permuted else code).astype(np.float32)
                else:
                    value = self.marginal(marginal, value, u, w, rank, shape)
            if cut == NO_CUT:
                value = scm["column_offset"][t, c] + scm["column_scale"][t, c] * value
                value = np.round(value) if kind in (Kind.INTEGER, Kind.DATE) else value
        missing = self.rng.random(self.rows[t], dtype=np.float32) < schema.column_null[t, c] / 2.0**24
        return np.where(missing, np.float32(0), value), missing

    @staticmethod
    def marginal(name: str, value: Array, u: Array, w: Array, rank: Array, shape: float) -> Array:
        """What a column shows, of its lane, rank, normal score and exponential score."""
        return {
            "uniform": lambda: u,
            "normal": lambda: w,
            "lognormal": lambda: np.exp(shape * w),
            "exponential": lambda: rank,
            "pareto": lambda: np.exp(shape * rank),
            "count": lambda: np.floor(rank / np.log((shape + 1) / max(shape, 0.1))),
            "zero_inflated": lambda: np.maximum(rank + np.log1p(-min(shape, 0.99)), 0),
            "bounded": lambda: np.clip(0.5 + shape * w, 0, 1),
            "price": lambda: np.floor(10 * np.exp(shape * w)) + np.float32(0.99),
            "signed_log": lambda: np.sign(value) * np.log1p(np.abs(value)),
            "signed_sqrt": lambda: np.sign(value) * np.sqrt(np.abs(value)),
        }[name]()


def compute(db: Any, seed: int = 0) -> list[list[tuple[Array, Array]]]:
    """Values and flags of all feature columns of all tables of one database (NumPy leaves)."""
    of, count, second = _Database(db, seed), np.asarray(db.scm.node_count), np.asarray(db.scm.pass2_start)
    for t in range(of.tables):  # parents first; what hears of children comes second and is read by no other table
        of.nodes(t, 0, min(second[t], count[t]))
    for t in range(of.tables):
        of.nodes(t, second[t], count[t])
    return [[of.column(t, c) for c in range(int(db.schema.column_count[t]))] for t in range(of.tables)]


def numpy_rate(databases: Sequence[Any]) -> float:
    """Median cells per second over databases."""
    rates = []
    with np.errstate(all="ignore"):
        for i, db in enumerate(databases):
            began = time.perf_counter()
            compute(db, i)
            rates.append(rows_and_cells(db)[1] / (time.perf_counter() - began))
    return statistics.median(rates)


def measure(preset_name: str, databases: int) -> dict[str, Any]:
    """Cells per second of NumPy and of `jaxrel.simulate`, on one core."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    import jaxrel

    preset = jaxrel.presets.load(preset_name)
    options = jaxrel.COMPILER_OPTIONS
    program = jax.jit(lambda key: jaxrel.sample_database(key, preset.prior, preset.capacity), compiler_options=options)
    simulate = jax.jit(lambda key, schema, links, scm: jaxrel.simulate(key, schema, links, scm, preset.capacity), compiler_options=options)
    keys = list(jax.random.split(jax.random.key(0), databases))
    drawn = [jax.device_get(program(key)) for key in keys]
    inputs = [(key, db.schema, db.links, db.scm) for key, db in zip(keys, drawn, strict=True)]
    simulate(*inputs[0])
    kept = keep_to(cores()[:1])
    rates = [rows_and_cells(db)[1] / timed(simulate, *x)[0] for db, x in zip(drawn, inputs, strict=True)]
    return {"preset": preset_name, "kept_to_cores": kept, "numpy": numpy_rate(drawn), "simulate": statistics.median(rates)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["default", "plurel"], help="preset names (default: default plurel)")
    parser.add_argument("--databases", type=int, default=12, help="the median of so many counts (default: 12)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.databases)))
        return
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--databases", str(arguments.databases), "--one"]
    figures = [answers([*command, name], one_thread)[0] for name in arguments.presets]
    if arguments.json:
        print(json.dumps({"numpy": np.__version__, "presets": figures}, indent=1))
        return
    print(f"numpy {np.__version__}; nodes and columns of drawn databases, on one core")
    rows = [[f["preset"], f"{f['numpy']:,.0f}", f"{f['simulate']:,.0f}", f"{f['simulate'] / f['numpy']:.2f}"] for f in figures]
    print(table(["preset", "NumPy, cells/s", "simulate, cells/s", "simulate ÷ NumPy"], rows))


if __name__ == "__main__":
    main()
