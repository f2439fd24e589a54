"""Feeding a training loop: batches of databases, or of what is made of each, one step after another.

Batch s is a pure function of the key and of s: databases s · batch, s · batch + 1, … of the corpus that `jaxrel.generate` writes and
`jaxrel.sample_databases` gives. So there is no state to save: a run goes on from the number of its next step.
"""

from __future__ import annotations

import functools
import operator
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jaxrel.fleet import database_key, over_mesh, sample_databases
from jaxrel.prior import Prior
from jaxrel.random import named_key, reduce_key
from jaxrel.types import Capacity, Database

__all__ = ["Make", "Source", "Stream", "grain_source", "stream", "to_torch"]

Make = Callable[[Array, Database], Any]  # of a key and one database, jitted and vmapped


@functools.lru_cache(maxsize=16)
def _program(capacity: Capacity, batch: int, mesh: Mesh | None, make: Make | None) -> Callable[[Array, Array, Prior], Any]:
    """Jitted ``(root, first index, prior) → batch``: one for all streams of these sizes."""

    def sample(root: Array, first: Array, prior: Prior, count: int) -> Any:
        databases = sample_databases(root, first, count, prior, capacity)
        if make is None:
            return databases
        keys = named_key(database_key(root, first + jnp.arange(count, dtype=jnp.int32)), "make")
        return jax.vmap(make)(keys, databases)

    return jax.jit(over_mesh(sample, batch, mesh))


class Stream(Iterator[Any]):
    """An endless iterator over batches; see `stream`.

    Attributes:
        step: number of the batch that comes next: all that must be kept to go on from here.
    """

    def __init__(self, batch_of: Callable[[int], Any], start: int, prefetch: int) -> None:
        self.step = start
        self._batch_of, self._prefetch, self._ahead = batch_of, prefetch, deque[Any]()

    def __next__(self) -> Any:
        while len(self._ahead) <= self._prefetch:
            self._ahead.append(self._batch_of(self.step + len(self._ahead)))
        self.step += 1
        return self._ahead.popleft()


def stream(
    prior: Prior,
    capacity: Capacity,
    batch: int,
    key: ArrayLike,
    *,
    make: Make | None = None,
    start: int = 0,
    mesh: Mesh | None = None,
    prefetch: int = 2,
) -> Stream:
    """Batches of databases without end, on the device.

    Args:
        prior: the distribution over databases.
        capacity: static sizes.
        batch: databases of a batch: B.
        key: root of the corpus: a PRNG key, typed or raw, of any implementation.
        make: what is wanted of each database, ``make(key, db) → pytree``: contexts, features, a few arrays. It is jitted with the
            generator and vmapped, so that a database need not outlive its step; the key is the database's own. None: the databases
            themselves. Give the same function again, not a new lambda, so that a second stream finds the program of the first.
        start: number of the first step.
        mesh: the batch is sharded over all its axes, in their order; None: on the default device.
        prefetch: batches that the device is given to compute ahead of the one that is returned.

    Returns:
        An iterator; the leaves of a batch lead with B. Its ``step`` is the number of the next batch, and
        ``stream(…, start=step)`` goes on there.

    Raises:
        ValueError: if batch is less than 1 or not a multiple of the mesh's devices, start or prefetch is negative, or, when that step is
            reached, the corpus of 2^31 databases is at its end.
        TypeError: if ``key`` is not one PRNG key, or batch, start or prefetch is no whole number.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> batches = jaxrel.stream(tiny.prior, tiny.capacity, 8, jax.random.key(0), make=lambda key, db: db.fits, start=100)
        >>> batches.step  # next(batches) is bool[8], of databases 800 … 807
        100
    """
    start, prefetch, batch = _whole("start", start), _whole("prefetch", prefetch), _whole("batch", batch)
    for name, value in (("start", start), ("prefetch", prefetch)):
        if value < 0:
            raise ValueError(f"{name}: {value} is less than 0")
    program = _checked(capacity, batch, mesh, make)
    where = None if mesh is None else jax.NamedSharding(mesh, P())
    root, prior = jax.device_put((reduce_key(key), prior), where)

    def batch_of(step: int) -> Any:
        if (step + 1) * batch >= 2**31:
            raise ValueError(f"step: {step} of {batch} databases each is beyond the 2^31 databases of a corpus; give another key")
        return program(root, jnp.asarray(step * batch, jnp.int32), prior)

    return Stream(batch_of, start, prefetch)


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} is no whole number") from None


