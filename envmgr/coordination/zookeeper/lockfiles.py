"""The cluster's lockfiles: generations of one name on one machine class, each published once and never changed.

A generation is its manifest; the text stands compressed in parts that were written before, below a node that bears a
random word of its own::

    lockfiles/<name>/<class>/0000000001               `envmgr.wire.tree.Manifest`
    lockfiles/<name>/<class>/parts-<word>/0 …         at most `PART_BYTES` each
    lockfiles/<name>/<class>/0000000002-failed        `SolveFailure`

What holds:

* A manifest is made in one transaction with a look at the claim of the solve: whoever lost it publishes nothing. It
  leads to parts that are all there, since they were acknowledged before.
* There is one manifest for each generation; who comes second gets the first one's. When the answer to the transaction
  was lost, the tree is read again.
* What is read is checked against the manifest's SHA-256. What is published holds no credentials.
* Parts that no manifest leads to are those of solvers that died. The next publication of the same name and class
  deletes them, in one transaction with a look at the claim: whoever wrote them before has lost it, and cannot publish
  them any more; and whoever has it after us has not written his yet.

Not promised: that what is read without `sync` is the newest; a server may lag. `Lockfiles.newest` syncs.

Limits: `LARGEST_TEXT_BYTES`, and compressed `LARGEST_PARTS` times `PART_BYTES`; more is `LockfileTooLarge`. (An
environment of 1,000 packages has about 1 MB of text, and 0.2 MB compressed.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from envmgr import lockfile
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.nodes import Create, Delete, NodeExists, NoNode, NotEmpty, Tree
from envmgr.coordination.zookeeper.session import CALL_S
from envmgr.errors import ClaimLost, CoordinatorUnavailable, Corrupt, EnvmgrError, InvalidSpec, LockfileTooLarge
from envmgr.model import PublishedLockfile
from envmgr.names import EnvName
from envmgr.settings.redact import redact_all
from envmgr.spec.urls import redact
from envmgr.wire.cluster import GenerationInfo
from envmgr.wire.tree import Manifest, SolveFailure, decode, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.claims import Claim

PART_BYTES = 800_000
LARGEST_PARTS = 16
LARGEST_TEXT_BYTES = 64 << 20
MOST_GENERATIONS = 10**9
_DIGITS = 10
_LONGEST_WORD = 64
_LONGEST_WORDS = 20_000
_FAILED = "-failed"
_PARTS = "parts-"


class Lockfiles:
    """See the module; any thread. Every method raises `CoordinatorUnavailable`, and `Corrupt` for a damaged tree."""

    def __init__(self, session: Tree, host: str) -> None:
        self._session = session
        self._host = host

    # ----------------------------------------------------------------------------------------------------- reading

    def in_force(self, name: EnvName, machine_class: str, *, timeout_s: float = CALL_S) -> PublishedLockfile | None:
        """Return the highest generation with its text, or ``None``."""
        manifest = self.manifest(name, machine_class, timeout_s=timeout_s)
        return None if manifest is None else self.read(manifest, timeout_s=timeout_s)

    def manifest(self, name: EnvName, machine_class: str, *, timeout_s: float = CALL_S) -> Manifest | None:
        """Return what there is to know of the highest generation but its text, or ``None``."""
        numbers = _numbers(self._session.children(tree.generations(name, machine_class), timeout_s=timeout_s))
        return self._manifest(name, machine_class, numbers[-1], timeout_s) if numbers else None

    def newest(self, name: EnvName, machine_class: str, *, timeout_s: float = CALL_S) -> PublishedLockfile | None:
        """Do as `in_force`, with nothing left out that was published before the call."""
        self._session.sync(timeout_s=timeout_s)
        return self.in_force(name, machine_class, timeout_s=timeout_s)

    def failure(self, name: EnvName, machine_class: str, generation: int) -> SolveFailure | None:
        """Return why a generation cannot be solved, if somebody published that."""
        path = tree.failure(name, machine_class, generation)
        node = self._session.get(path)
        return None if node is None else decode(SolveFailure, node.data, path)

    def generations(self, name: EnvName) -> tuple[GenerationInfo, ...]:
        """Return every generation and every failure of a name, by class and number."""
        found: list[GenerationInfo] = []
        for machine_class in self._session.children(tree.classes(name)):
            words = self._session.children(tree.generations(name, machine_class))
            for number in _numbers(words):
                # One that cannot be read counts: `relock` makes the next.
                with contextlib.suppress(Corrupt):
                    manifest = self._manifest(name, machine_class, number, CALL_S)
                    if manifest is not None:
                        by, at = manifest.published_by, manifest.published_at
                        found.append(_info(machine_class, number, manifest.digest, by, at, None))
                    continue
                found.append(_info(machine_class, number, None, "nobody knows whom", 0.0, None))
            for number in _numbers(words, _FAILED):
                failure = self._told_failure(name, machine_class, number)
                if failure is not None:
                    found.append(_info(machine_class, number, None, failure.host, failure.at, failure))
        return tuple(sorted(found, key=lambda info: (info.machine_class, info.generation)))

    def _told_failure(self, name: EnvName, machine_class: str, generation: int) -> SolveFailure | None:
        try:
            return self.failure(name, machine_class, generation)
        except Corrupt as error:  # it is told as one, so that `retry` takes it away
            return SolveFailure(error=error.to_json(), host="", at=0.0)

    def _manifest(self, name: EnvName, machine_class: str, generation: int, timeout_s: float) -> Manifest | None:
        path = tree.manifest(name, machine_class, generation)
        node = self._session.get(path, timeout_s=timeout_s)
        found = None if node is None else decode(Manifest, node.data, path)
        if found and (found.name, found.machine_class, found.generation) != (name, machine_class, generation):
            raise _damaged(path, "it is that of another generation")
        return found

    def read(self, manifest: Manifest, *, timeout_s: float = CALL_S) -> PublishedLockfile:
        """Return a generation with its text; `Corrupt` where the text is not what the manifest says."""
        where = tree.manifest(manifest.name, manifest.machine_class, manifest.generation)
        # Nothing is decompressed, and no path made, by what is not as `publish` writes it.
        is_ours = manifest.parts <= LARGEST_PARTS and manifest.size_bytes <= LARGEST_TEXT_BYTES
        if not (is_ours and _is_word(manifest.parts_in)):
            raise _damaged(where, "it is none that envmgr publishes")
        blocks = []
        for number in range(manifest.parts):
            path = tree.part(manifest.name, manifest.machine_class, manifest.parts_in, number)
            node = self._session.get(path, timeout_s=timeout_s)
            if node is None:
                raise _damaged(where, f"its part {number} of {manifest.parts} is missing")
            blocks.append(node.data)
        try:
            data = zlib.decompressobj().decompress(b"".join(blocks), max(1, manifest.size_bytes) + 1)
            text = data.decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise _damaged(where, str(error)) from error
        if len(data) != manifest.size_bytes or hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise _damaged(where, "its text is not what the manifest says")
        return PublishedLockfile(
            EnvName(manifest.name),
            manifest.machine_class,
            manifest.generation,
            manifest.digest,
            text,
            manifest.archives,
        )

    # -------------------------------------------------------------------------------------------------- publishing

    def publish(
        self,
        name: EnvName,
        machine_class: str,
        generation: int,
        text: str,
        claim: Claim,
        *,
        archives: str | None = None,
        wait_s: float = CALL_S,
    ) -> PublishedLockfile:
        """Publish a generation under the claim on its solve, and return what is in force: this or another's.

        `archives` is the URL at which this host, which has them all, gives archives. `wait_s` bounds the wait for
        reading again when nobody said what became of it. Raises `ClaimLost`, `LockfileTooLarge`,
        `CoordinatorUnavailable` (nothing was published, or nobody knows: read again).
        """
        split(name, text.encode())  # before anybody looks through what is too large
        text = without_credentials(text, machine_class.partition("+")[0])
        data = text.encode()
        parts = split(name, data)
        word = os.urandom(16).hex()
        self._sweep(name, machine_class, claim)
        for number, block in enumerate(parts):
            self._session.create(tree.part(name, machine_class, word, number), block)
        manifest = Manifest(
            name=name,
            machine_class=machine_class,
            generation=generation,
            digest=lockfile.parse(text, machine_class.partition("+")[0]).digest,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            parts_in=word,
            parts=len(parts),
            published_by=self._host,
            published_at=time.time(),
            token=claim.token,
            archives=archives,
        )
        claim.check()
        try:
            self._commit(manifest, claim, wait_s)
        except NodeExists:
            found = self.newest(name, machine_class)
            if found is None:
                raise _damaged(tree.manifest(name, machine_class, generation), "it is there and is not") from None
            self._delete_parts(name, machine_class, word)
            return found
        return PublishedLockfile(name, machine_class, generation, manifest.digest, text, archives)

    def _commit(self, manifest: Manifest, claim: Claim, wait_s: float) -> None:
        """Make the manifest under the claim, and with it forget that the generation failed; `NodeExists`: another's."""
        name, machine_class, generation = EnvName(manifest.name), manifest.machine_class, manifest.generation
        path = tree.manifest(name, machine_class, generation)
        failed = tree.failure(name, machine_class, generation)
        while True:
            known = [Delete(failed)] if self._session.get(failed) is not None else []
            try:
                return self._session.write([claim.guard(), Create(path, encode(manifest)), *known])
            except NoNode as error:
                if error.index == 0:
                    raise _lost(claim) from error
                continue  # the failure was cleared this very moment
            except CoordinatorUnavailable as error:
                if not error.fields.get("is_unknown"):
                    raise
                self._session.sync(timeout_s=wait_s)
                found = self._manifest(name, machine_class, generation, CALL_S)
                if found is None:
                    raise
                if found.parts_in != manifest.parts_in:
                    raise NodeExists(path, 1) from error
                return None

    def fail(self, name: EnvName, machine_class: str, generation: int, error: EnvmgrError, claim: Claim) -> None:
        """Publish why a generation cannot be solved, under the claim; raises as `publish` does."""
        document = {key: redact_all(value, _LONGEST_WORDS) for key, value in error.to_json().items()}
        failure = SolveFailure(error=document, host=self._host, at=time.time())
        with contextlib.suppress(NodeExists):
            self._session.create(tree.generations(name, machine_class))
        try:
            self._session.write([claim.guard(), Create(tree.failure(name, machine_class, generation), encode(failure))])
        except NoNode as missing:
            raise _lost(claim) from missing
        except NodeExists:
            pass  # somebody's earlier one; it says the same

    def clear_failure(self, name: EnvName, machine_class: str | None = None) -> None:
        """Forget that a name could not be solved, on one class or on all: the next host tries again."""
        classes = self._session.children(tree.classes(name)) if machine_class is None else (machine_class,)
        for one in classes:
            for number in _numbers(self._session.children(tree.generations(name, one)), _FAILED):
                with contextlib.suppress(NoNode):
                    self._session.delete(tree.failure(name, one, number))

    def _sweep(self, name: EnvName, machine_class: str, claim: Claim) -> None:
        """Delete the parts that no manifest leads to, each word's in one transaction with a look at the claim."""
        if self._leftovers(name, machine_class):
            # Once more, as of now: to some of them a manifest may lead that was made without our hearing of it.
            self._session.sync()
            for word in self._leftovers(name, machine_class):
                self._delete_parts(name, machine_class, word, claim)

    def _leftovers(self, name: EnvName, machine_class: str) -> set[str]:
        """Return the words of the parts that no manifest leads to."""
        words = self._session.children(tree.generations(name, machine_class))
        written = {word.removeprefix(_PARTS) for word in words if word.startswith(_PARTS)}
        numbers = _numbers(words)
        if len(written) == len(numbers):
            return set()
        for number in numbers:
            try:
                manifest = self._manifest(name, machine_class, number, CALL_S)
            except Corrupt:
                manifest = None
            if manifest is None:
                return set()  # a manifest of which we do not know what it needs
            written.discard(manifest.parts_in)
        return written

    def _delete_parts(self, name: EnvName, machine_class: str, word: str, claim: Claim | None = None) -> None:
        """Delete what stands below a word, with a `claim` only as long as it is held; raises `ClaimLost`."""
        above = tree.parts(name, machine_class, word)
        nodes = [*(f"{above}/{number}" for number in self._session.children(above)), above]
        guard = [] if claim is None else [claim.guard()]
        try:
            self._session.write([*guard, *map(Delete, nodes)])
        except NoNode as error:
            if claim is not None and error.index == 0:
                raise _lost(claim) from error
        except NotEmpty:
            pass


