"""The file that keeps the results of a map.

It begins with a magic line and is then records, each a length, a checksum and a pickle. The first says which map it
is; every other has the index of a first item, a digest of each item and the results. A record is written at once and
in one piece when its results are there, so a process that is killed leaves at worst a last record that is cut short,
which is dropped. No ``fsync``: it is safe from the end of the process, not from that of the machine.
"""

import fcntl
import functools
import hashlib
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from .._wire import pickles
from .inputs import Source
from .schedule import Batch

_MAGIC = b"farcall checkpoint 1\n"
_HEAD = struct.Struct("<QI")  # length and checksum of a record
_DIGEST = 8  # bytes for each item

Chunk = tuple[int, int, list[Any]]


class Checkpoint:
    """Results on disk. ``resume`` is called once, before the first ``write``."""

    def __init__(self, path: str | os.PathLike[str], function: Callable[..., Any], size: int | None, seed: Any) -> None:
        self._path = Path(path)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._records = self._read(describe_map(function, size, seed))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Checkpoint {self._path}>"

    def close(self) -> None:
        """Close the file; closing twice is closing once."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def write(self, start: int, items: Sequence[Any], values: list[Any]) -> None:
        """Keep the results of some items in a row."""
        self._append((start, b"".join(map(digest_of, items)), values))

    def resume(self, source: Source) -> tuple[int, list[Chunk], list[Batch]]:
        """Draw the items whose results are known; return how many were drawn, the results, and the gaps between.

        ValueError if they are not the items that they were; then the file is closed.
        """
        try:
            return self._resume(source)
        except BaseException:
            self.close()
            raise

    def _resume(self, source: Source) -> tuple[int, list[Chunk], list[Batch]]:
        drawn, chunks, gaps = 0, list[Chunk](), list[Batch]()
        for start, digests, values in sorted(self._records, key=lambda record: record[0]):
            if start > drawn:
                gaps.append(Batch(drawn, self._draw(source, drawn, start - drawn)))
            items = self._draw(source, start, len(values))
            for place, item in enumerate(items):
                if digest_of(item) != digests[place * _DIGEST : (place + 1) * _DIGEST]:
                    raise self._refusal(f"item {start + place} was another one than it is now, which is {item!r:.200}")
            drawn = start + len(values)
            chunks.append((start, drawn, values))
        self._records = []
        return drawn, chunks, gaps

    def _draw(self, source: Source, drawn: int, count: int) -> Sequence[Any]:
        items = source.draw(count)
        while len(items) < count:
            more = source.draw(count - len(items))
            if not len(more):
                raise self._refusal(f"there are only {drawn + len(items)} items now, and there were more")
            items = [*items, *more]
        return items

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self._path} is the checkpoint of a map that is under way: use another file") from None

    def _read(self, described: dict[str, str]) -> list[tuple[int, bytes, list[Any]]]:
        """Return the records, if they are of the map that is described; begin the file if it is empty."""
        content = self._path.read_bytes()
        if not _MAGIC.startswith(content[: len(_MAGIC)]):
            raise ValueError(f"{self._path} is no checkpoint of farcall, and is not overwritten: use another file")
        records = list(_split(content))
        if not records:
            os.ftruncate(self._file, 0)
            os.write(self._file, _MAGIC)
            self._append(described)
            return []
        made_for: dict[str, str] = pickle.loads(records[0][1])
        for what, before in made_for.items():
            if before != described[what]:
                raise self._refusal(f"{what} was {before}, and is {described[what]}")
        os.ftruncate(self._file, records[-1][0])
        os.lseek(self._file, 0, os.SEEK_END)
        return [pickle.loads(body) for _, body in records[1:]]

    def _append(self, value: Any) -> None:
        body = cloudpickle.dumps(value)
        left = memoryview(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        while left:
            left = left[os.write(self._file, left) :]

    def _refusal(self, difference: str) -> ValueError:
        return ValueError(
            f"the checkpoint {self._path} is of another map: {difference}. Use another file, or delete this one"
        )


def _split(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where each whole record ends and its body, up to one that is cut short or damaged."""
    place = len(_MAGIC)
    while place + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, place)
        place += _HEAD.size + length
        body = content[place - length : place]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        yield place, body


# What makes a map that map


def describe_map(function: Callable[..., Any], size: int | None, seed: Any) -> dict[str, str]:
    """Return what must be equal for results to be of use: for each thing what it is."""
    return {
        "the function": _name_of(function),
        "the code of the function, with what it captures,": _Fingerprint(function).text,
        "the number of items": "unknown" if size is None else str(size),
        "the seed": repr(seed),
    }


def digest_of(item: Any) -> bytes:
    """Return some bytes that differ for different items."""
    payload = pickles.encode(item)
    digest = hashlib.blake2b(payload.body, digest_size=_DIGEST)
    for buffer in payload.buffers:
        digest.update(buffer.view)
    return digest.digest()


def _name_of(function: Any) -> str:
    plain = getattr(function, "func", getattr(function, "py_func", function))
    named = plain if hasattr(plain, "__qualname__") else type(plain)
    return f"{named.__module__}.{named.__qualname__}"


class _Fingerprint:
    """What a function does, told by its code and by what it uses of its own module, but not by line numbers."""

    def __init__(self, function: Any) -> None:
        version = ".".join(map(str, sys.version_info[:2]))
        self._digest = hashlib.sha256(version.encode())  # the code of another version is another
        self._seen: set[int] = set()
        self._add(function)
        self.text = f"{self._digest.hexdigest()[:16]} (Python {version})"

    def _tell(self, *words: object) -> None:
        self._digest.update(repr(words).encode())

    def _add(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        plain = getattr(value, "py_func", value)  # Numba's dispatchers stand for a plain function
        if type(plain) is FunctionType:
            self._seen.add(id(value))
            self._add_function(plain)
        elif isinstance(value, functools.partial):
            for each in (value.func, value.args, sorted(value.keywords.items())):
                self._add(each)
        elif isinstance(value, MethodType):
            self._add(value.__func__)
            self._add(value.__self__)
        elif isinstance(value, (ModuleType, type)) or hasattr(value, "__qualname__"):
            self._tell(getattr(value, "__qualname__", value.__name__))
        elif isinstance(value, (set, frozenset)):
            self._tell(*sorted(map(repr, value)))  # their order changes from process to process
        else:
            self._add_data(value)

    def _add_data(self, value: Any) -> None:
        try:
            self._digest.update(digest_of(value))
        except Exception:
            self._tell(type(value).__qualname__)  # it cannot be pickled, and cannot travel either

    def _add_function(self, function: FunctionType) -> None:
        self._add_code(function.__code__, function)
        self._add(function.__defaults__)
        self._add(sorted((function.__kwdefaults__ or {}).items()))
        for cell in function.__closure__ or ():
            try:
                self._add(cell.cell_contents)
            except ValueError:
                self._tell("empty")

    def _add_code(self, code: CodeType, function: FunctionType) -> None:
        self._tell(code.co_code, code.co_names, code.co_varnames, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant, function)
            else:
                self._add(constant)
        for name in code.co_names:
            used = function.__globals__.get(name)
            if used is not None and getattr(used, "__module__", function.__module__) == function.__module__:
                self._add(used)
