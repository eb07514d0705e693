"""Pickles give plain values or a DataError; nothing in them is ever run."""

from __future__ import annotations

import contextlib
import datetime
import pickle
import resource
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import malicious_pickle, python2_pickle, refer_content

from refseg.data.memo import check_memo
from refseg.data.unpickle import load_pickle
from refseg.errors import DataError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=60)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_values_of_every_protocol_come_back(
    tmp_path_factory: pytest.TempPathFactory, value: object, protocol: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_pickle(path) == value


@pytest.mark.parametrize("protocol", range(6))
def test_sets_and_bytes_come_back_where_a_protocol_has_them(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps({"ids": b"\xe9"}, protocol=protocol))
    if protocol >= 3:
        assert load_pickle(path) == {"ids": b"\xe9"}
    else:  # older protocols write bytes as a call of _codecs.encode
        with pytest.raises(DataError, match=r"_codecs\.encode"):
            load_pickle(path)
    path.write_bytes(pickle.dumps({1, 2}, protocol=4))
    assert load_pickle(path) == {1, 2}


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "ran"
    path = malicious_pickle(tmp_path / "refs(unc).p", canary, protocol=protocol)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p.*import (__builtin__|builtins)\.exec"):
        load_pickle(path)
    with pytest.raises(DataError, match=r"\.exec"):
        load_pickle(path, allow_numpy_scalars=True)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists(), "the attack must be a working one"


@pytest.mark.parametrize(
    "value", [OrderedDict(a=1), datetime.date(2020, 1, 1), np.zeros(2), Path("x"), int, len]
)
def test_any_global_is_refused_even_a_harmless_one(tmp_path: Path, value: object) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps([value]))
    for flag in (False, True):
        with pytest.raises(DataError, match="wants to import"):
            load_pickle(path, allow_numpy_scalars=flag)


def test_a_persistent_object_and_an_extension_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(b"Psomewhere\n.")
    with pytest.raises(DataError, match="persistent object"):
        load_pickle(path)
    path.write_bytes(b"\x80\x02\x82\x07.")  # EXT1, code 7
    with pytest.raises(DataError):
        load_pickle(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_truncation_is_a_data_error(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "refs(unc).p"
    whole = pickle.dumps(refer_content()[0][:1], protocol=protocol)
    for length in (*range(1, len(whole), 5), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
            load_pickle(path)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="truncated"):
        load_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",
        b"Np4294967295\n.",
        b"Np4294967295",
        b"Np4294967295\x00\n.",
        b"S'text'\np1\n(lp99999\n.",
        b"\x80\x02U\x03abcq\x00]r\x00\x00\x00\x10.",
        b"\x80\x02X\x01\x00\x00\x00rr\x00\x00\x00\x10.",
        b"\x80\x04\x8d\x01\x00\x00\x00\x00\x00\x00\x00rr\x00\x00\x00\x10.",
        b"cnumpy\ndtype\nr\x00\x00\x00\x10.",
    ],
)
def test_a_few_bytes_cannot_ask_for_gigabytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for flag in (False, True):
        with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
            load_pickle(path, allow_numpy_scalars=flag)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@settings(max_examples=100)
@given(value=PLAIN, protocol=st.integers(0, 5), number=st.integers(1_000_000, 2**32 - 1))
def test_the_walk_sees_every_opcode(value: object, protocol: int, number: int) -> None:
    whole = pickle.dumps(value, protocol=protocol)
    check_memo(whole)
    put = b"r" + number.to_bytes(4, "little")
    with pytest.raises(pickle.UnpicklingError, match=str(number)):
        check_memo(whole[:-1] + put + b".")
    check_memo(whole + put)  # after the end nothing is read


@settings(max_examples=150)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_byte_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.p"
    whole = bytearray(pickle.dumps(refer_content()[0][:1], protocol=2))
    whole[place % len(whole)] = byte
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(DataError):  # some damage only changes a value
            load_pickle(path)


def test_python2_text_is_read_as_latin1_with_one_warning(tmp_path: Path) -> None:
    path = python2_pickle(tmp_path / "train.pickle", b"caf\xe9")
    with pytest.warns(UserWarning, match="latin1") as caught:
        assert load_pickle(path) == ["café"]
    assert len(caught) == 1
    python2_pickle(path, b"left cup")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pickle(path) == ["left cup"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_numpy_numbers_only_by_flag_and_as_python_numbers(tmp_path: Path, protocol: int) -> None:
    numbers = [
        np.int64(-7), np.int32(2**31 - 1), np.uint8(200), np.float32(0.1), np.float64(-0.0),
        np.bool_(True), np.float64(1.5).astype(">f8")[()],
    ]  # fmt: skip
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps(numbers, protocol=protocol))
    with pytest.raises(DataError, match=r"numpy(\._core|\.core)?\.(multiarray\.scalar|dtype)"):
        load_pickle(path)
    loaded = load_pickle(path, allow_numpy_scalars=True)
    assert loaded == [number.item() for number in numbers]
    assert [type(value) for value in loaded] == [type(number.item()) for number in numbers]


def test_numpy_text_and_objects_are_refused_with_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps(np.str_("abc")))
    with pytest.raises(DataError, match="not a plain number"):
        load_pickle(path, allow_numpy_scalars=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"hello", "not a"),
    ],
)
def test_what_commonly_lies_in_its_place_is_named(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_pickle(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_pickle(tmp_path / "absent.p")
    with pytest.raises(DataError, match="directory"):
        load_pickle(tmp_path)
