"""The random words and what is made of them, against exact laws."""

from __future__ import annotations

from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.extend.random import threefry2x32_p
from scipy import stats

import jaxrel
from jaxrel import random
from jaxrel.draws import draw_choice, draw_flag, draw_integer, draw_integers, draw_real, draw_share, tabulated
from jaxrel.links import sample_link_laws
from jaxrel.prior import Range, Weights
from jaxrel.random import Words, named_key, pair, pairs
from jaxrel.rounding import exact_quotient, exact_root

KEY = jnp.asarray([0x9E3779B9, 7], jnp.uint32)
DRAWS = 1 << 16
INDEX = jnp.arange(DRAWS, dtype=jnp.int32)


def law(low: float, high: float, power: float = 0.0, dtype: type = np.float32) -> Range:
    return Range(low=jnp.asarray(low, dtype), high=jnp.asarray(high, dtype), power=jnp.asarray(power, jnp.float32))


def fits_counts(drawn: np.ndarray, values: np.ndarray, mass: np.ndarray) -> bool:
    """χ² at the level of 1e-4: nothing outside ``values``, and their shares are ``mass``."""
    assert np.isin(drawn, values).all()
    seen = np.array([(drawn == v).sum() for v in values])
    return values.size == 1 or stats.chisquare(seen, mass / mass.sum() * drawn.size).pvalue > 1e-4


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_words(key: tuple[int, int], counter: tuple[int, int], words: tuple[int, int]) -> None:
    arrays = [np.array([w], np.uint32) for w in (*key, *counter)]
    assert tuple(int(w[0]) for w in random.threefry2x32(*arrays)) == words


def test_threefry_is_jax_s_own_on_the_device_and_on_the_host() -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 1000), dtype=np.uint32)
    expected = threefry2x32_p.bind(*map(jnp.asarray, counters))
    for ours in (jax.jit(random.threefry2x32)(*counters), random.threefry2x32(*counters)):
        np.testing.assert_array_equal(np.stack(ours), np.stack(expected))


def test_rows_and_small_arrays_draw_the_same_words() -> None:
    rows = jnp.arange(64, dtype=jnp.int32)
    for lane in (3, "a lane"):
        np.testing.assert_array_equal(np.stack(random.row_pair(KEY, rows, lane)), np.stack(random.pair(KEY, rows, lane)))
    np.testing.assert_array_equal(random.bits(KEY, rows), random.row_bits(KEY, rows))


def test_a_named_key_depends_on_every_name_and_its_place() -> None:
    names = [("a",), ("b",), ("a", "b"), ("b", "a"), ("a", 0), ("a", 1), (0, "a"), (1,), (random.name_id("a"),)]
    keys = {tuple(np.asarray(random.named_key(KEY, *n)).tolist()) for n in names}
    assert len(keys) == len(names)
    batch = random.named_key(KEY, "a", jnp.arange(3, dtype=jnp.int32))
    np.testing.assert_array_equal(batch[1], random.named_key(KEY, "a", 1))
    assert np.asarray(random.named_key(jnp.asarray([1, 2], jnp.uint32), "table", 3)).tolist() == [1332638452, 2069046523], "a stream moved"


def test_every_kind_of_key_is_reduced_to_two_words() -> None:
    typed, raw = jax.random.key(5), jax.random.key_data(jax.random.key(5))
    np.testing.assert_array_equal(random.reduce_key(typed), raw)
    np.testing.assert_array_equal(random.reduce_key(raw), raw)
    wide = [random.reduce_key(jax.random.key(seed, impl="rbg")) for seed in (5, 6)]
    assert wide[0].shape == (2,) and wide[0].dtype == jnp.uint32
    assert np.any(np.asarray(wide[0]) != np.asarray(wide[1]))
    for wrong in (jax.random.split(typed, 2), jnp.zeros(2, jnp.int32), jnp.zeros(1, jnp.uint32)):
        with pytest.raises(TypeError, match="key: expected one PRNG key"):
            random.reduce_key(wrong)


