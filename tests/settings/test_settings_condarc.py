"""Conda's own files and variables: where they are found, what counts, how several are joined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from settings_machine import Machine

from envmgr.errors import UsageError
from envmgr.settings import condarc


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


DOCUMENT = """
channels: [bioconda, conda-forge]
default_channels:
  - https://mirror.example/pkgs/main
channel_alias: https://mirror.example/conda
channel_priority: flexible
custom_channels: {ours: https://ours.example}
custom_multichannels: {both: [ours, bioconda]}
offline: true
proxy_servers: {http: "http://proxy.example:1", https: null, "https://one.example": "http://other.example"}
remote_max_retries: 7
remote_read_timeout_secs: 12.5
ssl_verify: ~/ca.pem
# Conda's own affair:
auto_activate_base: false
envs_dirs: [/somewhere]
"""


def test_honoured_keys(machine: Machine) -> None:
    """Each honoured key sets its setting, which remembers file and key; other keys are ignored in silence."""
    path = machine.condarc(DOCUMENT)
    settings = machine.load()
    assert settings.default_channels == ("bioconda", "conda-forge")
    assert settings.expand_defaults == ("https://mirror.example/pkgs/main",)
    assert settings.channel_alias == "https://mirror.example/conda"
    assert settings.channel_priority == "flexible"
    assert settings.custom_channels == {"ours": "https://ours.example"}
    assert settings.custom_multichannels == {"both": ("ours", "bioconda")}
    assert settings.offline
    assert settings.proxies == {"http": "http://proxy.example:1"}
    assert settings.max_retries == 7
    assert settings.timeout_s == 12.5
    assert settings.ca_file == f"{machine.home}/ca.pem"
    assert settings.verify_tls
    assert settings.source_text("default_channels") == f"{path}: channels"
    assert settings.source_text("ca_file") == f"{path}: ssl_verify"
    assert settings.warnings == ()


def test_all_honoured_keys_are_in_the_test_above() -> None:
    """The document of these tests has every honoured key."""
    assert set(re.findall(r"^(\w+):", DOCUMENT, re.MULTILINE)) >= condarc.HONOURED.keys()


@pytest.mark.parametrize(
    ("line", "verify", "ca_file"),
    [
        ("ssl_verify: false", False, None),
        ("ssl_verify: true", True, None),
        ("ssl_verify: truststore", True, None),
        ("ssl_verify: /etc/ca.pem", True, "/etc/ca.pem"),
    ],
)
def test_ssl_verify(machine: Machine, line: str, verify: bool, ca_file: str | None) -> None:
    """``ssl_verify`` is a yes or no, conda's word for the system's store, or a file."""
    machine.condarc(line)
    settings = machine.load()
    assert (settings.verify_tls, settings.ca_file) == (verify, ca_file)


@pytest.mark.parametrize(("text", "priority"), [("true", "flexible"), ("false", "disabled"), ("strict", "strict")])
def test_channel_priority(machine: Machine, text: str, priority: str) -> None:
    """Conda's older yes and no for the priority are read as conda reads them."""
    machine.condarc(f"channel_priority: {text}")
    assert machine.load().channel_priority == priority


def test_places(machine: Machine, tmp_path: Path) -> None:
    """Every documented place is read, in conda's order, and lists are joined with the later file's items first."""
    conda_root = tmp_path / "conda"
    config_home = tmp_path / "config"
    places = [
        machine.etc / "conda" / ".condarc",
        machine.etc / "conda" / "condarc",
        machine.etc / "conda" / "condarc.d" / "a.yml",
        machine.etc / "conda" / "condarc.d" / "b.yaml",
        tmp_path / "var" / "lib" / "conda" / "condarc",
        conda_root / ".condarc",
        config_home / "conda" / ".condarc",
        machine.home / ".config" / "conda" / ".condarc",
        machine.home / ".conda" / ".condarc",
        machine.home / ".condarc",
        tmp_path / "mine.yml",
    ]
    for number, path in enumerate(places):
        machine.write(path, f"channels: [c{number}, everywhere]\nremote_max_retries: {number}\n")
    machine.write(machine.etc / "conda" / "condarc.d" / "ignored.txt", "channels: [no]")
    settings = machine.load(
        CONDARC=str(tmp_path / "mine.yml"), XDG_CONFIG_HOME=str(config_home), CONDA_EXE=f"{conda_root}/bin/conda"
    )
    last = len(places) - 1
    expected = [f"c{last}", "everywhere", *(f"c{number}" for number in range(last - 1, -1, -1))]
    assert settings.default_channels == tuple(expected)
    assert settings.max_retries == last
    assert settings.source_text("default_channels") == ", ".join(f"{path}: channels" for path in places)


def test_active_environment_does_not_count(machine: Machine, tmp_path: Path) -> None:
    """What is built does not depend on which environment is active."""
    machine.write(tmp_path / "active" / ".condarc", "channels: [no]")
    assert machine.load(CONDA_PREFIX=str(tmp_path / "active")).default_channels == ("conda-forge",)


def test_envmgr_wins(machine: Machine) -> None:
    """What is written for envmgr, even for the whole site, wins over what is written for conda."""
    machine.condarc("channels: [from-conda]\ncustom_channels: {a: https://conda.example, b: https://conda.example}")
    machine.site('default_channels = ["ours"]\ncustom_channels = { a = "https://ours.example" }\n')
    settings = machine.load(CONDA_CHANNELS="also-from-conda")
    assert settings.default_channels == ("ours",)
    assert settings.custom_channels == {"a": "https://ours.example", "b": "https://conda.example"}


def test_variables_inside(machine: Machine) -> None:
    """``$VAR`` and ``${VAR}`` in conda's files are variables, left alone where unset, as conda does."""
    machine.condarc("custom_channels: {a: 'https://$USER_:${TOKEN}@h.example', b: 'https://${UNSET}@h.example'}")
    assert machine.load(USER_="me", TOKEN="t").custom_channels == {
        "a": "https://me:t@h.example",
        "b": "https://${UNSET}@h.example",
    }


def test_conda_variables(machine: Machine) -> None:
    """``CONDA_<KEY>`` of an honoured key counts above conda's files; an empty one says nothing."""
    machine.condarc("channels: [low]\noffline: false\nremote_max_retries: 1\n")
    settings = machine.load(
        CONDA_CHANNELS="a,b", CONDA_OFFLINE="1", CONDA_REMOTE_MAX_RETRIES="5", CONDA_SSL_VERIFY="no",
        CONDA_CHANNEL_PRIORITY="disabled", CONDA_REMOTE_READ_TIMEOUT_SECS="3", CONDA_CHANNEL_ALIAS="",
    )  # fmt: skip
    assert settings.default_channels == ("a", "b")
    assert settings.offline
    assert settings.max_retries == 5
    assert not settings.verify_tls
    assert settings.channel_priority == "disabled"
    assert settings.timeout_s == 3
    assert settings.source_text("channel_alias") == "default"
    assert settings.source_text("offline") == "$CONDA_OFFLINE"


def test_switch(machine: Machine) -> None:
    """``use_condarc = false`` turns files and variables off, but not the overrides of virtual packages."""
    machine.condarc("channels: [no]")
    settings = machine.load(ENVMGR_USE_CONDARC="false", CONDA_OFFLINE="true", CONDA_OVERRIDE_CUDA="12")
    assert settings.default_channels == ("conda-forge",)
    assert not settings.offline
    assert settings.virtual_package_overrides == (("__cuda", "12"),)


def test_service(machine: Machine, tmp_path: Path) -> None:
    """A service store reads conda's files only if told to, and conda's variables never, not even for a place."""
    machine.condarc("channels: [home]")
    machine.write(tmp_path / "mine.yml", "channels: [mine]")
    environ = {"CONDARC": str(tmp_path / "mine.yml"), "CONDA_CHANNELS": "variable"}
    assert machine.load("service", **environ).default_channels == ("conda-forge",)
    assert machine.load("service", ENVMGR_USE_CONDARC="true", **environ).default_channels == ("home",)


@pytest.mark.parametrize(
    "text",
    [
        "channels: conda-forge",
        "channels: [1]",
        "custom_channels: [a]",
        "custom_channels: {a: 1}",
        "offline: perhaps",
        "ssl_verify: 3",
        "channel_alias: conda.example",
        "remote_max_retries: -1",
        "- a list",
        "channels: [a",
        "a: &a [*a]\nchannels: *a",
        "x: " + "[" * 5000,
        "x: 2026-99-99",
    ],
)
def test_bad_files(machine: Machine, text: str) -> None:
    """What conda would not take either is an error naming the file and the switch that turns it off."""
    path = machine.condarc(text)
    with pytest.raises(UsageError, match=re.escape(str(path))) as caught:
        machine.load()
    assert "use_condarc" in str(caught.value.hint)


def test_bad_variable(machine: Machine) -> None:
    """A variable of conda's that cannot be read is named, with the switch that turns it off."""
    with pytest.raises(UsageError, match=r"\$CONDA_REMOTE_MAX_RETRIES: expected a whole number") as caught:
        machine.load(CONDA_REMOTE_MAX_RETRIES="many")
    assert "use_condarc" in str(caught.value.hint)


def test_empty_file(machine: Machine) -> None:
    """An empty file, or one of comments, says nothing; nor does a key without a value."""
    machine.condarc("# nothing\n")
    assert machine.load().source_text("default_channels") == "default"
    machine.condarc("channels:\noffline:\n")
    assert machine.load().source_text("default_channels") == "default"
