"""Checkpoints: the table of known ones, getting and verifying them, and loading them strictly and safely.

Files live in `home()/weights`, or in the Hugging Face cache when they came from the Hub. `<name>.json` in the
former records sha256 and size as first pulled, to which a model without a published sha256 is held.
Only `pull` uses the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from samcli.errors import SamcliError, SamcliNote, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from samcli.models.salient import SalientHead
    from samcli.models.sam import Sam

DEFAULT_MODEL = "tiny"
SALIENT_FILE = "salient.safetensors"  # in the package, beside the embedded model
SUFFIXES = (".pth", ".pt", ".safetensors")

TRIES = 4  # requests in a row to one source without a new byte before it is given up
PAUSE = 1.0  # seconds before the first retry, doubled for each further one
TIMEOUT = 30.0  # seconds without an answer or a byte
CHUNK = 1 << 18  # bytes per read
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that pass

Progress = Callable[[int, int | None], None]  # bytes here, bytes in all (None: unknown)
Origin = Literal["published", "recorded", "nothing"]


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint.

    architecture: a name of `samcli.models.registry`. file: its name in `home()/weights`.
    urls: sources in the order tried, `https://...` or `hf://owner/repository/file` (Hugging Face Hub).
    sha256, bytes: as published, None where nobody does.
    keys: parameter names of the published SAM files ("sam") or of transformers ("hf").
    packaged: shipped inside the package.
    automask: `AutomaskConfig` fields where this model has its own defaults.
    """

    name: str
    architecture: str
    file: str
    urls: tuple[str, ...]
    sha256: str | None
    bytes: int | None
    licence: str
    summary: str
    keys: Literal["sam", "hf"] = "sam"
    packaged: bool = False
    automask: Mapping[str, Any] = field(default_factory=dict, hash=False)


def _official(name: str, file: str, sha256: str, size: int, summary: str) -> ModelSpec:
    urls = (
        f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        f"hf://ybelkada/segment-anything/checkpoints/{file}",
    )
    return ModelSpec(name, name, file, urls, sha256, size, "Apache-2.0", summary)


def _transformers(name: str, architecture: str) -> ModelSpec:
    urls = (f"hf://facebook/{name}/model.safetensors",)
    summary = f"the weights of {architecture} as transformers has them"
    return ModelSpec(
        name, architecture, f"{name}.safetensors", urls, None, None, "Apache-2.0", summary, keys="hf"
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="tiny",
            architecture="tiny",
            file="tiny.safetensors",
            urls=(),
            sha256=None,
            bytes=None,
            licence="research use",
            summary="samcli's own small model, always there",
            packaged=True,
            # chosen on the developers' dev photos; logits of a short training are weaker than SAM's
            automask={
                "points_per_side": 24,
                "pred_iou_thresh": 0.35,
                "stability_score_thresh": 0.75,
                "stability_score_offset": 0.1,
                "box_nms_thresh": 0.8,
                "mask_nms_thresh": 0.75,
                "min_mask_region_area": 0.001,
            },
        ),
        ModelSpec(
            name="mobile_sam",
            architecture="vit_t",
            file="mobile_sam.pt",
            urls=(
                "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
                "hf://dhkim2810/MobileSAM/mobile_sam.pt",
            ),
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            bytes=40728226,
            licence="Apache-2.0",
            summary="MobileSAM: TinyViT encoder, SAM's decoder",
        ),
        _official(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375042383,
            "SAM with ViT-B",
        ),
        _official(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1249524607,
            "SAM with ViT-L",
        ),
        _official(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2564550879,
            "SAM with ViT-H, the strongest",
        ),
        _transformers("sam-vit-base", "vit_b"),
        _transformers("sam-vit-large", "vit_l"),
        _transformers("sam-vit-huge", "vit_h"),
    )
}


class LoadedSam(NamedTuple):
    """A model ready for use (evaluation mode, CPU, fp32), its spec and the sha256 of its file."""

    sam: Sam
    spec: ModelSpec
    sha256: str


