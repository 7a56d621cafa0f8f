"""Record files: their exact text, the way back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samcli.errors import SamcliError
from samcli.formats.record import config_hash, read_record, record_text, write_error, write_record
from samcli.records import ImageRecord, InputFile, MaskRecord, Run

RUN = Run("automask", "0.1.0", "tiny", "ab12", {"points_per_side": 32, "thresholds": [0.5, None]}, "cd34")


def a_mask(**changes: object) -> MaskRecord:
    fields = {
        "segmentation": {"size": [5, 7], "counts": "62221N"},
        "bbox": (2, 1, 4, 2),
        "area": 8,
        "predicted_iou": 0.9,
        "stability_score": 0.95,
    }
    return MaskRecord(**{**fields, **changes})


def a_record(*masks: MaskRecord, name: str = "sub/猫 b.jpg") -> ImageRecord:
    return ImageRecord(RUN, InputFile(name, 123, "ef56"), 42, 7, 5, Path(name).name, masks)


def test_the_text_of_a_record(tmp_path):
    record = a_record(a_mask(id=0, point_coords=((3.5, 2.0),), crop_box=(0, 0, 7, 5)), a_mask(id=1))
    path = tmp_path / "sub" / "a.json"
    write_record(path, record)
    assert path.read_text(encoding="utf-8") == (
        '{"samcli": {"schema": 1, "command": "automask", "version": "0.1.0", "model": "tiny", '
        '"weights_sha256": "ab12", "config": {"points_per_side": 32, "thresholds": [0.5, null]}, '
        '"config_hash": "cd34", "input": {"path": "sub/猫 b.jpg", "bytes": 123, "sha256": "ef56"}},\n'
        ' "image": {"image_id": 42, "width": 7, "height": 5, "file_name": "猫 b.jpg"},\n'
        ' "annotations": [\n'
        '  {"id": 0, "segmentation": {"size": [5, 7], "counts": "62221N"}, "bbox": [2, 1, 4, 2], "area": 8, '
        '"predicted_iou": 0.9, "stability_score": 0.95, "point_coords": [[3.5, 2.0]], '
        '"crop_box": [0, 0, 7, 5]},\n'
        '  {"id": 1, "segmentation": {"size": [5, 7], "counts": "62221N"}, "bbox": [2, 1, 4, 2], "area": 8, '
        '"predicted_iou": 0.9, "stability_score": 0.95}]}\n'
    )
    assert read_record(path) == record


def test_a_record_without_masks():
    assert record_text(a_record()).endswith(',\n "annotations": []}\n')


def test_the_first_line_is_the_whole_head():
    first = record_text(a_record(a_mask())).splitlines()[0]
    assert json.loads(first.rstrip(",") + "}") == {"samcli": a_record().to_json()["samcli"]}


def test_the_text_is_the_same_every_time():
    assert record_text(a_record(a_mask())) == record_text(a_record(a_mask()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(), min_size=1),
    score=st.floats(allow_nan=False, allow_infinity=False),
    phrase=st.text(st.characters()),
)
def test_records_survive_the_file(tmp_path, name, score, phrase):
    """Also names that are not text: undecodable bytes reach Python as lone surrogates."""
    record = a_record(a_mask(score=score, phrase=phrase), name=name)
    write_record(tmp_path / "a.json", record)
    assert read_record(tmp_path / "a.json") == record


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(tmp_path / "a.json", a_record(a_mask(predicted_iou=float("nan"))))
    assert list(tmp_path.iterdir()) == []


def test_error_file(tmp_path):
    write_error(tmp_path / "a.error.json", RUN, "sub/猫.jpg", "sub/猫.jpg is empty (0 bytes)")
    assert (tmp_path / "a.error.json").read_text(encoding="utf-8") == (
        '{"samcli": {"schema": 1, "command": "automask", "version": "0.1.0", "model": "tiny", '
        '"weights_sha256": "ab12", "config": {"points_per_side": 32, "thresholds": [0.5, null]}, '
        '"config_hash": "cd34", "input": {"path": "sub/猫.jpg"}},\n'
        ' "error": "sub/猫.jpg is empty (0 bytes)"}\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{path} does not exist; check the path"),
        ("{}", "{path}: not a samcli record: 'samcli' is missing"),
        ("[1]", "{path}: not a samcli record: list indices must be integers or slices, not str"),
        (
            record_text(a_record()).replace('"schema": 1', '"schema": 9'),
            "{path}: record schema 9 is unknown; ",
        ),
        (record_text(a_record(a_mask()))[:-20], "{path} is not a samcli record: "),
        ("\udcff", "{path} is not a samcli record: "),
        ('{"samcli": NaN}', "{path}: not a samcli record: "),
    ],
)
def test_bad_record_files(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SamcliError) as caught:
        read_record(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_record(tmp_path):
    with pytest.raises(SamcliError) as caught:
        read_record(tmp_path)
    assert str(caught.value) == f"{tmp_path} cannot be read: Is a directory; check the path"


def test_config_hash_covers_all_and_ignores_the_order():
    base = config_hash("automask", "ab", {"a": 1, "b": [0.5]}, "fp32")
    assert base == config_hash("automask", "ab", {"b": [0.5], "a": 1}, "fp32")
    others = [
        config_hash("ground", "ab", {"a": 1, "b": [0.5]}, "fp32"),
        config_hash("automask", "ac", {"a": 1, "b": [0.5]}, "fp32"),
        config_hash("automask", "ab", {"a": 1, "b": [0.6]}, "fp32"),
        config_hash("automask", "ab", {"a": 1, "b": [0.5]}, "bf16"),
    ]
    assert len({base, *others}) == 5
