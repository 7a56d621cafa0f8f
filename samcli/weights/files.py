"""Where checkpoints are installed, and whether they are what they must be.

Files live in `home()/weights`, or in the Hugging Face cache when they came from the Hub. Records in the
former hold sha256 and size as first pulled, to which a file without a published sha256 is held.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.error
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from samcli.errors import SamcliError, SamcliNote, WeightsError
from samcli.weights.table import Part, Spec, format_size, specs_of

DATA = Path(__file__).parent.parent / "data"  # what is part of samcli

Origin = Literal["published", "recorded", "nothing"]


class Verified(NamedTuple):
    """A sound checkpoint. path: its file, or the folder of its files. sha256: of the file, or of the list of
    sha256 and names of the files. against: what sha256 was compared with; "recorded" is the one of the first
    pull.
    """

    path: Path
    sha256: str
    against: Origin


# Where things are


def home() -> Path:
    """The cache folder: SAMCLI_HOME, else XDG_CACHE_HOME/samcli, else ~/.cache/samcli. It need not exist."""
    own, xdg = os.environ.get("SAMCLI_HOME"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(xdg) if xdg else Path.home() / ".cache") / "samcli"


def find(spec: Spec) -> Path | None:
    """Where a checkpoint is installed: its file, or the folder of its files; None when one is missing."""
    files = installed_files(spec)
    return None if files is None else _place(files)


def _place(files: tuple[Path, ...]) -> Path:
    return files[0] if len(files) == 1 else files[0].parent


def installed_files(spec: Spec) -> tuple[Path, ...] | None:
    """The files of a checkpoint in the order of its parts: in the package, samcli's cache or the Hugging Face
    cache. None unless all are in one place.
    """
    place = DATA if spec.packaged else folder()
    own = tuple(place / part.file for part in spec.parts)
    if all(file.is_file() for file in own):
        return own
    for urls in zip(*(part.urls for part in spec.parts), strict=True):
        if urls[0].startswith("hf://"):
            from huggingface_hub import try_to_load_from_cache

            cached = [try_to_load_from_cache(*hub_names(url)) for url in urls]
            files = tuple(Path(file) for file in cached if isinstance(file, str))
            if len(files) == len(cached) and len({file.parent for file in files}) == 1:
                return files
    return None


def path(which: str | Spec) -> Path:
    """Where a checkpoint is installed, see `find`. Raises WeightsError with the command that gets it.

    which: an entry of the table, or its name; a name that a model and a detector share means the model.
    """
    return _place(_needed(spec_of(which)))


def spec_of(which: str | Spec) -> Spec:
    """The entry of the table, see `path`. Raises SamcliError that lists the known names."""
    return specs_of(which)[0] if isinstance(which, str) else which


def _needed(spec: Spec) -> tuple[Path, ...]:
    """`installed_files`. Raises WeightsError with the command that gets them."""
    files = installed_files(spec)
    if files is not None:
        return files
    if spec.packaged:
        raise WeightsError(f"{spec.name} is missing from this installation; reinstall samcli")
    sizes = [part.bytes for part in spec.parts if part.bytes]
    size = f" ({format_size(sum(sizes))})" if len(sizes) == len(spec.parts) else ""
    raise WeightsError(f"{spec.name} is not installed; get it{size} with: samcli models pull {spec.name}")


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder() -> Path:
    """Where samcli keeps its checkpoints. It need not exist."""
    return home() / "weights"


def hub_names(url: str) -> tuple[str, str]:
    """(repository, file) of `hf://owner/repository/file`."""
    owner, repository, name = url.removeprefix("hf://").split("/", 2)
    return f"{owner}/{repository}", name


# What a file must be


@dataclass(frozen=True)
class Record:
    """What was found of an installed file, and where it came from."""

    sha256: str
    bytes: int
    mtime_ns: int
    source: str

    def untouched(self, file: Path) -> bool:
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.bytes, self.mtime_ns)


class Expected(NamedTuple):
    sha256: str | None
    bytes: int | None
    origin: Origin


def record_file(part: Part) -> Path:
    return folder() / part.record


def read_record(part: Part) -> Record | None:
    """What was recorded of a part. Raises WeightsError for a record that cannot be read."""
    file = record_file(part)
    try:
        return Record(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{file} cannot be read ({why(error)}); delete it") from error


def write_record(part: Part, file: Path, sha256: str, source: str) -> None:
    """Record what was found of an installed file. Raises SamcliError."""
    stat = file.stat()
    record = Record(sha256, stat.st_size, stat.st_mtime_ns, source)
    target = record_file(part)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)


def expected(part: Part) -> Expected:
    """What a part is held to."""
    if part.sha256 is not None:
        return Expected(part.sha256, part.bytes, "published")
    record = read_record(part) if part.record else None
    if record is not None:
        return Expected(record.sha256, record.bytes, "recorded")
    return Expected(None, part.bytes, "nothing")


def complaint(part: Part, file: Path, digest: str) -> str | None:
    """Why a whole file with this sha256 is not the part, or None."""
    wanted = expected(part)
    if wanted.origin == "published" and digest != wanted.sha256:
        return f"its sha256 is {digest}, not the published {wanted.sha256}"
    if wanted.origin == "recorded" and digest != wanted.sha256:
        return f"its sha256 is {digest}, not {wanted.sha256} as first pulled (says {record_file(part)})"
    named = _hub_sha256(file)
    if named not in (None, digest):
        return f"its sha256 is {digest}, but the Hub said {named}"
    if wanted.origin == "nothing":
        return _of_another_kind(part, file)  # with no sha256 to go by, at least not a login page
    return None


def checked_sha256(spec: Spec, part: Part, file: Path, *, trust_record: bool) -> str:
    """sha256 of an installed file. Raises WeightsError when it is not what it must be.

    trust_record: take the recorded sha256 while size and modification time are those recorded.
    """
    wanted, size = expected(part), file.stat().st_size
    remedy = "reinstall samcli" if spec.packaged else f"get it anew with: samcli models pull {spec.name}"
    if wanted.bytes not in (None, size):
        raise WeightsError(f"{file} is damaged: {size} bytes, not {wanted.bytes}; {remedy}")
    if trust_record and not spec.packaged:
        record = read_record(part)
        if record and record.untouched(file) and part.sha256 in (None, record.sha256):
            return record.sha256
    digest = sha256_of(file)
    why_not = complaint(part, file, digest)
    if why_not:
        raise WeightsError(f"{file} is damaged: {why_not}; {remedy}")
    return digest


def sha256_of_all(digests: dict[str, str]) -> str:
    """One sha256 for several files. digests: sha256 by file name; of one file it is its own."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


