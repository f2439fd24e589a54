"""Streams, grain sources, tensors: a batch is a function of its step's number, on any devices; nothing is copied or traced twice."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import ROOT, small

import jaxrel
from jaxrel import feeding
from jaxrel.contexts import sample_cells, sample_contexts
from jaxrel.random import bits, named_key, uniform

B = 4


def structure(key: jax.Array, db: jaxrel.Database) -> Any:
    """What the quick tests make of each database: nothing that needs its values, so that a small program is compiled."""
    traces.append(1)
    return {"key": key, "rows": db.schema.row_count, "parents": db.links.parent_row, "luck": uniform(bits(key))}


def contexts(key: jax.Array, db: jaxrel.Database) -> Any:
    """What the slow ones make of it."""
    cells = sample_cells(key, db, 8)
    made = sample_contexts(key, db, cells.table, cells.row, cells.seed_time, cells.column, tokens=32, rows_per_context=8)
    return {"key": key, "contexts": made}


traces: list[int] = []


def stream(make: Any = structure, **options: Any) -> feeding.Stream:
    tiny = small("tiny")
    return jaxrel.stream(tiny.prior, tiny.capacity, B, ROOT, make=make, **options)


@pytest.fixture(scope="module")
def first() -> list[Any]:
    """The first five batches."""
    batches = stream()
    return [jax.device_get(next(batches)) for _ in range(5)]


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_number_is_all_that_a_run_goes_on_from(first: list[Any]) -> None:
    batches = stream(prefetch=3)
    for _ in range(2):
        next(batches)
    assert batches.step == 2
    for prefetch in (0, 1):
        again = stream(start=batches.step, prefetch=prefetch)
        for wanted in first[2:]:
            same(jax.device_get(next(again)), wanted)
        assert again.step == 5
    assert len({x["parents"].tobytes() for x in first}) == 5


def test_a_batch_is_the_databases_of_its_step(first: list[Any]) -> None:
    tiny = small("tiny")
    schema = jax.jit(jax.vmap(lambda key: jaxrel.sample_schema(key, tiny.prior, tiny.capacity)))
    for step, batch in enumerate(first):
        keys = named_key(ROOT, "database", jnp.arange(step * B, (step + 1) * B, dtype=jnp.int32))
        np.testing.assert_array_equal(batch["key"], named_key(keys, "make"))
        np.testing.assert_array_equal(batch["rows"], schema(keys).row_count)


def test_nothing_is_traced_twice_over_many_steps(first: list[Any]) -> None:
    before = len(traces)
    for start in range(0, 60, 20):
        batches = stream(start=start)
        for _ in range(20):
            last = next(batches)
    jax.block_until_ready(last)
    assert len(traces) == before == 1


def test_batches_are_dispatched_ahead() -> None:
    asked: list[int] = []
    batches = feeding.Stream(lambda step: asked.append(step) or step, 7, 2)
    assert not asked and next(batches) == 7 and asked == [7, 8, 9] and next(batches) == 8 and asked[-1] == 10


def test_a_source_for_grain_holds_the_batches_of_the_stream(first: list[Any]) -> None:
    tiny = small("tiny")
    source = jaxrel.grain_source(tiny.prior, tiny.capacity, ROOT, 3, batch=B, make=structure)
    assert isinstance(source, grain.sources.RandomAccessDataSource) and len(source) == 3
    data = grain.MapDataset.source(source).shuffle(seed=0).repeat(2)
    seen = [next(i for i, x in enumerate(first) if np.array_equal(x["key"], batch["key"])) for batch in data]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    for i in range(3):
        same(source[i], first[i])
    loader = grain.DataLoader(data_source=source, sampler=grain.samplers.SequentialSampler(3, shard_options=grain.sharding.NoSharding()))
    for batch, wanted in zip(loader, first, strict=False):
        same(batch, wanted)
    assert repr(source) == repr(jaxrel.grain_source(tiny.prior, tiny.capacity, ROOT, 3, batch=B, make=structure)) != object.__repr__(source)
    assert len(traces) == 1
    with pytest.raises(IndexError, match="index: 3 is not in 0 … 2"):
        source[3]


@pytest.mark.slow
@pytest.mark.xdist_group("feeding")
def test_a_record_is_one_database_where_no_batch_is_asked_for(first: list[Any]) -> None:
    tiny = small("tiny")
    source = jaxrel.grain_source(tiny.prior, tiny.capacity, ROOT, 10, make=structure)
    for i in (0, 3, 5):
        same(source[i], jax.tree.map(lambda x, i=i: x[i % B], first[i // B]))


@pytest.mark.slow
@pytest.mark.xdist_group("feeding")
def test_a_mesh_of_eight_feeds_what_one_device_does(tmp_path: Path) -> None:
    """Contexts of whole databases: integers exactly, numbers but for one cell in 1,000."""
    file = tmp_path / "batches"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    script = Path(__file__).parent / "on_eight_devices.py"
    subprocess.run([sys.executable, str(script), "stream", str(file)], env={**os.environ, "XLA_FLAGS": flags}, check=True)
    batches = stream(contexts)
    wanted = jax.tree.map(lambda *x: np.concatenate(x), *(jax.device_get(next(batches)) for _ in range(4)))
    found = jax.tree.map(lambda *x: np.concatenate(x), *pickle.loads(file.read_bytes()))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if a.dtype.kind == "f":
            assert (np.abs(a - b) > 1e-3).mean() < 1e-3
        else:
            np.testing.assert_array_equal(a, b)
    assert wanted["contexts"].target_known.mean() > 0.95 and len(np.unique(wanted["contexts"].token_value)) > 500


def test_arrays_leave_through_dlpack_without_a_copy(first: list[Any]) -> None:
    """As numpy takes them, and as tensors where PyTorch is there."""
    arrays = jax.device_put(first[0])
    for x in jax.tree.leaves(arrays):
        taken = np.from_dlpack(x)
        assert taken.__array_interface__["data"][0] == x.unsafe_buffer_pointer()
        np.testing.assert_array_equal(taken, x)
    try:
        import torch
    except ImportError:
        with pytest.raises(ImportError, match="to_torch: PyTorch is not installed; install it"):
            jaxrel.to_torch(arrays)
        return
    tensors = jaxrel.to_torch(arrays)
    assert tensors.keys() == arrays.keys()
    for tensor, x in zip(jax.tree.leaves(tensors), jax.tree.leaves(arrays), strict=True):
        assert isinstance(tensor, torch.Tensor) and tensor.data_ptr() == x.unsafe_buffer_pointer()
        np.testing.assert_array_equal(tensor.numpy(), x)


def test_what_is_no_array_of_jax_is_no_tensor_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_dlpack=np.from_dlpack))
    array = jnp.arange(3)
    assert jaxrel.to_torch({"x": array, "none": None})["x"].__array_interface__["data"][0] == array.unsafe_buffer_pointer()
    with pytest.raises(TypeError, match="tree: a leaf is a ndarray, no array of JAX; torch.as_tensor takes what is NumPy's"):
        jaxrel.to_torch({"x": np.arange(3)})


def test_what_cannot_be_is_refused(tiny: Any) -> None:
    give: dict[str, Any] = {"prior": tiny.prior, "capacity": tiny.capacity, "key": ROOT}
    with pytest.raises(ValueError, match="batch: 0 is less than 1"):
        jaxrel.stream(batch=0, **give)
    for name in ("start", "prefetch"):
        with pytest.raises(ValueError, match=f"{name}: -1 is less than 0"):
            jaxrel.stream(batch=1, **give, **{name: -1})
    for name in ("batch", "start", "prefetch"):
        with pytest.raises(TypeError, match=f"{name}: 1.5 is no whole number"):
            jaxrel.stream(**{"batch": 1, **give, name: 1.5})
    with pytest.raises(
        ValueError, match="step: 2097151 of 1024 databases each is beyond the 2\\^31 databases of a corpus; give another key"
    ):
        next(jaxrel.stream(batch=1024, **give, start=2**21 - 1))
    with pytest.raises(ValueError, match="length: 0 is less than 1"):
        jaxrel.grain_source(length=0, **give)
    with pytest.raises(ValueError, match="length: 2097152 records of 1024 databases are more"):
        jaxrel.grain_source(length=2**21, batch=1024, **give)
