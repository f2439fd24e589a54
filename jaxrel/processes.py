"""What one process of many does: how it finds the others, which indices of a corpus are its own, and on which devices it computes.

Processes that write one corpus need one another for a moment only, to count themselves. From there each knows its share, and neither the
end nor the failure of one touches the others.
"""

from __future__ import annotations

import socket
import threading

import jax
from jax import Device

from jaxrel.errors import Unmet, UserError

__all__ = ["connect", "own_devices", "own_share", "share"]

_GRACE = 60  # seconds that JAX waits longer than we do: at its own limit it ends the process, with a stack for a message


def share(indices: range, part: int, parts: int) -> range:
    """One of the contiguous parts of a range; their sizes differ by one at most.

    Example:
        >>> [share(range(10, 15), part, 3) for part in range(3)]
        [range(10, 11), range(11, 13), range(13, 15)]
    """
    return indices[len(indices) * part // parts : len(indices) * (part + 1) // parts]


def own_share(indices: range) -> range:
    """The part of a range that this process sees to: all of it, where `jax.distributed` joins no others to it."""
    return share(indices, jax.process_index(), jax.process_count())


def own_devices() -> list[Device]:
    """The devices that this process computes on: all of its own, or the one that ``jax.default_device`` names."""
    chosen = getattr(jax.config, "jax_default_device", None)
    if chosen is None:
        return list(jax.local_devices())
    return [jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen]


def _address(coordinator: str, process: int) -> None:
    """Refuse an address that no process can listen on, before JAX stumbles over it."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"--coordinator: {coordinator!r} is not HOST:PORT with a port of 1…65535")
    if process == 0:
        try:
            with socket.create_server(("", int(port))):
                pass
        except OSError as error:
            raise UserError(f"--coordinator: process 0 cannot listen on port {port} ({error.strerror}); choose another") from error


def connect(coordinator: str | None = None, processes: int | None = None, process: int | None = None, timeout: int = 300) -> None:
    """Join this process to the others of a run, by `jax.distributed`, before JAX computes anything.

    Once all have met, `jax.process_count` and `jax.process_index` are those of the run, and the connection is closed again.

    Args:
        coordinator: ``HOST:PORT`` of process 0; None leaves all three to JAX, which knows Slurm, Open MPI, Kubernetes and TPU pods.
        processes: how many there are.
        process: which one this is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        UserError: where only some of the three are given, where they contradict one another, where no cluster is found, or where the others
            did not come in time.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if coordinator is not None and processes is not None and process is not None:
        if process >= processes:
            raise UserError(f"--process: {process} is not one of the {processes} processes 0…{processes - 1}")
        _address(coordinator, process)
    elif len(missing) < len(given):
        raise UserError(f"{' and '.join(missing)}: missing; --coordinator, --processes and --process go together, or none of them is given")
    failures: list[Exception] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout + _GRACE)
            jax.devices()  # those of all processes: they tell one another here
            jax.distributed.shutdown()
        except Exception as error:  # handed to the caller's thread
            failures.append(error)

    service = jax.config.values["jax_enable_preemption_service"]
    jax.config.update("jax_enable_preemption_service", False)  # it would take the signals that end a run
    meeting = threading.Thread(target=meet, daemon=True)  # JAX cannot be called off
    meeting.start()
    meeting.join(timeout)
    jax.config.update("jax_enable_preemption_service", service)
    if meeting.is_alive():
        where = "the cluster's coordinator" if coordinator is None else coordinator
        raise Unmet(f"{where}: not all processes of the run met there within {timeout} s; start them all, and check that they reach it")
    if failures and coordinator is None:
        raise UserError(f"JAX finds no cluster here ({failures[0]}); give --coordinator, --processes and --process") from failures[0]
    if failures:
        raise UserError(f"{coordinator}: the processes of the run did not meet there ({failures[0]})") from failures[0]