class Verified(NamedTuple):
    """A sound file. against: what its sha256 was compared with; "recorded" is the one of the first pull."""

    file: Path
    sha256: str
    against: Origin


# Where things are


def home() -> Path:
    """The cache folder: SAMCLI_HOME, else XDG_CACHE_HOME/samcli, else ~/.cache/samcli. It need not exist."""
    own, xdg = os.environ.get("SAMCLI_HOME"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(xdg) if xdg else Path.home() / ".cache") / "samcli"


def spec_of(name: str) -> ModelSpec:
    """The table's entry. Raises SamcliError that lists the known names."""
    if name not in MODELS:
        raise SamcliError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


def resolve(model: str) -> ModelSpec | Path:
    """What `-m` means: a name of the table, else an existing checkpoint file. Raises SamcliError."""
    if model in MODELS:
        return MODELS[model]
    file, names = Path(model).expanduser(), ", ".join(MODELS)
    if file.is_file():
        return file
    if file.is_dir():
        raise SamcliError(
            f"{model} is a folder; give a checkpoint file ({', '.join(SUFFIXES)}) or a name: {names}"
        )
    if file.suffix in SUFFIXES or len(file.parts) > 1:
        raise SamcliError(f"checkpoint {model} does not exist; give a file or a name: {names}")
    raise SamcliError(f"unknown model {model!r}; known: {names}; or give a checkpoint file")


def find(spec: ModelSpec) -> Path | None:
    """The installed file of a model in the package, samcli's cache or the Hugging Face cache, or None."""
    file = Path(__file__).parent / "data" / spec.file if spec.packaged else _folder() / spec.file
    if file.is_file():
        return file
    for url in spec.urls:
        if url.startswith("hf://"):
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(*_hub_names(url))
            if isinstance(cached, str):
                return Path(cached)
    return None


def path(name: str) -> Path:
    """The installed file of a named model. Raises WeightsError with the command that gets it."""
    spec = spec_of(name)
    file = find(spec)
    if file is not None:
        return file
    if spec.packaged:
        raise WeightsError(f"{name} is missing from this installation; reinstall samcli")
    size = f" ({format_size(spec.bytes)})" if spec.bytes else ""
    raise WeightsError(f"{name} is not installed; get it{size} with: samcli models pull {name}")


def format_size(count: int) -> str:
    """Bytes for people; 1 GB = 2**30 bytes, 1 MB = 2**20 bytes."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# What a file must be


@dataclass(frozen=True)
class _Record:
    """What was found of an installed file, and where it came from."""

    sha256: str
    bytes: int
    mtime_ns: int
    source: str

    def untouched(self, file: Path) -> bool:
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.bytes, self.mtime_ns)


class _Expected(NamedTuple):
    sha256: str | None
    bytes: int | None
    origin: Origin


def _folder() -> Path:
    return home() / "weights"


def _record_file(spec: ModelSpec) -> Path:
    return _folder() / f"{spec.name}.json"


def _read_record(spec: ModelSpec) -> _Record | None:
    file = _record_file(spec)
    try:
        return _Record(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{file} cannot be read ({_why(error)}); delete it") from error


def _write_record(spec: ModelSpec, file: Path, sha256: str, source: str) -> None:
    stat = file.stat()
    record = _Record(sha256, stat.st_size, stat.st_mtime_ns, source)
    target = _record_file(spec)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)


def _expected(spec: ModelSpec) -> _Expected:
    if spec.sha256 is not None:
        return _Expected(spec.sha256, spec.bytes, "published")
    record = None if spec.packaged else _read_record(spec)
    if record is not None:
        return _Expected(record.sha256, record.bytes, "recorded")
    return _Expected(None, spec.bytes, "nothing")


def _complaint(spec: ModelSpec, file: Path, digest: str) -> str | None:
    """Why a whole file with this sha256 is not the model's, or None."""
    expected = _expected(spec)
    if expected.origin == "published" and digest != expected.sha256:
        return f"its sha256 is {digest}, not the published {expected.sha256}"
    if expected.origin == "recorded" and digest != expected.sha256:
        return f"its sha256 is {digest}, not {expected.sha256} as first pulled (says {_record_file(spec)})"
    named = _hub_sha256(file)
    if named not in (None, digest):
        return f"its sha256 is {digest}, but the Hub said {named}"
    if expected.origin == "nothing" and spec.file.endswith(".safetensors"):
        return _not_safetensors(file)  # with no sha256 to go by, at least not a login page
    return None


