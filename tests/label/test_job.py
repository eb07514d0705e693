"""Kill -9 anywhere, any number of workers, start again: the bytes of a job left alone."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.catalog import open_data
from refseg.data.unpickle import load_pickle
from refseg.errors import RunError
from refseg.label import LabelOptions, label
from refseg.label import job as label_job
from refseg.label.job import read_job, read_shard
from refseg.label.output import write_pickled_list
from refseg.types import Labels
from tests.label.conftest import draw
from tests.label.killable import attempt

Options = Callable[..., LabelOptions]


@pytest.fixture
def options(teacher: Path) -> Options:
    def make(**changes: Any) -> LabelOptions:
        given: dict[str, Any] = {
            "model": str(teacher), "task": "expressions", "data": "scenes", "out": Path("taught"),
            "filter": "none", "shard_images": 4, **changes,
        }  # fmt: skip
        return LabelOptions(**given)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    """Every file; nothing half-written may be among them."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert not [name for name in found if name.endswith(".tmp")]
    return {name: path.read_bytes() for name, path in found.items() if "images/" not in name}


# -- kill -9 ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_every_write_in_a_row(options: Options, request: Any) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refseg.label", "refseg.data.catalog"])

    def start(passed: int | None, torn: bool) -> int:
        child = context.Process(target=attempt, args=(options().to_json(), passed, torn))
        child.start()
        child.join(1000)  # the first waits for all imports
        assert child.exitcode is not None
        return int(child.exitcode)

    kills = 0
    for passed in (0, 1, 2, 1, 2, 2, 2, 1, 1, 1):
        code = start(passed, torn=kills % 2 == 0)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert start(None, torn=False) == 0
    assert kills > 5
    request.getfixturevalue("writer")
    label(options(out=Path("alone")), workers=1)
    assert contents(Path("taught")) == contents(Path("alone"))
    assert read_job(Path("alone")).shards > 3


@pytest.mark.slow
def test_three_workers_killed_then_one(options: Options, teacher: Path) -> None:
    """Both kinds of start make shards; all have the bytes that one process alone gives them."""
    words = ["--with", teacher, "--task", "masks", "--data", "scenes", "--out", "taught"]
    command = [sys.executable, "-m", "refseg", "label", *map(str, words)]
    child = subprocess.Popen([*command, "--workers", "3", "--shard-images", "1"])
    while child.poll() is None and len(list(Path("taught/shards").glob("*.jsonl"))) < 5:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    result = label(options(task="masks", shard_images=1), workers=1)
    assert 5 <= result.found < result.shards
    label(options(task="masks", shard_images=1, out=Path("alone")), workers=1)
    assert contents(Path("taught")) == contents(Path("alone"))
    assert len(open_data("taught", "train", Labels())) == result.asked


@pytest.mark.slow
def test_two_that_write_killed_then_two(author: Path, tmp_path: Path) -> None:
    """A network's own sentences: the same bytes from two workers, killed once, and from one."""
    data = draw(tmp_path / "drawn", 24)
    words = ["--with", author, "--task", "expressions", "--data", data, "--filter", "none"]
    command = [sys.executable, "-m", "refseg", "label", *map(str, words), "--out", "taught"]
    child = subprocess.Popen([*command, "--workers", "2", "--shard-images", "1"])
    while child.poll() is None and len(list(Path("taught/shards").glob("*.jsonl"))) < 4:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    given = LabelOptions(
        model=str(author), task="expressions", data=str(data), out=Path("taught"), filter="none",
        shard_images=1,
    )  # fmt: skip
    result = label(given, workers=2)
    assert 4 <= result.found < result.shards == 24
    label(replace(given, out=Path("alone")), workers=1)
    assert contents(Path("taught")) == contents(Path("alone"))
    # What is compared depends on the picture and the object.
    lines = [line for number in range(24) for line in read_shard(read_job(Path("taught")), number)]
    scores = {told["score"] for line in lines for told in line["expressions"]}
    assert len(scores) > 24


# -- resuming ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("writer")
def test_a_finished_job_is_found_and_left(options: Options) -> None:
    first = label(options(), workers=1)
    before = {path: path.stat().st_mtime_ns for path in Path("taught").rglob("*")}
    told: list[tuple[int, int]] = []
    again = label(options(), workers=1, progress=lambda *step: told.append(step))
    assert (first.found, again.found) == (0, again.shards)
    assert again.counts == first.counts
    assert told == [(again.images, again.images)]
    kept = [p for p in before if p.name not in ("job.json", "taught", ".lock")]
    assert [p for p in kept if p.stat().st_mtime_ns != before[p]] == []


