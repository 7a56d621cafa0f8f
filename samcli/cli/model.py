"""The model as the options name it, and the embeddings that were saved with it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import samcli
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError
from samcli.errors import SamcliError
from samcli.formats.names import output_paths
from samcli.formats.record import UNHASHED, config_hash
from samcli.images import ImageFile
from samcli.records import InputFile, Run
from samcli.weights import DEFAULT_MODEL, MODELS, ModelSpec

if TYPE_CHECKING:
    from samcli.predictor import Embedding, Predictor


@dataclass(frozen=True)
class Loaded:
    """What is to be known of a network that works elsewhere. devices: of its workers, one each."""

    name: str
    weights_sha256: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Model(Loaded):
    """A model that draws masks."""

    spec: ModelSpec


class Workers(NamedTuple):
    """devices: one for each worker. here: the device to get to know a network on. away: others work."""

    devices: tuple[str, ...]
    here: str
    away: bool


@dataclass(frozen=True)
class ModelOptions:
    """The shared options about the model; picklable, so that every worker can load it for itself.

    model: None where the user named none, which means the embedded model. elsewhere: other processes work.
    """

    model: str | None
    device: str
    dtype: str
    threads: int | None
    elsewhere: bool = False

    def load(self, report: Report) -> Model:
        """Load the model, in this process unless others work, to know it, and that it can be had.

        Says once which stronger ones there are when the user named none.
        """
        workers = self.workers()
        predictor = self.predictor(workers.here)
        if workers.away:
            _predictor.cache_clear()
        if self.model is None:
            names = ", ".join(
                spec.name for spec in MODELS.values() if not spec.packaged and spec.keys == "sam"
            )
            report.note(f"note: using the embedded model {predictor.spec.name}; stronger with -m: {names}")
        return Model(predictor.spec.name, predictor.weights_sha256, workers.devices, predictor.spec)

    def workers(self) -> Workers:
        """Where the work is done. Raises SamcliError for a device that is not there."""
        from samcli.predictor import find_devices

        if self.elsewhere and self.device == "all":
            raise UsageError("--ray takes all GPUs of the cluster by itself; leave --device out")
        devices = (self.device,) if self.elsewhere else find_devices(self.device)
        away = self.elsewhere or len(devices) > 1
        return Workers(devices, "cpu" if away else devices[0], away)

    def predictor(self, device: str) -> Predictor:
        """The model on a device, loaded once in a process."""
        return _predictor(replace(self, device=device))

    def run(
        self, command: str, model: Loaded, config: dict[str, Any], hashed: dict[str, Any] | None = None
    ) -> Run:
        """The head of the records that `command` writes with this resolved configuration.

        hashed: what of it changes masks, all of it but `UNHASHED` when None.
        """
        config = {**config, "dtype": self.dtype}
        hashed = {**(config if hashed is None else hashed), "dtype": self.dtype}
        kept = {name: value for name, value in hashed.items() if name not in UNHASHED}
        digest = config_hash(command, model.weights_sha256, kept)
        return Run(command, samcli.__version__, model.name, model.weights_sha256, config, digest)


@lru_cache(maxsize=1)
def _predictor(options: ModelOptions) -> Predictor:
    from samcli.predictor import load  # imports torch

    return load(
        DEFAULT_MODEL if options.model is None else options.model,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )


def saved_embedding(
    folder: Path,
    image: ImageFile,
    source: InputFile,
    settings: ModelOptions,
    predictor: Predictor,
    keep_extension: bool,
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
    return load_embedding(path, predictor, image_sha256=source.sha256)


def _root(image: ImageFile) -> Path:
    """The folder that the image's relative path starts from."""
    count = len(image.relative.parts)
    if image.path.parts[-count:] == image.relative.parts:
        return Path(*image.path.parts[:-count])
    return Path(os.path.abspath(image.path)).parents[count - 1]  # noqa: PTH100 - links keep their names
