"""The lockfiles of a cluster's environments, for who looks, exports and imports.

They stand in the tree as `envmgr.coordination.zookeeper.lockfiles` says; an import publishes what a document carries
under no claim: there is nothing to solve, and whoever was faster with the same is as good.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.lockfiles import Lockfiles, split, without_credentials
from envmgr.coordination.zookeeper.nodes import NodeExists
from envmgr.errors import LockfileMismatch
from envmgr.names import EnvName
from envmgr.wire.cluster import GenerationInfo
from envmgr.wire.tree import Manifest, decode, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A generation of a lockfile in a document, with its text."""

    name: EnvName
    machine_class: str
    generation: int
    digest: str
    text: str
    published_by: str
    published_at: float


def generations(tree: Tree, name: EnvName | str) -> tuple[GenerationInfo, ...]:
    """Return every published generation and failure, by class and number."""
    return Lockfiles(tree, "").generations(EnvName(name))


def in_force(tree: Tree, name: str, machine_class: str) -> Carried | None:
    """Return the highest published generation of a class, ``None`` if there is none; raises `Corrupt`."""
    published = Lockfiles(tree, "")
    manifest = published.manifest(EnvName(name), machine_class)
    if manifest is None:
        return None
    found = published.read(manifest)
    return Carried(
        name=found.name,
        machine_class=machine_class,
        generation=found.generation,
        digest=found.digest,
        text=found.text,
        published_by=manifest.published_by,
        published_at=manifest.published_at,
    )


def publish(tree: Tree, carried: Carried) -> None:
    """Publish what a document carries, under no claim: whoever was faster, with the same, is as good.

    Nothing is written where the same or a higher generation is there. Raises `LockfileMismatch` where this one is
    another; a generation never changes.
    """
    name, machine_class, generation = carried.name, carried.machine_class, carried.generation
    newest = Lockfiles(tree, "").manifest(name, machine_class)
    if newest is not None and newest.generation >= generation:
        _check_same(tree, carried)
        return
    text = without_credentials(carried.text, machine_class.partition("+")[0]).encode()
    solve = uuid.uuid4().hex
    pieces = split(name, text)
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
    path = paths.manifest(carried.name, carried.machine_class, carried.generation)
    node = tree.get(path)
    if node is not None and decode(Manifest, node.data, path).digest != carried.digest:
        raise LockfileMismatch(
            f"the tree has another generation {carried.generation} of the lockfile of {carried.name} for "
            f"{carried.machine_class} than the document",
            hint="a generation never changes: import into an empty tree, or into the one that was exported",
        )
