"""Put the sources of settings on top of each other; every value remembers where it stands.

Later wins, tables entry by entry:

1. the defaults, which differ between personal and service stores;
2. what was written for other programs: pip's files, conda's files, the environment variables of both and of
   everybody (personal stores only, unless a setting says otherwise; variables for personal stores only);
3. ``/etc/envmgr/settings.toml``;
4. ``$XDG_CONFIG_HOME/envmgr/settings.toml`` (default ``~/.config``), for personal stores;
5. ``<root>/settings.toml`` of the store;
6. environment variables ``ENVMGR_<KEY>``.

So what is written for envmgr wins over what is written for others. Nothing is read from the process's environment:
the caller passes it. ``envmgr name`` and the hot path load no settings at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.errors import UsageError
from envmgr.settings import condarc, environment, machine, pipconf
from envmgr.settings.schema import BY_KEY, ENTRIES, Mode, Values
from envmgr.settings.sources import DEFAULT, Layer, Source, is_credential, read_environment, read_file

if TYPE_CHECKING:
    from envmgr.model import Spec
    from envmgr.wire.pipe import Channel, Network, PipSettings

FILE_NAME = "settings.toml"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Settings(Values):
    """The values in force for one store, each with its sources.

    `sources` has every key; of a table it names all sources that gave an entry, lowest first. `variables` are the
    environment variables that ``${NAME}`` in a spec's channels may stand for. The values may hold passwords: show
    them through `envmgr.settings.listing` only (``repr`` tells no value).
    """

    mode: Mode = "personal"
    subdir: str = ""
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        changed = sorted(key for key, sources in self.sources.items() if sources != (DEFAULT,))
        return f"<Settings of a {self.mode} store; not default: {', '.join(changed) or 'none'}>"

    @property
    def virtual_package_overrides(self) -> tuple[tuple[str, str], ...]:
        """What replaces detection, as (``__cuda``, version); an empty version: the host has none."""
        return tuple(sorted(self.virtual_packages.items()))

    # The builder's records are imported where they are made: showing a setting must not pay for them.

    def network(self) -> Network:
        """Return how the builder reaches channels and indexes; raise `UsageError` for a file that is not there."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.network(self)

    def channels(self, spec: Spec) -> tuple[Channel, ...]:
        """Return where this spec's packages may come from on this machine, highest priority first."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.channels(self, spec, self.subdir)

    def default_channel_urls(self) -> tuple[Channel, ...]:
        """Return the channels that are searched after a spec's own."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.default_channels(self)

    def conda(self, spec: Spec) -> tuple[str, ...]:
        """Return the MatchSpecs that count on this machine."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.conda(spec, self.subdir)

    def pip(self, spec: Spec) -> tuple[str, ...]:
        """Return the pip requirements that count on this machine."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.pip(spec, self.subdir)

    def pip_settings(self, spec: Spec) -> PipSettings:
        """Return how the pip section is solved."""
        from envmgr.settings import lookup  # noqa: PLC0415

        return lookup.pip_settings(self, spec)

    def source_text(self, key: str) -> str:
        """Return where the value of `key` stands, for people."""
        return ", ".join(map(str, self.sources.get(key, (DEFAULT,))))


def load(
    *,
    root: Path | None,
    mode: Mode,
    environ: Mapping[str, str],
    home: Path,
    etc: Path = Path("/etc"),
    subdir: str | None = None,
) -> Settings:
    """Read all sources for the store at `root` (``None``: no store's own file), on this machine or for `subdir`.

    Raises `envmgr.errors.UsageError` naming file or variable, key and what was expected.
    """
    own = [read_file(etc / "envmgr" / FILE_NAME, environ, home)]
    if mode == "personal":
        config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        own.append(read_file(config_home / "envmgr" / FILE_NAME, environ, home))
    if root is not None:
        own.append(read_file(root / FILE_NAME, environ, home))
    variables, warnings = read_environment(environ, home)
    own.append(variables)
    if mode == "personal":
        # /etc speaks to every user of the host; the service's logins are none of theirs, and must not hide their own.
        own = [_without_credentials(layer) for layer in own]
    # Whether the files of others count is itself a setting; only envmgr's own sources can say so.
    switches = _merge(own, mode)
    others = _others(
        environ, home, etc, mode, use_conda=bool(switches["use_condarc"][0]), use_pip=bool(switches["use_pip_conf"][0])
    )
    merged = _merge([*others, *own], mode)
    allowed = merged["channel_variables"][0]
    subdir = subdir or machine.subdir()
    merged["machine_class"] = _machine_class(merged["machine_class"], subdir)
    return Settings(
        # Each was checked by its setting's kind, which mypy cannot follow through a table.
        **{key: value for key, (value, _) in merged.items()},  # type: ignore[arg-type]
        mode=mode,
        subdir=subdir,
        sources={key: sources for key, (_, sources) in merged.items()},
        variables={name: text for name, text in environ.items() if allowed is None or name in allowed},  # type: ignore[operator]
        warnings=warnings,
    )


def _without_credentials(layer: Layer) -> Layer:
    # Whoever would speak to the cluster's ZooKeeper without its password is told so (`endpoint.of_settings`).
    return {
        key: found
        for key, found in layer.items()
        if key.startswith("zookeeper_") or not is_credential(BY_KEY[key], found[0])
    }


def _machine_class(found: tuple[object, tuple[Source, ...]], subdir: str) -> tuple[object, tuple[Source, ...]]:
    """Fill in the default; a class of another kind of machine would hand out lockfiles that cannot be installed."""
    value, sources = found
    name = str(value) or subdir
    if name != subdir and not name.startswith(f"{subdir}+"):
        raise UsageError(
            f"{sources[-1]}: a machine class of this host is {subdir!r} or begins with {subdir + '+'!r}",
            hint="setting machine_class",
            key="machine_class",
        )
    return name, sources


def _others(
    environ: Mapping[str, str], home: Path, etc: Path, mode: Mode, *, use_conda: bool, use_pip: bool
) -> list[Layer]:
    is_personal = mode == "personal"
    layers: list[Layer] = []
    if use_pip:
        layers += pipconf.read_files(environ, home, etc, is_personal=is_personal)
    if use_conda:
        layers += condarc.read_files(environ, home, etc, is_personal=is_personal)
    if is_personal:
        layers += environment.read(environ, home, use_conda=use_conda, use_pip=use_pip)
    return layers


def _merge(layers: Iterable[Layer], mode: Mode) -> Layer:
    merged: Layer = {entry.key: (entry.default(mode), (DEFAULT,)) for entry in ENTRIES}
    for layer in layers:
        for key, (value, sources) in layer.items():
            below, those = merged[key]
            if BY_KEY[key].kind.is_table and isinstance(below, dict) and isinstance(value, dict):
                merged[key] = (below | value, (*(source for source in those if source != DEFAULT), *sources))
            else:
                merged[key] = (value, sources)
    return merged
