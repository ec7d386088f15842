"""What the tests of collection do to a store: environments of a known size, used at known times."""

from __future__ import annotations

from collections.abc import Iterable

from fakes.backend import Orders
from fakes.worlds import World, spec_of

from envmgr.manager.collection import Collected, Limits
from envmgr.model import Spec
from envmgr.names import Alias, EnvName
from envmgr.store import publication

DAY_S = 86_400.0
NO_LIMITS = Limits(max_age_s=0.0, max_total_bytes=0, min_age_s=0.0)


def create(world: World, spec: Spec, *, size_bytes: int = 0, alias: str | None = None) -> EnvName:
    """Make an environment with a file of this size, and give its lease back."""
    Orders(world.orders).say("fill", str(size_bytes))
    world.manager().ensure(spec, alias=None if alias is None else Alias(alias)).lease.close()
    return spec.name


def specs(count: int) -> list[Spec]:
    """Return that many specs, in the order of their names."""
    return sorted((spec_of(f"package{number}") for number in range(count)), key=lambda spec: spec.name)


def names_in(found: Iterable[Collected]) -> list[EnvName]:
    """Return the environments among what was collected, in order."""
    return [thing.name for thing in found if thing.name is not None]


def published(world: World) -> set[EnvName]:
    return set(publication.published(world.layout))


def is_whole(world: World, name: EnvName) -> bool:
    return world.manager().verify(name) == ()
