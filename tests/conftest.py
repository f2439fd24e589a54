"""The strict session: promotions raise, compiled programs are kept between runs of the suite."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# The suite waits for the compiler more than for anything else: half as long at a lower level and, where JAX still has them, with
# XLA's older emitters of fusions, which must change no promise. What compiles as a user's programs do: the canary's, the benchmarks',
# the notebooks' and the README's commands.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=1", "--xla_disable_hlo_passes=cpu-parallel-task-assigner"]
    + ["--xla_cpu_use_fusion_emitters=false"] * (tuple(int(x) for x in version("jaxlib").split(".")[:2]) < (0, 11))
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# A trace is ten thousand objects that are all alive: Python's collector, which runs again and again meanwhile, would find nothing.
# `_let_go` calls it.
gc.disable()

# What takes half a minute or more begins first, so that no worker is left with it at the end.
_LONG = ("promises", "training", "onchip", "links", "fleet", "scm", "truth", "time", "engine", "benchmark", "cli", "traits", "feeding")

# Where the processes of this session meet (`sampled.shared`); it goes with the one that leads them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _SESSION = tempfile.TemporaryDirectory(prefix="jaxrel-tests-")
    os.environ["JAXREL_TESTS_SESSION"] = _SESSION.name

# The suite's own programs are kept by JAX; those of the command lines that tests start, by jaxrel, in a folder of the suite's.
_CACHE = Path.home() / ".cache" / "jaxrel" / "tests"
_CACHE.mkdir(parents=True, exist_ok=True)
os.environ["XDG_CACHE_HOME"] = str(_CACHE)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
jax.config.update("jax_compilation_cache_dir", str(_CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _let_go() -> None:
    """Drop all programs: an executable maps memory in many pieces, and Linux allows a process 65,530 of them."""
    import sampled

    sampled.program.cache_clear()
    sampled.stages.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module() -> Iterator[None]:
    """A module's programs go at its end."""
    yield
    _let_go()


@pytest.fixture(autouse=True)
def programs_of_slow_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Those of slow tests, the largest, go when they hold half of the maps that a process may have."""
    yield
    maps = Path("/proc/self/maps")
    if request.node.get_closest_marker("slow") and maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        _let_go()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which they had best begin, tests of a file as they stand there."""
    order = {f"test_{name}": place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``preset_name`` runs once for every preset that comes with the package."""
    if "preset_name" in metafunc.fixturenames:
        from jaxrel import presets

        metafunc.parametrize("preset_name", presets.names())


@pytest.fixture(scope="session")
def tiny():
    """The ``tiny`` preset."""
    from jaxrel import presets

    return presets.load("tiny")


@pytest.fixture
def preset(preset_name: str):
    """Each preset in turn."""
    from jaxrel import presets

    return presets.load(preset_name)
