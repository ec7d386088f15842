"""Making a build visible under its name, and taking it away; aliases.

A publication is one symbolic link. Its presence is the only sign that an environment is ready, so it is made after
everything else is on disk, and nothing of a build is changed afterwards.
"""

from __future__ import annotations

import contextlib
import os

from envmgr import fsio
from envmgr.errors import AliasTaken, Corrupt, EnvironmentNotFound, UsageError
from envmgr.fsio import Step
from envmgr.names import Alias, BuildId, EnvName, is_alias, is_build_id, is_name
from envmgr.ready import resolve
from envmgr.store.layout import Layout


def _target(name: EnvName, build_id: BuildId) -> str:
    return f"../builds/{build_id}/envs/{name}"


def current(layout: Layout, name: EnvName) -> BuildId | None:
    """Return the published build of a name, or ``None``; `Corrupt` when something foreign stands there."""
    found = resolve(str(layout.root), name)
    return None if found is None else found[1]


def publish(layout: Layout, name: EnvName, build_id: BuildId) -> bool:
    """Publish a finished build unless the name is taken; tell whether this build is now the published one."""
    try:
        fsio.link_exclusive(Step.PUBLISH, _target(name, build_id), layout.publication(name))
    except FileExistsError:
        return current(layout, name) == build_id
    return True


def republish(layout: Layout, name: EnvName, old: BuildId, new: BuildId) -> bool:
    """Replace the publication of `old` by `new`, if `old` is still what is published; tell whether it was.

    Only for relock and repair, under the name's build lock.
    """
    if current(layout, name) != old:
        return False
    fsio.link_replacing(Step.REPUBLISH, _target(name, new), layout.publication(name))
    return True


def unpublish(layout: Layout, name: EnvName, build_id: BuildId) -> bool:
    """Take the name away if it leads to `build_id`; durable on return. Under the name's build lock."""
    if current(layout, name) != build_id:
        return False
    fsio.unlink(Step.UNPUBLISH, layout.publication(name))
    return True


def _entries(layout: Layout) -> list[str]:
    """Return what stands in ``envs/``, sorted; nothing where there is no store."""
    try:
        return sorted(os.listdir(layout.envs))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise UsageError(f"{layout.root} cannot be a store: {error.strerror}") from error


def published(layout: Layout) -> dict[EnvName, BuildId]:
    """Return all published names with their builds, sorted by name; what is not ours is left out (see `foreign`)."""
    found = {}
    for entry in _entries(layout):
        if is_name(entry):
            build_id = _build_of(layout, EnvName(entry))
            if build_id is not None:
                found[EnvName(entry)] = build_id
    return found


def _build_of(layout: Layout, name: EnvName) -> BuildId | None:
    try:
        target = os.readlink(layout.publication(name))
    except OSError:
        return None
    return BuildId(target.split("/")[2]) if _is_build(target, name) else None


def foreign(layout: Layout) -> tuple[str, ...]:
    """Return the entries of ``envs/`` that envmgr did not make: directories, files, links elsewhere."""
    return tuple(entry for entry in _entries(layout) if is_foreign(layout, entry))


def is_foreign(layout: Layout, entry: str) -> bool:
    """Tell whether something stands there that envmgr did not make; one look at that entry as it is now."""
    if entry.startswith(fsio.TEMPORARY):
        return False
    try:
        target = os.readlink(layout.envs / entry)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return not (_is_build(target, entry) if is_name(entry) else is_alias(entry) and is_name(target))


def _is_build(target: str, name: str) -> bool:
    build_id = target.removeprefix("../builds/").partition("/")[0]
    return is_build_id(build_id) and target == _target(EnvName(name), BuildId(build_id))


# -------------------------------------------------------------------------------------------------------- aliases


def all_aliases(layout: Layout) -> dict[Alias, EnvName]:
    """Return every alias with the name that it stands for, sorted."""
    found = {}
    for entry in _entries(layout):
        if is_alias(entry):
            try:
                target = os.readlink(layout.envs / entry)
            except OSError:
                continue
            if is_name(target):
                found[Alias(entry)] = EnvName(target)
    return found


def alias_taken(alias: Alias, held_by: EnvName, name: EnvName) -> AliasTaken:
    """Return the error of an alias that is wanted for `name` and stands for another one."""
    return AliasTaken(
        f"alias {alias!r} stands for {held_by}, not for {name}",
        hint="--move lets it stand for the new one; processes that run keep the old one",
        alias=alias,
        name=held_by,
    )


def set_alias(layout: Layout, alias: Alias, name: EnvName, *, move: bool = False) -> None:
    """Let `alias` stand for `name`; `AliasTaken` when it stands for another one and `move` is false.

    The first of two racing callers wins; the other gets the error, never the other's environment. What envmgr did not
    make is never replaced, but `Corrupt`.
    """
    while True:
        try:
            fsio.link_exclusive(Step.ALIAS, name, layout.alias(alias))
        except FileExistsError:
            held_by = all_aliases(layout).get(alias)
        else:
            return
        if held_by is None:
            if not os.path.lexists(layout.alias(alias)):
                continue  # dropped this very moment
            raise Corrupt(
                f"{layout.alias(alias)} is no alias of envmgr",
                hint="another program wrote there; envmgr doctor quarantines it",
            )
        if held_by == name:
            return
        if not move:
            raise alias_taken(alias, held_by, name)
        fsio.link_replacing(Step.ALIAS, name, layout.alias(alias))
        return


def remove_alias(layout: Layout, alias: Alias) -> EnvName:
    """Drop an alias and return what it stood for; nothing else is touched. `EnvironmentNotFound` when not set."""
    name = all_aliases(layout).get(alias)
    if name is not None:
        with contextlib.suppress(FileNotFoundError):
            fsio.unlink(Step.ALIAS_REMOVAL, layout.alias(alias))
            return name
    raise EnvironmentNotFound(f"there is no alias {alias!r}", hint="envmgr alias list shows them")
