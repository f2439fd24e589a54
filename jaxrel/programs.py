"""Compiled programs kept on disk, so that a second process neither traces, lowers nor compiles.

JAX's persistent compilation cache spares the compiler alone; tracing and lowering the kernel take longer than loading it. Here the whole
executable is kept, under a digest of everything that it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import pickle
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable

__all__ = ["COMPILER_OPTIONS", "compile_or_load"]

# What the kernel gains from on CPU, for ``jax.jit(..., compiler_options=...)``; other backends pass it by. XLA keeps to half of the vector
# registers of AVX-512 unless it is told otherwise, and cuts operators of microseconds into pieces for its threads.
COMPILER_OPTIONS = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_multi_thread_eigen": False}


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
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    facts = (name, jax.__version__, jaxlib.__version__, devices, settings, os.environ.get("XLA_FLAGS"), str(structure), shapes)
    digest.update(f"{facts}{_machine()}".encode())
    return digest.hexdigest()[:32]


def _load(path: Path) -> tuple[Callable[..., Any], Any] | None:
    """A kept executable and the shapes that it returns; None where there is none, a broken one, or one of an unknown kind."""
    try:
        serialised, in_tree, out_tree, shapes = pickle.loads(path.read_bytes())
        program = serialize_executable.deserialize_and_load(serialised, in_tree, out_tree)
    except Exception:
        return None
    return program, jax.tree.unflatten(out_tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])


def _keep(program: Any, returned: Any, path: Path) -> None:
    """Write an executable to disk, whole or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(returned)]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(pickle.dumps((*serialize_executable.serialize(program), shapes)))
        unfinished.replace(path)
    except Exception:  # a backend that cannot, a folder that cannot be written, a full disk: the program itself is there
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def compile_or_load(
    functions: Mapping[str, Callable[..., Any]],
    inputs: dict[str, tuple[str, ...]],
    known: dict[str, Any],
    static: dict[str, Any],
    folder: Path | None,
) -> dict[str, Callable[..., Any]]:
    """Executables of some jitted functions that feed one another; those that are not kept yet are compiled side by side.

    They are kept where JAX's own cache is off only: what JAX took from that cache cannot be serialised again (XLA 0.10 and 0.12:
    "Function … not found" when the copy runs).

    Args:
        functions: by name, made by `jax.jit`, each after those that it reads.
        inputs: by name, what each takes: names of other functions' results or of ``known``.
        known: the arguments that come from outside, by name: pytrees.
        static: static arguments by name, hashable, with a stable `repr`; a function takes those of them that it declares.
        folder: where executables are kept; None keeps none.

    Returns:
        By name, callables for arguments of these shapes.
    """
    fixed = {name: {k: v for k, v in static.items() if k in inspect.signature(f).parameters} for name, f in functions.items()}
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return {name: partial(function, **fixed[name]) for name, function in functions.items()}
    shapes, programs = dict(known), dict[str, Any]()
    with ThreadPoolExecutor() as pool:
        for name, function in functions.items():
            arguments = tuple(shapes[x] for x in inputs[name])
            path = folder / f"{_identity(f'{name} {fixed[name]!r}', arguments)}.program"
            found = _load(path)
            if found is not None:
                programs[name], shapes[name] = found
                continue
            traced = function.trace(*arguments, **fixed[name])  # type: ignore[attr-defined]
            shapes[name] = traced.out_info

            def compile_and_keep(traced: Any = traced, path: Path = path) -> Any:
                program = traced.lower().compile()
                _keep(program, traced.out_info, path)
                return program

            programs[name] = pool.submit(compile_and_keep)
        return {name: program.result() if isinstance(program, Future) else program for name, program in programs.items()}