def _numbers(words: Sequence[str], end: str = "") -> list[int]:
    """Return the generations among the children of a class: their manifests, or with `end` their failures."""
    stems = (word[: len(word) - len(end)] for word in words if word.endswith(end))
    return sorted(int(stem) for stem in stems if len(stem) == _DIGITS and stem.isascii() and stem.isdigit())


def _is_word(text: str) -> bool:
    """Tell whether a text may stand in the path of parts."""
    return 0 < len(text) <= _LONGEST_WORD and text.isascii() and text.isalnum()


def without_credentials(text: str, subdir: str) -> str:
    """Return a lockfile as everybody who reads the tree may see it, with the same packages; raises `InvalidSpec`."""
    clean = redact(text)
    if clean != text and lockfile.parse(clean, subdir).digest != lockfile.parse(text, subdir).digest:
        raise InvalidSpec("the credentials cannot be removed from the lockfile's URLs", hint="remove them")
    return clean


def split(name: EnvName, data: bytes) -> list[bytes]:
    """Return the parts that a text is published in; raises `LockfileTooLarge`."""
    if len(data) > LARGEST_TEXT_BYTES:
        raise _too_large(name, len(data), LARGEST_TEXT_BYTES, "")
    compressed = zlib.compress(data, 6)
    if len(compressed) > PART_BYTES * LARGEST_PARTS:
        raise _too_large(name, len(compressed), PART_BYTES * LARGEST_PARTS, " compressed")
    return [compressed[start : start + PART_BYTES] for start in range(0, len(compressed), PART_BYTES)]


def _too_large(name: EnvName, size_bytes: int, limit_bytes: int, how: str) -> LockfileTooLarge:
    return LockfileTooLarge(
        f"the lockfile of {name} has {size_bytes} bytes{how}; the cluster carries {limit_bytes}",
        hint="make several smaller environments of it, or make it on hosts that are in no cluster",
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )


def _info(
    machine_class: str, number: int, digest: str | None, by: str, at: float, failure: SolveFailure | None
) -> GenerationInfo:
    return GenerationInfo(
        machine_class=machine_class,
        generation=number,
        digest=digest,
        published_by=by,
        published_at=at,
        error=None if failure is None else failure.error,
    )


def _damaged(where: str, why: str) -> Corrupt:
    return Corrupt(
        f"the lockfile {where} in ZooKeeper is damaged: {why}", hint="envmgr cluster relock makes the next generation"
    )


def _lost(claim: Claim) -> ClaimLost:
    return ClaimLost(
        f"the claim {claim.node} is gone; nothing was published", hint="try again", claim=claim.node, token=claim.token
    )