def _checked_sha256(spec: ModelSpec, file: Path, *, trust_record: bool) -> str:
    """sha256 of an installed file. Raises WeightsError when it is not what it must be.

    trust_record: take the recorded sha256 while size and modification time are those recorded.
    """
    expected, size = _expected(spec), file.stat().st_size
    remedy = "reinstall samcli" if spec.packaged else f"get it anew with: samcli models pull {spec.name}"
    if expected.bytes not in (None, size):
        raise WeightsError(f"{file} is damaged: {size} bytes, not {expected.bytes}; {remedy}")
    if trust_record and not spec.packaged:
        record = _read_record(spec)
        if record and record.untouched(file) and spec.sha256 in (None, record.sha256):
            return record.sha256
    digest = sha256_of(file)
    complaint = _complaint(spec, file, digest)
    if complaint:
        raise WeightsError(f"{file} is damaged: {complaint}; {remedy}")
    return digest


def verify(name: str) -> Verified:
    """Compute an installed model's sha256 and compare it; where there is nothing to compare with, record it.

    Raises WeightsError when the model is not installed or damaged.
    """
    spec, file = spec_of(name), path(name)
    origin = _expected(spec).origin
    digest = _checked_sha256(spec, file, trust_record=False)
    if not spec.packaged:
        record = _read_record(spec)
        if record is None or not record.untouched(file):
            try:
                _write_record(spec, file, digest, "found installed")
            except SamcliError:
                if origin == "nothing":
                    raise  # else the record only saves time, and a shared cache may well be read-only
    return Verified(file, digest, origin)


# Getting files


class _SourceFailedError(Exception):
    """This source cannot give the file; the message says why."""


class _BrokenOffError(Exception):
    """The transfer broke off; another try may go on from there."""


def pull(name: str, *, progress: Progress = lambda done, total: None) -> Path:
    """Install a model unless it is there and sound. Returns its file.

    Sources are tried in order, SAMCLI_MODELS_MIRROR's first; what was received stays in a `.part` file that
    the next try or call goes on with. sha256 and size are checked before the file gets its name. Retries,
    fresh starts and deleted partial files are told as SamcliNote warnings. Raises WeightsError with every
    source tried and its reason; SamcliError when the cache cannot be written.
    """
    spec = spec_of(name)
    if spec.packaged:
        return path(name)
    with _writing(_folder()):
        _folder().mkdir(parents=True, exist_ok=True)
    with _lock(spec):
        installed = find(spec)
        if installed is not None:
            try:
                digest = _checked_sha256(spec, installed, trust_record=False)
            except WeightsError as error:
                _note(str(error).rpartition("; ")[0] + "; getting it anew")
            else:
                if _read_record(spec) is None:
                    _write_record(spec, installed, digest, "found installed")
                return installed
        mirror = os.environ.get("SAMCLI_MODELS_MIRROR")
        own = (f"{mirror.rstrip('/')}/{spec.file}",) if mirror else ()
        failures = []
        for url in (*own, *spec.urls):
            fetch = _fetch_from_hub if url.startswith("hf://") else _fetch
            try:
                file, digest = fetch(spec, url, progress)
            except _SourceFailedError as error:
                failures.append(f"{url}: {error}")
            else:
                _write_record(spec, file, digest, url)
                if installed and installed != file and installed.parent == _folder():
                    installed.unlink()  # damaged, and `find` would prefer it to the Hub's
                return file
        kept = "; the next pull goes on from the part received" if _size(_part(spec)) else ""
    raise WeightsError(f"{name} could not be downloaded; tried {'; '.join(failures)}{kept}")


