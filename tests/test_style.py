"""Styles: tables differ more than independent draws do, alike in one database, and the prior's margins stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import keys, small, stages
from scipy import stats

from jaxrel.draws import draw_choice, draw_flag, draw_integers, draw_real, draw_share
from jaxrel.prior import Range, Weights
from jaxrel.random import named_key
from jaxrel.style import SCHEMA_CHOICES, SCHEMA_RANGES, SCM_CHOICES, SCM_RANGES, Style, sample_style

KEY = jnp.asarray([3, 4], jnp.uint32)
DATABASES, TABLES, DRAWS = 3000, 2, 12
RANGE = Range(low=jnp.float32(1.0), high=jnp.float32(8.0), power=jnp.float32(1.0))
INTEGERS = Range(low=jnp.int32(2), high=jnp.int32(9), power=jnp.float32(1.0))
WEIGHTS = Weights(weight=jnp.asarray([1.0, 2.0, 0.0, 1.0]))


def draw(strength: float | None) -> dict[str, np.ndarray]:
    """By kind of draw, [DATABASES, TABLES, DRAWS]; None draws without styles."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        table = jnp.arange(TABLES, dtype=jnp.int32)
        style = None
        if strength is not None:
            names = ("real", "share", "flag", "integer")
            style = sample_style(key, table.astype(jnp.uint32), jnp.float32(strength), names, ("choice",)).of(table[:, None])
        stream = named_key(key, "draws", table)[:, None]
        i = jnp.arange(DRAWS, dtype=jnp.int32)[None]
        share = Range(low=jnp.float32(0.1), high=jnp.float32(0.3), power=jnp.float32(0))
        return {
            "real": draw_real(stream, "real", RANGE, i, style),
            "share": draw_share(stream, "share", share, i, style),
            "flag": draw_flag(stream, "flag", jnp.float32(0.3), i, style),
            "choice": draw_choice(stream, "choice", WEIGHTS, i, style),
            **draw_integers(stream, {"integer": INTEGERS, "other": INTEGERS}, i, style),
        }

    return jax.device_get(jax.jit(jax.vmap(one))(named_key(KEY, jnp.arange(DATABASES, dtype=jnp.int32))))


@pytest.fixture(scope="module")
def strong() -> dict[str, np.ndarray]:
    return draw(1.0)


def test_strength_0_is_no_style_bit_for_bit() -> None:
    for (name, with_style), without in zip(draw(0.0).items(), draw(None).values(), strict=True):
        np.testing.assert_array_equal(with_style, without, err_msg=name)


def test_margins_are_the_priors(strong: dict[str, np.ndarray]) -> None:
    """Over databases; one table and one draw of each, so that the draws are independent."""
    one = {name: x[:, 0, 0].astype(np.float64) for name, x in strong.items()}
    assert stats.kstest(np.log(one["real"]) / np.log(8), "uniform").pvalue > 1e-3
    assert stats.kstest((one["share"] / 2**24 - 0.1) / 0.2, "uniform").pvalue > 1e-3
    assert abs(one["flag"].mean() - 0.3) < 4 * np.sqrt(0.21 / DATABASES)
    counts = np.bincount(one["choice"].astype(int), minlength=4)
    assert counts[2] == 0 and stats.chisquare(counts[[0, 1, 3]], DATABASES * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3
    mass = 1 / np.arange(2, 10)
    assert stats.chisquare(np.bincount(one["integer"].astype(int), minlength=10)[2:], DATABASES * mass / mass.sum()).pvalue > 1e-3


def f_ratio(groups: np.ndarray) -> float:
    """Variance between the means of groups [groups, draws] over what the variance inside them makes of it; 1 for one law."""
    k, n = groups.shape
    inside = groups.var(axis=1, ddof=1).mean()
    return float(n * groups.mean(axis=1).var(ddof=1) / max(inside, 1e-12))


@pytest.mark.parametrize("name", ["real", "share", "flag", "choice", "integer", "other"])
def test_tables_differ_and_those_of_one_database_less(strong: dict[str, np.ndarray], name: str) -> None:
    x = strong[name].astype(np.float64)
    ratio = f_ratio(x[:, 0])
    limit = stats.f.ppf(1 - 1e-4, DATABASES - 1, DATABASES * (DRAWS - 1))
    assert (ratio < limit) if name == "other" else (ratio > 1.5 * limit), ratio
    means = x.mean(axis=2)
    likeness = np.corrcoef(means[:, 0], means[:, 1])[0, 1]
    assert abs(likeness) < 4 / np.sqrt(DATABASES) if name == "other" else 0.08 < likeness < 0.85, likeness


def test_a_style_is_named_by_its_table_alone() -> None:
    ids = jnp.asarray([7, 1, 4, 9], jnp.uint32)
    four = sample_style(KEY, ids, jnp.float32(0.5), ("a", "b"), ("c", "d"))
    two = sample_style(KEY, ids[2:], jnp.float32(0.5), ("b",), ("d",))
    np.testing.assert_array_equal(four.arc["b"][2:], two.arc["b"])
    np.testing.assert_array_equal(four.habits["d"].reshape(4, -1)[2:], two.habits["d"].reshape(2, -1))
    assert len({int(x) for x in four.arc["b"]}) == 4


def test_every_draw_with_a_style_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()

    def spy(method: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Style, name: str, *words: jax.Array) -> jax.Array:
            taken.add(name)
            return method(self, name, *words)

        return called

    for method in ("near", "among"):
        monkeypatch.setattr(Style, method, spy(getattr(Style, method)))
    import jaxrel
    from jaxrel.scm import sample_scm

    tiny = jaxrel.presets.load("tiny")
    schema = jax.eval_shape(lambda k: jaxrel.sample_schema(k, tiny.prior, tiny.capacity), KEY)
    assert {*SCHEMA_RANGES, *SCHEMA_CHOICES} <= taken and taken - {*SCHEMA_RANGES, *SCHEMA_CHOICES} == {"entity rows", "activity rows"}
    taken.clear()
    jax.eval_shape(lambda k, schema: sample_scm(k, tiny.prior, schema, tiny.capacity), KEY, schema)
    assert taken == {*SCM_RANGES, *SCM_CHOICES}


def test_tables_of_sampled_models_have_styles() -> None:
    """Noise of nodes and density of edges, table against table, with the strength that `default` has."""
    preset = small("default")
    schema_of, _, scm_of, _ = stages(preset.capacity)
    nodes, density = [], []
    for key in keys(120):
        schema = schema_of(key, preset.prior)
        scm = jax.device_get(scm_of(key, preset.prior, schema))
        for t in range(int(schema.table_count)):
            edges = slice(int(scm.edge_start[t, 0]), int(scm.edge_start[t, -1]))
            nodes.append(np.log(scm.node_noise[t, : scm.node_count[t]][:5]))
            density.append(scm.edge_density[edges][:8] / 2.0**24)
    for name, groups, size in (("noise", nodes, 5), ("density", density, 8)):
        whole = np.stack([g for g in groups if g.size == size]).astype(np.float64)
        assert len(whole) > 30, name
        ratio = f_ratio(whole)
        assert ratio > stats.f.ppf(1 - 1e-4, len(whole) - 1, len(whole) * (size - 1)), (name, ratio)
