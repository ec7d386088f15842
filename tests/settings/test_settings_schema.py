"""The table of settings is complete, and every default is a value that its own kind accepts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from settings_machine import Machine

from envmgr.settings import kinds
from envmgr.settings.listing import markdown, table
from envmgr.settings.schema import ENTRIES, Entry, Values


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


KEYS = [
    "default_channels", "expand_defaults", "channel_alias", "custom_channels", "custom_multichannels",
    "channel_priority", "channel_variables", "exclude_newer", "machine_class", "virtual_packages", "index_url",
    "extra_index_urls", "find_links", "no_index", "allow_replacing_conda", "allowed_channels", "allowed_indexes",
    "allow_git_urls", "allow_sdists", "allow_link_scripts", "allow_md5", "offline", "verify_tls", "ca_file",
    "proxies", "mirrors", "netrc_file", "auth_file", "timeout_s", "max_retries", "parallel_downloads",
    "backend", "conda_executable", "pass_conda_commands",
    "min_free_bytes", "min_free_inodes", "max_environment_bytes", "max_build_s", "builder_nice",
    "builder_memory_bytes", "use_group", "admin_group", "listen", "tokens_file", "tls_cert_file", "tls_key_file",
    "max_builds", "max_waiting", "max_waiting_per_user", "max_environments_per_user", "max_connections_per_user",
    "log_format", "gc_interval_s", "gc_high_percent", "gc_low_percent", "gc_max_age_s", "gc_max_total_bytes",
    "gc_min_age_s", "zookeeper", "zookeeper_root", "zookeeper_auth_file", "zookeeper_ca_file", "zookeeper_cert_file",
    "zookeeper_key_file", "zookeeper_session_s", "host_id", "host_labels", "coordinator_wait_s",
    "solve_without_coordinator", "solve_stall_s", "agent_interval_s", "share_archives", "archives_listen",
    "archives_wait_s", "archives_connections", "archives_bytes_per_s", "use_condarc", "use_pip_conf",
]  # fmt: skip

CLUSTER_WIDE = [
    "default_channels", "expand_defaults", "channel_alias", "custom_channels", "custom_multichannels",
    "channel_priority", "exclude_newer", "index_url", "extra_index_urls", "find_links", "no_index",
    "allow_replacing_conda", "allow_sdists", "allow_md5",
]  # fmt: skip


def test_keys() -> None:
    """A setting cannot come, go or be renamed without this list saying so."""
    assert [entry.key for entry in ENTRIES] == KEYS
    assert [entry.key for entry in ENTRIES if entry.is_cluster_wide] == CLUSTER_WIDE


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_documentation(entry: Entry) -> None:
    """Every setting has one sentence of documentation, ending as a sentence, and says what it expects."""
    assert entry.doc.endswith(".")
    assert entry.doc == " ".join(entry.doc.split())
    assert 20 <= len(entry.doc) <= 120
    assert entry.kind.name
    assert entry.key in get_type_hints(Values)
    assert f"| `{entry.key}` |" in markdown()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_defaults_fit(entry: Entry) -> None:
    """A default, written into a file, would be accepted and mean itself."""
    for default in (entry.personal, entry.service):
        written: object = default
        if default is None:
            written = {"list": "all", "seco": "never"}.get(entry.kind.name.replace("a list", "list")[:4], "")
        elif isinstance(default, tuple):
            written = list(default)
        assert entry.kind.from_toml(written) == default


def test_table_without_a_store_is_the_documentation() -> None:
    """`table()` alone has each row's documentation and defaults, and no values."""
    rows = table()
    assert [row.key for row in rows] == KEYS
    assert all(row.value is None and row.source == "" for row in rows)
    by_key = {row.key: row for row in rows}
    assert by_key["allow_sdists"].personal_default == "all"
    assert by_key["allow_sdists"].service_default == []
    assert by_key["min_free_bytes"].personal_default == 1 << 30
    assert by_key["index_url"].other_variables == ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL")
    assert by_key["virtual_packages"].other_variables == ("CONDA_OVERRIDE_*",)