@pytest.mark.usefixtures("writer")
def test_sizes_of_objects_are_looked_at_first(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refseg.label.asked.LOOKS", 2)
    told: list[tuple[str, int, int]] = []
    result = label(
        options(filter="area", min_area=0),
        workers=1,
        progress=lambda *step: told.append(("pictures", *step)),
        looked=lambda *step: told.append(("objects", *step)),
    )
    objects = [step for step in told if step[0] == "objects"]
    total = result.asked
    assert objects == [("objects", n, total) for n in (*range(2, total, 2), total)]
    assert told[: len(objects)] == objects
    again: list[Any] = []
    label(options(filter="area", min_area=0), workers=1, looked=lambda *step: again.append(step))
    assert again == []  # the plan is kept


@pytest.mark.usefixtures("writer")
def test_progress_counts_every_image_once(options: Options) -> None:
    told: list[tuple[int, int]] = []
    result = label(options(pictures_at_once=3), workers=1, progress=lambda *step: told.append(step))
    done = [step for step, _ in told]
    assert done == sorted(set(done))
    assert (done[0], done[-1]) == (0, result.images)
    assert {total for _, total in told} == {result.images}


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace("ball", "bull", 1).replace("cube", "cubes", 1),
        lambda text: "\n".join(text.split("\n")[1:]),
        lambda text: text.split("\n")[0] + "\n" + text,
    ],
    ids=["half", "empty", "changed", "one lost", "one doubled"],
)
def test_a_torn_shard_is_noticed_and_made_again(
    options: Options, damage: Callable[[str], str]
) -> None:
    label(options(), workers=1)
    whole = contents(Path("taught"))
    path = Path("taught/shards/00001.jsonl")
    path.write_text(damage(path.read_text()))
    assert contents(Path("taught")) != whole
    with pytest.raises(RunError, match="00001"):
        read_shard(read_job(Path("taught")), 1)
    again = label(options(), workers=1)
    assert again.found == again.shards - 1
    assert contents(Path("taught")) == whole


@pytest.mark.usefixtures("writer")
def test_a_lost_plan_and_data_set_are_made_again(options: Options) -> None:
    label(options(), workers=1)
    whole = contents(Path("taught"))
    for name in ("plan.jsonl", "instances.json", "refs(refseg).p"):
        Path("taught", name).unlink()
    label(options(), workers=1)
    assert contents(Path("taught")) == whole


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beams": 4}, "options.beams: 3 there, 4 now"),
        ({"shard_images": 5}, "options.shard_images"),
        ({"exclude_images": frozenset({1})}, "options.exclude_images"),
        ({"data": "scenes+"}, "source"),
        ({"weight": 1.0}, "options.weight: 0.1 there, 1.0 now"),
    ],
)
def test_another_job_in_the_folder(options: Options, changes: dict[str, Any], named: str) -> None:
    label(options(limit=2), workers=1)
    before = contents(Path("taught"))
    with pytest.raises(RunError, match="holds another job") as error:
        label(options(limit=2, **changes), workers=1)
    assert named in str(error.value)
    assert contents(Path("taught")) == before


@pytest.mark.usefixtures("writer")
def test_folders_of_others_are_left_alone(options: Options) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("all of it")
    with pytest.raises(RunError, match="not empty"):
        label(options(out=Path("mine")), workers=1)
    with pytest.raises(RunError, match="is a file"):
        label(options(out=Path("mine/thesis.txt")), workers=1)
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("writer")
def test_two_starts_at_once(options: Options) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from refseg.train.lock import run_lock\n"
        "with run_lock(Path('taught')): print('held', flush=True); time.sleep(60)"
    )
    label(options(limit=2), workers=1)
    child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(RunError, match="another process is labelling in taught"):
            label(options(limit=2), workers=1)
    finally:
        child.kill()
        child.communicate()


@pytest.mark.usefixtures("writer")
def test_a_disk_without_links_leaves_nothing(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(RunError, match="link to the images"):
        label(options(out=Path("new/taught")), workers=1)
    assert not Path("new").exists()


@pytest.mark.usefixtures("writer")
def test_the_folder_may_move_with_its_images(options: Options, sandbox: Path) -> None:
    label(options(limit=2), workers=1)
    assert not label_job.Path("taught/images").readlink().is_absolute()
    whole = open_data("taught", "train", Labels())[0].image
    Path("taught").rename("moved")
    assert (open_data("moved", "train", Labels())[0].image == whole).all()


# -- the pickle that is written in parts --------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(plain, max_size=6))
def test_a_list_pickled_in_parts_reads_as_the_list(values: list[Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.p"
        with path.open("wb") as stream:
            write_pickled_list(stream, iter(values))
        expected = json.loads(json.dumps(values))
        assert pickle.loads(path.read_bytes()) == expected
        assert load_pickle(path) == expected
