"""Tensors of a frozen TensorFlow graph, without TensorFlow: a GraphDef is plain protobuf.

What is read of it (TensorFlow's graph.proto, node_def.proto, attr_value.proto, tensor.proto):

    GraphDef  1 node
    NodeDef   1 name, 2 op, 5 attr: map entries of 1 key, 2 AttrValue
    AttrValue 8 tensor
    Tensor    1 dtype, 2 shape (2 dim: 1 size), 4 content, 5 floats

Nothing of the file is executed, and of its operations only the constants are looked at: which
network they belong to is for the reader to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refseg.errors import ModelError

Value = int | memoryview
FLOAT = 1  # TensorFlow's DT_FLOAT
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_constants(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 constants of a frozen graph by the names of their nodes, in the file's order.

    Raises ModelError when the file is absent, or no GraphDef from its first byte to its last.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", remedy="check the path") from None
    try:
        found = dict(_constants(data))
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError(
            f"{path} is no frozen graph: {error}", remedy="the file is broken; get it again"
        ) from None
    if not found:
        raise ModelError(f"{path} holds no constants", remedy="name a frozen inference graph")
    return found


def _constants(graph: memoryview) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for number, node in fields(graph):
        if number != 1:
            continue
        parts = list(fields(_bytes(node)))
        (name,) = (bytes(_bytes(value)).decode() for key, value in parts if key == 1)
        op = b"".join(bytes(_bytes(value)) for key, value in parts if key == 2)
        if op != b"Const":
            continue
        for tensor in (_tensor_of(_bytes(value)) for key, value in parts if key == 5):
            if tensor is not None and (array := _array(tensor)) is not None:
                yield name, array


def _tensor_of(entry: memoryview) -> memoryview | None:
    """The tensor of an attribute's map entry, if the attribute is "value"."""
    parts = dict(fields(entry))
    if bytes(_bytes(parts[1])) != b"value":
        return None
    return next((_bytes(v) for number, v in fields(_bytes(parts[2])) if number == 8), None)


def _array(tensor: memoryview) -> NDArray[np.float32] | None:
    """A float tensor; None for other types."""
    parts = list(fields(tensor))
    if dict(parts).get(1) != FLOAT:
        return None
    shape = [
        next((int(value) for key, value in fields(_bytes(dim)) if key == 1), 0)
        for number, whole in parts
        if number == 2
        for place, dim in fields(_bytes(whole))
        if place == 2
    ]
    content = b"".join(bytes(_bytes(value)) for number, value in parts if number in (4, 5))
    values = np.frombuffer(content, dtype="<f4")
    size = int(np.prod(shape, dtype=np.int64))
    if len(values) == 1 and size != 1:  # one value stands for all
        values = np.broadcast_to(values, (size,))
    if len(values) != size:
        raise ValueError(f"a tensor of shape {shape} with {len(values)} values")
    return values.reshape(shape).astype(np.float32)


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a protobuf message: (number, whole number or bytes), in order.

    Raises ValueError where the message ends inside a field, or has a field of no known type.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if at + size > len(data):
            raise ValueError(f"field {number} goes past the end")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, where the next field starts). Raises ValueError for one that does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value
