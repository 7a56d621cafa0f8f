"""Files that are whole or absent: written under a hidden temporary name in the same folder, then renamed.

A temporary file or folder is locked (flock) while it is written. The lock goes with its process, however that
ends, so `clean_up` can tell what a killed run left behind from what another run is writing.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from samcli.errors import DiskFullError, SamcliError

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".samcli-tmp-"
"""Prefix of temporary names."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    errno.EACCES: "permission denied; choose another output",
    errno.EPERM: "permission denied; choose another output",
    errno.EROFS: "the disk is read-only; choose another output",
    errno.EISDIR: "a folder has this name; choose another output",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another output",
    errno.EEXIST: "a file stands where a folder is needed; choose another output",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter output",
}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with its folders; an existing one is replaced.

    A link goes on pointing to its target, which is replaced; devices and pipes (/dev/null) are written to
    directly. Raises SamcliError, naming the file and the remedy; DiskFullError for want of space.
    """
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to piece by piece; it becomes `path` at the end, or vanishes on errors.

    As `write_bytes`; raises as it does, also for OSErrors inside.
    """
    with _errors_name(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            ours = False
            while not ours:
                temporary = _temporary(target)
                stack.callback(temporary.unlink, missing_ok=True)
                file = stack.enter_context(temporary.open("xb"))
                ours = stack.enter_context(_lock(temporary, os.dup(file.fileno())))
            yield file
            file.close()  # what it raises must come before the rename
            temporary.replace(target)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8. What UTF-8 lacks (file names that are not text) leaves as JSON's escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def new_folder(path: Path, *, ours: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `path`, replacing what is there, or vanishes on errors.

    A folder that holds anything but .png and .csv files is not replaced unless it is known to be ours.
    Raises SamcliError, naming the folder and the remedy, also for OSErrors inside; DiskFullError for want of
    space.
    """
    with _errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            locked = False
            while not locked:
                temporary = _temporary(path)
                temporary.mkdir()
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                with suppress(FileNotFoundError):
                    locked = stack.enter_context(_lock(temporary, os.open(temporary, os.O_RDONLY)))
            yield temporary
            _put_in_place(temporary, path, ours)


def clean_up(folder: Path) -> None:
    """Remove temporary files and folders right in `folder` that no living process is writing.

    What cannot be locked, as on some network file systems, stays. A folder that is not there is clean.
    """
    if sys.platform == "win32":
        return
    try:
        with os.scandir(folder) as entries:
            left = [entry for entry in entries if entry.name.startswith(TEMPORARY)]
    except OSError:
        return
    for entry in left:
        is_folder = entry.is_dir(follow_symlinks=False)
        with suppress(OSError):
            descriptor = os.open(entry, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry) if is_folder else os.unlink(entry)  # noqa: PTH108
            finally:
                os.close(descriptor)


def _put_in_place(temporary: Path, path: Path, whatever: bool) -> None:
    """Rename a folder to `path`, over an older folder there; another process may be doing the same."""
    while True:
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        old = _temporary(path)
        with suppress(FileNotFoundError):  # the other process moved it first
            strange = [
                inner.name
                for inner in path.iterdir()
                if not whatever and (inner.is_dir() or inner.suffix not in (".png", ".csv"))
            ]
            if strange:
                raise SamcliError(f"cannot write {path}: it holds {min(strange)}; choose another output")
            path.rename(old)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _lock(temporary: Path, descriptor: int) -> Iterator[bool]:
    """Lock a new file or folder until the end, and close its descriptor.

    Gives False when another process's `clean_up` was quicker and takes it away. Where there are no locks, it
    is ours without.
    """
    try:
        ours = True
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ours = False
            except OSError:
                pass
        yield ours and temporary.exists()
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"cannot write {path}: {error.strerror}; free space and run again") from error
        remedy = _REMEDIES.get(error.errno or 0, f"{error.strerror}; choose another output")
        raise SamcliError(f"cannot write {path}: {remedy}") from error
