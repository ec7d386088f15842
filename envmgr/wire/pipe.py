"""What crosses the builder's pipe: one request, then a stream of JSON lines, versioned.

The parent writes one `BuildRequest` as JSON to the builder's standard input and closes it. The builder answers on a
pipe of its own (its standard output and error are the build's log) with one JSON object a line:

* ``{"event": {…}}``: an `envmgr.events.Event`;
* ``{"locked": "<text>"}``: the whole conda-lock.yml, as soon as it is complete; at most once;
* ``{"result": {…}}`` or ``{"error": {…}}``: a `BuildResult` or `envmgr.errors.EnvmgrError.to_json`; the last line.

End of file without a last line means that the builder died. Both sides check `VERSION`: parent and child are normally
one installation, but an upgrade in place can replace the files between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envmgr.codec import dump, load

__all__ = ["VERSION", "BuildRequest", "BuildResult", "Channel", "Network", "PipSettings", "Sharing", "dump", "load"]

VERSION = 1


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as the solver needs it: the word or URL that the spec used, and the URLs that it stands for."""

    name: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """How the builder reaches channels and indexes; from the site's settings only, never from a spec.

    `ca_file` is a PEM bundle that replaces the system's; `mirrors` maps a URL prefix to the URL prefixes to try
    instead, in order; `proxies` has the keys ``http``, ``https``, ``no`` (a comma-separated list of hosts).
    """

    is_offline: bool = False
    verify_tls: bool = True
    ca_file: str | None = None
    proxies: tuple[tuple[str, str], ...] = ()
    mirrors: tuple[tuple[str, tuple[str, ...]], ...] = ()
    netrc_file: str | None = None
    auth_file: str | None = None
    timeout_s: float = 60.0
    max_retries: int = 3
    parallel_downloads: int = 8


@dataclass(frozen=True, slots=True)
class PipSettings:
    """How the pip section is solved; `options` are the spec's own, in its order, as (flag, value)."""

    options: tuple[tuple[str, str], ...] = ()
    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    allow_sdists: tuple[str, ...] | None = None
    """Names whose source distributions may be built; ``None`` allows all, ``()`` none."""
    allow_replacing_conda: bool = False
    constraints: tuple[str, ...] = ()
    """PEP 508 lines that bound what may be chosen without asking for anything."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The hosts of the cluster that give archives to each other, by the URLs of their archives; see `ports.Siblings`.

    `wait_s` is how long a build waits for another host without seeing progress there.
    """

    own: str | None = None
    others: tuple[str, ...] = ()
    solver: str | None = None
    wait_s: float = 30.0

    @property
    def is_on(self) -> bool:
        """Whether this host takes archives from others, or gives them to others."""
        return self.own is not None or bool(self.others)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything that the builder may know; it reads no settings and no caller's environment.

    `action` ``build`` makes the prefix; ``lock`` only finds the lockfile (in a scratch prefix where pip needs one);
    ``probe`` only fetches the channels' indexes.
    `lockfile` is the text of the conda-lock.yml to install, or ``None`` to solve. `build_dir` exists and is leased by
    the parent; `prefix` does not exist yet. `conda` and `pip` are already chosen for this subdir.
    """

    action: Literal["build", "lock", "probe"]
    name: str
    digest: str
    subdir: str
    conda: tuple[str, ...]
    pip: tuple[str, ...]
    channels: tuple[Channel, ...]
    channel_priority: Literal["strict", "flexible", "disabled"]
    variables: tuple[tuple[str, str], ...]
    lockfile: str | None
    build_dir: str
    prefix: str
    package_cache: str
    uv_cache: str
    machine_class: str
    network: Network = Network()
    pip_settings: PipSettings = PipSettings()
    virtual_package_overrides: tuple[tuple[str, str], ...] = ()
    solve_virtual_packages: tuple[tuple[str, str], ...] | None = None
    """What the cluster declares of the machine class, which is then what packages are chosen for; ``None``: nothing.

    Whether this host has what they require is looked at all the same, before anything is installed.
    """
    exclude_newer: str | None = None
    """An RFC 3339 time; packages published later do not exist for the solve."""
    allow_link_scripts: tuple[str, ...] | None = ()
    """Names of packages whose post-link scripts may run; ``None`` allows all."""
    allow_md5: bool = False
    """Whether a conda package without sha256 may be believed by its md5."""
    validate_packages: bool = False
    """Whether every unpacked package of the cache is compared byte by byte before it is linked (repair)."""
    nice: int = 0
    """How much the builder and its tools give way to other processes; see nice(2)."""
    memory_bytes: int = 0
    """What the builder and its tools may use of memory together, where the kernel can bound it; 0: any."""
    max_environment_bytes: int = 0
    """A prefix that comes out larger is refused; 0: any size."""
    sharing: Sharing = Sharing()
    backend: Literal["rattler", "conda", "conda-solve"] = "rattler"
    """Who solves, and who links: rattler, the site's conda, or the site's conda and then rattler."""
    conda_executable: str | None = None
    conda_environ: tuple[tuple[str, str], ...] = ()
    """Variables of who asks by which the site's conda and its configuration files are found; made by the backend."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What the builder did; `phases_s` in seconds, in order. `lock_digest` is `envmgr.model.Lockfile.digest`.

    `downloaded_bytes` came from channels and indexes, `sibling_bytes` from other hosts of the cluster.
    """

    lock_digest: str
    packages: int
    size_bytes: int
    python_version: str | None
    phases_s: tuple[tuple[str, float], ...]
    skipped_link_scripts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    downloaded_bytes: int = 0
    sibling_bytes: int = 0
    version: int = VERSION
