"""Whole files or none: errors, links, devices and folders."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from samcli.errors import DiskFullError, SamcliError
from samcli.formats import atomic
from samcli.formats.atomic import TEMPORARY, clean_up, new_file, new_folder, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failing_open(code: int):
    """A replacement for Path.open whose file takes some bytes and then fails, as a full disk does."""
    real = Path.open

    def opened(self, mode="r", *args, **kwargs):
        file = real(self, mode, *args, **kwargs)
        if self.name.startswith(TEMPORARY):
            file.write(b"half of it")
            file.close()
            raise OSError(code, os.strerror(code), str(self))
        return file

    return opened


def test_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "c.json"
    write_bytes(path, b"old and longer")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a", "a/b", "a/b/c.json"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_text_is_utf8_and_undecodable_names_become_json_escapes(tmp_path):
    write_text(tmp_path / "a", "猫 \udcff")
    assert (tmp_path / "a").read_bytes() == "猫 \\udcff".encode()


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, before):
    path = tmp_path / "a.json"
    if before is not None:
        path.write_bytes(before)
    monkeypatch.setattr(Path, "open", failing_open(errno.EIO))
    with pytest.raises(SamcliError) as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert str(caught.value) == f"cannot write {path}: Input/output error; choose another output"
    assert names(tmp_path) == (["a.json"] if before else [])
    if before:
        assert path.read_bytes() == before


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.json", b"new")
    assert names(tmp_path) == []


def test_a_file_in_pieces_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "a" / "b"
    with new_file(path) as file:
        file.write(b"one ")
        assert not path.exists()
        assert any(name.startswith(f"a/{TEMPORARY}") for name in names(tmp_path))
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    assert names(tmp_path) == ["a", "a/b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_in_pieces_vanishes_with_an_error(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fill() -> None:
        with new_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fill()
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_errors_within_a_file_in_pieces_name_it(tmp_path):
    with pytest.raises(DiskFullError) as caught, new_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (
        str(caught.value) == f"cannot write {tmp_path}/a: No space left on device; free space and run again"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_its_own_error(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Path, "open", failing_open(code))
    with pytest.raises(DiskFullError) as caught:
        write_bytes(tmp_path / "a.json", b"new")
    monkeypatch.undo()
    assert str(caught.value) == (
        f"cannot write {tmp_path}/a.json: {os.strerror(code)}; free space and run again"
    )
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_really_full_device():
    with pytest.raises(DiskFullError):
        write_bytes(Path("/dev/full"), b"x" * 10)


def test_forbidden(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", failing_open(errno.EACCES))
    with pytest.raises(SamcliError) as caught:
        write_bytes(tmp_path / "a.json", b"new")
    assert str(caught.value) == (f"cannot write {tmp_path}/a.json: permission denied; choose another output")


def test_a_folder_in_the_way(tmp_path):
    with pytest.raises(SamcliError) as caught:
        write_bytes(tmp_path, b"new")
    assert str(caught.value) == f"cannot write {tmp_path}: a folder has this name; choose another output"


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"file")
    for path in (tmp_path / "a" / "b.json", tmp_path / "a" / "b" / "c.json"):
        with pytest.raises(SamcliError) as caught:
            write_bytes(path, b"new")
        assert str(caught.value) == (
            f"cannot write {path}: a file stands where a folder is needed; choose another output"
        )
    assert (tmp_path / "a").read_bytes() == b"file"


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(SamcliError, match=r"the name is too long; choose a shorter output$"):
        write_bytes(tmp_path / ("x" * 300), b"new")
    assert names(tmp_path) == []


def test_a_link_goes_on_pointing_to_its_target(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("real/a.json")
    for data in (b"first", b"second"):
        write_bytes(link, data)
        assert link.is_symlink()
        assert (tmp_path / "real" / "a.json").read_bytes() == data


def test_devices_and_pipes_are_written_to_and_not_replaced(tmp_path):
    write_bytes(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(5)
    assert received == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "deep" / "a.masks"
    for content in (["0.png", "1.png"], ["0.png"]):
        with new_folder(target) as folder:
            assert folder.name.startswith(TEMPORARY)
            for name in content:
                (folder / name).write_bytes(b"x")
        assert names(target) == content
    assert names(tmp_path) == ["deep", "deep/a.masks", "deep/a.masks/0.png"]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.masks"
    with new_folder(target) as folder:
        (folder / "0.png").write_bytes(b"old")

    def fill(error: BaseException) -> None:
        with new_folder(target) as folder:
            (folder / "0.png").write_bytes(b"new")
            raise error

    with pytest.raises(ValueError, match="bug"):
        fill(ValueError("bug"))
    with pytest.raises(DiskFullError, match=r"a\.masks: No space left on device; free space and run again$"):
        fill(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    assert names(tmp_path) == ["a.masks", "a.masks/0.png"]
    assert (target / "0.png").read_bytes() == b"old"


def test_a_file_in_the_way_of_a_new_folder(tmp_path):
    (tmp_path / "a.masks").write_bytes(b"file")
    with (
        pytest.raises(SamcliError, match=r"a file stands where a folder is needed; choose another output$"),
        new_folder(tmp_path / "a.masks"),
    ):
        pass
    assert names(tmp_path) == ["a.masks"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.json"
    texts = [bytes([65 + i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert names(tmp_path) == ["a.json"]


def test_clean_up_removes_what_the_dead_left_and_nothing_else(tmp_path):
    (tmp_path / f"{TEMPORARY}file").write_bytes(b"half")
    (tmp_path / f"{TEMPORARY}folder" / "inner").mkdir(parents=True)
    (tmp_path / "a.json").write_bytes(b"whole")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f"{TEMPORARY}deeper").write_bytes(b"half")
    clean_up(tmp_path)
    clean_up(tmp_path / "nowhere")
    assert names(tmp_path) == ["a.json", "sub", f"sub/{TEMPORARY}deeper"]


def test_clean_up_leaves_what_is_being_written(tmp_path, monkeypatch):
    real = Path.replace

    def cleaned_first(self, target):
        clean_up(tmp_path)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", cleaned_first)
    write_bytes(tmp_path / "a.json", b"new")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "0.png").write_bytes(b"png")
        clean_up(tmp_path)
    assert names(tmp_path) == ["a.json", "folder", "folder/0.png"]
    clean_up(tmp_path)
    assert names(tmp_path) == ["a.json", "folder", "folder/0.png"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_clean_up_between_making_and_locking_is_survived(tmp_path, monkeypatch, kind):
    real, calls = atomic.fcntl.flock, []

    def late(descriptor, operation):
        if not calls:
            calls.append(1)
            clean_up(tmp_path)  # calls the real one, for `calls` is filled
        return real(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    if kind == "file":
        write_bytes(tmp_path / "a", b"new")
    else:
        with new_folder(tmp_path / "a") as folder:
            (folder / "x").write_bytes(b"new")
    assert calls
    assert names(tmp_path) == (["a"] if kind == "file" else ["a", "a/x"])


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.json").touch()
    with pytest.raises(SamcliError) as caught, new_folder(tmp_path / "masks"):
        pass
    assert str(caught.value) == f"cannot write {tmp_path}/masks: it holds a.json; choose another output"
    assert names(tmp_path) == ["masks", "masks/a.json"]


def test_two_writers_of_one_folder_leave_one_whole_folder(tmp_path):
    def write(value: str) -> None:
        for _ in range(60):
            with new_folder(tmp_path / "masks") as folder:
                for i in range(3):
                    (folder / f"{i}.png").write_text(value)
        ended.append(value)

    ended: list[str] = []
    threads = [threading.Thread(target=write, args=(value,)) for value in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["a", "b"]
    assert names(tmp_path) == ["masks", "masks/0.png", "masks/1.png", "masks/2.png"]
    assert len({(tmp_path / "masks" / f"{i}.png").read_text() for i in range(3)}) == 1
