"""From a declaration to an intent."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from envmgr import codec
from envmgr.errors import Corrupt, InvalidSpec, LockfileTooLarge, NameCollision
from envmgr.model import Spec
from envmgr.spec import parse, reader_of
from envmgr.wire.tree import LARGEST_NODE_BYTES, LARGEST_TEXT_BYTES, Intent, decode, encode

if TYPE_CHECKING:
    from envmgr.wire.cluster import Declaration


def checked_spec(document: Mapping[str, object]) -> Spec:
    """Return the spec of an intent, read anew from its text; raises `InvalidSpec` unless that gives the very same.

    Who wrote the tree may have put other requirements beside an honest canonical text: what is built under a name is
    what the name says.
    """
    try:
        found = codec.load(Spec, _json(document))
    except ValueError as error:
        raise InvalidSpec(f"the declared spec is damaged: {error}") from error
    read = parse(found.source_text, source="the declared spec", read_include=reader_of(dict(found.includes)))
    if read != found:
        raise InvalidSpec(f"the declared spec is not that of {found.name}: its text is that of {read.name}")
    return read


def with_declaration(old: Intent | None, spec: Spec, declaration: Declaration, max_parallel: int) -> Intent:
    """Return what is wanted after a declaration; generation and who wrote it are still the old ones.

    Raises `NameCollision` if the name stands for another spec.
    """
    if old is not None and old.spec.get("digest") != spec.digest:
        raise NameCollision(f"{spec.name} is declared for another spec, of digest {old.spec.get('digest')}")
    fresh = Intent(name=spec.name, generation=0, state="present", spec=plain(spec))
    return dataclasses.replace(
        old or fresh,
        state="present",
        label=spec.label,
        selector=declaration.selector,
        max_parallel=max_parallel,
    )


def is_same(old: Intent, new: Intent) -> bool:
    """Tell whether nothing is to be done."""
    return dataclasses.replace(new, generation=old.generation) == old


def check_size(intent: Intent) -> None:
    """Raise what is to be said of a spec that does not fit into one node."""
    data = encode(intent)
    size = len(data)
    if size <= LARGEST_NODE_BYTES:
        with contextlib.suppress(Corrupt):
            decode(Intent, data, intent.name)
            return
    message = (
        f"the spec of {intent.name} has {size} bytes, compressed; a node of ZooKeeper takes {LARGEST_NODE_BYTES} "
        f"with {LARGEST_TEXT_BYTES} bytes of text, so it cannot be declared"
    )
    if intent.spec.get("is_lockfile"):
        raise LockfileTooLarge(message, hint="declare the spec that the lockfile was solved from")
    raise InvalidSpec(message, hint="a spec names what is wanted; the solver finds the rest")


def plain(spec: Spec) -> Mapping[str, object]:
    """Return a spec as JSON would: what is read again from the tree must compare equal."""
    return {key: _json(value) for key, value in dataclasses.asdict(spec).items()}


def _json(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value
