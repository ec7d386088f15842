"""What the store remembers as files: the record of each build, and what is known of a name beside its builds.

::

    builds/<build id>/record.json          written once, before publication
    names/<name>/spec.json                 the spec that the name was made from, includes and all, without credentials
    names/<name>/lockfile-<class>.yml      the lockfile in force for a machine class
    names/<name>/pinned                    present: never collected
    names/<name>/bundled                   present: the archives of its lockfiles came in a bundle, and are kept
    names/<name>/failure.json              the last failure; gone after a success
    names/<name>/creator.json              the user that the daemon made it for last
    names/<name>/alias-<alias>.json        the user that had the daemon set an alias of it, who may drop it again
    names/<name>/last-used                 empty; its modification time is when the name was last seen in use
    by-text/<sha256>                       symbolic link to the name of a document that was already seen

JSON documents carry ``format``; one of a later format raises `StoreTooNew`, an unreadable one `Corrupt`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from envmgr import codec, fsio
from envmgr.errors import Corrupt, StoreTooNew
from envmgr.fsio import Step
from envmgr.model import Failure, Record, Spec
from envmgr.names import Alias, BuildId, EnvName, is_name, name_of_digest
from envmgr.store.layout import Layout

RECORD_FORMAT = 1
_DIRECTORY_MODE = 0o755
_REPAIR = "envmgr repair makes a new build"
_CREATE = "envmgr remove --forget, then create FILE, stores it anew"


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise Corrupt(f"{path} is not the JSON that envmgr wrote: {error}", hint=_REPAIR) from error
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(found, int):
        raise Corrupt(f"{path} is not a record", hint=_REPAIR)
    if found > RECORD_FORMAT:
        raise StoreTooNew(f"{path} was written by a newer envmgr (format {found})", hint="upgrade envmgr")
    return cast("Mapping[str, object]", document)


def _write_json(step: Step, path: Path, document: Mapping[str, object]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    fsio.write_file(step, path, text.encode())


# --------------------------------------------------------------------------------------------------------- builds


def write_record(layout: Layout, record: Record) -> None:
    """Write the record of a build, durably; the last thing before its publication."""
    _write_json(Step.RECORD, layout.build(record.build_id).record, dataclasses.asdict(record))


def read_digests(layout: Layout, name: EnvName, build_id: BuildId) -> tuple[str, str]:
    """Return the digests of the spec and of the lockfile of a published build; raise `Corrupt` as `read_record`.

    For the way that many waiting processes go at the same moment: it looks at no other field.
    """
    document = _read_record(layout, build_id)
    digest, lock_digest = document.get("digest"), document.get("lock_digest")
    is_of_this_build = (document.get("name"), document.get("build_id")) == (name, build_id)
    if not is_of_this_build or not isinstance(digest, str) or not isinstance(lock_digest, str):
        raise Corrupt(f"{layout.build(build_id).record} is not the record of {name}", hint=_REPAIR)
    return digest, lock_digest


def read_record(layout: Layout, name: EnvName, build_id: BuildId) -> Record:
    """Return the record of a published build; raise `Corrupt` when it is missing, damaged or of another build."""
    path = layout.build(build_id).record
    try:
        record = codec.load(Record, _read_record(layout, build_id))
    except ValueError as error:
        raise Corrupt(f"{path} is damaged: {error}", hint=_REPAIR) from error
    if record.name != name or record.build_id != build_id:
        raise Corrupt(f"{path} is the record of {record.name} {record.build_id}, not of {name} {build_id}")
    return record


def _read_record(layout: Layout, build_id: BuildId) -> Mapping[str, object]:
    path = layout.build(build_id).record
    try:
        return _read_json(path)
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing", hint=_REPAIR) from error


# ---------------------------------------------------------------------------------------------------------- names


def _name_directory(layout: Layout, name: EnvName, step: Step) -> Path:
    directory = layout.name(name)
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except FileNotFoundError:
        fsio.make_directory(step, directory, mode=_DIRECTORY_MODE, parents=True)
    else:
        if mode != _DIRECTORY_MODE:  # whoever made it died before he set its mode
            fsio.set_directory_mode(step, directory, _DIRECTORY_MODE)
    return directory


def write_spec(layout: Layout, spec: Spec) -> None:
    """Keep what the name was made from, unless it is kept already."""
    path = _name_directory(layout, spec.name, Step.SPEC) / "spec.json"
    if not path.exists():
        _write_json(Step.SPEC, path, {"format": RECORD_FORMAT, **dataclasses.asdict(spec)})


def read_spec(layout: Layout, name: EnvName) -> Spec | None:
    """Return the spec that the name was made from, with all that its document included, or ``None``.

    Raises `Corrupt` when it is damaged; the name is checked against its text.
    """
    path = layout.name(name) / "spec.json"
    try:
        spec = codec.load(Spec, _read_json(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Corrupt(f"{path} is damaged: {error}", hint=_CREATE) from error
    digest = hashlib.sha256(spec.canonical_text.encode()).hexdigest()
    if spec.digest != digest or spec.name != name or name_of_digest(digest) != name:
        raise Corrupt(f"{path} is not the spec of {name}", hint=_CREATE)
    return spec


def write_lockfile(layout: Layout, name: EnvName, machine_class: str, text: str) -> None:
    """Put a lockfile in force for the name on machines of this class."""
    directory = _name_directory(layout, name, Step.LOCKFILE)
    fsio.write_file(Step.LOCKFILE, directory / f"lockfile-{machine_class}.yml", text.encode())


def read_lockfile(layout: Layout, name: EnvName, machine_class: str) -> str | None:
    """Return the text of the lockfile in force, or ``None``."""
    return _read_text(layout.name(name) / f"lockfile-{machine_class}.yml")


def set_pinned(layout: Layout, name: EnvName, *, is_pinned: bool) -> None:
    """Pin or unpin a name; a second time does nothing."""
    path = layout.name(name) / "pinned"
    if is_pinned and not path.exists():
        _name_directory(layout, name, Step.PIN)
        fsio.write_file(Step.PIN, path, b"")
    elif not is_pinned:
        with contextlib.suppress(FileNotFoundError):
            fsio.unlink(Step.PIN, path)


def is_pinned(layout: Layout, name: EnvName) -> bool:
    return (layout.name(name) / "pinned").exists()


def set_bundled(layout: Layout, name: EnvName) -> None:
    """Keep the archives of a name's lockfiles from being collected, also while nothing is built of them."""
    path = _name_directory(layout, name, Step.LOCKFILE) / "bundled"
    if not path.exists():
        fsio.write_file(Step.LOCKFILE, path, b"")


