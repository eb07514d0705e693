"""Read annotation pickles without ever running what is in them.

A pickle is a small program; its only way to reach code is to name a global. `load_pickle` refuses
every global, so what it returns is made of dicts, lists, tuples, sets, numbers, text and bytes
alone. That is enough for the REFER family's refs(<by>).p, TRIS's ReferIt files and PolyFormer's
image lists. NumPy numbers can be let in by a flag; they arrive as Python numbers, made here,
not by NumPy's own reconstruction.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from refseg.data.memo import check_memo
from refseg.errors import DataError

# What a pickled NumPy number names (the module moved in NumPy 2), and bytes in protocol 0 to 2.
NUMPY_SCALAR_GLOBALS = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }
)


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle names something to import. name: module.qualname."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def load_pickle(path: str | Path, *, allow_numpy_scalars: bool = False) -> Any:
    """The content of a pickle of plain values, protocols 0 to 5.

    Text written by Python 2 is read as ASCII first, then, with a UserWarning, as latin1.
    Raises DataError for a missing, empty, truncated or broken file and for one that names a
    global, or asks for far more memory than its size; nothing in it is executed in any case.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            _refuse_foreign(path, file)
            check_memo(file.read())
            file.seek(0)
            try:
                return _load(file, "ASCII", allow_numpy_scalars)
            except UnicodeDecodeError:
                warnings.warn(
                    f"{path}: text that is not ASCII, written by Python 2; read as latin1",
                    stacklevel=2,
                )
                file.seek(0)
                return _load(file, "latin1", allow_numpy_scalars)
    except ForbiddenGlobal as error:
        raise DataError(
            f"{path}: refused: the pickle wants to import {error.name}",
            remedy=_remedy(error.name, allow_numpy_scalars),
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="check the file's name") from error
    except _BROKEN as error:
        raise _broken(path, error) from error


# What a damaged pickle makes the unpickler raise; MemoryError from absurd lengths.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError, ImportError, RecursionError, struct.error,
)  # fmt: skip


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows no globals, or only stand-ins for NumPy's numbers."""

    def __init__(self, file: BinaryIO, encoding: str, allow_numpy_scalars: bool) -> None:
        super().__init__(file, encoding=encoding)
        self._allow_numpy_scalars = allow_numpy_scalars

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if self._allow_numpy_scalars and (module_name, global_name) in NUMPY_SCALAR_GLOBALS:
            stand_in = _STAND_INS[global_name]
            # A fresh function each time: a pickle may set attributes on what it has imported.
            return lambda *arguments: stand_in(*arguments)
        raise ForbiddenGlobal(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenGlobal(f"persistent object {pid!r}")


class _Dtype:
    """Stand-in for numpy.dtype: remembers kind, size and byte order of a plain number."""

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        if code not in _FORMATS:
            raise pickle.UnpicklingError(f"NumPy type {code!r} is not a plain number")
        self.format, self.order = _FORMATS[code], "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


_FORMATS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    raw = data if isinstance(data, bytes) else data.encode("latin1")
    return struct.unpack(dtype.order + dtype.format, raw)[0]


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_STAND_INS: dict[str, Any] = {"dtype": _Dtype, "scalar": _scalar, "encode": _latin1_bytes}


def _load(file: BinaryIO, encoding: str, allow_numpy_scalars: bool) -> Any:
    return _PlainUnpickler(file, encoding, allow_numpy_scalars).load()


def _refuse_foreign(path: Path, file: BinaryIO) -> None:
    """Name what is commonly found in the place of a pickle."""
    start = file.read(64)
    file.seek(0)
    if not start:
        raise DataError(f"{path}: the file is empty", remedy="download it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the file", remedy="run `git lfs pull`")
    if start.lstrip()[:1] == b"<":
        raise DataError(
            f"{path}: a web page, not a pickle", remedy="the download failed; fetch it again"
        )


def _remedy(name: str, allow_numpy_scalars: bool) -> str:
    module, _, attribute = name.rpartition(".")
    if not allow_numpy_scalars and (module, attribute) in NUMPY_SCALAR_GLOBALS:
        return "it holds NumPy numbers; load it with allow_numpy_scalars=True if you trust it"
    return (
        "annotation files need no imports, so this one is wrong or malicious; "
        "get it from its publisher again"
    )


def _broken(path: Path, error: BaseException) -> DataError:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        ended = file.read().rstrip().endswith(pickle.STOP)
    what = "not a readable pickle" if ended else "truncated, or not a pickle"
    return DataError(
        f"{path}: {what} ({type(error).__name__}: {error})", remedy="fetch or copy it again"
    )
