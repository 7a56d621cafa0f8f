"""Files that are whole or absent: written under a hidden temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samcli.errors import DiskFullError, SamcliError

TEMPORARY = ".samcli-tmp-"
"""Prefix of temporary names. What a killed run leaves of them is safe to delete."""

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
    with _errors_name(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8. What UTF-8 lacks (file names that are not text) leaves as JSON's escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `path`, replacing what is there, or vanishes on errors.

    Raises SamcliError, naming the folder and the remedy, also for OSErrors inside; DiskFullError for want of
    space.
    """
    with _errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            if path.is_dir() and not path.is_symlink():
                old = _temporary(path)
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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
