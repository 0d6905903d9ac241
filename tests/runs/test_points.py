"""The points of a run that trains: written beside its state as they are known, kept by the attempt that goes on."""

import json
from pathlib import Path

import pytest
from peft_tradeoffs.runs.status import POINTS, Attempts, Points, points_of

FIRST = {"fingerprint": "f", "started_at": "2026-01-01T00:00:00.000+00:00"}
SECOND = {**FIRST, "started_at": "2026-01-02T00:00:00.000+00:00"}


def loss(step: int) -> dict:
    return {"epoch": step / 4, "step": step, "recent_train_loss": 1 / step, "learning_rate": 1e-3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Points of steps 1 to 6, of a first attempt."""
    points = Points(tmp_path / POINTS)
    points.begin(FIRST, 0)
    for step in range(1, 7):
        points.add(loss(step))
    points.write()
    return tmp_path / POINTS


def test_points_are_appended_and_read_back(path):
    assert points_of(path) == (FIRST, [loss(step) for step in range(1, 7)])
    assert points_of(path.with_name("none")) == ({}, [])


def test_an_attempt_that_goes_on_drops_the_points_behind_its_state(path):
    points = Points(path)
    points.begin(SECOND, 4)
    for step in (5, 7):
        points.add(loss(step))
    points.write()
    assert points_of(path) == (SECOND, [loss(step) for step in (1, 2, 3, 4, 5, 7)])


def test_points_of_other_settings_are_dropped(path):
    Points(path).begin({**SECOND, "fingerprint": "another"}, 6)
    assert points_of(path)[1] == []


@pytest.mark.parametrize("rest", ['{"epoch": 2.0, "st', '[1]\n{"step": "7"}\nno JSON\n{"ste'])
def test_what_is_no_point_or_not_written_to_its_end_is_left_out(path, rest):
    path.write_text(path.read_text() + rest)
    assert points_of(path)[1] == [loss(step) for step in range(1, 7)]
    Points(path).begin(SECOND, 6)
    assert points_of(path) == (SECOND, [loss(step) for step in range(1, 7)])


def test_a_file_that_cannot_be_written_fails_nothing(tmp_path):
    (tmp_path / POINTS).mkdir()
    points = Points(tmp_path / POINTS)
    points.begin(FIRST, 0)
    points.add(loss(1))
    points.write()
    assert list((tmp_path / POINTS).iterdir()) == []


def test_points_are_written_whenever_the_status_is(tmp_path):
    attempts = Attempts(tmp_path, "f")
    attempts.begin()
    attempts.start_at(0)
    lines = []
    for step, write in enumerate((lambda: attempts.beat(0.0), attempts.write_status, lambda: attempts.end("error")), 1):
        attempts.point(loss(step))
        lines.append(len((tmp_path / POINTS).read_text().splitlines()))
        write()
    assert lines == [1, 2, 3]  # none by the training itself
    assert points_of(tmp_path / POINTS)[1] == [loss(step) for step in (1, 2, 3)]
    assert json.loads((tmp_path / POINTS).read_text().splitlines()[0])["fingerprint"] == "f"
