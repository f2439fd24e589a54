"""Compiled programs kept on disk, so that a second process neither traces, lowers nor compiles.

JAX's persistent compilation cache spares the compiler alone; tracing and lowering the kernel take longer than loading it. Here the whole
executable is kept, under a digest of everything that it depends on.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import inspect
import io
import os
import pickle
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax import Device
from jax.experimental import serialize_executable

__all__ = ["COMPILER_OPTIONS", "compile_or_load"]

# What the kernel gains from on CPU, for ``jax.jit(..., compiler_options=...)``; other backends pass it by. XLA keeps to half of the vector
# registers of AVX-512 unless it is told otherwise, and its task assigner cuts operators of microseconds into a piece for each core: half of
# the kernel's processor time went into handing them out. Other databases keep the other cores busy.
COMPILER_OPTIONS = {"xla_cpu_prefer_vector_width": 512, "xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


def _machine() -> str:
    """The instruction set: an executable for another one may end the process."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        text += "".join(line for line in lines if line.startswith(("flags", "Features", "model name")))
    return text


def _identity(name: str, arguments: Any, device: Device) -> str:
    """Digest of what a program depends on: our source, the versions, the machine, the kind of device, JAX's settings, the shapes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    leaves, structure = jax.tree.flatten(arguments)
    apart = ("jax_default_device",)  # one device's program serves the others of its kind
    settings = sorted((key, repr(value)) for key, value in jax.config.values.items() if key not in apart)  # precision, for example
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    versions, kind = (jax.__version__, jaxlib.__version__), (device.platform, device.device_kind)
    facts = (name, versions, kind, settings, os.environ.get("XLA_FLAGS"), str(structure), shapes)
    digest.update(f"{facts}{_machine()}".encode())
    return digest.hexdigest()[:32]


def _moved(serialised: bytes, in_tree: Any, out_tree: Any, device: Device) -> Any:
    """`serialize_executable.deserialize_and_load` on another device than the executable was compiled for: JAX itself leaves it there.

    What it stands on is private to JAX; where that changes, it raises, and the program is compiled once more.
    """
    from jaxlib import xla_client

    class Unpickler(serialize_executable._JaxPjrtUnpickler):
        def persistent_load(self, pid: tuple[Any, ...]) -> Any:
            if pid[0] == "exec":
                options = xla_client.CompileOptions()
                options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
                return self.backend.deserialize_executable(pid[1], self.execution_devices, options)
            return device if pid[0] == "device" else super().persistent_load(pid)

    unloaded, arguments, no_kwargs = Unpickler(io.BytesIO(serialised), device.client, [device]).load()
    if unloaded.xla_executable.local_devices() != [device]:
        raise ValueError("this backend leaves an executable where it was compiled")
    return jax.stages.Compiled(unloaded.load(), [], in_tree.unflatten(arguments), out_tree, no_kwargs=no_kwargs)


def _load(path: Path, device: Device) -> tuple[Callable[..., Any], Any] | None:
    """A kept executable and the shapes that it returns; None where there is none, a broken one, or one of an unknown kind."""
    try:
        serialised, in_tree, out_tree, shapes, compiled_for = pickle.loads(path.read_bytes())
        if compiled_for == device.id:
            program = serialize_executable.deserialize_and_load(serialised, in_tree, out_tree, device.client, [device])
        else:
            program = _moved(serialised, in_tree, out_tree, device)
    except Exception:
        return None
    return program, jax.tree.unflatten(out_tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])


def _keep(program: Any, returned: Any, path: Path, device: Device) -> None:
    """Write an executable to disk, whole or not at all."""
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}")  # hosts may share the folder
    try:
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(returned)]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(pickle.dumps((*serialize_executable.serialize(program), shapes, device.id)))
        unfinished.replace(path)
    except Exception:  # a backend that cannot, a folder that cannot be written, a full disk: the program itself is there
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's garbage collector, which a trace of ten thousand operations, all alive, would call up for a quarter of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def compile_or_load(
    functions: Mapping[str, Callable[..., Any]],
    inputs: dict[str, tuple[str, ...]],
    known: dict[str, Any],
    static: dict[str, Any],
    folder: Path | None,
    device: Device | None = None,
) -> dict[str, Callable[..., Any]]:
    """Executables of some jitted functions that feed one another; those that are not kept yet are compiled side by side.

    They are kept where JAX's own cache is off only: what JAX took from that cache cannot be serialised again (XLA 0.10 and 0.12:
    "Function … not found" when the copy runs).

    Args:
        functions: by name, made by `jax.jit`, each after those that it reads.
        inputs: by name, what each takes: names of other functions' results or of ``known``.
        known: the arguments that come from outside, by name: pytrees.
        static: static arguments by name, hashable, with a stable `repr`; a function takes those of them that it declares.
        folder: where executables are kept; None keeps none. What one device compiled is loaded by others of its kind.
        device: which runs them; None is JAX's default. Where none are kept, it is the default device of the thread that calls them.

    Returns:
        By name, callables for arguments of these shapes.
    """
    fixed = {name: {k: v for k, v in static.items() if k in inspect.signature(f).parameters} for name, f in functions.items()}
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return {name: partial(function, **fixed[name]) for name, function in functions.items()}
    device = device or jax.local_devices()[0]
    shapes, programs = dict(known), dict[str, Any]()
    with _uncollected(), ThreadPoolExecutor() as pool, jax.default_device(device):
        for name, function in functions.items():
            arguments = tuple(shapes[x] for x in inputs[name])
            path = folder / f"{_identity(f'{name} {fixed[name]!r}', arguments, device)}.program"
            found = _load(path, device)
            if found is not None:
                programs[name], shapes[name] = found
                continue
            traced = function.trace(*arguments, **fixed[name])  # type: ignore[attr-defined]
            shapes[name] = traced.out_info

            def compile_and_keep(traced: Any = traced, path: Path = path) -> Any:
                with jax.default_device(device):  # a setting of each thread's own
                    program = traced.lower().compile()
                _keep(program, traced.out_info, path, device)
                return program

            programs[name] = pool.submit(compile_and_keep)
        return {name: program.result() if isinstance(program, Future) else program for name, program in programs.items()}