@pytest.mark.parametrize("bits", [4, 12, 20, 27, 32])
def test_quotients_of_integers_are_exact(bits: int) -> None:
    dice = np.random.default_rng(bits)
    b = np.maximum(dice.integers(0, 1 << np.arange(1, 33)[:, None], (32, 3000), dtype=np.uint64), 1)
    a = dice.integers(0, 1 << bits, b.shape, dtype=np.uint64)
    beside = np.clip((a // b * b).astype(np.int64) + dice.integers(-1, 2, b.shape), 0, 2**32 - 1)  # where rounding would show
    for x in (a, beside, np.full_like(b, 2**32 - 1)):
        words = jnp.asarray(x.astype(np.uint32)), jnp.asarray(b.astype(np.uint32))
        np.testing.assert_array_equal(jax.jit(random.quotient)(*words), x.astype(np.uint64) // b)
    assert np.asarray(random.quotient(jnp.int32(2**31 - 1), jnp.int32(1))) == 2**31 - 1


def test_mulhi_is_exact() -> None:
    words = np.random.default_rng(1).integers(0, 2**32, (2, 1000), dtype=np.uint32)
    words[:, :4] = [[0, 2**32 - 1, 2**32 - 1, 2**16], [5, 2**32 - 1, 1, 2**16]]
    assert np.asarray(random.mulhi(*words)).tolist() == [int(a) * int(b) >> 32 for a, b in words.T]


def test_running_sums_are_cumulative_sums() -> None:
    x = np.random.default_rng(2).integers(0, 1000, (3, 50)).astype(np.uint32)
    np.testing.assert_array_equal(random.running_sum(jnp.asarray(x)), np.cumsum(x, axis=-1))
    assert random.running_sum(jnp.ones(4, bool)).tolist() == [1, 2, 3, 4]


_permute = jax.jit(random.index_permutation)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 1023, 1024])
def test_a_permutation_of_indices_is_a_bijection(n: int) -> None:
    rows = jnp.arange(1024, dtype=jnp.int32)
    images = [np.asarray(_permute(random.named_key(KEY, seed), rows, jnp.int32(n)))[:n] for seed in (0, 1)]
    for image in images:
        assert sorted(image.tolist()) == list(range(n))
    assert n < 64 or (images[0] != images[1]).any()


@pytest.mark.parametrize("n", [2**20 + 7, 2**31 - 1])
def test_a_permutation_of_many_indices_is_injective_and_even(n: int) -> None:
    image = np.asarray(_permute(KEY, INDEX, jnp.int32(n)))
    assert np.unique(image).size == DRAWS and image.min() >= 0 and image.max() < n
    assert stats.kstest(image / n, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.02


_restore = jax.jit(random.inverse_permutation)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000, 2**20 + 7, 2**31 - 1])
def test_an_inverse_permutation_takes_every_image_back(n: int) -> None:
    index = jnp.arange(1024, dtype=jnp.int32) % jnp.int32(n)
    image = _permute(KEY, index, jnp.int32(n))
    np.testing.assert_array_equal(_restore(KEY, image, jnp.int32(n)), index)
    np.testing.assert_array_equal(_permute(KEY, _restore(KEY, index, jnp.int32(n)), jnp.int32(n)), index)


def test_every_permutation_of_four_comes_up() -> None:
    keys = random.named_key(KEY, jnp.arange(24_000, dtype=jnp.int32))
    image = np.asarray(jax.jit(random.index_permutation)(keys[:, None], jnp.arange(4, dtype=jnp.int32)[None], jnp.int32(4)))
    _, seen = np.unique(image @ np.array([64, 16, 4, 1]), return_counts=True)
    assert seen.size == 24 and np.abs(seen / 1000 - 1).max() < 0.2  # six rounds on two bits are even to within 6 %


def test_exponentials_are_as_accurate_as_they_say() -> None:
    x = np.linspace(-87, 88, 200_001).astype(np.float32)
    error = np.abs(np.asarray(random.exp(x)) / np.exp(x.astype(np.float64)) - 1)
    assert np.max(error / (1 + 0.1 * np.abs(x))) < 1e-6
    x = x[x <= 0]
    assert np.max(np.abs(np.asarray(random.log1p_exp(x)) - np.log1p(np.exp(x.astype(np.float64))))) < 5e-5


