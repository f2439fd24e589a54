"""Compiled programs kept on disk, so that a second process neither traces, lowers nor compiles.

JAX's persistent compilation cache spares the compiler alone; tracing and lowering the kernel take longer than loading it. Here the whole
executable is kept, under a digest of everything that it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable

__all__ = ["compile_or_load"]


def _machine() -> str:
    """The instruction set: an executable for another one may end the process."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        text += "".join(line for line in lines if line.startswith(("flags", "Features", "model name")))
    return text


def _identity(name: str, arguments: Any) -> str:
    """Digest of what a program depends on: our source, the versions, the machine, JAX's settings, the shapes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    leaves, structure = jax.tree.flatten(arguments)
    devices = [(device.platform, device.device_kind) for device in jax.devices()]
    settings = sorted((key, repr(value)) for key, value in jax.config.values.items())  # precision and promotion, for example
    shapes = [(jax.numpy.shape(leaf), str(jax.numpy.result_type(leaf))) for leaf in leaves]
    facts = (name, jax.__version__, jaxlib.__version__, devices, settings, os.environ.get("XLA_FLAGS"), str(structure), shapes)
    digest.update(f"{facts}{_machine()}".encode())
    return digest.hexdigest()[:32]


def compile_or_load(function: Callable[..., Any], static: dict[str, Any], arguments: Any, folder: Path | None) -> Callable[..., Any]:
    """An executable of a jitted function.

    It is kept where JAX's own cache is off only: what JAX took from that cache cannot be serialised again (XLA 0.10 and 0.12:
    "Function … not found" when the copy runs).

    Args:
        function: made by `jax.jit`.
        static: its static arguments by name; hashable, with a stable `repr`.
        arguments: a tuple of pytrees like those of the later calls.
        folder: where executables are kept; None keeps none.

    Returns:
        A callable for arguments of these shapes.
    """
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return partial(function, **static)
    path = folder / f"{_identity(f'{function.__name__} {static!r}', arguments)}.program"
    with contextlib.suppress(Exception):  # none, a broken one, or one of an unknown kind: make it anew
        return serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()))
    program = function.lower(*arguments, **static).compile()  # type: ignore[attr-defined]
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(pickle.dumps(serialize_executable.serialize(program)))
        unfinished.replace(path)
    except Exception:  # a backend that cannot, a folder that cannot be written, a full disk: the program itself is there
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return program
