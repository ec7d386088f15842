"""The table of every setting: its key, kind, default and what it means.

`Values` *is* the table. A setting is one annotated line in it, and `setting` cannot be called without a sentence of
documentation; files, environment variables, ``envmgr settings`` and the README's table are all made from `ENTRIES`.

*Cluster-wide* settings decide which packages a spec gets. They are no part of a name, so hosts that are to install the
same must agree on them; the others are each host's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar, cast

from envmgr.settings import kinds
from envmgr.settings.kinds import Kind

T = TypeVar("T")

Mode = Literal["personal", "service"]
"""Whose store it is: one user's, or the service's on a host of many users."""

ChannelPriority = Literal["strict", "flexible", "disabled"]


class _Unset:
    """The type of "no other default for service stores"; ``None`` is a value."""


_UNSET: Final = _Unset()


def _channel_priority(value: object) -> ChannelPriority:
    if value == "strict":
        return "strict"
    if value == "flexible":
        return "flexible"
    if value == "disabled":
        return "disabled"
    raise ValueError("")


LogFormat = Literal["text", "json"]


def _log_format(value: object) -> LogFormat:
    if value == "text":
        return "text"
    if value == "json":
        return "json"
    raise ValueError("")


BackendName = Literal["rattler", "conda", "conda-solve"]


def _backend(value: object) -> BackendName:
    if value == "rattler":
        return "rattler"
    if value == "conda":
        return "conda"
    if value == "conda-solve":
        return "conda-solve"
    raise ValueError("")


BACKEND: Kind[BackendName] = Kind("rattler, conda or conda-solve", _backend, _backend)
LOG_FORMAT: Kind[LogFormat] = Kind("text or json", _log_format, _log_format)
CHANNEL_PRIORITY: Kind[ChannelPriority] = Kind("strict, flexible or disabled", _channel_priority, _channel_priority)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: what is known of a setting before any source was read."""

    key: str
    kind: Kind[Any]
    doc: str
    personal: object
    service: object
    is_cluster_wide: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"ENVMGR_{self.key.upper()}"

    def default(self, mode: Mode) -> object:
        return self.service if mode == "service" else self.personal