@contextmanager
def _lock(spec: ModelSpec) -> Iterator[None]:
    """Hold the right to download this model; a second process waits and then finds the file."""
    from filelock import FileLock, Timeout

    lock = FileLock(_folder() / f"{spec.name}.lock")
    with _writing(_folder()):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _note(f"another process is downloading {spec.name}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(spec: ModelSpec, url: str, progress: Progress) -> tuple[Path, str]:
    """Download from a plain URL, check, and give the file its name. Returns it and its sha256."""
    part, target = _part(spec), _folder() / spec.file
    left, most = TRIES, _size(part)
    pieced, restarted = most > 0, False
    while True:
        try:
            _receive(url, part, _expected(spec), progress)
        except _BrokenOffError as error:
            if _size(part) > most:
                left, most = TRIES, _size(part)
            left -= 1
            if left == 0:
                raise _SourceFailedError(str(error)) from error
            pieced = True
            _note(f"{url}: {error}; trying again")
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
            continue
        digest = sha256_of(part)
        complaint = _complaint(spec, part, digest)
        if complaint is None:
            with _writing(target):
                part.replace(target)
                _state_file(part).unlink(missing_ok=True)
            return target, digest
        _discard(part)
        if restarted or not pieced:
            raise _SourceFailedError(f"{complaint}; it is deleted")
        # A piece of it may have come from another file: once more from the first byte.
        _note(f"{url}: {complaint}; the partial file is deleted, starting over")
        restarted = True


def _receive(url: str, part: Path, expected: _Expected, progress: Progress) -> None:
    """One request: append what the server sends to `part`, or begin it anew where going on would not be safe.

    Going on needs a sha256 to check the whole with, or the server's word (If-Range) that nothing changed.
    Raises _BrokenOffError when another try may help, _SourceFailedError when not.
    """
    state = _read_state(part)
    validator = state["validator"] if state.get("url") == url else None
    offset = _size(part)
    if expected.sha256 is not None and offset == expected.bytes:
        return  # complete; the process ended before checking it
    if (expected.sha256 is None and validator is None) or offset > (expected.bytes or offset):
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
        if total is not None and expected.bytes not in (None, total):
            raise _SourceFailedError(f"it offers {total} bytes, not {expected.bytes}")
        if offset and not partial:
            _note(f"{url}: sends the file from its beginning again; starting over")
            offset = 0
        total = expected.bytes if total is None else total
        with _writing(part):
            _state_file(part).write_text(json.dumps({"url": url, "validator": sent}), encoding="utf-8")
            out = part.open("ab" if offset else "wb")
        with out:
            progress(offset, total)
            for block in _blocks(response):
                with _writing(part):
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
        raise _BrokenOffError(_why(error)) from error
    except ValueError as error:  # an address that is none
        raise _SourceFailedError(_why(error)) from error
    if response.status not in (200, 206):
        response.close()
        raise _SourceFailedError(f"HTTP {response.status} {response.reason}")
    return response


def _blocks(response: HTTPResponse | urllib.error.HTTPError) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _BrokenOffError(f"the connection broke: {_why(error)}") from error
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


def _fetch_from_hub(spec: ModelSpec, url: str, progress: Progress) -> tuple[Path, str]:
    """Download into the Hugging Face cache, minding HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE. Like `_fetch`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # Whichever HTTP client this huggingface_hub uses, its errors are a base of HfHubHTTPError.
    client = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, EntryNotFoundError, *client)
    repository, name = _hub_names(url)
    cached = isinstance(try_to_load_from_cache(repository, name), str)
    complaint: str | None = None

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
            raise _SourceFailedError(_why(error.__cause__ or error)) from error
        except errors as error:
            raise _SourceFailedError(_why(error)) from error
        file = Path(downloaded)
        digest = sha256_of(file)
        complaint = _complaint(spec, file, digest)
        if complaint is None:
            return file, digest
    raise _SourceFailedError(str(complaint))


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
            _note("; ".join(record.getMessage().splitlines()))

    logger = logging.getLogger("huggingface_hub")
    before, logger.handlers = logger.handlers, [Notes()]
    try:
        yield
    finally:
        logger.handlers = before


def _hub_names(url: str) -> tuple[str, str]:
    """(repository, file) of `hf://owner/repository/file`."""
    owner, repository, name = url.removeprefix("hf://").split("/", 2)
    return f"{owner}/{repository}", name


def _hub_sha256(file: Path) -> str | None:
    """The sha256 the Hub names a large file by: the cache links to a blob of that name. None elsewhere."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


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


def _not_safetensors(file: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return None
    except SafetensorError as error:
        return f"it is not a safetensors file ({_why(error)})"


def _part(spec: ModelSpec) -> Path:
    return _folder() / f"{spec.file}.part"


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


def _note(message: str) -> None:
    warnings.warn(message, SamcliNote, stacklevel=3)


def _why(error: BaseException) -> str:
    """An exception's reason in one short line."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Say in one line which file could not be written."""
    try:
        yield
    except OSError as error:
        raise SamcliError(
            f"cannot write {target}: {_why(error)}; make room, or set SAMCLI_HOME to another cache folder"
        ) from error


# Loading


def load_sam(model: str | Path = DEFAULT_MODEL) -> LoadedSam:
    """Load a named model or a checkpoint file; a file that is a published one, byte for byte, is that model.

    The keys must be exactly the architecture's, which is recognised from them. Raises WeightsError when a
    named model is not installed or damaged; SamcliError for an unknown name and for a file that is not a
    checkpoint, would run code, or does not fit.
    """
    target = resolve(str(model))
    if isinstance(target, ModelSpec):
        file = path(target.name)
        digest = _checked_sha256(target, file, trust_record=True)
    else:
        file, digest = target, _hash_given(target)
    architecture, state = _read_state_dict(file)
    sam = _build(architecture)
    _check_fit(file, architecture, sam.state_dict(), state)
    sam.load_state_dict(state, assign=True)
    spec = target if isinstance(target, ModelSpec) else _spec_of_file(file, digest, architecture)
    return LoadedSam(sam.eval(), spec, digest)


class LoadedHead(NamedTuple):
    """The salient head (evaluation mode, CPU, fp32) and the sha256 of its file."""

    head: SalientHead
    sha256: str


def load_salient(weights_sha256: str) -> LoadedHead:
    """Load the salient head that ships beside the embedded model.

    weights_sha256: of the model whose features it will see. Raises WeightsError when the head is missing,
    damaged, or was trained over other weights.
    """
    from safetensors import SafetensorError, safe_open

    from samcli.models.salient import SalientHead

    file, sha256 = _salient_file(), salient_sha256()
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged ({_why(error)}); reinstall samcli") from error
    of = metadata.get("weights_sha256", "unknown weights")
    if of != weights_sha256:
        raise WeightsError(
            f"{file} was trained over {of}, but {DEFAULT_MODEL} is {weights_sha256}; reinstall samcli"
        )
    head = SalientHead()
    try:
        _check_fit(file, "the salient head", head.state_dict(), state)
    except SamcliError as error:
        raise WeightsError(f"{error}; reinstall samcli") from error
    head.load_state_dict(state)
    return LoadedHead(head.eval(), sha256)


def salient_sha256() -> str:
    """sha256 of the salient head's file. Raises WeightsError when it is missing."""
    return sha256_of(_salient_file())


def _salient_file() -> Path:
    file = Path(__file__).parent / "data" / SALIENT_FILE
    if not file.is_file():
        raise WeightsError(f"{file.name} is missing from this installation; reinstall samcli")
    return file


def _hash_given(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise SamcliError(f"cannot read {file}: {_why(error)}") from error


def _spec_of_file(file: Path, digest: str, architecture: str) -> ModelSpec:
    """The spec of a file given by path: a published model's if it is one, else one under the file's name."""
    for spec in MODELS.values():
        if spec.sha256 == digest:
            return spec
    automask = next(spec.automask for spec in MODELS.values() if spec.architecture == architecture)
    return ModelSpec(
        name=file.name,
        architecture=architecture,
        file=file.name,
        urls=(),
        sha256=digest,
        bytes=file.stat().st_size,
        licence="unknown",
        summary="a checkpoint file",
        automask=automask,
    )


def _build(architecture: str) -> Sam:
    """The network without its initial weights: they cost seconds and are all replaced."""
    from torch.overrides import TorchFunctionMode

    from samcli.models.registry import build_sam

    class SkipInit(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else (kwargs or {})["tensor"]
            return func(*args, **(kwargs or {}))

    with SkipInit():
        return build_sam(architecture)


def _read_state_dict(file: Path) -> tuple[str, dict[str, Tensor]]:
    """A checkpoint's architecture and its tensors, fp32 and under our names. Raises SamcliError."""
    from torch import Tensor

    from samcli.models import hf
    from samcli.models.registry import recognise

    content = _read(file)
    if not isinstance(content, dict):
        raise SamcliError(f"{file} holds a {type(content).__name__}, not a dictionary of tensors")
    candidates = {"": content} if any(isinstance(v, Tensor) for v in content.values()) else content
    tensors, problems = {}, []
    for name, value in candidates.items():
        if not (isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values())):
            continue
        try:
            tensors[name] = (recognise({key: tuple(v.shape) for key, v in value.items()}), value)
        except ValueError as error:
            problems.append(str(error))
    if tensors.keys() == {"model", "ema"}:
        del tensors["model"]  # of a training run's checkpoint, which is for the averaged weights' sake
    if len(tensors) > 1:
        raise SamcliError(f"{file} holds several models ({', '.join(tensors)}); save one of them alone")
    if not tensors:
        reason = problems[0] if problems else "no tensors are in it"
        raise SamcliError(f"{file} is not a checkpoint of a known architecture: {reason}")
    architecture, state = next(iter(tensors.values()))
    try:
        state = hf.from_hf(state) if hf.is_hf(state) else state
    except ValueError as error:
        raise SamcliError(f"{file} is inconsistent: {error}") from error
    return architecture, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _read(file: Path) -> Any:
    """What a checkpoint file holds. Tensors are mapped where the format allows; no code in it is run."""
    import safetensors.torch
    import torch

    damaged = f"{file} cannot be read as a checkpoint; it is cut off, damaged or of another kind"
    with file.open("rb") as stream:
        head = stream.read(4)
    if not head:
        raise SamcliError(f"{file} is empty")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except safetensors.SafetensorError as error:
            raise SamcliError(f"{damaged} ({_why(error)})") from error
    zipped = head == b"PK\x03\x04"
    if not zipped and head[:1] != b"\x80":  # neither torch.save's format nor its old one, a pickle
        raise SamcliError(f"{file} is not a checkpoint; give a .pth, .pt or .safetensors file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of TorchScript is said below
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        message = str(error)
        needed = ["TorchScript"] if "TorchScript" in message else re.findall(r"GLOBAL ([\w.]*\w)", message)
        if needed:
            raise SamcliError(
                f"{file} is refused: it holds more than tensors ({needed[0]}), and reading that runs code "
                "from it; save its weights alone, with torch.save(model.state_dict(), FILE) or as safetensors"
            ) from error
        raise SamcliError(damaged) from error


def _check_fit(
    file: Path, architecture: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> None:
    """Raise SamcliError unless both have the same keys and shapes."""
    missing = [key for key in ours if key not in theirs]
    unexpected = [key for key in theirs if key not in ours]
    misshapen = [
        f"{key} {tuple(theirs[key].shape)} not {tuple(value.shape)}"
        for key, value in ours.items()
        if key in theirs and theirs[key].shape != value.shape
    ]
    faults = [
        f"{len(found)} {what}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for found, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (misshapen, "of another shape"),
        )
        if found
    ]
    if faults:
        raise SamcliError(f"{file} does not fit {architecture}; keys {'; '.join(faults)}")
