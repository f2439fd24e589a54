"""The study's tables and its fitted power laws, as Markdown."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, stats

__all__ = ["report"]

NAMES = {"stream": "∞, a new database every step", "plurel": "plurel 1.1.0's databases"}


def interval(values: list[float], digits: int = 3) -> str:
    """Mean and half of the 95 % interval by Student's law."""
    x = np.asarray(values, float)
    if x.size < 2:
        return f"{x.mean():.{digits}f}"
    half = stats.t.ppf(0.975, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return f"{x.mean():.{digits}f} ± {half:.{digits}f}"


def _law(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return c + a * n**-b


def power_law(n: list[float], losses: np.ndarray) -> str:
    """``c + a n^-b`` fitted by least squares, and the 95 % interval of b over resampled seeds.

    Args:
        n: what the loss is a function of.
        losses: f64[seeds, len(n)].
    """
    x, rng = np.asarray(n, float), np.random.default_rng(0)
    if x.size < 4:
        return "too few points for a fit"

    def fit(y: np.ndarray) -> np.ndarray:
        start = (max(y[0] - y[-1], 1e-3) * x[0] ** 0.3, 0.3, y[-1] * 0.9)
        return optimize.curve_fit(_law, x, y, p0=start, bounds=([0, 0.01, 0], [1e4, 3, y.min()]), maxfev=20_000)[0]

    a, b, c = fit(losses.mean(axis=0))
    again = [fit(losses[rng.integers(0, len(losses), len(losses))].mean(axis=0))[1] for _ in range(200)]
    low, high = np.quantile(again, [0.025, 0.975])
    misfit = np.abs(_law(x, a, b, c) - losses.mean(axis=0)).max()
    return f"{c:.3f} + {a:.3g} · n^-{b:.2f} (exponent {low:.2f} … {high:.2f} over resampled seeds; largest misfit {misfit:.3f})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(runs: list[dict[str, Any]]) -> str:
    """All tables of the runs that there are."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    by = {arm: sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"]) for arm in arms}
    trained = [arm for arm in arms if "before" in by[arm][0]]
    sizes = sorted((arm for arm in trained if arm.isdigit()), key=int)
    rows = [(arm, [run["curve"][-1] for run in by[arm]], [run["after"] for run in by[arm]]) for arm in arms if arm not in trained]
    stream = by.get("stream", [])
    if stream:
        rows.append(("random initialisation", [run["curve"][0] for run in stream], [run["before"] for run in stream]))
    ordered = [*sizes, *(arm for arm in trained if arm not in sizes)]
    for arm in ordered:
        name = NAMES.get(arm, f"{arm} databases")
        rows.append((name, [run["curve"][-1] for run in by[arm]], [run["after"] for run in by[arm]]))
    measures = ("loss", "numbers", "codes", "r2", "accuracy")
    head = ["held-out synthetic databases", "loss", "of numbers", "of codes", "R²", "accuracy", "loss on held-out plurel"]
    body = []
    for name, points, _ in rows:
        cells = [interval([point["synthetic"][m] for point in points]) for m in measures]
        other = [point["plurel"]["loss"] for point in points if "plurel" in point]
        body.append([name, *cells, interval(other) if other else ""])
    tasks = list(rows[0][2][0])
    zero = [[name, *(interval([found[task] for found in after], 2) for task in tasks)] for name, _, after in rows]
    text = [_table(head, body), _table(["nycflights13, zero-shot", *tasks], zero)]
    if {"stream", *sizes} <= set(trained) and len(sizes) > 2:
        seeds = min(len(by[arm]) for arm in ("stream", *sizes))
        last = stream[0]["databases"]
        grid = np.asarray([[by[arm][s]["curve"][-1]["synthetic"]["loss"] for arm in (*sizes, "stream")] for s in range(seeds)])
        text.append(f"Loss over databases n ({', '.join(sizes)}, {last}): {power_law([*map(float, sizes), last], grid)}.")
    if stream:
        curve = np.asarray([[point["synthetic"]["loss"] for point in run["curve"]] for run in stream])
        tokens = [point["tokens"] for point in stream[0]["curve"]]
        head = ["tokens", *(f"{n:,}" for n in tokens)]
        lines = [[NAMES["stream"], *(interval(list(column)) for column in curve.T)]]
        text.append(_table(head, lines))
        text.append(f"Loss over tokens n, in millions: {power_law([n / 1e6 for n in tokens[1:]], curve[:, 1:])}.")
    return "\n\n".join(text)
