"""`samcli embed`: image embeddings for later prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from samcli.cli import options
from samcli.cli.common import ImageSink, ModelOptions, list_inputs, read_picture, run_images
from samcli.cli.report import Report

if TYPE_CHECKING:
    from samcli.batch import Work
    from samcli.formats.names import OutputPaths
    from samcli.images import ImageFile
    from samcli.predictor import Embedding


def embed(
    images: options.Images,
    output: options.OutputFolder,
    root: options.Root = None,
    keep_extension: options.KeepExtension = False,
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
    inputs = list_inputs(images, root=root, out=output, keep_extension=keep_extension)
    settings = ModelOptions(model, device, dtype, threads)
    run = settings.run("embed", settings.load(report), {})
    sink = ImageSink(output, keep_extension, run, _store, lambda paths: paths.embedding)
    raise typer.Exit(run_images(report, images, inputs, _MakeWork(settings), sink))


@dataclass(frozen=True)
class _MakeWork:
    settings: ModelOptions

    def __call__(self) -> Work[ImageFile, Embedding]:
        predictor = self.settings.predictor()

        def work(items: list[ImageFile]) -> list[Embedding]:
            pictures = [read_picture(item) for item in items]
            digests = [picture.source.sha256 for picture in pictures]
            return predictor.embed_many([picture.pixels for picture in pictures], image_sha256=digests)

        return work


def _store(paths: OutputPaths, embedding: Embedding) -> None:
    from samcli.predictor import save_embedding

    save_embedding(embedding, paths.embedding)
