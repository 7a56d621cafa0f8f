"""Files of detectors: the table, pulled from a server in the hub's layout, verified, found again offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import detectors
import numpy as np
import pytest
from server import FileServer, running

from samcli import weights
from samcli.errors import SamcliError, SamcliNote, WeightsError
from samcli.ground.detector import Thresholds
from samcli.ground.load import detector_spec, load_detector

NAME = "grounding-dino-tiny"
REPOSITORY = "IDEA-Research/grounding-dino-tiny"
FILES = weights.DETECTORS[NAME].files


@pytest.fixture(scope="module")
def made(random_detector: Callable[[str], Path]) -> Path:
    return random_detector("grounding-dino")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, not made yet; the Hugging Face cache empty; no waiting between tries."""
    monkeypatch.setenv("SAMCLI_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.download, "PAUSE", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def hub(server: FileServer, made: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A hub that has the tiny random Grounding DINO."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        server.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    detectors.serve(server, made, NAME)
    return server


def served(server: FileServer, file: str) -> str:
    return f"/{REPOSITORY}/resolve/main/{file}"


def failure() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamcliNote)
        with pytest.raises(WeightsError) as caught:
            weights.pull(NAME)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestTable:
    def test_every_entry_is_complete(self) -> None:
        for name, spec in weights.DETECTORS.items():
            assert name == spec.name
            assert spec.packaged != bool(spec.repository)
            assert 0 < spec.box < 1
            assert (spec.text is None) == (spec.kind != "grounding-dino")
            assert len({part.file for part in spec.parts}) == len(spec.files)
            if not spec.packaged:
                assert {"config.json", "model.safetensors"} < set(spec.files)
                assert re.fullmatch(r"[\w-]+/[\w-]+", spec.repository)

    def test_a_name_of_several_entries_is_of_some_that_are_part_of_samcli(self) -> None:
        for name in {spec.name for spec in weights.all_specs()}:
            specs = weights.specs_of(name)
            assert len(specs) == 1 or all(spec.packaged for spec in specs)
            assert len({type(spec) for spec in specs}) == len(specs)

    def test_sources(self) -> None:
        urls = [part.urls for part in weights.DETECTORS["owlv2"].parts]
        assert urls == [
            (f"hf://google/owlv2-base-patch16-ensemble/{file}",) for file in weights.DETECTORS["owlv2"].files
        ]

    def test_a_detector_is_no_model(self) -> None:
        with pytest.raises(SamcliError, match=r"^owlv2 is a detector, it draws no masks; known models: ti"):
            weights.load_sam("owlv2")

    def test_the_docs_table_says_the_same(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 7]
        expected = []
        for spec in weights.DETECTORS.values():
            source = "packaged" if spec.packaged else f"`{spec.repository}`"
            thresholds = f"{spec.box:g} / {spec.text:g}" if spec.text else f"{spec.box:g}"
            cells = (f"`{spec.name}`", spec.kind, source, spec.licence, thresholds, spec.summary)
            expected.append(f"| {' | '.join(cells)} |")
        assert rows == expected


