"""What to look for, and the detector that does: the options that commands with words share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.annotate import GroundConfig
from samcli.cli import options
from samcli.cli.model import Workers
from samcli.cli.report import Report, UsageError
from samcli.ground.phrases import split_phrases
from samcli.images import EXTENSIONS
from samcli.weights import DEFAULT_DETECTOR, DETECTOR_VARIABLE, DETECTORS

if TYPE_CHECKING:
    from samcli.ground.detector import Detector

EXAMPLE = 'such as: samcli ground photo.jpg "a dog"'


@dataclass(frozen=True)
class Grounding:
    """Phrases, how to look for them, and the detector; picklable, so that every worker can load it itself.

    detector: a name or folder, None where the user named none.
    """

    phrases: tuple[str, ...]
    config: GroundConfig
    detector: str | None
    dtype: str

    def check(self) -> None:
        """Raise SamcliError for a detector that is not known, or a phrase that it cannot look for."""
        from samcli.ground.load import check_phrases

        check_phrases(self._name, self.phrases)

    def load(self, device: str) -> Detector:
        """The detector on a device, loaded once in a process. Raises WeightsError when it is not there."""
        return _detector(self._name, device, self.dtype)

    def known(self, workers: Workers) -> Detector:
        """The detector, to get to know it; when others work, they load it for themselves."""
        detector = self.load(workers.here)
        if workers.away:
            _detector.cache_clear()
        return detector

    def say(self, report: Report, detector: Detector) -> None:
        """Say which one it is when the user named none."""
        if self.detector is None:
            names = ", ".join(name for name, spec in DETECTORS.items() if not spec.packaged)
            report.note(f"note: using the embedded detector {detector.name}; others with --detector: {names}")

    def described(self, detector: Detector) -> dict[str, Any]:
        """What a record's configuration says: the detector, the phrases, and the resolved values."""
        values = asdict(self.config.resolve(detector.thresholds))
        if values["text_threshold"] is None:
            del values["text_threshold"]
        if self.config.tile is None:
            del values["overlap"]
        return {
            "detector": detector.name,
            "detector_sha256": detector.sha256,
            "phrases": list(self.phrases),
            **values,
        }

    @property
    def _name(self) -> str:
        return DEFAULT_DETECTOR if self.detector is None else self.detector


@lru_cache(maxsize=1)
def _detector(name: str, device: str, dtype: str) -> Detector:
    from samcli.ground import load  # imports torch

    return load.load_detector(name, device=device, dtype=dtype)


def asked_for(text: str | None, labels: str | None) -> tuple[str, ...]:
    """The phrases of a text, or of --labels, of which each is one. Raises UsageError, or SamcliError."""
    if labels is None:
        assert text is not None
        return split_phrases(text)
    names = options.labels(labels)
    for name in names:
        if len(split_phrases(name)) > 1:
            raise UsageError(f"{name!r} of --labels is several phrases; put each on its own")
    phrases = split_phrases("\n".join(names))
    if len(phrases) < len(names):
        raise UsageError(f"--labels {labels!r} names one category twice")
    return phrases


def refuse_unused(detector: str | None, *thresholds: float | None, needed: str) -> None:
    """Refuse options of a detector where there is nothing to look for. needed: the options that say what.

    What the environment names is no option. Raises UsageError.
    """
    named = detector not in (None, os.environ.get(DETECTOR_VARIABLE))
    if named or any(threshold is not None for threshold in thresholds):
        raise UsageError(f"--detector, --box-threshold and --text-threshold go with {needed}")


def split_arguments(arguments: Sequence[str], labels: str | None) -> tuple[list[Path], str | None]:
    """Images and text: the last argument is the text, unless --labels says what to look for.

    Raises UsageError when there is no text, or when it looks like an image.
    """
    if labels is not None:
        return [Path(name) for name in arguments], None
    if not arguments:
        raise UsageError(f"nothing to look for; say what, {EXAMPLE}")
    *images, text = arguments
    if what := _not_text(text):
        raise UsageError(
            f"the last argument is what to look for, but {text!r} is {what}; {EXAMPLE}, or give --labels"
        )
    for name in images:
        if name != "-" and not Path(name).suffix and not _is_there(name):
            raise UsageError(f"{name} does not exist; a text of several words needs quotes, {EXAMPLE}")
    return [Path(name) for name in images], text


def _not_text(text: str) -> str:
    """What a text looks like that was meant to be something else; "" for others."""
    if text == "-":
        return "standard input"
    if _is_there(text):
        return "a folder" if Path(text).is_dir() else "a file"
    return "an image's name" if Path(text).suffix.lower() in EXTENSIONS else ""


def _is_there(name: str) -> bool:
    """Whether there is such a file or folder; a text may be too long to be a name."""
    return os.path.exists(name)  # noqa: PTH110 - pathlib's raises
