"""`samcli embed`: image embeddings for later prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from samcli.batch import Room, Work
from samcli.cli import options
from samcli.cli.folder import FolderSink, run_images
from samcli.cli.inputs import Decoded, parse_pixels, read_picture
from samcli.cli.model import ModelOptions
from samcli.cli.report import Report
from samcli.formats.embedding import read_embedding_head
from samcli.formats.names import OutputPaths
from samcli.formats.record import Head
from samcli.images import MAX_PIXELS, ImageFile
from samcli.records import Run

if TYPE_CHECKING:
    from samcli.predictor import Embedding


def embed(
    output: options.OutputFolder,
    images: options.Images = [],  # noqa: B006 - Typer copies it
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = [],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
    max_pixels: options.MaxPixels = f"{MAX_PIXELS // 10**6}M",
    root: options.Root = None,
    keep_extension: options.KeepExtension = False,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    shard: options.Shard = None,
    ray: options.Ray = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.DType = "fp32",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Save what the model knows of each image, so that later prompts are answered at once.

    Writes DIR/<path below its root>/<stem>.safetensors for each image.
    `predict` and `automask` use them with --embeddings DIR.
    """
    report = Report(quiet=quiet, json=json)
    inputs = options.inputs(images, output, files_from, null, root, keep_extension, include, exclude, shard)
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    limit = parse_pixels(max_pixels)
    known = settings.load(report)
    again = retry_failed or inputs.alone is not None
    sink = _Sink(output, keep_extension, overwrite, again, settings.run("embed", known, {}))
    make_work = _MakeWork(settings, limit)
    run = run_images(report, inputs, make_work, sink, known, options.cluster(ray, threads))
    raise typer.Exit(run.code)


@dataclass(frozen=True)
class _MakeWork:
    settings: ModelOptions
    max_pixels: int

    def __call__(self, device: str) -> Work[ImageFile, Embedding]:
        predictor = self.settings.predictor(device)

        def read(item: ImageFile, room: Room) -> Decoded:
            return read_picture(item, self.max_pixels, room)

        def compute(pictures: list[Decoded]) -> list[Embedding]:
            digests = [picture.source.sha256 for picture in pictures]
            return predictor.embed_many([picture.pixels for picture in pictures], image_sha256=digests)

        return Work(compute, read, predictor.images_per_call)


@dataclass
class _Sink(FolderSink[ImageFile, "Embedding"]):
    made_by: Run

    counted = ()

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.made_by

    def main(self, paths: OutputPaths) -> Path:
        return paths.embedding

    def head(self, path: Path) -> Head | None:
        return read_embedding_head(path)

    def store(self, paths: OutputPaths, item: ImageFile, result: Embedding) -> dict[str, int]:
        from samcli.predictor import save_embedding

        save_embedding(result, paths.embedding)
        return {}
