"""Result files that are whole or absent: each is written to a temporary name in the same folder, synced, and renamed.

numpy is imported where it is used, so that `pipeline/cli.py --help` needs the standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_rhythm.errors import ReproError

if TYPE_CHECKING:
    import pandas as pd

# --------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, same suffix: it becomes `path` if the block ends well, and vanishes if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with _full_disk_named(path):
            yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """The same for a whole folder: an empty temporary one that replaces `path` if the block ends well."""
    path = Path(path)
    temporary, old = (path.with_name(f".{kind}-{os.getpid()}-{path.name}") for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with _full_disk_named(path):
            yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _sync(file)
        if path.exists():  # a folder cannot be renamed over a full one
            os.rename(path, old)
        os.rename(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed runs left beside the files they were writing. Only for who holds the folder (`locked`)."""
    for leftover in [path for kind in (".tmp-*", ".old-*") for path in folder.rglob(kind)]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Bytes, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Sorted keys, indent 1. NaN (an undefined value) becomes null; an infinity raises ValueError."""
    write_text(path, json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Any]) -> None:
    """One JSON object a line; NaN as in `write_json`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.writelines(map(_line, records))


def write_table(path: Path | str, frame: pd.DataFrame) -> None:
    """A data frame as .csv or .parquet, without its index. ValueError for another suffix."""
    writers: dict[str, Callable[..., Any]] = {
        ".csv": frame.to_csv,
        ".parquet": functools.partial(frame.to_parquet, compression="zstd"),
    }
    suffix = Path(path).suffix
    if suffix not in writers:
        raise ValueError(f"{path}: a table is written as {' or '.join(writers)}")
    with atomic_path(path) as temporary:
        writers[suffix](temporary, index=False)


def write_npz(path: Path | str, **arrays: Any) -> None:
    """Compressed numpy arrays. ValueError for an array of objects: reading it would need pickle."""
    import numpy as np

    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(f"{path}: arrays of objects would be pickled: {', '.join(objects)}")
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def append_jsonl(path: Path | str, *records: Any) -> None:
    """Add finished records to a partial file, one write, synced: a kill leaves at most one half-written last line."""
    with open(path, "ab") as file:
        file.write(b"".join(map(_line, records)))
        file.flush()
        os.fsync(file.fileno())


# --------------------------------------------------------------------------------------------- folders


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a results folder for this process; ReproError if another run holds it. The lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ReproError(f"{shown(folder)}: another run (process {holder}) is writing there") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def shown(path: Path) -> Path:
    """A path as a person would write it: relative to the working directory, where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --------------------------------------------------------------------------------------------- reading


def read_json(path: Path | str) -> Any:
    """ReproError if the file is not there or is not JSON."""
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ReproError(f"{path}: not valid JSON: {error}") from error


def read_jsonl(path: Path | str) -> list[Any]:
    """ReproError with the line number if a line is not JSON."""
    records = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ReproError(f"{path}, line {number}: not valid JSON: {error}") from error
    return records


def resume_jsonl(path: Path | str) -> list[Any]:
    """Records of a partial file, [] if there is none. A half-written last line (killed run) is cut off the file."""
    path = Path(path)
    if not path.exists():
        return []
    whole = path.read_bytes().rfind(b"\n") + 1
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return read_jsonl(path)


# --------------------------------------------------------------------------------------------- hashing


def sha256_file(path: Path | str) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_path(path: Path | str) -> str:
    """Of a file's bytes, or of a folder's relative names and bytes (hidden files left out)."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return sha256_of([[name.as_posix(), sha256_file(path / name)] for name in names])


def sha256_of(value: Any) -> str:
    """Of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# --------------------------------------------------------------------------------------------- private

_FULL = 1 << 20  # bytes that are free at most where a write failed for want of space


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """A full disk is OSError ENOSPC, however the library that wrote there put it (safetensors: an error of its own,
    torch.save: "unexpected pos 576 vs 534")."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if shutil.disk_usage(path.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _plain(value: Any) -> Any:
    """Numpy and torch values as Python ones, NaN as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _line(record: Any) -> bytes:
    return json.dumps(_plain(record), sort_keys=True, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # a byte order mark is no part of the text
    except FileNotFoundError as error:
        raise ReproError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ReproError(f"{path}: a folder, not a file") from error
    except UnicodeDecodeError as error:
        raise ReproError(f"{path}: not UTF-8 text: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
