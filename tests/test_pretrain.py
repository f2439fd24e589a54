"""The pretraining benchmark: what its model reads, that it learns, and that the study's fits and grades are right."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import databases, each, small, traced_once

from jaxrel.random import named_key

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench" / "pretrain"))

import held_out
import report
from model import CLASSES, loss_of, merged
from train import contexts_of, learner, new_contexts

KEY = jnp.asarray([5, 6], jnp.uint32)


@pytest.fixture(scope="module", autouse=True)
def ranks_may_differ() -> Any:
    """The benchmark is a user's program, which need not say every broadcast."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def contexts() -> Any:
    """[128, …]: 16 contexts of each of eight databases."""
    dbs = jax.tree.map(lambda *x: np.stack(x), *list(each(databases("tiny")))[:8])
    of = jax.jit(jax.vmap(lambda key, db: contexts_of(key, db, 16)))
    return jax.device_get(merged(of(named_key(KEY, jnp.arange(8, dtype=jnp.int32)), dbs)))


@pytest.fixture(scope="module")
def model() -> Any:
    return learner(60, width=32, layers=2)


@pytest.fixture(scope="module")
def predict(model: Any) -> Any:
    return traced_once(model.predict)


def test_a_prediction_reads_neither_the_answer_nor_other_contexts_nor_padding(contexts: Any, model: Any, predict: Any) -> None:
    state = model.init(0)
    number, scores = predict(state, contexts)
    U = contexts.token_row.shape[1]
    padding = np.arange(U) >= contexts.token_count[:, None]
    blind = contexts.replace(target_value=contexts.target_value * 0 + 9, token_value=np.where(padding, np.float32(3), contexts.token_value))
    order = np.random.default_rng(0).permutation(number.size)
    for other, back in ((blind, slice(None)), (jax.tree.map(lambda x: x[order], contexts), np.argsort(order))):
        a, b = predict(state, other)
        np.testing.assert_allclose(a[back], number, atol=1e-5)
        np.testing.assert_allclose(b[back], scores, atol=1e-4)
    loud = predict(state, contexts.replace(token_value=contexts.token_value + 1))
    assert (np.abs(loud[0] - number) > 1e-4).mean() > 0.3  # so that the above can fail


def test_codes_that_a_column_has_not_are_never_said(contexts: Any, model: Any, predict: Any) -> None:
    _, scores = predict(model.init(0), contexts)
    impossible = np.arange(CLASSES) >= np.maximum(contexts.target_classes, 1)[:, None]
    some = contexts.target_classes > 0
    assert np.exp(scores)[some][impossible[some]].max() < 1e-6
    np.testing.assert_allclose(np.exp(scores)[some].sum(axis=1), 1, atol=1e-5)


def test_the_loss_counts_known_targets_alone(contexts: Any, model: Any, predict: Any) -> None:
    number, scores = predict(model.init(0), contexts)
    loss, weight = loss_of(number, scores, contexts)
    assert 0.5 < np.mean(weight) <= 1
    none = contexts.replace(target_known=np.zeros_like(contexts.target_known))
    assert not np.asarray(loss_of(number, scores, none)[1]).any()
    many = contexts.replace(target_classes=np.where(contexts.target_classes > 0, CLASSES + 1, 0).astype(np.int32))
    np.testing.assert_array_equal(loss_of(number, scores, many)[1], contexts.target_known & (contexts.target_classes == 0))
    m = int(np.flatnonzero(np.asarray(weight) * (contexts.target_classes == 0))[0])
    error = abs(float(number[m]) - float(np.clip(contexts.target_value[m], -5, 5)))
    np.testing.assert_allclose(loss[m], 0.5 * error**2 if error < 1 else error - 0.5, rtol=1e-5)


def test_a_model_learns_without_a_second_trace(contexts: Any, model: Any) -> None:
    learn, state, losses = traced_once(model.learn), model.init(1), []
    for _ in range(60):
        state, loss = learn(state, contexts, KEY)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0], losses[::10]


def test_fits_find_the_law_that_was_put_in() -> None:
    n = [8.0, 32, 128, 512, 2048]
    losses = 0.4 + 0.9 * np.asarray(n) ** -0.35 + 1e-4 * np.random.default_rng(0).normal(size=(3, 5))
    words = report.power_law(n, losses)
    assert words.startswith("0.40") and "n^-0.35" in words, words
    assert report.interval([1.0, 2.0, 3.0]) == "2.000 ± 2.484" and report.interval([0.5]) == "0.500"


def test_measures_are_those_of_the_words(contexts: Any) -> None:
    target, is_code = np.clip(contexts.target_value, -5, 5), contexts.target_classes > 0

    def perfect(c: Any) -> Any:
        scores = np.log(np.eye(CLASSES)[c.target_value.astype(int) % CLASSES] + 1e-6)
        return np.clip(c.target_value, -5, 5), scores.astype(np.float32)

    found = held_out.measures(perfect, contexts, 48)  # 128 contexts in batches of 48
    assert found["r2"] == pytest.approx(1) and found["accuracy"] == 1 and found["numbers"] == 0 and found["loss"] < 1e-4

    def constant(c: Any) -> Any:
        return np.full(c.target_value.shape, 2.0, np.float32), np.full((*c.target_value.shape, CLASSES), np.log(0.5), np.float32)

    used = np.asarray(loss_of(*constant(contexts), contexts)[1]) > 0
    x = target[used & ~is_code]
    found = held_out.measures(constant, contexts, 128)
    assert found["r2"] == pytest.approx(1 - np.mean((x - 2) ** 2) / x.var(), rel=1e-4) and found["codes"] == pytest.approx(np.log(2))


@pytest.mark.slow
def test_generation_is_fused_into_the_step_which_is_traced_once(model: Any) -> None:
    preset = small("tiny")

    def step(state: Any, number: Any, prior: Any) -> Any:
        contexts = new_contexts(KEY, number, dataclasses.replace(preset, prior=prior), databases=1, count=4)
        return model.learn(state, contexts, named_key(KEY, "hidden", number))

    fused, state, losses = traced_once(step), model.init(0), []
    for number in range(1000):
        state, loss = fused(state, jnp.int32(number), preset.prior)
        losses.append(loss)
    losses = np.asarray(losses)
    assert np.isfinite(losses).all() and losses[-500:].mean() < losses[:50].mean()
    again = fused(model.init(0), jnp.int32(0), preset.prior)[1]
    np.testing.assert_allclose(again, losses[0], rtol=1e-5)
