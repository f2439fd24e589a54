"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from jaxrel.errors import UserError

__all__ = ["DIGEST_FILE", "atomic_folder", "json_lines", "read_digest", "remove_partial", "write_digest"]

DIGEST_FILE = "jaxrel.json"

_HIDDEN = re.compile(r"\.(.+)\.(?:partial|replaced)-([0-9a-f]{8})-(\d+)")
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]  # a process number means something on its own host only
_swept: set[Path] = set()  # parent folders that have been looked through
_live: set[str] = set()  # hidden folders of this process that are in use
_lock = threading.Lock()


@contextlib.contextmanager
def atomic_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder under a hidden name beside its target and rename it when it is whole.

    After any exception inside the block, and after a full disk, neither the hidden folder nor a parent folder made for it remains. What
    a killed process left behind is removed by the next one that writes into the same parent folder on that host.

    Args:
        target: the folder to appear.
        overwrite: replace an existing target.

    Yields:
        The hidden folder to write into; it exists and is empty.

    Raises:
        UserError: if the target exists and is not to be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; choose another folder or overwrite it (overwrite=True, --overwrite)")
    partial, replaced = (target.with_name(f".{target.name}.{word}-{_HOST}-{os.getpid()}") for word in ("partial", "replaced"))
    made: list[Path] = []
    done = False
    try:
        for folder in reversed(target.parents):
            if not folder.exists():
                made.append(folder)
                folder.mkdir(exist_ok=True)
        with _lock:
            _live.update((str(partial), str(replaced)))
            first = target.parent not in _swept
            _swept.add(target.parent)
        if first:
            remove_partial(target.parent)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if overwrite and target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        try:
            partial.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
        done = True
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # Arrow's errors carry a number and a longer text
        raise UserError(f"{target}: cannot be written ({reason}); free some space or choose another folder") from error
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
        if not done:
            shutil.rmtree(partial, ignore_errors=True)
            for folder in reversed(made):
                with contextlib.suppress(OSError):  # others may have put something there
                    folder.rmdir()
        with _lock:
            _live.difference_update((str(partial), str(replaced)))


def remove_partial(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove the hidden folders that dead processes left behind.

    Args:
        folder: where databases are written.
        names: only those of these targets, which no other host is writing; None stands for those of all targets, made on this host.
    """
    wanted = None if names is None else set(names)
    with os.scandir(folder) as entries:
        hidden = [(os.path.abspath(entry.path), match) for entry in entries if (match := _HIDDEN.fullmatch(entry.name))]
    for path, match in hidden:
        here = match[2] == _HOST
        if (here if wanted is None else match[1] in wanted) and path not in _live and not (here and _alive_elsewhere(int(match[3]))):
            shutil.rmtree(path, ignore_errors=True)


def json_lines(content: dict[str, Any]) -> str:
    """A JSON object with a line for each of its keys: to be looked through, and written three times as fast as indented."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n}\n"


def write_digest(folder: Path, digest: dict[str, Any] | None, content: dict[str, Any]) -> None:
    """Write ``jaxrel.json``: the run's digest on a line of its own at the top, where `read_digest` finds it cheaply, then the content.

    Args:
        folder: of one database.
        digest: what the database was made from; JSON values only.
        content: everything else; JSON values only.
    """
    (folder / DIGEST_FILE).write_text(json_lines({"digest": digest or {}, **content}), encoding="utf-8")


def read_digest(folder: Path) -> dict[str, Any] | None:
    """The digest that a database was written with.

    Args:
        folder: of one database.

    Returns:
        The digest, {} where none was given; None where the folder holds no database of ours.
    """
    try:
        with open(Path(folder) / DIGEST_FILE, encoding="utf-8") as file:
            line = [file.readline() for _ in range(2)][1]
        found = json.loads("{" + line.strip().rstrip(",") + "}")["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _alive_elsewhere(process: int) -> bool:
    """Whether another process with this number exists."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True  # elsewhere a probe by signal would end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no process number at all
        return True
    return True