def bundled_lockfiles(layout: Layout) -> tuple[Path, ...]:
    """Return the lockfiles of names that came in a bundle."""
    return tuple(path for note in layout.names.glob("*/bundled") for path in note.parent.glob("lockfile-*.yml"))


def write_failure(layout: Layout, failure: Failure) -> None:
    """Remember the last failure of a name."""
    path = _name_directory(layout, failure.name, Step.FAILURE) / "failure.json"
    _write_json(Step.FAILURE, path, {"format": RECORD_FORMAT, **dataclasses.asdict(failure)})


def read_failure(layout: Layout, name: EnvName) -> Failure | None:
    """Return the last failure, or ``None``; a damaged note of one, or a newer envmgr's, counts as none."""
    try:
        return codec.load(Failure, _read_json(layout.name(name) / "failure.json"))
    except (FileNotFoundError, NotADirectoryError, Corrupt, StoreTooNew, ValueError):
        return None


def clear_failure(layout: Layout, name: EnvName) -> None:
    with contextlib.suppress(FileNotFoundError):
        fsio.unlink(Step.FAILURE, layout.name(name) / "failure.json")


def write_creator(layout: Layout, name: EnvName, uid: int, at: float) -> None:
    """Remember the user that an environment was made for, and when; the last one counts."""
    path = _name_directory(layout, name, Step.CREATOR) / "creator.json"
    _write_json(Step.CREATOR, path, {"format": RECORD_FORMAT, "uid": uid, "at": at})


