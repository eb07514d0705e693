"""Constants of a frozen graph: messages written by hand here, byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import ModelError
from refseg.nn.graphdef import fields, read_constants

Parts = list[tuple[int, int | bytes | float]]


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last are marked."""
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def message(*parts: tuple[int, int | bytes]) -> bytes:
    out = b""
    for number, value in parts:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def tensor(values: list[float], shape: list[int], *, dtype: int = 1, packed: bool = False) -> bytes:
    dims = message(*((2, message((1, size))) for size in shape))
    content = struct.pack(f"<{len(values)}f", *values)
    if packed:
        return message((1, dtype), (2, dims), (5, content))
    return message((1, dtype), (2, dims), (4, content))


def node(name: str, op: str, value: bytes | None) -> bytes:
    parts: list[tuple[int, int | bytes]] = [(1, name.encode()), (2, op.encode()), (3, b"input")]
    kind = message((1, b"dtype"), (2, message((6, 1))))
    parts.append((5, kind))
    if value is not None:
        parts.append((5, message((1, b"value"), (2, message((8, value))))))
    return message(*parts)


def graph(*nodes: bytes) -> bytes:
    versions = message((1, 26))
    return message(*((1, one) for one in nodes), (4, versions))


def test_float_constants_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(
        graph(
            node("weights", "Const", tensor([1, 2, 3, 4, 5, 6], [2, 3])),
            node("one value for all", "Const", tensor([0.5], [4])),
            node("field of floats", "Const", tensor([7, 8], [2], packed=True)),
            node("scalar", "Const", tensor([9], [])),
            node("whole numbers", "Const", tensor([1], [1], dtype=3)),
            node("no tensor", "Const", None),
            node("conv", "Conv2D", tensor([1], [1])),
        )
    )
    found = read_constants(path)
    assert list(found) == ["weights", "one value for all", "field of floats", "scalar"]
    np.testing.assert_array_equal(found["weights"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found["one value for all"], [0.5] * 4)
    np.testing.assert_array_equal(found["field of floats"], [7, 8])
    assert found["scalar"] == 9
    assert found["scalar"].shape == ()
    assert {one.dtype for one in found.values()} == {np.dtype(np.float32)}


@given(
    st.lists(
        st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary()))
    )
)
def test_fields_come_back(parts: list[tuple[int, int | bytes]]) -> None:
    found = [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in fields(memoryview(message(*parts)))
    ]
    assert found == parts


def test_fixed_widths_are_stepped_over() -> None:
    data = varint(1 << 3 | 5) + b"abcd" + varint(2 << 3 | 1) + b"abcdefgh" + message((3, 4))
    assert [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(memoryview(data))] == [
        (1, b"abcd"), (2, b"abcdefgh"), (3, 4)
    ]  # fmt: skip


WHOLE = graph(node("weights", "Const", tensor([1, 2, 3, 4], [4])))


@pytest.mark.parametrize("length", range(1, len(WHOLE) - 4))
def test_a_file_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.pb"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ModelError, match=r"cut\.pb is no frozen graph") as caught:
        read_constants(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no constants"),
        (b"\x80" * 11, "a number of more than ten bytes"),
        (varint(1 << 3 | 3), "unknown wire type 3"),
        (graph(node("w", "Const", tensor([1, 2], [3]))), r"shape \[3\] with 2 values"),
        (message((1, 5)), "a number where a message is expected"),
        (graph(node("conv", "Conv2D", None)), "holds no constants"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=told):
        read_constants(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*gone\.pb"):
        read_constants(tmp_path / "gone.pb")
