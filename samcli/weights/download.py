"""Getting checkpoints: downloads that go on where they broke off, from the Hub and from plain addresses.

Only this module uses the network.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from samcli.errors import WeightsError
from samcli.weights.files import (
    Expected,
    checked_sha256,
    complaint,
    expected,
    folder,
    hub_names,
    installed_files,
    note,
    path,
    read_record,
    sha256_of,
    spec_of,
    why,
    write_record,
    writing,
)
from samcli.weights.table import Part, Spec

TRIES = 4  # requests in a row to one source without a new byte before it is given up
PAUSE = 1.0  # seconds before the first retry, doubled for each further one
TIMEOUT = 30.0  # seconds without an answer or a byte
CHUNK = 1 << 18  # bytes per read
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that pass

Progress = Callable[[int, int | None], None]  # bytes here, bytes in all (None: unknown)


class _SourceFailedError(Exception):
    """This source cannot give the file; the message says why."""


class _BrokenOffError(Exception):
    """The transfer broke off; another try may go on from there."""


def pull(which: str | Spec, *, progress: Progress = lambda done, total: None) -> Path:
    """Install a checkpoint unless it is there and sound. Returns its file, or the folder of its files.

    which: as in `files.path`. progress: called with the bytes of the file at hand.
    Sources are tried in order, SAMCLI_MODELS_MIRROR's first; what was received stays in a `.part` file that
    the next try or call goes on with. sha256 and size are checked before a file gets its name. Retries,
    fresh starts and deleted partial files are told as SamcliNote warnings. Raises WeightsError with every
    source tried and its reason; SamcliError when the cache cannot be written.
    """
    spec = spec_of(which)
    if spec.packaged:
        return path(spec)
    with writing(folder()):
        folder().mkdir(parents=True, exist_ok=True)
    with _lock(spec):
        before = installed_files(spec) or ()
        if before and _all_sound(spec, before):
            return path(spec)
        mirror = os.environ.get("SAMCLI_MODELS_MIRROR")
        sources = list(zip(*(part.urls for part in spec.parts), strict=True))
        if mirror:
            sources.insert(0, tuple(f"{mirror.rstrip('/')}/{part.file}" for part in spec.parts))
        failures = []
        for urls in sources:
            files = []
            for part, url in zip(spec.parts, urls, strict=True):
                fetch = _fetch_from_hub if url.startswith("hf://") else _fetch
                try:
                    file, digest = fetch(part, url, progress)
                except _SourceFailedError as error:
                    failures.append(f"{url}: {error}")
                    break
                write_record(part, file, digest, url)
                files.append(file)
            else:
                for old in before:
                    if old not in files and old.is_relative_to(folder()):
                        old.unlink()  # damaged, and `find` would prefer it to the Hub's
                return path(spec)
        kept = any(_size(_partial(part)) for part in spec.parts)
    remedy = "; the next pull goes on from the part received" if kept else ""
    raise WeightsError(f"{spec.name} could not be downloaded; tried {'; '.join(failures)}{remedy}")


def _all_sound(spec: Spec, files: tuple[Path, ...]) -> bool:
    """Whether installed files are what they must be; notes say which are not."""
    sound = True
    for part, file in zip(spec.parts, files, strict=True):
        try:
            digest = checked_sha256(spec, part, file, trust_record=False)
        except WeightsError as error:
            note(str(error).rpartition("; ")[0] + "; getting it anew")
            sound = False
        else:
            if read_record(part) is None:
                write_record(part, file, digest, "found installed")
    return sound


@contextmanager
def _lock(spec: Spec) -> Iterator[None]:
    """Hold the right to download this model; a second process waits and then finds the file."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder() / f"{spec.name}.lock")
    with writing(folder()):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note(f"another process is downloading {spec.name}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(part: Part, url: str, progress: Progress) -> tuple[Path, str]:
    """Download from a plain URL, check, and give the file its name. Returns it and its sha256."""
    received, target = _partial(part), folder() / part.file
    record = read_record(part)
    if record and target.is_file() and sha256_of(target) == record.sha256 == (part.sha256 or record.sha256):
        return target, record.sha256  # of several files, one that an earlier pull brought
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    left, most = TRIES, _size(received)
    pieced, restarted = most > 0, False
    while True:
        try:
            _receive(url, received, expected(part), progress)
        except _BrokenOffError as error:
            if _size(received) > most:
                left, most = TRIES, _size(received)
            left -= 1
            if left == 0:
                raise _SourceFailedError(str(error)) from error
            pieced = True
            note(f"{url}: {error}; trying again")
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
            continue
        digest = sha256_of(received)
        why_not = complaint(part, received, digest)
        if why_not is None:
            with writing(target):
                received.replace(target)
                _state_file(received).unlink(missing_ok=True)
            return target, digest
        _discard(received)
        if restarted or not pieced:
            raise _SourceFailedError(f"{why_not}; it is deleted")
        # A piece of it may have come from another file: once more from the first byte.
        note(f"{url}: {why_not}; the partial file is deleted, starting over")
        restarted = True


def _receive(url: str, part: Path, wanted: Expected, progress: Progress) -> None:
    """One request: append what the server sends to `part`, or begin it anew where going on would not be safe.

    Going on needs a sha256 to check the whole with, or the server's word (If-Range) that nothing changed.
    Raises _BrokenOffError when another try may help, _SourceFailedError when not.
    """
    state = _read_state(part)
    validator = state["validator"] if state.get("url") == url else None
    offset = _size(part)
    if wanted.sha256 is not None and offset == wanted.bytes:
        return  # complete; the process ended before checking it
    if (wanted.sha256 is None and validator is None) or offset > (wanted.bytes or offset):
        offset = 0
    headers = {"User-Agent": "samcli"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    with _open(url, headers) as response:
        if response.status == 416:
            _discard(part)
            raise _BrokenOffError("its file ends before the partial one; the partial file is deleted")
        partial = response.status == 206
        total, sent = _total(response, offset), _validator(response)
        if partial and (total is None or (validator and sent and sent != validator)):
            _discard(part)
            raise _BrokenOffError("it goes on with something else; the partial file is deleted")
        if total is not None and wanted.bytes not in (None, total):
            raise _SourceFailedError(f"it offers {total} bytes, not {wanted.bytes}")
        if offset and not partial:
            note(f"{url}: sends the file from its beginning again; starting over")
            offset = 0
        total = wanted.bytes if total is None else total
        with writing(part):
            _state_file(part).write_text(json.dumps({"url": url, "validator": sent}), encoding="utf-8")
            out = part.open("ab" if offset else "wb")
        with out:
            progress(offset, total)
            for block in _blocks(response):
                with writing(part):
                    out.write(block)
                offset += len(block)
                progress(offset, total)
                if total is not None and offset > total:
                    raise _SourceFailedError(f"it sends more than {total} bytes")
    if total is not None and offset < total:
        raise _BrokenOffError(f"the connection ended after {offset} of {total} bytes")


def _open(url: str, headers: dict[str, str]) -> HTTPResponse | urllib.error.HTTPError:
    """Ask for a URL. Returns an answer with status 200, 206 or 416."""
    if not url.startswith(("https://", "http://")):
        raise _SourceFailedError("not an http or https address")
    try:
        response: HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        with error:
            kind = _BrokenOffError if error.code in RETRIED else _SourceFailedError
            reason = str(error.reason).partition("\n")[0]  # redirects that lead nowhere take several lines
            raise kind(f"HTTP {error.code} {reason}") from error
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(why(error)) from error
    except ValueError as error:  # an address that is none
        raise _SourceFailedError(why(error)) from error
    if response.status not in (200, 206):
        response.close()
        raise _SourceFailedError(f"HTTP {response.status} {response.reason}")
    return response


def _blocks(response: HTTPResponse | urllib.error.HTTPError) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _BrokenOffError(f"the connection broke: {why(error)}") from error
        if not block:
            return
        yield block


def _total(response: HTTPResponse | urllib.error.HTTPError, offset: int) -> int | None:
    """Bytes of the whole file; None when not told, and for a partial answer that starts elsewhere."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[2]) if match and int(match[1]) == offset else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: HTTPResponse | urllib.error.HTTPError) -> str | None:
    """What If-Range takes: a strong ETag, else the modification date."""
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _fetch_from_hub(part: Part, url: str, progress: Progress) -> tuple[Path, str]:
    """Download into the Hugging Face cache, minding HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE. Like `_fetch`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # Whichever HTTP client this huggingface_hub uses, its errors are a base of HfHubHTTPError.
    client = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, EntryNotFoundError, *client)
    repository, name = hub_names(url)
    cached = isinstance(try_to_load_from_cache(repository, name), str)
    why_not: str | None = None

    def download(afresh: bool) -> str:
        with _hub_logs_as_notes():
            return hf_hub_download(repository, name, force_download=afresh, tqdm_class=_hub_bar(progress))

    for afresh in (False, True) if cached else (False,):  # what lies in the cache may be damaged
        try:
            try:
                downloaded = download(afresh)
            except errors as error:
                if not _dropped(error):
                    raise
                downloaded = download(afresh)
        except LocalEntryNotFoundError as error:  # the Hub was not reached; its cause says why
            raise _SourceFailedError(why(error.__cause__ or error)) from error
        except errors as error:
            raise _SourceFailedError(why(error)) from error
        file = Path(downloaded)
        digest = sha256_of(file)
        why_not = complaint(part, file, digest)
        if why_not is None:
            return file, digest
    raise _SourceFailedError(str(why_not))


def _dropped(error: BaseException | None) -> bool:
    """A kept-alive connection was closed before it answered: the next request opens a new one."""
    while error is not None:
        if (
            type(error).__name__ == "RemoteProtocolError"
        ):  # of httpx and its successor, which huggingface_hub uses
            return True
        error = error.__cause__
    return False


@contextmanager
def _hub_logs_as_notes() -> Iterator[None]:
    """huggingface_hub logs its retries to stderr; make them notes like ours."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note("; ".join(record.getMessage().splitlines()))

    logger = logging.getLogger("huggingface_hub")
    before, logger.handlers = logger.handlers, [Notes()]
    try:
        yield
    finally:
        logger.handlers = before


def _hub_bar(progress: Progress) -> Any:
    """A class with as much of tqdm's interface as huggingface_hub calls; its counts go to `progress`."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.n, self.total = initial, total

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def update(self, count: int = 1) -> None:
            self.n += count
            progress(self.n, self.total)

        def update_transfer(self, count: int) -> None:
            """Bytes on the line; `update` counts those of the file."""

        def set_postfix_str(self, *_: object, **__: object) -> None: ...

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None: ...

        def refresh(self) -> None: ...

        def close(self) -> None: ...

    return Bar


def _partial(part: Part) -> Path:
    return folder() / f"{part.file}.part"


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> dict[str, Any]:
    """Where the part came from: {"url", "validator"}; empty when unknown."""
    try:
        state = json.loads(_state_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and {"url", "validator"} <= state.keys() else {}


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)
