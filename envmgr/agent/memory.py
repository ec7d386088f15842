"""What a host remembers of its cluster while it is down, or while ZooKeeper is: ``<root>/host-<machine>/cluster.json``.

By it a host knows its cluster again (and a tree that was emptied, restored from an old copy, or is another cluster's);
which environments are the cluster's to take away, which are its own; and the settings under which everything here is
made, also before ZooKeeper answers, and by commands while no daemon runs.

Written durably before what it speaks of is begun, read by the daemon's thread of the agent alone, and by commands.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envmgr import codec, fsio
from envmgr.agent import identity
from envmgr.fsio import Step
from envmgr.names import EnvName

if TYPE_CHECKING:
    from envmgr.agent.identity import Machine
    from envmgr.cluster.intent import Wanted
    from envmgr.store.layout import Layout
    from envmgr.wire.tree import Intent

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A declared environment that this host has begun to act on; `lock_generation` is the one it was brought to."""

    generation: int
    lock_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """See the module; `uuid` is ``None`` before the host has ever met its cluster.

    The first four are an `envmgr.cluster.intent.Seen` (which commands do not import: it brings kazoo along). `heal` is
    the last that was answered, `aliases` are those that the cluster set here.
    """

    uuid: str | None = None
    revision: int = 0
    token: str = ""
    is_restored: bool = False
    heal: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environments: Mapping[str, Held] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


def held_now(memory: Memory, wanted: Wanted, present: Mapping[EnvName, Intent]) -> dict[str, Held]:
    """Return what is the cluster's on this host once `wanted` is acted on; `present` is what of it is for this host."""
    held: dict[str, Held] = {}
    for name, before in memory.environments.items():
        # A restored tree does not know all that was declared; one that is whole, and says nothing, lets go.
        intent = wanted.intents.get(EnvName(name))
        if (not wanted.may_remove) if intent is None else (intent.state == "absent"):
            held[name] = before
    for name, intent in present.items():
        known = memory.environments.get(name)
        if known is not None:
            brought_to = known.lock_generation
            if wanted.may_remove:  # after an import it may be lower than it was: the next relock counts all the same
                brought_to = min(brought_to, intent.lock_generation)
            held[name] = dataclasses.replace(known, generation=intent.generation, lock_generation=brought_to)
        else:
            # What is here or being made is of whatever lockfile: more than the first generation is to be shown.
            first = 1 if intent.lock_generation == 1 else 0
            held[name] = Held(generation=intent.generation, lock_generation=first)
    return held


def path_text(layout: Layout, machine: Machine) -> str:
    """Return where it stands, for people."""
    return str(identity.directory(layout, machine) / "cluster.json")


def read(layout: Layout, machine: Machine) -> Memory:
    """Return what is remembered; nothing where there is nothing, or nothing readable, which is told to the log."""
    path = identity.directory(layout, machine) / "cluster.json"
    try:
        return codec.load(Memory, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError) as error:
        # Without it the host removes nothing that it did not see declared from now on.
        _log.warning("%s cannot be read, and what the cluster said earlier is forgotten: %s", path, error)
        return Memory()


def write(layout: Layout, machine: Machine, memory: Memory) -> None:
    """Remember, durably."""
    place = identity.directory(layout, machine)
    if not place.is_dir():
        fsio.make_directory(Step.STORE, place, parents=True)
    text = json.dumps(dataclasses.asdict(memory), ensure_ascii=False, indent=1) + "\n"
    fsio.write_file(Step.STORE, place / "cluster.json", text.encode())
