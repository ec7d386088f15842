"""The documents that a request brings: read with what came along, and with no file of this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envmgr import lockfile, spec
from envmgr.errors import InvalidSpec
from envmgr.spec.urls import redact

if TYPE_CHECKING:
    from envmgr.model import Spec
    from envmgr.wire.socket import SpecDocument

MAX_INCLUDES = 256
MAX_LOCKFILE_CHARS = 8 << 20
SOURCE = "<request>"


def parse(document: SpecDocument) -> Spec:
    """Read a spec; a requirements file that was not sent along is one of the problems of its `InvalidSpec`."""
    if len(document.includes) > MAX_INCLUDES:
        raise InvalidSpec(f"{len(document.includes)} requirements files were sent along, {MAX_INCLUDES} may be")
    return spec.parse(_bytes(document.text), source=SOURCE, read_include=_reader(document.includes))


def text_bytes(document: SpecDocument) -> bytes | None:
    """Return the bytes whose name may be known already: those of a document that came alone, else ``None``."""
    try:
        return None if document.includes else document.text.encode()
    except UnicodeEncodeError:
        return None


def lock_text(text: str, subdir: str) -> str:
    """Return a lockfile that a caller brings as it may be stored: without credentials, and with the same packages."""
    if len(text) > MAX_LOCKFILE_CHARS:
        raise InvalidSpec(f"the lockfile has {len(text)} characters, {MAX_LOCKFILE_CHARS} are the most")
    _bytes(text)
    digest = lockfile.parse(text, subdir).digest
    clean = redact(text)
    if clean != text and lockfile.parse(clean, subdir).digest != digest:
        raise InvalidSpec("the credentials cannot be removed from the lockfile's URLs", hint="remove them")
    return clean


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # JSON can name half of a surrogate pair
        raise InvalidSpec(f"{SOURCE}: a character at offset {error.start} is not Unicode text") from error


def _reader(includes: Mapping[str, str]) -> spec.ReadInclude:
    for content in includes.values():
        _bytes(content)
    return spec.reader_of(includes)
