from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from refseg.train import progress
from refseg.train.log import JsonLog, read_log
from refseg.train.progress import Counting, _Lines, duration, make_progress


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = JsonLog(path, step=0)
    for step in (1, 2, 3, 4):
        first.write({"kind": "train", "step": step})
    with path.open("a") as stream:
        stream.write('{"kind": "train", "st')  # torn by a crash
    second = JsonLog(path, step=2)
    second.write({"kind": "train", "step": 3})
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 2, 3]


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\nnot json\n[3]\n{"step": 2}\n\xff\xfe\n{"step": 3}')
    assert [line["step"] for line in read_log(path)] == [1, 2]
    assert read_log(tmp_path / "absent") == []


def test_plain_lines_say_what_is_left() -> None:
    now = [0.0]
    stream = io.StringIO()
    lines = _Lines(100, 10, stream, every_s=30, clock=lambda: now[0])
    for step in range(11, 31):
        now[0] += 10
        lines.step(step, 0.5, 12.0)
    told = stream.getvalue().splitlines()
    assert len(told) == 6  # 200 s, a line every 30 s
    assert told[0] == "step 13/100  loss 0.5000  12.0/s  14m30s left"


class Display:
    """Remembers what it is told."""

    def __init__(self, start: int) -> None:
        self.told: list[object] = [("start", start)]

    def step(self, done: int, loss: float | None, samples_per_s: float) -> None:
        assert loss is None
        self.told.append((done, samples_per_s))

    def note(self, text: str) -> None:
        self.told.append(text)

    def close(self) -> None:
        self.told.append("closed")


def test_counting_finds_the_rate_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = [100.0], []

    def make(mode: str, total: int, start: int) -> Display:
        assert (mode, total) == ("lines", 50)
        made.append(Display(start))
        return made[-1]

    monkeypatch.setattr(progress, "make_progress", make)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    counting = Counting("lines", "looking at pictures")
    counting.close()  # nothing was begun, nothing is shown
    assert made == []
    for done in (20, 24, 40):  # twenty were done by an earlier start
        counting(done, 50)
        now[0] += 2
    counting.close()
    told = [("start", 20), "looking at pictures", (20, 0.0), (24, 2.0), (40, 5.0), "closed"]
    assert [one.told for one in made] == [told]


def test_counting_to_nowhere_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    counting = Counting("none", "about")
    counting(1, 1)
    counting.close()
    assert capsys.readouterr() == ("", "")


def test_modes(capsys: pytest.CaptureFixture[str]) -> None:
    make_progress("none", 10, 0).step(10, 1.0, 1.0)
    assert capsys.readouterr().err == ""
    stream = io.StringIO()
    make_progress("auto", 10, 0, stream).step(10, None, 1.0)
    assert stream.getvalue().startswith("step 10/10")
    bar = make_progress("bar", 10, 0)
    bar.step(3, 0.25, 7.0)
    bar.note("half way")
    bar.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert "half way" in told.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (11_100, "3h05m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
