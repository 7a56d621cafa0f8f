"""Record files: their exact text, the way back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samcli.errors import SamcliError
from samcli.formats.record import (
    Head,
    config_hash,
    difference,
    read_error,
    read_head,
    read_record,
    record_text,
    write_error,
    write_record,
)
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
    relative, reason = PurePosixPath("sub/猫.jpg"), "sub/猫.jpg is empty (0 bytes)"
    write_error(tmp_path / "a.error.json", RUN, relative, None, reason)
    assert read_error(tmp_path / "a.error.json") == Head(RUN, str(relative), None, reason)
    assert (tmp_path / "a.error.json").read_text(encoding="utf-8") == (
        '{"samcli": {"schema": 1, "command": "automask", "version": "0.1.0", "model": "tiny", '
        '"weights_sha256": "ab12", "config": {"points_per_side": 32, "thresholds": [0.5, null]}, '
        '"config_hash": "cd34", "input": {"path": "sub/猫.jpg"}},\n'
        ' "error": "sub/猫.jpg is empty (0 bytes)"}\n'
    )
    source = InputFile("sub/猫.jpg", 5, "ab")
    write_error(tmp_path / "a.error.json", RUN, relative, source, "why")
    assert read_error(tmp_path / "a.error.json") == Head(RUN, source.path, source, "why")


def test_the_head_is_read_from_the_first_line_alone(tmp_path):
    path, record = tmp_path / "a.json", a_record(a_mask())
    write_record(path, record)
    assert read_head(path) == Head(record.run, record.input.path, record.input)
    text = record_text(record)
    lines = text.splitlines(keepends=True)
    path.write_text(lines[0] + "no JSON at all" + lines[-1])
    assert read_head(path) == Head(record.run, record.input.path, record.input)


@pytest.mark.parametrize("length", [0, 5, 30, 300, -3, -2, -1])
def test_half_a_record_is_none(tmp_path, length):
    (tmp_path / "a.json").write_text(record_text(a_record(a_mask()))[:length])
    assert read_head(tmp_path / "a.json") is None
    assert read_head(tmp_path / "no.json") is None


@pytest.mark.parametrize("text", ["{}", '{"shapes": []}\n', "[]", "\n", "\0\0\0"])
def test_a_file_of_someone_else_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SamcliError, match=r"is not a record of samcli; choose another output, or add --over"):
        read_head(path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b'{"error": 1}', b'{"samcli": {}, "error": "x"}']
)
def test_what_is_no_note_of_failure_is_none(tmp_path, data):
    (tmp_path / "a.error.json").write_bytes(data)
    assert read_error(tmp_path / "a.error.json") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"version": "9", "config": {"x": 2}}, ""),
        ({"config_hash": "1", "command": "predict"}, "made by predict, not automask"),
        (
            {"config_hash": "1", "weights_sha256": "1", "model": "vit_b"},
            "made with the model vit_b, not tiny",
        ),
        (
            {"config_hash": "1", "weights_sha256": "1"},
            "made with the model tiny, other weights of that name",
        ),
        (
            {
                "config_hash": "1",
                "config": {"points_per_side": 8, "thresholds": [0.5, None], "dtype": "bf16"},
            },
            "made with points_per_side 8, not 32; dtype bf16, not unset",
        ),
        ({"config_hash": "1", "config": {**RUN.config, "prompts": [1]}}, "made with other prompts"),
        (
            {"config_hash": "1", "config": dict.fromkeys("abcde", 0.25)},
            "made with points_per_side unset, not 32; thresholds unset, not [0.5, None]; a 0.25, not unset "
            "and 4 more",
        ),
    ],
)
def test_what_differs_is_said(changes, said):
    assert difference(replace(RUN, **changes), RUN) == said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{path} does not exist; check the path"),
        ("{}", "{path}: not a samcli record: 'annotations' is missing"),
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
    base = config_hash("automask", "ab", {"a": 1, "b": [0.5]})
    assert base == config_hash("automask", "ab", {"b": [0.5], "a": 1})
    others = [
        config_hash("ground", "ab", {"a": 1, "b": [0.5]}),
        config_hash("automask", "ac", {"a": 1, "b": [0.5]}),
        config_hash("automask", "ab", {"a": 1, "b": [0.6]}),
    ]
    assert len({base, *others}) == 4