def test_logarithm_and_sine_are_as_accurate_as_they_say() -> None:
    x = np.exp(np.random.default_rng(3).uniform(-80, 80, 100_000)).astype(np.float32)
    x[:3] = [1.0, np.nextafter(np.float32(1), np.float32(0)), 2.0**-24]
    exact = np.log(x.astype(np.float64))
    assert np.max(np.abs(np.asarray(random.log(x)) - exact) / np.maximum(1, np.abs(exact))) < 2e-7
    angle = np.linspace(-50, 50, 100_001).astype(np.float32)
    assert np.max(np.abs(np.asarray(random.sine(angle)) - np.sin(angle.astype(np.float64)))) < 2e-5
    turns = np.linspace(-3, 3, 10_001).astype(np.float32)
    assert np.max(np.abs(np.asarray(random.sine_turns(turns)) - np.sin(2 * np.pi * turns.astype(np.float64)))) < 1e-5


def test_uniforms_never_touch_their_ends() -> None:
    ends = np.asarray(random.uniform(jnp.asarray([0, 2**32 - 1], jnp.uint32)))
    assert 0 < ends[0] and ends[1] < 1
    assert stats.kstest(np.asarray(random.uniform(random.bits(KEY, INDEX))), "uniform").pvalue > 1e-4


def test_normals_and_gumbels_follow_their_laws() -> None:
    words = random.pair(KEY, INDEX, "normal")
    a, b = (np.asarray(z, np.float64) for z in random.normals(words))
    for z in (a, b):
        assert stats.kstest(z, "norm").pvalue > 1e-4
        assert abs(stats.kurtosis(z)) < 5 * np.sqrt(24 / DRAWS)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(DRAWS) and abs(np.corrcoef(a**2, b**2)[0, 1]) < 5 / np.sqrt(DRAWS)
    assert stats.kstest(np.asarray(random.gumbel(words[0])), "gumbel_r").pvalue > 1e-4
    extreme = random.normals((jnp.asarray([0, 2**32 - 1], jnp.uint32), jnp.zeros(2, jnp.uint32)))
    assert np.isfinite(np.stack(extreme)).all() and np.abs(np.stack(extreme)).max() < 5.8


def test_below_is_uniform_and_never_outside() -> None:
    for n in (1, 3, 10):
        drawn = np.asarray(random.below(random.bits(KEY, INDEX, n), n))
        assert fits_counts(drawn, np.arange(n), np.ones(n))
    assert random.below(jnp.uint32(2**32 - 1), 2**31 - 1) == 2**31 - 2
    assert random.below(jnp.uint32(5), 0) == 0


def test_a_chance_has_its_rate() -> None:
    for share in (0.0, 0.2, 1.0):
        hits = float(jnp.mean(draw_flag(KEY, "flag", jnp.float32(share), INDEX).astype(jnp.float32)))
        assert abs(hits - share) <= 5 * np.sqrt(share * (1 - share) / DRAWS)


_integers = jax.jit(lambda law, name="n", i=INDEX: draw_integer(KEY, name, law, i), static_argnums=1)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 8), (2, 20), (500, 563)])
def test_integers_have_exact_mass(low: int, high: int, power: float) -> None:
    values = np.arange(low, high + 1)
    drawn = np.asarray(_integers(law(low, high, power, np.int32)))
    assert fits_counts(drawn, values, values.astype(float) ** -power)


@pytest.mark.parametrize(
    ("low", "high", "power"),
    [(-20_000, 24_000, 0.0), (0, 300, 0.0), *((low, high, p) for low, high in ((1, 1000), (500, 100_000)) for p in (0.0, 0.5, 1.0, 2.0))],
)
def test_wide_integers_follow_the_power_law(low: int, high: int, power: float) -> None:
    drawn = np.asarray(_integers(law(low, high, power, np.int32)))
    values = np.arange(low, high + 1)
    mass = np.maximum(values, 1).astype(float) ** -power if power else np.ones(values.size)
    assert drawn.min() >= low and drawn.max() <= high
    share = np.cumsum(mass / mass.sum())
    seen = np.searchsorted(np.sort(drawn), values, side="right") / DRAWS
    assert np.max(np.abs(seen - share)) < 2.2 / np.sqrt(DRAWS) + 1e-3