def read_creator(layout: Layout, name: EnvName) -> int | None:
    """Return the uid of the user that an environment was made for, or ``None`` (also when the note is damaged)."""
    return _read_uid(layout.name(name) / "creator.json")


def _read_uid(path: Path) -> int | None:
    try:
        uid = _read_json(path).get("uid")
    except (FileNotFoundError, NotADirectoryError, Corrupt, StoreTooNew):
        return None
    return uid if isinstance(uid, int) else None


def write_alias_setter(layout: Layout, name: EnvName, alias: Alias, uid: int, at: float) -> None:
    """Remember the user that an alias of an environment was set for."""
    path = _name_directory(layout, name, Step.CREATOR) / f"alias-{alias}.json"
    _write_json(Step.CREATOR, path, {"format": RECORD_FORMAT, "uid": uid, "at": at})


def read_alias_setter(layout: Layout, name: EnvName, alias: Alias) -> int | None:
    """Return the uid of the user that an alias was set for, or ``None`` (also when the note is damaged)."""
    return _read_uid(layout.name(name) / f"alias-{alias}.json")


def clear_alias_setter(layout: Layout, name: EnvName, alias: Alias) -> None:
    """Forget whom an alias was set for."""
    with contextlib.suppress(FileNotFoundError):
        fsio.unlink(Step.CREATOR, layout.name(name) / f"alias-{alias}.json")


def stamp_use(layout: Layout, name: EnvName, at: float) -> None:
    """Note that a name is in use. Cheap and not durable, so no `Step`: after a crash an older time may stand there.

    Nothing is promised: with a full disk, in somebody else's store, or where nothing is known of the name, it is left.
    """
    with contextlib.suppress(OSError):
        fd = os.open(layout.name(name) / "last-used", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.utime(fd, (at, at))
        finally:
            os.close(fd)


def read_last_use(layout: Layout, name: EnvName) -> float | None:
    """Return when the name was last seen in use, or ``None``."""
    try:
        return (layout.name(name) / "last-used").stat().st_mtime
    except OSError:
        return None


def forget(layout: Layout, name: EnvName) -> None:
    """Drop everything that is known of a name beside its builds; its lockfile, too."""
    directory = layout.name(name)
    if directory.exists():
        target = layout.trash / f"{name}-{os.urandom(6).hex()}"
        fsio.move(Step.FORGET, directory, target)
        fsio.delete_tree(Step.DELETE, target)


def failed_since(layout: Layout, name: EnvName) -> float | None:
    """Return since when nothing is known of a name but a spec and its failure, or ``None``: there is more, or less."""
    directory = layout.name(name)
    failure = read_failure(layout, name)
    if failure is None or any(entry not in ("spec.json", "failure.json") for entry in os.listdir(directory)):
        return None
    return failure.at


def known_names(layout: Layout) -> tuple[EnvName, ...]:
    """Return every name of which something is known, published or not, sorted."""
    try:
        return tuple(EnvName(entry) for entry in sorted(os.listdir(layout.names)) if is_name(entry))
    except FileNotFoundError:
        return ()


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise Corrupt(f"{path} is damaged: {error}") from error


# -------------------------------------------------------------------------------------------------------- by text


def remember_text(layout: Layout, key: str, name: EnvName) -> None:
    """Remember the name of a document, so that the next caller need not parse it.

    Nothing is promised: with a full disk, or in somebody else's store, the next caller parses.
    """
    with contextlib.suppress(OSError):
        fsio.link_exclusive(Step.SEEN_TEXT, name, layout.by_text / key)
