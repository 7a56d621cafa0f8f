"""What the commands share: the model as the options name it, input images, and a sink that names outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import samcli
from samcli import batch, images
from samcli.cli.report import Report, json_line, named, say_error, say_failures, write_stdout
from samcli.errors import SamcliError
from samcli.formats.names import OutputPaths, check_unique, output_paths
from samcli.formats.record import config_hash, write_error
from samcli.images import ImageFile, list_images
from samcli.records import InputFile, Run
from samcli.weights import DEFAULT_MODEL, MODELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.predictor import Embedding, Predictor

Result = TypeVar("Result")


@dataclass(frozen=True)
class ModelOptions:
    """The shared options about the model; picklable, so that every worker can load it for itself.

    model: None where the user named none, which means the embedded model.
    """

    model: str | None
    device: str
    dtype: str
    threads: int | None

    def load(self, report: Report) -> Predictor:
        """The model; says once which stronger ones there are when the user named none."""
        predictor = self.predictor()
        if self.model is None:
            names = ", ".join(
                spec.name for spec in MODELS.values() if not spec.packaged and spec.keys == "sam"
            )
            report.note(f"note: using the embedded model {predictor.spec.name}; stronger with -m: {names}")
        return predictor

    def predictor(self) -> Predictor:
        """The model, loaded once in a process."""
        return _predictor(self)

    def run(self, command: str, predictor: Predictor, config: dict[str, Any]) -> Run:
        """The head of the records that `command` writes with this resolved configuration."""
        sha256 = predictor.weights_sha256
        digest = config_hash(command, sha256, config, self.dtype)
        return Run(command, samcli.__version__, predictor.spec.name, sha256, config, digest)


@lru_cache(maxsize=1)
def _predictor(options: ModelOptions) -> Predictor:
    from samcli.predictor import load  # imports torch

    return load(
        options.model or DEFAULT_MODEL,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )


class Decoded(NamedTuple):
    """A decoded input: provenance, and (H, W, 3) uint8 RGB."""

    source: InputFile
    pixels: NDArray[np.uint8]


def read_picture(image: ImageFile) -> Decoded:
    """Read and decode an input. Raises SamcliError."""
    data = images.read(image.path)
    return Decoded(images.input_file(data, image.relative), images.load(data, name=str(image.path)))


def saved_embedding(
    folder: Path, image: ImageFile, source: InputFile, predictor: Predictor, keep_extension: bool
) -> Embedding:
    """The embedding that `samcli embed -o folder` wrote. Raises SamcliError unless it fits both."""
    from samcli.predictor import load_embedding

    path = output_paths(folder, image.relative, keep_extension=keep_extension).embedding
    if not path.exists():
        raise SamcliError(f"{path} does not exist; write it with: samcli embed {image.path} -o {folder}")
    return load_embedding(path, predictor, image_sha256=source.sha256)


@dataclass
class ImageSink(Generic[Result]):
    """Hands results to `store` with the paths for their outputs; a failure becomes `<stem>.error.json`."""

    out: Path
    keep_extension: bool
    run: Run
    store: Callable[[OutputPaths, Result], None]

    def write(self, item: ImageFile, result: Result) -> None:
        paths = self._paths(item)
        self.store(paths, result)
        paths.error.unlink(missing_ok=True)

    def fail(self, item: ImageFile, reason: str) -> None:
        write_error(self._paths(item).error, self.run, item.relative.as_posix(), reason)

    def _paths(self, item: ImageFile) -> OutputPaths:
        return output_paths(self.out, item.relative, keep_extension=self.keep_extension)


def list_inputs(
    paths: Sequence[Path], *, root: Path | None, out: Path, keep_extension: bool
) -> list[ImageFile]:
    """The images of files and folders. Raises SamcliError when two of them would write one output."""
    found = list(list_images(paths, root=root, exclude=out))
    check_unique(((image.path, image.relative) for image in found), keep_extension=keep_extension)
    return found


def run_images(
    report: Report,
    paths: Sequence[Path],
    images: list[ImageFile],
    make_work: Callable[[], batch.Work[ImageFile, Result]],
    sink: ImageSink[Result],
    counts: Callable[[], dict[str, int]] = dict,
) -> int:
    """Work through the images of `paths` and report. Returns the exit code.

    counts: what else to say at the end, such as {"masks": 12}. A single file fails as the command's error.
    """
    tally = batch.run(report.progress(images, len(images), "image"), make_work, sink)
    if tally.failures and not tally.stopped and len(images) == 1 and images[0].path == paths[0]:
        say_error(named(str(paths[0]), tally.failures[0][1]))
        return 1
    say_failures((str(image.path), reason) for image, reason in tally.failures)
    failed = [{"path": str(image.path), "error": reason} for image, reason in tally.failures]
    further = "".join(f", {number} {name}" for name, number in counts().items())
    done = str(tally.done) if tally.done == len(images) else f"{tally.done} of {len(images)}"
    noun = "image" if len(images) == 1 else "images"
    report.note(f"{done} {noun}{further} in {sink.out}" + (f"; {len(failed)} failed" if failed else ""))
    if report.json:
        summary = {"images": len(images), "done": tally.done, "failed": failed, **counts()}
        write_stdout(json_line({**summary, "output": str(sink.out)}))
    if tally.stopped:
        say_error(tally.stopped[1])
    return tally.exit_code
