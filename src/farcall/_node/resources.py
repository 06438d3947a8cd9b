"""The data of packages that a worker has from the master, for ``importlib.resources`` and ``pkgutil.get_data``."""

import io
from collections.abc import Callable, Iterator
from typing import Any

Look = Callable[[str, str], bytes | list[str] | None]  # into a package, at a path: a file, or the names in a folder


class Resource:
    """A file or folder of a package at the master, a ``Traversable``. A file comes whole each time it is looked at."""

    def __init__(self, look: Look, package: str, path: str = "") -> None:
        self._look = look
        self._package = package
        self._path = path

    def __repr__(self) -> str:
        return f"<{self._path or '.'} of {self._package}, at the master>"

    def __str__(self) -> str:
        return self._path

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2] or self._package.rpartition(".")[2]

    def _content(self) -> bytes | list[str] | None:
        return self._look(self._package, self._path)

    def is_dir(self) -> bool:
        return isinstance(self._content(), list)

    def is_file(self) -> bool:
        return isinstance(self._content(), bytes)

    def iterdir(self) -> Iterator["Resource"]:
        names = self._content()
        if not isinstance(names, list):
            raise NotADirectoryError(f"{self!r} is no folder")
        return (self.joinpath(each) for each in names)

    def joinpath(self, *parts: str) -> "Resource":
        return Resource(self._look, self._package, "/".join(each for each in (self._path, *parts) if each))

    def __truediv__(self, child: str) -> "Resource":
        return self.joinpath(child)

    def open(self, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        content = self._content()
        if not isinstance(content, bytes):
            raise FileNotFoundError(f"{self!r} is no file")
        file = io.BytesIO(content)
        return file if "b" in mode else io.TextIOWrapper(file, *args, **kwargs)

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            data: bytes = file.read()
        return data

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        with self.open("r", encoding=encoding, errors=errors) as file:
            text: str = file.read()
        return text


class Reader:
    """What ``importlib.resources`` asks a loader for."""

    def __init__(self, root: Resource) -> None:
        self._root = root

    def files(self) -> Resource:
        """Return the folder of the package."""
        return self._root
