"""What says the words: the tagger and its options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from samcli.cli.model import Workers
from samcli.cli.report import Report, UsageError
from samcli.weights import DEFAULT_TAGGER, TAGGERS

if TYPE_CHECKING:
    from samcli.ground.tagger import Tagger

FIXED = "labels"  # what records call a list of words that is asked for in every image


@dataclass(frozen=True)
class Tagging:
    """What says the words of an image; picklable, so that every worker can load it itself.

    labels: words to choose from or, without a tagger, to ask for. tagger: a name or folder, None where the
    user named none. threshold, most: of the words of an image; None means the tagger's own.
    """

    labels: tuple[str, ...]
    tagger: str | None
    threshold: float | None
    most: int | None
    dtype: str

    def check(self) -> None:
        """Raise SamcliError for a tagger that is not known, or options that do not go together."""
        from samcli.ground.load import tagger_spec

        if self.fixed:
            if self.threshold is not None or self.most is not None:
                raise UsageError("--tag-threshold and --max-tags are for words of a --tagger")
            return
        spec = tagger_spec(self._name)
        if self.labels and not spec.takes_labels:
            takers = ", ".join(name for name, one in TAGGERS.items() if one.takes_labels)
            raise UsageError(
                f"--tagger {self.tagger} says words of its own, it takes no --labels; these do: {takers}"
            )
        if spec.chooses and not self.labels:
            raise UsageError(f"--tagger {self.tagger} chooses from a list; give one with --labels")

    @property
    def fixed(self) -> bool:
        """All labels are asked for in every image."""
        return bool(self.labels) and self.tagger is None

    def load(self, device: str) -> Tagger | None:
        """The tagger on a device, loaded once in a process; None when the labels are fixed."""
        if self.fixed:
            return None
        return _tagger(self._name, device, self.dtype, self.labels, self.threshold, self.most)

    def known(self, workers: Workers) -> Tagger | None:
        """The tagger, to get to know it; when others work, they load it for themselves."""
        tagger = self.load(workers.here)
        if workers.away:
            _tagger.cache_clear()
        return tagger

    def say(self, report: Report) -> None:
        """Say which one it is when the user named neither a tagger nor labels."""
        if self.tagger is None and not self.labels:
            others = ", ".join(name for name, spec in TAGGERS.items() if not spec.packaged)
            report.note(
                f"note: using the embedded tagger {DEFAULT_TAGGER}; others with --tagger: {others}; "
                "or say what to look for with --labels"
            )

    def described(self, tagger: Tagger | None) -> dict[str, Any]:
        """What a record's configuration says: the tagger, its resolved values, and the labels."""
        if tagger is None:
            return {"tagger": FIXED, "labels": list(self.labels)}
        from samcli.ground.load import tagger_spec

        spec = tagger_spec(self._name)
        resolved = {
            "tag_threshold": spec.threshold if self.threshold is None else self.threshold,
            "max_tags": spec.most if self.most is None else self.most,
        }
        listed = {"labels": list(self.labels)} if self.labels else {}
        return {"tagger": tagger.name, "tagger_sha256": tagger.sha256, **resolved, **listed}

    @property
    def _name(self) -> str:
        return DEFAULT_TAGGER if self.tagger is None else self.tagger


@lru_cache(maxsize=1)
def _tagger(
    name: str,
    device: str,
    dtype: str,
    labels: tuple[str, ...],
    threshold: float | None,
    most: int | None,
) -> Tagger:
    from samcli.ground import load  # imports torch

    return load.load_tagger(
        name, device=device, dtype=dtype, labels=labels or None, threshold=threshold, most=most
    )