def test_json_has_every_key(machine: Machine) -> None:
    """Every row has the same keys, with null and never absence."""
    rows = [row.to_json() for row in table(machine.load())]
    assert {frozenset(row) for row in rows} == {
        frozenset({
            "key", "value", "source", "sources", "expected", "personal_default", "service_default", "is_cluster_wide",
            "doc", "variable", "other_variables",
        })
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (kinds.BOOL, {"true": True, "0": False, "Yes": True, "off": False}, ["", "maybe", "2"]),
        (
            kinds.DURATION,
            {"90": 90, "1.5": 1.5, "30m": 1800, "12h": 43200, "7 d": 604800},
            ["", "-1", "1w", "nan", "h"],
        ),
        (kinds.SIZE, {"5": 5, "1GiB": 1 << 30, "2 MB": 2_000_000, "0.5kib": 512}, ["", "-5", "1 parsec", "."]),
        (kinds.integer(0, 19), {"0": 0, "19": 19}, ["20", "-1", "1.0", ""]),
        (kinds.STRINGS, {"": (), "a, b,,c ": ("a", "b", "c")}, []),
        (kinds.STRINGS_OR_ALL, {"all": None, "": (), "a": ("a",)}, []),
        (kinds.DISTRIBUTIONS_OR_ALL, {"all": None, "Py_Spark,a..b": ("py-spark", "a-b")}, []),
        (kinds.TABLE, {"": {}, "a=b": {"a": "b"}, "a=x=y,b=": {"a": "x=y", "b": ""}}, ["a", "=b"]),
        (kinds.PROXIES, {"http=h,no=a,b,c": {"http": "h", "no": "a,b,c"}}, ["ftp=x", "x"]),
        (kinds.TABLE_OF_LISTS, {"m=a|b,n=c": {"m": ("a", "b"), "n": ("c",)}}, ["m"]),
        (kinds.VIRTUAL_PACKAGES, {"cuda=12.4,__GLIBC=": {"__cuda": "12.4", "__glibc": ""}}, ["cuda"]),
        (kinds.OPTIONAL_URL, {"": None, "https://h/x/": "https://h/x"}, ["h/x", "ssh://h", "https://", "http://a b"]),
        (kinds.OPTIONAL_PATH, {"": None, "/a": "/a", "~/b": "~/b"}, ["a", "./a", "/a\0b"]),
        (kinds.PLACES, {"/a,https://h/": ("/a", "https://h")}, ["a", "ftp://h"]),
        (kinds.MACHINE_CLASS, {"linux-64+cuda12": "linux-64+cuda12"}, ["Linux", "a/b", "+x", "a" * 65]),
        (
            kinds.OPTIONAL_TIME,
            {
                "": None,
                "2026-01-02": "2026-01-02T23:59:59Z",
                "2026-01-02T03:04:05Z": "2026-01-02T03:04:05Z",
                "2026-01-02 03:04:05+02:00": "2026-01-02T01:04:05Z",
                "2026-01-02T03:04:05.678901": "2026-01-02T03:04:05Z",
            },
            ["yesterday", "2026-13-01", "9999-12-31T23:59:59-23:00"],
        ),
    ],
)
def test_texts_of_environment_variables(kind: kinds.Kind[object], good: dict[str, object], bad: list[str]) -> None:
    """Each kind reads its documented text form, and refuses others without repeating them."""
    for text, value in good.items():
        assert kind.from_text(text) == value, text
    for text in bad:
        with pytest.raises(ValueError, match=r"^$|keys are|invalid|could not|convert"):
            kind.from_text(text)


def test_import_is_light() -> None:
    """Importing the settings, and loading them where no file is, needs neither TOML nor YAML, JSON nor the wire."""
    code = (
        "import sys, pathlib; import envmgr.settings as s; nowhere = pathlib.Path('/nonexistent');"
        "s.load(root=nowhere, mode='personal', environ={}, home=nowhere, etc=nowhere / 'etc');"
        "print(sorted({'json', 'yaml', 'tomllib', 'tomli', 'configparser', 'datetime', 'difflib', 'envmgr.wire'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
