"""A folder appears whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrel.files import _HOST, atomic_folder, read_digest, remove_partial, write_digest


def _entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_whole_folder_appears_with_its_parents(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert _entries(tmp_path) == {"a", "a/b", "a/b/x"}


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        raise error
    assert _entries(tmp_path) == set()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="No space left on device"), atomic_folder(tmp_path / "b") as folder:
        (folder / "x").write_text("1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert _entries(tmp_path) == set()


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match="cannot be written"), atomic_folder(tmp_path / "a" / "b"):
        pass


def test_other_peoples_files_in_a_new_parent_stay(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "other").write_text("1")
        raise RuntimeError
    assert _entries(tmp_path) == {"a", "a/other"}


def test_an_existing_folder_is_replaced_only_if_asked(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")
    with pytest.raises(ValueError, match="exists already"), atomic_folder(tmp_path / "b"):
        pass
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "b", overwrite=True):
        raise RuntimeError
    assert _entries(tmp_path) == {"b", "b/old"}
    with atomic_folder(tmp_path / "b", overwrite=True) as folder:
        (folder / "new").write_text("1")
    assert _entries(tmp_path) == {"b", "b/new"}


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = f"""
import os
from pathlib import Path
from jaxrel.files import atomic_folder
with atomic_folder(Path({str(tmp_path)!r}) / "b") as folder:
    (folder / "x").write_text("1")
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    assert any(name.startswith(".b.partial-") for name in _entries(tmp_path))
    with atomic_folder(tmp_path / "c"):
        pass
    assert _entries(tmp_path) == {"c"}


def test_partial_folders_of_living_processes_and_of_others_stay(tmp_path):
    for name in (f".b.partial-{_HOST}-{os.getppid()}", f".c.partial-{_HOST}-{os.getpid()}", ".b.partial-x"):
        (tmp_path / name).mkdir()
    remove_partial(tmp_path, ["b"])
    assert len(_entries(tmp_path)) == 3
    remove_partial(tmp_path)
    assert _entries(tmp_path) == {f".b.partial-{_HOST}-{os.getppid()}", ".b.partial-x"}


def test_partial_folders_of_another_host_go_with_their_target_only(tmp_path):
    """Its process numbers say nothing here: what another host writes into a shared folder is its own, what lies in our way is stale."""
    for name in ("b", "c"):
        (tmp_path / f".{name}.partial-00000000-{os.getpid()}").mkdir()
    remove_partial(tmp_path)
    assert len(_entries(tmp_path)) == 2
    remove_partial(tmp_path, ["b"])
    assert _entries(tmp_path) == {f".c.partial-00000000-{os.getpid()}"}


def test_digest_is_read_back(tmp_path):
    digest = {"seed": 1, "prior": 'a"}{,', "index": 0}
    write_digest(tmp_path, digest, {"tables": {"a": [1, 2]}})
    assert read_digest(tmp_path) == digest
    write_digest(tmp_path, None, {})
    assert read_digest(tmp_path) == {}
    (tmp_path / "jaxrel.json").write_text("{}")
    assert read_digest(tmp_path) is None
    assert read_digest(tmp_path / "nowhere") is None
