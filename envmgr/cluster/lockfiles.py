"""The lockfiles of an environment in the tree, for who looks, exports and imports; hosts have
`envmgr.coordination.zookeeper.lockfiles`."""

from __future__ import annotations

import hashlib
import uuid
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import NodeExists
from envmgr.errors import Corrupt, LockfileMismatch
from envmgr.wire.cluster import LARGEST_NODE_BYTES, GenerationInfo, Manifest, SolveFailure, decode, encode

if TYPE_CHECKING:
    from envmgr.cluster.tree import Tree

_FAILED = "-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A generation of a lockfile in a document, with its text."""

    name: str
    machine_class: str
    generation: int
    digest: str
    text: str
    published_by: str
    published_at: float


def generations(tree: Tree, name: str) -> tuple[GenerationInfo, ...]:
    """Return every published generation and failure, by class and number."""
    found = []
    for machine_class in tree.children(paths.classes(name)):
        for word in sorted(tree.children(paths.generations(name, machine_class))):
            number, dash, rest = word.partition("-")
            if not number.isdigit() or (dash and dash + rest != _FAILED):
                continue
            info = _failure if dash else _published
            told = info(tree, name, machine_class, int(number))
            if told is not None:
                found.append(told)
    return tuple(found)


def _published(tree: Tree, name: str, machine_class: str, generation: int) -> GenerationInfo | None:
    manifest = read_manifest(tree, name, machine_class, generation)
    if manifest is None:
        return None
    return GenerationInfo(
        machine_class=machine_class,
        generation=generation,
        digest=manifest.digest,
        published_by=manifest.published_by,
        published_at=manifest.published_at,
        error=None,
    )


def _failure(tree: Tree, name: str, machine_class: str, generation: int) -> GenerationInfo | None:
    path = paths.failure(name, machine_class, generation)
    node = tree.get(path)
    if node is None:
        return None
    failure = decode(SolveFailure, node.data, path)
    return GenerationInfo(
        machine_class=machine_class,
        generation=generation,
        digest=None,
        published_by=failure.host,
        published_at=failure.at,
        error=failure.error,
    )


def read_manifest(tree: Tree, name: str, machine_class: str, generation: int) -> Manifest | None:
    """Return a manifest, ``None`` if there is none."""
    path = paths.manifest(name, machine_class, generation)
    node = tree.get(path)
    return None if node is None else decode(Manifest, node.data, path)


def in_force(tree: Tree, name: str, machine_class: str) -> Carried | None:
    """Return the highest published generation of a class, ``None`` if there is none; raises `Corrupt`."""
    published = [word for word in tree.children(paths.generations(name, machine_class)) if word.isdigit()]
    manifest = read_manifest(tree, name, machine_class, int(max(published))) if published else None
    if manifest is None:
        return None
    return Carried(
        name=name,
        machine_class=machine_class,
        generation=manifest.generation,
        digest=manifest.digest,
        text=_text(tree, manifest),
        published_by=manifest.published_by,
        published_at=manifest.published_at,
    )


def _text(tree: Tree, manifest: Manifest) -> str:
    name, machine_class = manifest.name, manifest.machine_class
    nodes = (tree.get(paths.part(name, machine_class, manifest.parts_in, at)) for at in range(manifest.parts))
    data = b"".join(node.data for node in nodes if node is not None)
    try:
        text = zlib.decompress(data)
    except zlib.error as error:
        raise _damaged(manifest) from error
    if hashlib.sha256(text).hexdigest() != manifest.sha256:
        raise _damaged(manifest)
    return text.decode()


def _damaged(manifest: Manifest) -> Corrupt:
    return Corrupt(
        f"generation {manifest.generation} of the lockfile of {manifest.name} for {manifest.machine_class} is damaged "
        "in ZooKeeper",
        hint="envmgr cluster relock makes a new generation",
    )


def publish(tree: Tree, carried: Carried) -> None:
    """Publish what a document carries, under no claim: whoever was faster, with the same, is as good.

    Nothing is written where the same or a higher generation is there. Raises `LockfileMismatch` where this one is
    another; a generation never changes.
    """
    name, machine_class, generation = carried.name, carried.machine_class, carried.generation
    words = [word for word in tree.children(paths.generations(name, machine_class)) if word.isdigit()]
    if words and int(max(words)) >= generation:
        _check_same(tree, carried)
        return
    text = carried.text.encode()
    data = zlib.compress(text, 9)
    solve = uuid.uuid4().hex
    pieces = [data[at : at + LARGEST_NODE_BYTES] for at in range(0, len(data), LARGEST_NODE_BYTES)]
    for at, piece in enumerate(pieces):
        tree.create(paths.part(name, machine_class, solve, at), piece)
    manifest = Manifest(
        name=name,
        machine_class=machine_class,
        generation=generation,
        digest=carried.digest,
        sha256=hashlib.sha256(text).hexdigest(),
        size_bytes=len(text),
        parts_in=solve,
        parts=len(pieces),
        published_by=carried.published_by,
        published_at=carried.published_at,
        token=0,
    )
    try:
        tree.create(paths.manifest(name, machine_class, generation), encode(manifest))
    except NodeExists:
        _check_same(tree, carried)


def _check_same(tree: Tree, carried: Carried) -> None:
    there = read_manifest(tree, carried.name, carried.machine_class, carried.generation)
    if there is not None and there.digest != carried.digest:
        raise LockfileMismatch(
            f"the tree has another generation {carried.generation} of the lockfile of {carried.name} for "
            f"{carried.machine_class} than the document",
            hint="a generation never changes: import into an empty tree, or into the one that was exported",
        )