class TestPull:
    def test_from_the_hub(self, hub: FileServer, made: Path, cache: Path, tmp_path: Path) -> None:
        folder = weights.pull(NAME)
        assert folder == weights.path(NAME) == weights.find(weights.DETECTORS[NAME])
        assert folder.is_relative_to(tmp_path / "hub" / "models--IDEA-Research--grounding-dino-tiny")
        assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
        for file in FILES:
            assert (folder / file).read_bytes() == (made / file).read_bytes()
            record = json.loads((cache / f"{NAME}.records" / f"{file}.json").read_text())
            assert record["sha256"] == weights.sha256_of(made / file)
            assert record["source"] == f"hf://{REPOSITORY}/{file}"
        found = weights.verify(NAME)
        digests = {file: weights.sha256_of(made / file) for file in FILES}
        assert found == (folder, weights.sha256_of_all(digests), "recorded")
        assert weights.installed(weights.DETECTORS[NAME]) == (folder, found.sha256)

    def test_what_is_there_and_sound_asks_nobody(self, hub: FileServer) -> None:
        folder = weights.pull(NAME)
        asked = len(hub.asked)
        assert weights.pull(NAME) == folder
        load_detector(NAME, device="cpu")
        assert len(hub.asked) == asked

    def test_loaded_by_name(self, hub: FileServer, made: Path) -> None:
        weights.pull(NAME)
        detector = load_detector(NAME, device="cpu")
        assert (detector.name, detector.sha256) == (NAME, weights.verify(NAME).sha256)
        image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        (found,) = detector.detect([image], ["cat", "car"], Thresholds(0.3, 0.25))
        (same,) = load_detector(str(made), device="cpu").detect(
            [image], ["cat", "car"], Thresholds(0.3, 0.25)
        )
        assert len(found) > 5
        assert (found.boxes == same.boxes).all()

    def test_owlv2(self, hub: FileServer, random_detector: Callable[[str], Path]) -> None:
        """Its tokenizer comes as a list of words and one of merges."""
        detectors.serve(hub, random_detector("owlv2"), "owlv2")
        weights.pull("owlv2")
        image = np.zeros((60, 90, 3), np.uint8)
        assert len(load_detector("owlv2", device="cpu").detect([image], ["cat"], Thresholds(0.0, 0.0))[0]) > 5

    def test_a_missing_file(self, hub: FileServer) -> None:
        del hub.files[served(hub, "model.safetensors")]
        assert failure().startswith(
            f"{NAME} could not be downloaded; tried hf://{REPOSITORY}/model.safetensors: Client error '404 "
        )
        assert weights.find(weights.DETECTORS[NAME]) is None

    def test_a_damaged_file_is_told_and_pulled_anew(self, hub: FileServer, made: Path) -> None:
        file = weights.pull(NAME) / "model.safetensors"
        size = file.stat().st_size
        file.resolve().write_bytes(bytes(size))
        message = (
            f"{file} is damaged: its sha256 is {weights.sha256_of(file)}, not "
            f"{weights.sha256_of(made / 'model.safetensors')} as first pulled (says "
        )
        remedy = f"; get it anew with: samcli models pull {NAME}"
        for call in (lambda: weights.verify(NAME), lambda: load_detector(NAME, device="cpu")):
            with pytest.raises(WeightsError) as caught:
                call()
            assert str(caught.value).startswith(message)
            assert str(caught.value).endswith(remedy)
        with pytest.warns(SamcliNote, match=r"model\.safetensors is damaged: .*; getting it anew$"):
            weights.pull(NAME)
        assert file.read_bytes() == (made / "model.safetensors").read_bytes()

    def test_a_file_cut_short(self, hub: FileServer) -> None:
        file = weights.pull(NAME) / "tokenizer.json"
        size = file.stat().st_size
        file.resolve().write_bytes(b"{}")
        with pytest.raises(WeightsError, match=rf"tokenizer\.json is damaged: 2 bytes, not {size}; get"):
            load_detector(NAME, device="cpu")

    def test_a_changed_file_is_refused(
        self, hub: FileServer, made: Path, cache: Path, tmp_path: Path
    ) -> None:
        weights.pull(NAME)
        shutil.rmtree(tmp_path / "hub")
        hub.add_to_hub(REPOSITORY, "config.json", b"{}")
        record = cache / f"{NAME}.records" / "config.json.json"
        assert failure() == (
            f"{NAME} could not be downloaded; tried hf://{REPOSITORY}/config.json: its sha256 is "
            f"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, not "
            f"{weights.sha256_of(made / 'config.json')} as first pulled (says {record})"
        )

    def test_from_a_mirror(
        self, server: FileServer, made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for file in FILES:
            server.add(f"/m/{NAME}/{file}", (made / file).read_bytes())
        monkeypatch.setenv("SAMCLI_MODELS_MIRROR", server.address + "/m/")
        assert weights.pull(NAME) == cache / NAME
        assert sorted(file.name for file in (cache / NAME).iterdir()) == sorted(FILES)
        assert weights.verify(NAME).against == "recorded"
        load_detector(NAME, device="cpu")

    def test_laid_there_by_hand(self, made: Path, cache: Path) -> None:
        shutil.copytree(made, cache / NAME)
        assert weights.verify(NAME).path == cache / NAME
        assert weights.verify(NAME).against == "recorded"
        load_detector(NAME, device="cpu")
        (cache / NAME / "config.json").write_text("{}")
        with pytest.raises(
            WeightsError, match=r"config\.json is damaged: 2 bytes, not \d+; get it anew with: "
        ):
            load_detector(NAME, device="cpu")

    def test_a_mirror_that_lacks_a_file_gives_way_to_the_hub(
        self, hub: FileServer, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for file in FILES[:-1]:
            hub.add(f"/m/{NAME}/{file}", (made / file).read_bytes())
        monkeypatch.setenv("SAMCLI_MODELS_MIRROR", hub.address + "/m")
        assert weights.pull(NAME).is_relative_to(tmp_path / "hub")

    def test_the_next_pull_asks_for_the_rest_only(
        self, server: FileServer, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("SAMCLI_MODELS_MIRROR", server.address)
        for file in FILES[:-1]:
            server.add(f"/{NAME}/{file}", (made / file).read_bytes())
        assert "HTTP 404 Not Found" in failure()
        server.add(f"/{NAME}/{FILES[-1]}", (made / FILES[-1]).read_bytes())
        server.asked.clear()
        weights.pull(NAME)
        assert [path for _, path, _ in server.asked] == [f"/{NAME}/{FILES[-1]}"]

    @pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
    def test_a_login_page_is_not_taken(
        self, server: FileServer, made: Path, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("SAMCLI_MODELS_MIRROR", server.address)
        for name in FILES:
            server.add(f"/{NAME}/{name}", (made / name).read_bytes())
        url = server.add(f"/{NAME}/{file}", b"<html>please log in</html>")
        kind = "a safetensors" if file.endswith("safetensors") else "a JSON"
        assert f"tried {url}: it is not {kind} file (" in failure()


def test_not_installed() -> None:
    for call in (lambda: weights.path(NAME), lambda: load_detector(NAME, device="cpu")):
        with pytest.raises(WeightsError) as caught:
            call()
        assert str(caught.value) == f"{NAME} is not installed; get it with: samcli models pull {NAME}"
        assert caught.value.code == 4
    assert detector_spec(NAME).licence == "Apache-2.0"


class TestCommands:
    def test_pull_verify_path_list(
        self, samcli: Callable[..., tuple[int, str, str]], hub: FileServer, tmp_path: Path
    ) -> None:
        code, out, err = samcli("models", "pull", NAME)
        assert (code, err) == (0, "")
        folder = Path(out.strip())
        assert folder.is_relative_to(tmp_path / "hub")
        assert samcli("models", "path", NAME) == (0, f"{folder}\n", "")
        sha256 = weights.verify(NAME).sha256
        sound = f"{NAME}: sound, sha256 {sha256} (as first pulled)\n"
        assert samcli("models", "verify", NAME) == (0, sound, "")
        assert sound in samcli("models", "verify")[1]
        size = sum(file.stat().st_size for file in folder.iterdir())
        row = rf"{NAME} +grounding-dino +{weights.format_size(size)} +Apache-2\.0 +yes"
        assert re.search(row, samcli("models")[1])
        facts = [json.loads(line) for line in samcli("models", "--json")[1].splitlines()]
        (mine,) = (one for one in facts if one["name"] == NAME)
        assert (mine["kind"], mine["bytes"], mine["file"]) == ("detector", size, str(folder))
        assert mine["sources"] == [f"hf://{REPOSITORY}/{file}" for file in FILES]

    def test_not_installed(self, samcli: Callable[..., tuple[int, str, str]]) -> None:
        line = f"error: {NAME} is not installed; get it with: samcli models pull {NAME}\n"
        assert samcli("models", "path", NAME) == (4, "", line)
        assert samcli("models", "verify", NAME) == (4, "", line)


def test_pulled_by_one_process_and_used_offline_by_another(
    server: FileServer, made: Path, tmp_path: Path
) -> None:
    """HF_ENDPOINT and HF_HOME are read on import, so in processes; afterwards the server is gone."""
    detectors.serve(server, made, NAME)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SAMCLI_"))
    }
    environment |= {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": server.address,
        "SAMCLI_HOME": str(tmp_path / "home"),
        "HF_HUB_ETAG_TIMEOUT": "60",  # for a busy machine
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
    }

    def run(*command: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("-m", "samcli", "models", "pull", NAME)
    assert (code, err) == (0, "")
    assert Path(out.strip()).is_relative_to(tmp_path / "hf")
    asked = len(server.asked)
    server.files.clear()
    script = tmp_path / "use.py"
    script.write_text(
        "import socket, sys\n"
        "def refuse(*args, **options): raise AssertionError('the network was used')\n"
        "socket.socket.connect = refuse\n"
        "import numpy\n"
        "from samcli.ground.detector import Thresholds\n"
        "from samcli.ground.load import load_detector\n"
        f"detector = load_detector('{NAME}', device='cpu')\n"
        "image = numpy.zeros((60, 90, 3), numpy.uint8)\n"
        "print(len(detector.detect([image], ['cat', 'car'], Thresholds(0, 0))[0]))\n"
    )
    code, out, err = run(str(script))
    assert (code, err) == (0, "")
    assert int(out) > 5
    assert len(server.asked) == asked


def test_listing_does_not_import_transformers() -> None:
    code = (
        "import sys; from samcli.cli import main; main(['models']); main(['models', '--help'])\n"
        "print({'transformers', 'torch'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"