class Installed(NamedTuple):
    """A checkpoint that may be loaded. path: see `find`. sha256: see `Verified`."""

    path: Path
    sha256: str


def installed(spec: Spec) -> Installed:
    """An installed checkpoint, its files checked unless they are untouched since they were.

    Raises WeightsError when it is not installed or damaged.
    """
    files = _needed(spec)
    digests = {
        file.name: checked_sha256(spec, part, file, trust_record=True)
        for part, file in zip(spec.parts, files, strict=True)
    }
    return Installed(_place(files), sha256_of_all(digests))


def verify(which: str | Spec) -> Verified:
    """Compute an installed checkpoint's sha256 and compare it; where there is nothing to compare with, record
    it. which: as in `path`.

    Raises WeightsError when the checkpoint is not installed or damaged.
    """
    spec = spec_of(which)
    files = _needed(spec)
    digests, origins = {}, set()
    for part, file in zip(spec.parts, files, strict=True):
        origin = expected(part).origin
        digests[file.name] = digest = checked_sha256(spec, part, file, trust_record=False)
        origins.add(origin)
        if spec.packaged:
            continue
        record = read_record(part)
        if record is None or not record.untouched(file):
            try:
                write_record(part, file, digest, "found installed")
            except SamcliError:
                if origin == "nothing":
                    raise  # else the record only saves time, and a shared cache may well be read-only
    weakest: Origin = next(origin for origin in ("nothing", "recorded", "published") if origin in origins)
    return Verified(_place(files), sha256_of_all(digests), weakest)


def _hub_sha256(file: Path) -> str | None:
    """The sha256 the Hub names a large file by: the cache links to a blob of that name. None elsewhere."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _of_another_kind(part: Part, file: Path) -> str | None:
    """Why a file is none of the kind that its name says, or None. Text that is no JSON could be anything."""
    if part.file.endswith(".safetensors"):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np"):
                return None
        except SafetensorError as error:
            return f"it is not a safetensors file ({why(error)})"
    if part.file.endswith(".bin"):
        with file.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":  # as torch.save writes
                return "it is not a file of weights"
    if part.file.endswith(".json"):
        try:
            json.loads(file.read_bytes())
        except ValueError as error:
            return f"it is not a JSON file ({why(error)})"
    return None


def reading_errors() -> tuple[type[Exception], ...]:
    """What transformers may raise when it reads files that are no model's; huggingface_hub checks for it."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    plain = (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError)
    return (*plain, StrictDataclassError, SafetensorError)


# What is said


def note(message: str) -> None:
    """Tell the user as a warning of the class SamcliNote."""
    warnings.warn(message, SamcliNote, stacklevel=3)


def why(error: BaseException) -> str:
    """An exception's reason in one short line."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say in one line which file could not be written."""
    try:
        yield
    except OSError as error:
        raise SamcliError(
            f"cannot write {target}: {why(error)}; make room, or set SAMCLI_HOME to another cache folder"
        ) from error