def test_integers_drawn_together_are_those_drawn_alone() -> None:
    laws = {"rows": law(500, 1000, 1.0, np.int32), "columns": law(3, 12, 0.0, np.int32)}
    both = jax.jit(lambda: draw_integers(KEY, laws, INDEX))()
    for name, range_ in laws.items():
        np.testing.assert_array_equal(both[name], _integers(range_, name))
    assert abs(np.corrcoef(both["rows"], both["columns"])[0, 1]) < 5 / np.sqrt(DRAWS)


def test_integers_of_a_tabulated_prior_are_the_same() -> None:
    prior = jaxrel.presets.load("tiny").prior
    laws = {"columns": prior.schema.columns, "rows": prior.schema.activity_rows}
    known = tabulated(prior).schema
    both = jax.jit(lambda: draw_integers(KEY, {"columns": known.columns, "rows": known.activity_rows}, INDEX))()
    for name, range_ in laws.items():
        np.testing.assert_array_equal(both[name], _integers(range_, name))


def test_words_drawn_ahead_are_those_drawn_one_by_one() -> None:
    keys, i = named_key(KEY, jnp.arange(6, dtype=jnp.int32).reshape(2, 3)), jnp.arange(3, dtype=jnp.int32)
    words = Words(Words(keys, ("a", "b")), ("b", "c"), i)
    for number, lane in ((0, "a"), (0, "b"), (i, "b"), (i, "c"), (0, "c"), (1, "a"), (i + 0, "b"), (i, "elsewhere"), (i, 7)):
        for drawn, alone in zip(pair(words, number, lane), pair(keys, number, lane), strict=True):
            np.testing.assert_array_equal(drawn, alone)
    for drawn, alone in zip(pairs(words, i, ["c", "b"]), pairs(keys, i, ["c", "b"]), strict=True):
        np.testing.assert_array_equal(drawn, alone)
    np.testing.assert_array_equal(words[..., 1], keys[..., 1])
    np.testing.assert_array_equal(named_key(words, "x"), named_key(keys, "x"))


def _hashes(jaxpr: Any) -> int:
    """Places of a program, and of those that it calls, at which the generator's primitive runs."""
    inner = [y for step in jaxpr.eqns for x in step.params.values() for y in (x if isinstance(x, (tuple, list)) else (x,))]
    inner = [getattr(x, "jaxpr", x) for x in inner]
    return sum(step.primitive is threefry2x32_p for step in jaxpr.eqns) + sum(_hashes(x) for x in inner if hasattr(x, "eqns"))


def test_draws_of_a_stage_are_made_together() -> None:
    tiny = jaxrel.presets.load("tiny")
    schema = jax.eval_shape(lambda: jaxrel.sample_schema(KEY, tiny.prior, tiny.capacity))
    stages = {
        "schema": (30, lambda _: jaxrel.sample_schema(KEY, tiny.prior, tiny.capacity)),
        "links": (9, lambda schema: sample_link_laws(KEY, tiny.prior, schema, tiny.capacity)),
        "scm": (40, lambda schema: jaxrel.sample_scm(KEY, tiny.prior, schema, tiny.capacity)),
    }
    for name, (most, stage) in stages.items():
        assert 0 < _hashes(jax.make_jaxpr(stage)(schema).jaxpr) <= most, f"{name}: draws by themselves, each a program of a hundred steps"


def test_choices_come_by_weight() -> None:
    weight = np.array([1.0, 0.0, 0.5, 3.0, 0.0], np.float32)
    drawn = np.asarray(draw_choice(KEY, "choice", Weights(weight=jnp.asarray(weight)), INDEX))
    assert fits_counts(drawn, np.flatnonzero(weight), weight[weight > 0].astype(float))