def setting(default: T, kind: Kind[T], doc: str, *, service: T | _Unset = _UNSET, is_cluster_wide: bool = False) -> T:
    """Declare a setting inside `Values`; `service` is the default of service stores where it differs."""
    facts = {
        "kind": kind,
        "doc": doc,
        "personal": default,
        "service": default if isinstance(service, _Unset) else service,
        "is_cluster_wide": is_cluster_wide,
    }
    if isinstance(default, dict):
        made: object = field(default_factory=lambda: dict(default), metadata=facts)
    else:
        made = field(default=default, metadata=facts)
    return cast("T", made)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Values:
    """The value of every setting; the defaults below are those of a personal store."""

    # ------------------------------------------------------------------------------------------------- conda channels
    default_channels: tuple[str, ...] = setting(
        ("conda-forge",), kinds.STRINGS, "Channels searched after a spec's own, unless it says `nodefaults`.",
        is_cluster_wide=True,
    )  # fmt: skip
    expand_defaults: tuple[str, ...] = setting(
        ("main", "r"), kinds.STRINGS, "What the channel word `defaults` stands for: channels searched as one.",
        is_cluster_wide=True,
    )  # fmt: skip
    channel_alias: str = setting(
        "https://conda.anaconda.org", kinds.URL_VALUE, "The URL that a bare channel word is appended to.",
        is_cluster_wide=True,
    )  # fmt: skip
    custom_channels: Mapping[str, str] = setting(
        {}, kinds.TABLE, "Channel word → URL of the directory that holds it, instead of `channel_alias`.",
        is_cluster_wide=True,
    )  # fmt: skip
    custom_multichannels: Mapping[str, tuple[str, ...]] = setting(
        {}, kinds.TABLE_OF_LISTS, "Channel word → channels that it stands for, searched as one.", is_cluster_wide=True
    )
    channel_priority: ChannelPriority = setting(  # noqa: RUF009 - `setting` makes a field, as all lines here
        "strict", CHANNEL_PRIORITY,
        "`strict`: a package comes from the first channel that has it; `flexible`; `disabled`.", is_cluster_wide=True,
    )  # fmt: skip
    channel_variables: tuple[str, ...] | None = setting(
        None, kinds.STRINGS_OR_ALL,
        "Environment variables that `${NAME}` in a spec's channels may stand for, or `all`.", service=(),
    )  # fmt: skip
    exclude_newer: str | None = setting(
        None, kinds.OPTIONAL_TIME, "Packages published after this date or time do not exist for a new solve.",
        is_cluster_wide=True,
    )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ the machine
    machine_class: str = setting(
        "", kinds.MACHINE_CLASS,
        "Hosts of one class share lockfiles: the subdir, then what else sets them apart; default: the subdir.",
    )  # fmt: skip
    virtual_packages: Mapping[str, str] = setting(
        {}, kinds.VIRTUAL_PACKAGES,
        "Virtual package → version, instead of what is detected; an empty version: the host has none.",
    )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ pip section
    index_url: str | None = setting(
        None, kinds.OPTIONAL_URL, "The package index of pip sections; default: the public one.", is_cluster_wide=True
    )
    extra_index_urls: tuple[str, ...] = setting(
        (), kinds.URLS, "More package indexes for pip sections.", is_cluster_wide=True
    )
    find_links: tuple[str, ...] = setting(
        (), kinds.PLACES, "Directories and pages where pip sections find more archives.", is_cluster_wide=True
    )
    no_index: bool = setting(
        False, kinds.BOOL, "Use no package index for pip sections, only `find_links`.", is_cluster_wide=True
    )
    allow_replacing_conda: bool = setting(
        False, kinds.BOOL, "Whether a pip section may replace a package that conda installed.", is_cluster_wide=True
    )

    # ----------------------------------------------------------------------------------------------------------- policy
    allowed_channels: tuple[str, ...] | None = setting(
        None, kinds.STRINGS_OR_ALL,
        "The channels that specs may use besides the default ones, or `all`: a build runs their code.", service=(),
    )  # fmt: skip
    allowed_indexes: tuple[str, ...] = setting(
        (), kinds.STRINGS,
        "URL prefixes of the only indexes, pages and archives that pip sections may name; empty: any.",
    )  # fmt: skip
    allow_git_urls: bool = setting(
        True, kinds.BOOL, "Whether pip sections may install from version control (`git+https://…`).", service=False
    )
    allow_sdists: tuple[str, ...] | None = setting(
        None, kinds.DISTRIBUTIONS_OR_ALL,
        "pip packages that may be built from source (which runs their code), or `all`.",
        service=(), is_cluster_wide=True,
    )  # fmt: skip
    allow_link_scripts: tuple[str, ...] | None = setting(
        (), kinds.STRINGS_OR_ALL, "conda packages whose link scripts may run, or `all`."
    )
    allow_md5: bool = setting(
        False, kinds.BOOL, "Whether a conda package without SHA-256 may be believed by its MD5.", is_cluster_wide=True
    )

    # ---------------------------------------------------------------------------------------------------------- network
    offline: bool = setting(False, kinds.BOOL, "Never touch the network: only `file://` and what is already cached.")
    verify_tls: bool = setting(True, kinds.BOOL, "Whether certificates of channels and indexes are verified.")
    ca_file: str | None = setting(
        None, kinds.OPTIONAL_PATH, "PEM file of certificate authorities, instead of the system's."
    )
    proxies: Mapping[str, str] = setting(
        {}, kinds.PROXIES, "Proxy URLs by scheme (`http`, `https`); `no`: hosts reached without, comma-separated."
    )
    mirrors: Mapping[str, tuple[str, ...]] = setting(
        {}, kinds.TABLE_OF_LISTS, "URL prefix → URL prefixes tried instead, in order; lockfiles keep the original."
    )
    netrc_file: str | None = setting(None, kinds.OPTIONAL_PATH, "File with logins by host, in netrc's format.")
    auth_file: str | None = setting(None, kinds.OPTIONAL_PATH, "File with logins by host, in rattler's JSON format.")
    timeout_s: float = setting(60.0, kinds.DURATION, "How long a connection may stay silent.")
    max_retries: int = setting(3, kinds.integer(0, 100), "How often a failed download is tried again.")
    parallel_downloads: int = setting(8, kinds.integer(1, 64), "Downloads of one build at the same time.")

    # ----------------------------------------------------------------------------------------------------------- builds
    backend: BackendName = setting(  # noqa: RUF009 - `setting` makes a field, as all lines here
        "rattler", BACKEND,
        "`rattler`; `conda`: the site's own conda solves and links (micromamba and mamba 2 only solve); `conda-solve`.",
    )  # fmt: skip
    conda_executable: str | None = setting(
        None, kinds.OPTIONAL_PATH,
        "The site's conda, mamba or micromamba; default: `CONDA_EXE`, `MAMBA_EXE`, `MLFLOW_CONDA_HOME`, then `PATH`.",
    )  # fmt: skip
    pass_conda_commands: bool = setting(
        False, kinds.BOOL, "Whether what a conda home does not answer is handed to the site's own conda, or refused."
    )
    min_free_bytes: int = setting(
        1 << 30, kinds.SIZE, "A build does not begin with less than this free in the store's file system."
    )
    min_free_inodes: int = setting(
        20_000, kinds.integer(0, 10**12), "A build does not begin with fewer free inodes than this."
    )

    max_environment_bytes: int = setting(
        0, kinds.SIZE, "A build that comes out larger than this is refused; 0: any size."
    )
    max_build_s: float = setting(
        0.0, kinds.DURATION, "The daemon ends a build that takes longer than this; 0: never.", service=7200.0
    )
    builder_nice: int = setting(
        0, kinds.integer(0, 19), "How much builds give way to other processes (nice(2)).", service=5
    )
    builder_memory_bytes: int = setting(
        0, kinds.SIZE, "Memory that one build and its tools may use, where the kernel can bound it (cgroup v2); 0: any."
    )

    # ------------------------------------------------------------------------------------------------------- the daemon
    use_group: str | None = setting(
        None, kinds.OPTIONAL_TEXT, "Group whose members may use the daemon's socket; default: every user of the host."
    )
    admin_group: str | None = setting(
        None, kinds.OPTIONAL_TEXT, "Group whose members may do all that root and the store's owner may."
    )
    listen: str | None = setting(
        None, kinds.OPTIONAL_ADDRESS, "TCP address (`host:port`) on which the daemon answers, too; needs `tokens_file`."
    )
    tokens_file: str | None = setting(
        None, kinds.OPTIONAL_PATH, "Who may do what over TCP: a line `NAME use|admin SHA256-OF-TOKEN` each."
    )
    tls_cert_file: str | None = setting(
        None,
        kinds.OPTIONAL_PATH,
        "PEM file of the daemon's certificate chain; without it TCP is bound to loopback only.",
    )
    tls_key_file: str | None = setting(None, kinds.OPTIONAL_PATH, "PEM file of that certificate's private key.")
    max_builds: int = setting(2, kinds.integer(1, 64), "Builds of the daemon at the same time.")
    max_waiting: int = setting(
        200, kinds.integer(1, 100_000), "Builds that may wait for their turn; more are refused for a while (HTTP 429)."
    )
    max_waiting_per_user: int = setting(
        50, kinds.integer(1, 100_000), "The same for the builds that one user has asked for."
    )
    max_environments_per_user: int = setting(
        0, kinds.integer(0, 1_000_000), "Environments in the store that one user may have had made; 0: any number."
    )
    max_connections_per_user: int = setting(
        1000, kinds.integer(1, 100_000), "Connections that one user may have open to the daemon."
    )
    log_format: LogFormat = setting(  # noqa: RUF009 - `setting` makes a field, as all lines here
        "text", LOG_FORMAT, "`text`: a line of `key=value` per operation; `json`: the same as an object."
    )

    # ------------------------------------------------------------------------------------------------------- collection
    gc_interval_s: float = setting(3600.0, kinds.DURATION, "How often the daemon looks for what to free; 0: never.")
    gc_high_percent: int = setting(
        0, kinds.integer(0, 100), "Disk or inodes used, in percent, above which unused environments go; 0: never.",
        service=90,
    )  # fmt: skip
    gc_low_percent: int = setting(
        80, kinds.integer(0, 100), "Until not more than this is used, in percent, the least recently used first."
    )
    gc_max_age_s: float = setting(0.0, kinds.DURATION, "Environments not used for longer than this go; 0: never.")
    gc_max_total_bytes: int = setting(
        0,
        kinds.SIZE,
        "All environments together are kept below this, the least recently used going first; 0: any size.",
    )
    gc_min_age_s: float = setting(
        86400.0, kinds.DURATION, "Environments made or used more recently than this are never collected."
    )

    # ------------------------------------------------------------------------------------------------------ the cluster
    zookeeper: tuple[str, ...] = setting(
        (), kinds.ADDRESSES, "Servers of the cluster's ZooKeeper, `host:port` each; empty: this host is in no cluster."
    )
    zookeeper_root: str = setting(
        "/envmgr", kinds.TREE_PATH, "Node of ZooKeeper below which the cluster keeps its tree."
    )
    zookeeper_auth_file: str | None = setting(
        None, kinds.OPTIONAL_PATH, "File with one line `user:password`, by which ZooKeeper knows this host (digest)."
    )
    zookeeper_ca_file: str | None = setting(
        None, kinds.OPTIONAL_PATH, "PEM file of the authorities of ZooKeeper's certificates; turns TLS on."
    )
    zookeeper_cert_file: str | None = setting(
        None, kinds.OPTIONAL_PATH, "PEM file of this host's certificate chain, by which ZooKeeper knows it."
    )
    zookeeper_key_file: str | None = setting(None, kinds.OPTIONAL_PATH, "PEM file of that certificate's private key.")
    zookeeper_session_s: float = setting(
        30.0, kinds.DURATION, "How long ZooKeeper keeps what a host holds after it was last heard of."
    )
    host_id: str | None = setting(
        None, kinds.OPTIONAL_TEXT, "What the cluster calls this host; default: its host name when it first joined."
    )
    host_labels: Mapping[str, str] = setting(
        {}, kinds.TABLE, "Label → value, by which `cluster create --label` chooses hosts."
    )
    coordinator_wait_s: float = setting(
        60.0,
        kinds.DURATION,
        "How long a solve waits for ZooKeeper to answer; a host that solves is waited for while it gets on.",
    )
    solve_without_coordinator: bool = setting(
        False,
        kinds.BOOL,
        "Whether a host that cannot reach ZooKeeper may solve by itself (other packages may come out).",
    )
    solve_stall_s: float = setting(
        900.0, kinds.DURATION, "A host that holds the claim on a solve this long without progress is replaced."
    )
    agent_interval_s: float = setting(
        60.0, kinds.DURATION, "How often the daemon compares its host with what the cluster wants, told or not."
    )
    share_archives: bool = setting(
        True,
        kinds.BOOL,
        "Whether archives are fetched from hosts of the cluster and given to them (`archives_listen`).",
    )
    archives_listen: str | None = setting(
        None,
        kinds.OPTIONAL_ADDRESS,
        "TCP address (`host:port`) on which the daemon gives archives to the cluster's hosts.",
    )
    archives_wait_s: float = setting(
        30.0, kinds.DURATION, "How long a build waits, without progress, for another host that fetches an archive."
    )
    archives_connections: int = setting(
        16, kinds.integer(1, 10_000), "Connections on which archives are given to other hosts at the same time."
    )
    archives_bytes_per_s: int = setting(
        0, kinds.SIZE, "Bytes a second that are given to other hosts at most, all together; 0: any number."
    )

    # ------------------------------------------------------------------------------------------- other programs' files
    use_condarc: bool = setting(
        True, kinds.BOOL, "Whether conda's own files (`.condarc`) and `CONDA_*` variables count.", service=False
    )
    use_pip_conf: bool = setting(
        True, kinds.BOOL, "Whether pip's own files (`pip.conf`) and the variables of pip and uv count.", service=False
    )


ENTRIES: tuple[Entry, ...] = tuple(Entry(item.name, **item.metadata) for item in fields(Values))
"""Every setting, in the order in which it is shown."""

BY_KEY: Mapping[str, Entry] = {entry.key: entry for entry in ENTRIES}
