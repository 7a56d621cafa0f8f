"""Weights: the table, downloads from a server that misbehaves, verification, strict and safe loading."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from server import FileServer, Served, running
from torch import nn

from samcli import weights
from samcli.errors import SamcliError, SamcliNote, WeightsError
from samcli.models import registry
from samcli.models.registry import ARCHITECTURES, build_sam
from samcli.weights import ModelSpec

BODY = np.random.default_rng(0).bytes(1_000_003)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, not made yet; no waiting between tries; the Hugging Face cache empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAMCLI_HOME", str(folder))
    monkeypatch.delenv("SAMCLI_MODELS_MIRROR", raising=False)
    monkeypatch.setattr(weights.download, "PAUSE", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder / "weights"


def model(
    monkeypatch: pytest.MonkeyPatch, *urls: str, sha256: str | None = SHA256, size: int | None = len(BODY)
) -> ModelSpec:
    """Put a model named demo into the table."""
    file = "demo.pth" if sha256 else "demo.safetensors"
    spec = ModelSpec("demo", "tiny", file, urls, sha256, size, "CC0", "for tests")
    monkeypatch.setitem(weights.MODELS, "demo", spec)
    return spec


def pull() -> list[str]:
    """Pull the demo model; returns the notes, without the server's address."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = weights.pull("demo")
    assert file == weights.path("demo")
    assert all(issubclass(w.category, SamcliNote) for w in caught)
    return [str(w.message).rpartition(f"/{file.name}: ")[2] for w in caught]