def test_shares_are_uniform_between_their_ends() -> None:
    drawn = np.asarray(draw_share(KEY, "share", law(0.1, 0.3), INDEX)) / 2**24
    assert drawn.min() >= 0.1 - 2**-24 and drawn.max() <= 0.3 + 2**-24
    assert stats.kstest((drawn - 0.1) / 0.2, "uniform").pvalue > 1e-4
    assert (np.asarray(draw_share(KEY, "share", law(1.0, 1.0), INDEX)) == 2**24).all()


_reals = jax.jit(lambda law: draw_real(KEY, "x", law, INDEX))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_reals_follow_the_power_law(power: float) -> None:
    a, b, q = 0.37, 20.0, 1.0 - power
    drawn = np.asarray(_reals(law(a, b, power)), np.float64)
    assert drawn.min() >= a - 1e-6 and drawn.max() <= b * (1 + 1e-6)

    def cdf(x: np.ndarray) -> np.ndarray:
        return np.log(x / a) / np.log(b / a) if q == 0 else (x**q - a**q) / (b**q - a**q)

    assert stats.kstest(drawn, cdf).pvalue > 1e-4


def test_draws_do_not_depend_on_how_many_are_drawn() -> None:
    few: Array = INDEX[100:200]
    np.testing.assert_array_equal(random.row_bits(KEY, few), random.row_bits(KEY, INDEX)[100:200])
    np.testing.assert_array_equal(_integers(law(1, 99, 1.0, np.int32))[100:200], _integers(law(1, 99, 1.0, np.int32), "n", few))


@pytest.mark.parametrize("kind", ["wide", "near one", "integers"])
def test_division_and_roots_by_integers_round_as_a_cpu_does(kind: str) -> None:
    """What other backends use: of every quotient and root the float next to it, whatever the backend's own are."""
    random = np.random.default_rng(len(kind))
    size = 200_000
    a, b = (random.random((2, size)) * 2.0 ** random.integers(-30, 30, (2, size)) + 1e-12).astype(np.float32)
    if kind == "near one":
        a = np.nextafter(b, np.float32(9e9))
    if kind == "integers":
        a, b = random.integers(0, 2**24, size).astype(np.float32), random.integers(1, 2**12, size).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(exact_quotient)(a, b), a / b)
    np.testing.assert_array_equal(jax.jit(exact_root)(b), np.sqrt(b))


@pytest.mark.parametrize("function", [exact_quotient, exact_root])
def test_division_and_roots_survive_a_worse_backend(function: Any) -> None:
    """An H100 is a unit off in three of ten quotients; here all of a program's own are, by up to four."""
    draw = np.random.default_rng(0)
    given = [jnp.asarray(x, jnp.float32) for x in draw.random((2, 50_000)) + 0.1][: 1 if function is exact_root else 2]
    program = jax.make_jaxpr(function)(*given)
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True)) | dict(zip(program.jaxpr.invars, given, strict=True))
    worse = 0
    for step in program.jaxpr.eqns:
        out = step.primitive.bind(*(x.val if isinstance(x, jax.extend.core.Literal) else known[x] for x in step.invars), **step.params)
        if step.primitive.name in ("div", "sqrt") and out.dtype == jnp.float32:
            worse += 1
            out = jax.lax.bitcast_convert_type(
                jax.lax.bitcast_convert_type(out, jnp.int32) + jnp.asarray(draw.integers(-4, 5, out.shape), jnp.int32), jnp.float32
            )
        known.update(zip(step.outvars, out if step.primitive.multiple_results else [out], strict=True))
    assert worse > 0
    expected = np.sqrt(given[0]) if function is exact_root else np.asarray(given[0]) / np.asarray(given[1])
    np.testing.assert_array_equal(known[program.jaxpr.outvars[0]], expected)


def test_keys_named_on_the_host_are_those_named_in_a_program():
    key, ids, more = (np.asarray(words, np.uint32) for words in ([7, 2**32 - 1], [[0], [5], [2**31]], [1, 2**32 - 1]))
    found = random.host_key(key, "render", ids, more)
    np.testing.assert_array_equal(found, random.named_key(jnp.asarray(key), "render", ids, more))
    np.testing.assert_array_equal(random.host_key(found, "a", 3), random.named_key(jnp.asarray(found), "a", 3))
