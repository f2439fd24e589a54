"""The strict session: promotions raise, compiled programs are kept between runs of the suite."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The suite's own programs are kept by JAX; those of the command lines that tests start, by jaxrel, in a folder of the suite's.
_CACHE = Path.home() / ".cache" / "jaxrel" / "tests"
_CACHE.mkdir(parents=True, exist_ok=True)
os.environ["XDG_CACHE_HOME"] = str(_CACHE)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
jax.config.update("jax_compilation_cache_dir", str(_CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