def failure() -> str:
    """The error of a pull that must fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamcliNote)
        with pytest.raises(WeightsError) as caught:
            weights.pull("demo")
    return str(caught.value)


class TestTable:
    def test_every_entry_is_complete(self) -> None:
        for name, spec in weights.MODELS.items():
            assert name == spec.name
            assert spec.architecture in ARCHITECTURES
            assert Path(spec.file).suffix in weights.SUFFIXES
            assert spec.packaged != bool(spec.urls)
            assert (spec.sha256 is None) == (spec.bytes is None)
            assert spec.sha256 is None or len(spec.sha256) == 64
        assert len({spec.file for spec in weights.MODELS.values()}) == len(weights.MODELS)
        assert weights.DEFAULT_MODEL in weights.MODELS

    def test_architecture_names_stand_for_the_official_files(self) -> None:
        for name in ("vit_b", "vit_l", "vit_h"):
            spec = weights.MODELS[name]
            assert spec.architecture == name
            assert spec.sha256
            assert spec.urls[0] == f"https://dl.fbaipublicfiles.com/segment_anything/{spec.file}"

    def test_a_model_without_sha256_is_a_format_that_can_be_recognised(self) -> None:
        for spec in weights.MODELS.values():
            assert spec.sha256 or spec.file.endswith(".safetensors")

    def test_the_docs_table_says_the_same(self) -> None:
        text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 6]
        assert rows == [
            f"| `{spec.name}` | {spec.architecture} | {size} | {spec.licence} | {spec.summary} |"
            for spec in weights.MODELS.values()
            for size in [
                "packaged" if spec.packaged else weights.format_size(spec.bytes) if spec.bytes else "unknown"
            ]
        ]

    @pytest.mark.parametrize(
        ("count", "text"),
        [(2564550879, "2.4 GB"), (1249524607, "1.2 GB"), (375042383, "358 MB"), (0, "0 MB")],
    )
    def test_sizes(self, count: int, text: str) -> None:
        assert weights.format_size(count) == text


class TestHome:
    def test_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAMCLI_HOME", "/a")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert weights.home() == Path("/a")
        monkeypatch.delenv("SAMCLI_HOME")
        assert weights.home() == Path("/b/samcli")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/c")
        assert weights.home() == Path("/c/.cache/samcli")

    def test_looking_creates_nothing(self, cache: Path) -> None:
        assert weights.find(weights.MODELS["vit_b"]) is None
        with pytest.raises(WeightsError):
            weights.load_sam("vit_b")
        assert not cache.parent.exists()

    def test_import_needs_no_torch_and_no_network_package(self) -> None:
        heavy = {"torch", "huggingface_hub", "safetensors"}
        code = f"import sys, samcli.weights; print(sorted({heavy} & set(sys.modules)))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out == "[]\n"


class TestNames:
    def test_not_installed_names_the_command(self) -> None:
        with pytest.raises(WeightsError) as caught:
            weights.load_sam("vit_h")
        assert str(caught.value) == "vit_h is not installed; get it (2.4 GB) with: samcli models pull vit_h"
        assert caught.value.code == 4

    def test_unknown(self, tmp_path: Path) -> None:
        names = ", ".join(weights.MODELS)
        with pytest.raises(SamcliError) as caught:
            weights.resolve("nope")
        assert str(caught.value) == f"unknown model 'nope'; known: {names}; or give a checkpoint file"
        assert caught.value.code == 1
        with pytest.raises(
            SamcliError, match=r"^checkpoint runs/x\.pt does not exist; give a file or a name: tiny, "
        ):
            weights.resolve("runs/x.pt")
        with pytest.raises(SamcliError, match=r"^unknown model ''; known: tiny, "):
            weights.resolve("")
        with pytest.raises(SamcliError, match=r"^checkpoint ~nobody/x\.pt does not exist; "):
            weights.resolve("~nobody/x.pt")
        with pytest.raises(
            SamcliError, match=r"is a folder; give a checkpoint file \(\.pth, \.pt, \.safetensors\) or a"
        ):
            weights.resolve(str(tmp_path))
        for call in (weights.pull, weights.verify, weights.path):
            with pytest.raises(SamcliError) as caught:
                call("nope")
            known = ", ".join(dict.fromkeys(spec.name for spec in weights.all_specs()))
            assert str(caught.value) == f"unknown model 'nope'; known: {known}"

    def test_a_name_wins_over_a_file_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("tiny").write_bytes(b"")
        assert weights.resolve("tiny") == weights.MODELS["tiny"]
        assert weights.resolve("./tiny") == Path("tiny")


class TestDownload:
    def test_plain(self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = model(monkeypatch, server.add("/demo.pth", BODY))
        steps: list[tuple[int, int | None]] = []
        file = weights.pull("demo", progress=lambda done, total: steps.append((done, total)))
        assert file == cache / "demo.pth"
        assert file.read_bytes() == BODY
        assert steps[0] == (0, len(BODY))
        assert steps[-1] == (len(BODY), len(BODY))
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert sorted(p.name for p in cache.iterdir() if p.suffix != ".lock") == ["demo.json", "demo.pth"]
        record = json.loads((cache / "demo.json").read_text())
        assert (record["sha256"], record["bytes"], record["source"]) == (SHA256, len(BODY), spec.urls[0])

    def test_installed_and_sound_asks_nobody(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY))
        pull()
        asked = list(server.asked)
        assert pull() == []
        assert server.asked == asked

    def test_a_file_laid_there_by_hand_is_checked_and_taken(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch)
        cache.mkdir(parents=True)
        (cache / "demo.pth").write_bytes(BODY)
        assert pull() == []
        assert json.loads((cache / "demo.json").read_text())["sha256"] == SHA256

    def test_a_damaged_installed_file_is_replaced(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY))
        cache.mkdir(parents=True)
        file = cache / "demo.pth"
        file.write_bytes(BODY)
        pull()
        stat = file.stat()
        file.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as decay does
        (note,) = pull()
        assert note.startswith(f"{file} is damaged: its sha256 is ")
        assert note.endswith(f", not the published {SHA256}; getting it anew")
        assert file.read_bytes() == BODY

    def test_cut_connections_go_on_where_they_stopped(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, cuts=[100_000, 0, 0, 200_000, 0, 0, 1]))
        notes = pull()
        assert server.ranges == [None, *["bytes=100000-"] * 3, *["bytes=300000-"] * 3, "bytes=300001-"]
        assert notes[0] == f"the connection ended after 100000 of {len(BODY)} bytes; trying again"

    def test_without_progress_it_gives_up_and_a_later_call_goes_on(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = server.add("/demo.pth", BODY, cuts=[HALF, 0, 0, 0])
        model(monkeypatch, url)
        assert failure() == (
            f"demo could not be downloaded; tried {url}: the connection ended after {HALF} of {len(BODY)} "
            "bytes; the next pull goes on from the part received"
        )
        assert (cache / "demo.pth.part").stat().st_size == HALF
        assert not (cache / "demo.pth").exists()
        server.asked.clear()
        assert pull() == []
        assert server.ranges == [f"bytes={HALF}-"]

    def test_the_next_mirror_goes_on_with_the_part(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = server.add("/1/demo.pth", BODY, cuts=[HALF, 0, 0, 0])
        second = server.add("/2/demo.pth", BODY, etag='"2"')
        model(monkeypatch, first, second)
        pull()
        assert server.asked[-1] == ("GET", "/2/demo.pth", f"bytes={HALF}-")

    def test_a_server_without_ranges_starts_over(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, ranges=False, cuts=[HALF]))
        assert pull() == [
            f"the connection ended after {HALF} of {len(BODY)} bytes; trying again",
            "sends the file from its beginning again; starting over",
        ]
        assert server.ranges == [None, f"bytes={HALF}-"]

    def test_a_server_without_ranges_that_always_cuts_is_given_up(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, ranges=False, cuts=[HALF] * 100))
        assert f"ended after {HALF} of" in failure()
        assert len(server.asked) == weights.download.TRIES

    def test_a_changed_file_starts_over(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        old = bytes(len(BODY))
        url = server.add("/demo.pth", old, etag='"old"', cuts=[HALF, 0, 0, 0])
        model(monkeypatch, url)
        failure()
        server.add("/demo.pth", BODY, etag='"new"')
        assert pull() == ["sends the file from its beginning again; starting over"]

    def test_a_changed_file_is_noticed_without_if_range(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = server.add("/demo.pth", bytes(len(BODY)), etag='"old"', cuts=[HALF, 0, 0, 0])
        model(monkeypatch, url)
        failure()
        server.add("/demo.pth", BODY, etag='"new"', mind_if_range=False)
        assert pull() == ["it goes on with something else; the partial file is deleted; trying again"]

    def test_a_changed_file_is_noticed_by_its_sha256_alone(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = server.add("/demo.pth", bytes(len(BODY)), etag=None, cuts=[HALF, 0, 0, 0])
        model(monkeypatch, url)
        failure()
        server.add("/demo.pth", BODY, etag=None)
        (note,) = pull()
        assert note.endswith("; the partial file is deleted, starting over")

    def test_a_range_answered_with_another_one_starts_over(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, cuts=[HALF], shift=7))
        assert pull()[1] == "it goes on with something else; the partial file is deleted; trying again"

    def test_a_part_longer_than_the_servers_file(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """416 from a server whose file is shorter; the next source has the right one."""
        short = server.add("/1/demo.pth", BODY[:100])
        whole = server.add("/2/demo.pth", BODY)
        model(monkeypatch, short, whole)
        cache.mkdir(parents=True)
        (cache / "demo.pth.part").write_bytes(BODY[:HALF])
        assert pull() == ["its file ends before the partial one; the partial file is deleted; trying again"]

    def test_a_complete_part_is_only_checked(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY))
        cache.mkdir(parents=True)
        (cache / "demo.pth.part").write_bytes(BODY)
        assert pull() == []
        assert server.asked == []

    def test_a_part_that_is_too_long_is_begun_anew(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY))
        cache.mkdir(parents=True)
        (cache / "demo.pth.part").write_bytes(BODY + b"x")
        assert pull() == []

    def test_chunked_without_a_length(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, chunked=True, cuts=[HALF]))
        assert len(pull()) >= 1

    def test_redirects_keep_the_range(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        real = server.add("/elsewhere/demo.pth", BODY, cuts=[HALF])
        model(monkeypatch, server.add("/demo.pth", b"", redirect=real))
        pull()
        assert server.asked[-1] == ("GET", "/elsewhere/demo.pth", f"bytes={HALF}-")

    def test_passing_errors_are_retried(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, statuses=[503, 429]))
        assert pull() == [
            "HTTP 503 Service Unavailable; trying again",
            "HTTP 429 Too Many Requests; trying again",
        ]

    def test_every_source_is_named_with_its_reason(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = bytes(len(BODY))
        urls = [
            server.address + "/missing/demo.pth",
            server.add("/forbidden/demo.pth", BODY, statuses=[403]),
            server.add("/busy/demo.pth", BODY, statuses=[503] * 9),
            server.add("/wrong/demo.pth", wrong),
            server.add("/page/demo.pth", b"<html>please log in</html>"),
            server.add("/loop/demo.pth", b"", redirect="/loop/demo.pth"),
            "http://127.0.0.1:9/demo.pth",
            "ftp://127.0.0.1/demo.pth",
        ]
        model(monkeypatch, *urls)
        message = failure()
        reasons = [
            "HTTP 404 Not Found",
            "HTTP 403 Forbidden",
            "HTTP 503 Service Unavailable",
            f"its sha256 is {hashlib.sha256(wrong).hexdigest()}, not the published {SHA256}; it is deleted",
            f"it offers 26 bytes, not {len(BODY)}",
            "HTTP 302 The HTTP server returned a redirect error that would lead to an infinite loop.",
            "Connection refused",
            "not an http or https address",
        ]
        tried = "; ".join(f"{url}: {reason}" for url, reason in zip(urls, reasons, strict=True))
        assert message == f"demo could not be downloaded; tried {tried}"
        assert sorted(p.name for p in cache.iterdir()) == ["demo.lock"]

    def test_a_wrong_length_is_refused_before_the_transfer(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = server.add("/demo.pth", BODY, length=len(BODY) + 10)
        model(monkeypatch, url)
        assert failure() == f"demo could not be downloaded; tried {url}: it offers 1000013 bytes, not 1000003"

    def test_more_than_expected_without_a_length(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = server.add("/1/demo.pth", BODY * 2, chunked=True)
        model(monkeypatch, bad, server.add("/2/demo.pth", BODY))
        assert pull() == []
        assert server.ranges == [None, None]

    def test_the_users_mirror_comes_first(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.add("/mirror/demo.pth", BODY)
        model(monkeypatch, "http://127.0.0.1:9/demo.pth")
        monkeypatch.setenv("SAMCLI_MODELS_MIRROR", server.address + "/mirror/")
        assert pull() == []

    def test_an_unwritable_cache(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch)
        cache.parent.mkdir()
        cache.write_bytes(b"")
        with pytest.raises(SamcliError) as caught:
            weights.pull("demo")
        assert caught.value.code == 1
        assert str(caught.value) == (
            f"cannot write {cache}: File exists; make room, or set SAMCLI_HOME to another cache folder"
        )

    def test_two_processes_at_once(self, server: FileServer, cache: Path, tmp_path: Path) -> None:
        """The second waits for the first and finds its file; nothing is transferred twice."""
        server.add("/demo.pth", BODY, pause=0.6)
        script = tmp_path / "pull.py"
        script.write_text(
            "import warnings; from samcli import weights\n"
            "warnings.simplefilter('ignore')\n"
            f"urls = ('{server.address}/demo.pth',)\n"
            f"spec = weights.ModelSpec('demo', 'tiny', 'demo.pth', urls, '{SHA256}', {len(BODY)}, '', '')\n"
            "weights.MODELS['demo'] = spec\n"
            "print(weights.sha256_of(weights.pull('demo')))\n"
        )
        both = [
            subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [process.communicate()[0] for process in both] == [SHA256 + "\n"] * 2
        assert server.asked == [("GET", "/demo.pth", None)]

    def test_two_threads_at_once(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY, pause=0.1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads = [threading.Thread(target=weights.pull, args=["demo"]) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert weights.sha256_of(weights.path("demo")) == SHA256
        assert len(server.asked) == 1


class TestUnpublishedSha256:
    """A model whose sha256 nobody publishes: recorded at the first pull, never made up."""

    @pytest.fixture
    def tensors(self, tmp_path: Path) -> Callable[[int], bytes]:
        def make(value: int) -> bytes:
            save_file({"a": torch.full((5,), float(value))}, tmp_path / "a.safetensors")
            return (tmp_path / "a.safetensors").read_bytes()

        return make

    def test_recorded_then_held_to(
        self,
        server: FileServer,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
        tensors: Callable[[int], bytes],
    ) -> None:
        body = tensors(1)
        digest = hashlib.sha256(body).hexdigest()
        url = server.add("/demo.safetensors", body)
        model(monkeypatch, url, sha256=None, size=None)
        file = weights.pull("demo")
        assert weights.verify("demo") == (file, digest, "recorded")
        file.unlink()
        other = server.add("/demo.safetensors", tensors(2)) and tensors(2)
        assert failure() == (
            f"demo could not be downloaded; tried {url}: its sha256 is {hashlib.sha256(other).hexdigest()}, "
            f"not {digest} as first pulled (says {cache / 'demo.json'}); it is deleted"
        )
        (cache / "demo.json").unlink()
        weights.pull("demo")

    def test_a_login_page_is_not_taken(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        url = server.add("/demo.safetensors", b"<html>please log in</html>")
        model(monkeypatch, url, sha256=None, size=None)
        assert failure().startswith(
            f"demo could not be downloaded; tried {url}: it is not a safetensors file ("
        )

    def test_a_part_is_only_continued_on_the_servers_word(
        self,
        server: FileServer,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
        tensors: Callable[[int], bytes],
    ) -> None:
        body = tensors(1)
        model(monkeypatch, server.add("/demo.safetensors", body, cuts=[20]), sha256=None, size=None)
        assert pull() == ["the connection ended after 20 of 84 bytes; trying again"]
        assert server.ranges == [None, "bytes=20-"]
        (cache / "demo.safetensors").unlink()
        (cache / "demo.json").unlink()
        (cache / "demo.safetensors.part").write_bytes(b"of unknown origin")
        weights.pull("demo")
        assert server.ranges[2:] == [None]

    def test_verify_records_a_file_found_installed(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, tensors: Callable[[int], bytes]
    ) -> None:
        model(monkeypatch, sha256=None, size=None)
        cache.mkdir(parents=True)
        file = cache / "demo.safetensors"
        file.write_bytes(tensors(1))
        assert weights.verify("demo").against == "nothing"
        assert weights.verify("demo").against == "recorded"
        file.write_bytes(tensors(2))
        with pytest.raises(WeightsError, match=r"is damaged: its sha256 is .* as first pulled"):
            weights.verify("demo")

    def test_an_unreadable_record(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch, sha256=None, size=None)
        cache.mkdir(parents=True)
        (cache / "demo.json").write_text("{")
        (cache / "demo.safetensors").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"demo\.json cannot be read \(.*\); delete it$"):
            weights.verify("demo")


class TestVerify:
    def test_a_cache_that_cannot_be_written(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The record only saves time where a sha256 is published; where none is, it is the point."""
        model(monkeypatch)
        (cache / f"demo.json.{os.getpid()}.tmp").mkdir(parents=True)  # stops root too
        (cache / "demo.pth").write_bytes(BODY)
        assert weights.verify("demo").against == "published"
        model(monkeypatch, sha256=None, size=None)
        save_file({"a": torch.zeros(1)}, cache / "demo.safetensors")
        with pytest.raises(SamcliError, match=r"^cannot write .*demo\.json: Is a directory; "):
            weights.verify("demo")

    def test_sound_and_damaged(
        self, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch, server.add("/demo.pth", BODY))
        pull()
        file = cache / "demo.pth"
        assert weights.verify("demo") == (file, SHA256, "published")
        stat = file.stat()
        file.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # verify must not be fooled by the times
        with pytest.raises(WeightsError) as caught:
            weights.verify("demo")
        assert str(caught.value) == (
            f"{file} is damaged: its sha256 is {weights.sha256_of(file)}, not the published {SHA256}; "
            "get it anew with: samcli models pull demo"
        )
        file.write_bytes(BODY[:5])
        with pytest.raises(WeightsError, match=r"is damaged: 5 bytes, not 1000003; get it anew with"):
            weights.verify("demo")

    def test_what_is_part_of_samcli_has_no_record(self, cache: Path) -> None:
        cache.mkdir(parents=True)
        (cache / "tiny.json").write_text("{")
        assert weights.verify("tiny").against == "nothing"
        assert weights.load_sam("tiny").sha256 == weights.verify("tiny").sha256

    def test_loading_checks_a_file_it_has_no_record_of(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model(monkeypatch)
        cache.mkdir(parents=True)
        (cache / "demo.pth").write_bytes(bytes(len(BODY)))
        with pytest.raises(WeightsError, match=r"is damaged: .*; get it anew with: samcli models pull demo$"):
            weights.load_sam("demo")


class TestHub:
    """The huggingface_hub road, against a server that answers as the Hub does."""

    @pytest.fixture
    def hub(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        model(monkeypatch, "hf://someone/models/sub/demo.pth")
        return server.add_to_hub("someone/models", "sub/demo.pth", BODY)

    def test_into_the_hugging_face_cache(self, hub: Served, cache: Path, tmp_path: Path) -> None:
        steps: list[tuple[int, int | None]] = []
        file = weights.pull("demo", progress=lambda done, total: steps.append((done, total)))
        assert file.is_relative_to(tmp_path / "hub" / "models--someone--models")
        assert file == weights.path("demo")
        assert weights.verify("demo") == (file, SHA256, "published")
        assert steps[-1] == (len(BODY), len(BODY))
        assert json.loads((cache / "demo.json").read_text())["source"] == "hf://someone/models/sub/demo.pth"

    @pytest.mark.parametrize("drops", [1, 2])
    def test_a_connection_dropped_once_is_opened_again(
        self, hub: Served, monkeypatch: pytest.MonkeyPatch, drops: int
    ) -> None:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError

        client = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
        real, dropped = huggingface_hub.hf_hub_download, []

        def download(*args: str, **options: object) -> str:
            if len(dropped) < drops:
                dropped.append(1)
                raise client.RemoteProtocolError("Server disconnected without sending a response.")
            return real(*args, **options)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        if drops == 1:
            assert weights.pull("demo").read_bytes() == BODY
        else:
            with pytest.raises(WeightsError, match="could not be downloaded; tried hf://someone/models"):
                weights.pull("demo")

    def test_a_file_that_another_program_cached_is_used(self, hub: Served, server: FileServer) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download("someone/models", "sub/demo.pth")
        asked = len(server.asked)
        assert pull() == []
        assert len(server.asked) == asked

    def test_a_damaged_cached_file_is_fetched_again(self, hub: Served) -> None:
        blob = weights.pull("demo").resolve()
        blob.write_bytes(bytes(len(BODY)))
        assert "is damaged" in pull()[0]
        assert blob.read_bytes() == BODY

    def test_a_damaged_file_of_ours_gives_way_to_the_hubs(
        self, hub: Served, cache: Path, tmp_path: Path
    ) -> None:
        cache.mkdir(parents=True)
        (cache / "demo.pth").write_bytes(bytes(len(BODY)))
        pull()
        assert weights.path("demo").is_relative_to(tmp_path / "hub")
        assert weights.verify("demo").sha256 == SHA256

    def test_the_hubs_own_sha256_counts_where_none_is_published(
        self, hub: Served, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A blob is named by its sha256; without a published one that name is what the bytes are held to."""
        url = "hf://someone/models/sub/demo.pth"
        monkeypatch.setitem(
            weights.MODELS, "demo", dataclasses.replace(weights.MODELS["demo"], sha256=None, bytes=None)
        )
        hub.body = bytes(len(BODY))
        assert failure() == (
            f"demo could not be downloaded; tried {url}: "
            f"its sha256 is {hashlib.sha256(hub.body).hexdigest()}, but the Hub said {SHA256}"
        )

    def test_a_missing_repository_is_one_line(self, hub: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        model(monkeypatch, "hf://someone/nothing/demo.pth")
        message = failure()
        url = "hf://someone/nothing/demo.pth"
        assert message.startswith(
            f"demo could not be downloaded; tried {url}: Client error '404 Not Found' for "
        )
        assert "\n" not in message

    def test_environment(self, server: FileServer, tmp_path: Path) -> None:
        """HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE: huggingface_hub reads them on import, so a process each."""
        save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
        body = (tmp_path / "a.safetensors").read_bytes()
        server.add_to_hub("facebook/sam-vit-base", "model.safetensors", body)
        code = (
            "from samcli import errors, weights\n"
            "try: print(weights.pull('sam-vit-base'))\n"
            "except errors.WeightsError as error: print(error)"
        )

        def run(**more: str) -> str:
            env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SAMCLI_"))}
            env |= {
                "HF_HOME": str(tmp_path / "hf"),
                "HF_ENDPOINT": server.address,
                "SAMCLI_HOME": str(tmp_path),
            }
            env |= {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}  # for a busy machine
            return subprocess.run(
                [sys.executable, "-c", code], env=env | more, capture_output=True, text=True, check=True
            ).stdout

        offline = run(HF_HUB_OFFLINE="1")
        assert server.asked == []
        assert offline.startswith(
            "sam-vit-base could not be downloaded; tried hf://facebook/sam-vit-base/model.safet"
        )
        file = run().strip()
        assert Path(file).is_relative_to(tmp_path / "hf")
        assert run(HF_HUB_OFFLINE="1").strip() == file


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """A fresh `tiny` whose weights fp16 holds exactly."""
    torch.manual_seed(0)
    sam = build_sam("tiny")
    sam.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in sam.state_dict().items()}
    )
    return sam


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    """Equal parameters and buffers, those included that no checkpoint holds."""
    ours, theirs = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (a, b))
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours
    )


def refusal(file: Path) -> str:
    """The error of loading a file, without its folder."""
    with pytest.raises(SamcliError) as caught:
        weights.load_sam(file)
    assert caught.value.code == 1
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{file.parent}/", "")


class TestLoading:
    @pytest.mark.parametrize("file", ["a.pth", "a.pt", "a.safetensors", "fp16.safetensors", "old.pth"])
    def test_formats(self, tiny: nn.Module, tmp_path: Path, file: str) -> None:
        target, state = tmp_path / file, tiny.state_dict()
        if file == "old.pth":
            torch.save(state, target, _use_new_zipfile_serialization=False)
        elif target.suffix == ".safetensors":
            half = file.startswith("fp16")
            save_file(
                {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}, target
            )
        else:
            torch.save(state, target)
        sam, spec, digest = weights.load_sam(str(target))
        assert same_tensors(sam, tiny)
        assert not sam.training
        assert all(p.requires_grad for p in sam.parameters())
        assert (spec.name, spec.architecture, spec.sha256) == (file, "tiny", digest)
        assert digest == hashlib.sha256(target.read_bytes()).hexdigest()

    @pytest.mark.parametrize("name", ["vit_t", "tiny"])
    def test_building_without_initial_weights_leaves_the_rest_as_it_is(self, name: str) -> None:
        """What a checkpoint does not hold must be right before it is loaded."""
        quick, whole = weights.load._build(name), build_sam(name)
        state = whole.state_dict()
        held = [k for k, _ in whole.named_buffers() if k not in state]
        assert held
        buffers, expected = dict(quick.named_buffers()), dict(whole.named_buffers())
        assert all(torch.equal(buffers[k], expected[k]) for k in held)
        assert not any(v.is_meta for v in [*buffers.values(), *quick.parameters()])

    def test_tiny_vits_cached_biases_are_the_loaded_ones(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        whole = build_sam("vit_t")
        for name, parameter in whole.named_parameters():
            if name.endswith("attention_biases"):
                nn.init.normal_(parameter)
        torch.save(whole.state_dict(), tmp_path / "a.pt")
        sam, spec, _ = weights.load_sam(tmp_path / "a.pt")
        assert spec.architecture == "vit_t"
        assert same_tensors(sam, whole.eval())
        ours, theirs = (m.get_submodule("image_encoder.layers.1.blocks.0.attn") for m in (sam, whole))
        x = torch.randn(1, 7, 7, 128)
        with torch.no_grad():
            assert torch.equal(ours(x), theirs(x))

    def test_an_installed_model_by_name(
        self, tiny: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.mkdir(parents=True)
        file = cache / "demo.pth"
        torch.save(tiny.state_dict(), file)
        digest = weights.sha256_of(file)
        spec = model(monkeypatch, sha256=digest, size=file.stat().st_size)
        loaded = weights.load_sam("demo")
        assert same_tensors(loaded.sam, tiny)
        assert loaded[1:] == (spec, digest)

    def test_a_copy_of_a_published_file_is_that_model(
        self, tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "copy.pth"
        torch.save(tiny.state_dict(), file)
        spec = model(monkeypatch, sha256=weights.sha256_of(file), size=file.stat().st_size)
        assert weights.load_sam(file).spec == spec

    def test_a_file_has_its_architectures_mask_defaults(
        self, tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = dataclasses.replace(weights.MODELS["tiny"], automask={"points_per_side": 24})
        monkeypatch.setitem(weights.MODELS, "tiny", own)
        torch.save(tiny.state_dict(), tmp_path / "a.pth")
        assert weights.load_sam(tmp_path / "a.pth").spec.automask == {"points_per_side": 24}

    @pytest.mark.parametrize("key", ["model", "state_dict"])
    def test_wrapped(self, tiny: nn.Module, tmp_path: Path, key: str) -> None:
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
        torch.save({key: tiny.state_dict(), "epoch": 3, "optimizer": optimizer}, tmp_path / "a.pth")
        assert same_tensors(weights.load_sam(tmp_path / "a.pth").sam, tiny)

    def test_a_training_checkpoint_stands_for_its_averaged_weights(
        self, tiny: nn.Module, tmp_path: Path
    ) -> None:
        last = {k: torch.zeros_like(v) for k, v in tiny.state_dict().items()}
        torch.save({"step": 9, "model": last, "ema": tiny.state_dict()}, tmp_path / "a.pt")
        assert same_tensors(weights.load_sam(tmp_path / "a.pt").sam, tiny)

    def test_several_models_in_a_file(self, tiny: nn.Module, tmp_path: Path) -> None:
        torch.save({"student": tiny.state_dict(), "teacher": tiny.state_dict()}, tmp_path / "a.pth")
        assert (
            refusal(tmp_path / "a.pth")
            == "a.pth holds several models (student, teacher); save one of them alone"
        )

    def test_missing_unexpected_and_misshapen_keys(self, tiny: nn.Module, tmp_path: Path) -> None:
        state = tiny.state_dict()
        gone = [k for k in state if k.startswith("mask_decoder.iou_prediction_head")]
        for key in gone:
            del state[key]
        state["extra.weight"] = torch.zeros(1)
        state["mask_decoder.iou_token.weight"] = torch.zeros(1, 2)
        torch.save(state, tmp_path / "a.pth")
        shape = tuple(tiny.state_dict()["mask_decoder.iou_token.weight"].shape)
        assert len(gone) > 3
        assert refusal(tmp_path / "a.pth") == (
            f"a.pth does not fit tiny; keys {len(gone)} missing: {', '.join(gone[:3])}, ...; "
            "1 unexpected: extra.weight; "
            f"1 of another shape: mask_decoder.iou_token.weight (1, 2) not {shape}"
        )

    def test_another_network(self, tmp_path: Path) -> None:
        torch.save({"fc.weight": torch.zeros(3, 4)}, tmp_path / "a.pth")
        assert refusal(tmp_path / "a.pth").startswith(
            "a.pth is not a checkpoint of a known architecture: no tensor of a Segment Anything image "
        )
        torch.save({"epoch": 3}, tmp_path / "b.pth")
        assert refusal(tmp_path / "b.pth") == (
            "b.pth is not a checkpoint of a known architecture: no tensors are in it"
        )
        torch.save(torch.zeros(3), tmp_path / "c.pth")
        assert refusal(tmp_path / "c.pth") == "c.pth holds a Tensor, not a dictionary of tensors"

    @pytest.mark.parametrize("old", [False, True])
    def test_a_file_that_would_run_code_is_refused(self, tmp_path: Path, old: bool) -> None:
        torch.save(
            {"a": Evil(str(tmp_path / "owned"))}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old
        )
        assert refusal(tmp_path / "a.pth") == (
            f"a.pth is refused: it holds more than tensors ({os.mkdir.__module__}.mkdir), and reading that "
            "runs code from it; save its weights alone, with torch.save(model.state_dict(), FILE) or as "
            "safetensors"
        )
        assert not (tmp_path / "owned").exists()

    def test_pickled_modules_and_programs_are_refused(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
        assert "a.pth is refused: it holds more than tensors (torch.nn.modules.linear.Linear), " in refusal(
            tmp_path / "a.pth"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "b.pt")
        assert "b.pt is refused: it holds more than tensors (TorchScript), " in refusal(tmp_path / "b.pt")

    @pytest.mark.parametrize("file", ["a.pth", "a.safetensors"])
    def test_cut_off_at_any_point(self, tiny: nn.Module, tmp_path: Path, file: str) -> None:
        target = tmp_path / file
        if target.suffix == ".pth":
            torch.save(tiny.state_dict(), target)
        else:
            save_file(tiny.state_dict(), target)
        whole = target.read_bytes()
        for size in (5, 100, len(whole) // 2, len(whole) - 1):
            target.write_bytes(whole[:size])
            assert refusal(target).startswith(
                f"{file} cannot be read as a checkpoint; it is cut off, damaged or of "
            )
        target.write_bytes(b"")
        assert refusal(target) == f"{file} is empty"

    def test_old_format_cut_off(self, tmp_path: Path) -> None:
        target = tmp_path / "a.pth"
        torch.save({"a": torch.zeros(100)}, target, _use_new_zipfile_serialization=False)
        whole = target.read_bytes()
        for size in range(10, len(whole), 37):
            target.write_bytes(whole[:size])
            assert refusal(target).startswith(
                ("a.pth cannot be read as a checkpoint; ", "a.pth is refused: ")
            )

    @pytest.mark.parametrize(
        "content", [b"hello\n", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n", b"version https://git-lfs"]
    )
    def test_not_a_checkpoint(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.pth").write_bytes(content)
        assert (
            refusal(tmp_path / "a.pth") == "a.pth is not a checkpoint; give a .pth, .pt or .safetensors file"
        )

    def test_transformers_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A small ViT saved under the names that transformers gives facebook/sam-vit-*."""
        monkeypatch.setitem(ARCHITECTURES, "vit_small", registry._vit("vit_small", 48, 4, 4))
        monkeypatch.setitem(
            weights.MODELS, "small", ModelSpec("small", "vit_small", "", (), None, None, "", "")
        )
        torch.manual_seed(0)
        whole = build_sam("vit_small")
        state = {in_transformers(k): v for k, v in whole.state_dict().items()}
        assert not any(k.startswith("image_encoder") for k in state)
        positions = state["shared_image_embedding.positional_embedding"]
        state["prompt_encoder.shared_embedding.positional_embedding"] = positions.clone()
        save_file(state, tmp_path / "model.safetensors")
        sam, spec, _ = weights.load_sam(tmp_path / "model.safetensors")
        assert spec.architecture == "vit_small"
        assert same_tensors(sam, whole)
        del state["mask_decoder.iou_token.weight"]
        save_file(state, tmp_path / "model.safetensors")
        assert refusal(tmp_path / "model.safetensors") == (
            "model.safetensors does not fit vit_small; keys 1 missing: mask_decoder.iou_token.weight"
        )


def in_transformers(key: str) -> str:
    """The name transformers' SamModel has for one of ours."""
    for ours, theirs in (
        (
            r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
            "shared_image_embedding.positional_embedding",
        ),
        (r"^image_encoder\.", "vision_encoder."),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"\.blocks\.(\d+)\.norm", r".layers.\1.layer_norm"),
        (r"\.blocks\.", ".layers."),
        (r"neck\.0\.", "neck.conv1."),
        (r"neck\.1\.", "neck.layer_norm1."),
        (r"neck\.2\.", "neck.conv2."),
        (r"neck\.3\.", "neck.layer_norm2."),
        (r"point_embeddings\.", "point_embed."),
        (r"mask_downscaling\.0\.", "mask_embed.conv1."),
        (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
        (r"mask_downscaling\.3\.", "mask_embed.conv2."),
        (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
        (r"mask_downscaling\.6\.", "mask_embed.conv3."),
        (r"transformer\.layers\.(\d)\.norm", r"transformer.layers.\1.layer_norm"),
        (r"norm_final_attn", "layer_norm_final_attn"),
        (r"output_upscaling\.0\.", "upscale_conv1."),
        (r"output_upscaling\.1\.", "upscale_layer_norm."),
        (r"output_upscaling\.3\.", "upscale_conv2."),
        (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
        (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
        (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    ):
        key = re.sub(ours, theirs, key)
    return key


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)