def _checked(capacity: Capacity, batch: int, mesh: Mesh | None, make: Make | None) -> Callable[[Array, Array, Prior], Any]:
    try:
        return _program(capacity, batch, mesh, make)
    except ValueError as error:
        raise ValueError(str(error).replace("count: ", "batch: ")) from None


class Source:
    """Databases by number, as grain's ``RandomAccessDataSource``; see `grain_source`."""

    def __init__(self, record: Callable[[int], Any], length: int, name: str) -> None:
        self._record, self._length, self._name = record, length, name

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(f"index: {index} is not in 0 … {self._length - 1}")
        return self._record(int(index))

    def __repr__(self) -> str:  # grain's checkpoints compare it
        return self._name


def grain_source(
    prior: Prior, capacity: Capacity, key: ArrayLike, length: int, *, batch: int | None = None, make: Make | None = None
) -> Source:
    """A corpus as a data source for `grain <https://google-grain.readthedocs.io>`_: ``grain.MapDataset.source(…)``, ``grain.DataLoader``.

    Nothing is stored: a record is computed where it is asked for, by the process that asks. Read with threads (``grain.ReadOptions``);
    worker processes would each start a JAX of their own, which does not survive a fork.

    Args:
        prior: the distribution over databases.
        capacity: static sizes.
        key: root of the corpus: a PRNG key, typed or raw, of any implementation.
        length: how many records there are.
        batch: databases of a record; record i is then batch i of `stream`. None: one database, without a batch axis.
        make: as in `stream`.

    Returns:
        A `Source`; records are pytrees of numpy arrays.

    Raises:
        ValueError: if length or batch is less than 1, or both are more than the 2^31 databases of a corpus.
        TypeError: if ``key`` is not one PRNG key, or length or batch is no whole number.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> len(jaxrel.grain_source(tiny.prior, tiny.capacity, jax.random.key(0), 1000))
        1000
    """
    length, width = _whole("length", length), 1 if batch is None else _whole("batch", batch)
    if length < 1:
        raise ValueError(f"length: {length} is less than 1")
    if length * width >= 2**31:
        raise ValueError(f"length: {length} records of {width} databases are more than the 2^31 of a corpus; give fewer")
    program = _checked(capacity, width, None, make)
    root, prior = jax.device_put((reduce_key(key), prior))

    def record(index: int) -> Any:
        found = jax.device_get(program(root, jnp.asarray(index * width, jnp.int32), prior))
        return found if batch is not None else jax.tree.map(lambda x: x[0], found)

    words = ".".join(str(int(word)) for word in np.asarray(root))
    return Source(record, length, f"jaxrel.grain_source(key={words}, length={length}, batch={batch}, capacity={capacity})")


def to_torch(tree: Any) -> Any:
    """The arrays of a pytree as PyTorch tensors on the same device, through DLPack: nothing is copied.

    A tensor shares its memory with the array, which JAX takes to be immutable: read it, or ``clone()`` it before you write.

    Args:
        tree: a pytree of arrays, each on one device; the nodes stay what they are.

    Returns:
        The tree with tensors for arrays.

    Raises:
        ImportError: if PyTorch is not installed.
        TypeError: if a leaf is no array of JAX.
        ValueError: if an array lies on several devices.
    """
    try:
        import torch
    except ImportError:
        raise ImportError("to_torch: PyTorch is not installed; install it (pip install torch), or use numpy.from_dlpack") from None

    def shared(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            raise TypeError(f"tree: a leaf is a {type(x).__name__}, no array of JAX; torch.as_tensor takes what is NumPy's")
        if len(x.sharding.device_set) > 1:
            raise ValueError(f"tree: an array is spread over {len(x.sharding.device_set)} devices; give to_torch those of one device")
        return torch.from_dlpack(x)

    return jax.tree.map(shared, tree)
