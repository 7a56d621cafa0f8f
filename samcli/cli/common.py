"""What the commands share: the model as the options name it, input images, and a sink that names outputs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import samcli
from samcli import batch, images
from samcli.cli.prompts import STDIN
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

    def run(
        self, command: str, predictor: Predictor, config: dict[str, Any], hashed: dict[str, Any] | None = None
    ) -> Run:
        """The head of the records that `command` writes with this resolved configuration.

        hashed: what of it changes masks, all of it when None.
        """
        sha256 = predictor.weights_sha256
        digest = config_hash(command, sha256, config if hashed is None else hashed, self.dtype)
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
    folder: Path, image: ImageFile, source: InputFile, settings: ModelOptions, keep_extension: bool
) -> Embedding:
    """The embedding that `samcli embed -o folder` wrote. Raises SamcliError unless it fits both."""
    from samcli.predictor import load_embedding

    path = output_paths(folder, image.relative, keep_extension=keep_extension).embedding
    if not path.exists():
        if image.path == STDIN:
            raise SamcliError(f"{path} does not exist; name the image file instead of standard input")
        command = ["samcli", "embed", str(image.path), "-o", str(folder)]
        if len(image.relative.parts) > 1:
            command += ["--root", str(_root(image))]
        if keep_extension:
            command += ["--keep-extension"]
        if settings.model is not None:
            command += ["-m", settings.model]
        if settings.dtype != "fp32":
            command += ["--dtype", settings.dtype]
        raise SamcliError(f"{path} does not exist; write it with: {shlex.join(command)}")
    return load_embedding(path, settings.predictor(), image_sha256=source.sha256)


def _root(image: ImageFile) -> Path:
    """The folder that the image's relative path starts from."""
    count = len(image.relative.parts)
    if image.path.parts[-count:] == image.relative.parts:
        return Path(*image.path.parts[:-count])
    return Path(os.path.abspath(image.path)).parents[count - 1]  # noqa: PTH100 - links keep their names


@dataclass
class ImageSink(Generic[Result]):
    """Hands results to `store` with the paths for their outputs; a failure becomes `<stem>.error.json`.

    main: the output that says an image is done; a failure removes an earlier one.
    """

    out: Path
    keep_extension: bool
    run: Run
    store: Callable[[OutputPaths, Result], None]
    main: Callable[[OutputPaths], Path]

    def write(self, item: ImageFile, result: Result) -> None:
        paths = self._paths(item)
        self.store(paths, result)
        paths.error.unlink(missing_ok=True)

    def fail(self, item: ImageFile, reason: str) -> None:
        paths = self._paths(item)
        remove_stale(self.main(paths))
        write_error(paths.error, self.run, item.relative.as_posix(), reason)

    def _paths(self, item: ImageFile) -> OutputPaths:
        return output_paths(self.out, item.relative, keep_extension=self.keep_extension)


def remove_stale(path: Path) -> None:
    """Remove what an earlier run wrote for an image that now fails, so that it does not pass for done."""
    if path.is_file():
        path.unlink()


def list_inputs(
    paths: Sequence[Path], *, root: Path | None, out: Path, keep_extension: bool
) -> list[ImageFile]:
    """The images of files and folders, each once. Raises SamcliError when two would write one output."""
    found = list(dict.fromkeys(list_images(paths, root=root, exclude=out)))
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
