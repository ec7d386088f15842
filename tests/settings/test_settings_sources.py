"""Files and variables written for envmgr: which wins, what each value remembers, what bad input gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from settings_machine import Machine

from envmgr.errors import UsageError
from envmgr.settings.listing import table


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_there(machine: Machine) -> None:
    """Without any source every value is its default, and says so."""
    settings = machine.load()
    assert settings.default_channels == ("conda-forge",)
    assert settings.allow_sdists is None
    assert {settings.source_text(row.key) for row in table()} == {"default"}


def test_service_defaults(machine: Machine) -> None:
    """A service store's defaults are the strict ones of the table."""
    settings = machine.load("service")
    assert settings.allow_sdists == ()
    assert settings.channel_variables == ()
    assert not any((settings.allow_git_urls, settings.use_condarc, settings.use_pip_conf))


def test_later_sources_win(machine: Machine) -> None:
    """Site, personal file, store, environment: each wins over the ones before, and the value knows which it was."""
    seen = []
    for place, number in ((machine.site, 1), (machine.personal, 2), (machine.store, 3)):
        path = place(f"max_retries = {number}\n")
        settings = machine.load()
        assert settings.max_retries == number
        assert settings.source_text("max_retries") == f"{path}: max_retries"
        seen.append(path)
    settings = machine.load(ENVMGR_MAX_RETRIES="4")
    assert settings.max_retries == 4
    assert settings.source_text("max_retries") == "$ENVMGR_MAX_RETRIES"
    assert [row.sources for row in table(settings) if row.key == "max_retries"] == [
        ({"kind": "environment", "file": None, "key": "ENVMGR_MAX_RETRIES"},)
    ]
    assert len(set(seen)) == 3


def test_config_home(machine: Machine) -> None:
    """The personal file is looked for where XDG_CONFIG_HOME says."""
    machine.personal("offline = true\n")
    assert machine.load().offline
    assert not machine.load(XDG_CONFIG_HOME=str(machine.home / "elsewhere")).offline


def test_service_reads_no_personal_file(machine: Machine) -> None:
    """Whoever starts the daemon does not configure it by their own files; variables of envmgr's own count."""
    machine.personal("offline = true\n")
    assert not machine.load("service").offline
    assert machine.load("service", ENVMGR_OFFLINE="1").offline


def test_tables_are_joined(machine: Machine) -> None:
    """Tables are joined entry by entry, later entries win, and all sources that gave one are remembered."""
    site = machine.site('[custom_channels]\na = "https://one"\nb = "https://one"\n')
    store = machine.store('custom_channels = { b = "https://two" }\n')
    settings = machine.load(ENVMGR_CUSTOM_CHANNELS="c=https://three")
    assert settings.custom_channels == {"a": "https://one", "b": "https://two", "c": "https://three"}
    assert settings.source_text("custom_channels") == (
        f"{site}: custom_channels, {store}: custom_channels, $ENVMGR_CUSTOM_CHANNELS"
    )


def test_lists_replace(machine: Machine) -> None:
    """A list of a later source replaces the earlier one; order is priority and cannot be guessed."""
    machine.site('default_channels = ["a", "b"]\n')
    assert machine.load(ENVMGR_DEFAULT_CHANNELS="c, d").default_channels == ("c", "d")
    assert machine.load(ENVMGR_DEFAULT_CHANNELS="").default_channels == ()


def test_every_kind_in_a_file(machine: Machine) -> None:
    """A settings file may use each kind in TOML's own types."""
    machine.store(
        """
        allow_sdists = "all"
        allow_link_scripts = ["Tool"]
        channel_priority = "flexible"
        min_free_bytes = "2GiB"
        timeout_s = 2.5
        exclude_newer = 2026-01-02
        ca_file = "~/ca.pem"
        find_links = ["~/wheels", "/opt/wheels", "https://wheels.example"]
        mirrors = {"https://a.example" = ["https://b.example", "https://c.example"], "https://d.example" = "file:///d"}
        virtual_packages = { cuda = "12.4", __glibc = "" }
        machine_class = "linux-64+cuda12"
        """
    )
    settings = machine.load("service")
    assert settings.allow_sdists is None
    assert settings.allow_link_scripts == ("Tool",)
    assert settings.channel_priority == "flexible"
    assert settings.min_free_bytes == 2 << 30
    assert settings.timeout_s == 2.5
    assert settings.exclude_newer == "2026-01-02T23:59:59Z"
    assert settings.ca_file == f"{machine.home}/ca.pem"
    assert settings.find_links == (f"{machine.home}/wheels", "/opt/wheels", "https://wheels.example")
    assert settings.mirrors["https://d.example"] == ("file:///d",)
    assert settings.virtual_package_overrides == (("__cuda", "12.4"), ("__glibc", ""))
    assert settings.machine_class == "linux-64+cuda12"


def test_unknown_key(machine: Machine) -> None:
    """An unknown key is an error with file, key and what was probably meant."""
    path = machine.site('default_chanels = ["x"]\n')
    with pytest.raises(UsageError) as caught:
        machine.load()
    assert str(path) in caught.value.message
    assert "default_chanels" in caught.value.message
    assert caught.value.hint == "did you mean 'default_channels'?"
    assert caught.value.fields["key"] == "default_chanels"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("offline = 'yes'", "true or false"),
        ("max_retries = true", "a whole number from 0 to 100"),
        ("max_retries = 101", "a whole number from 0 to 100"),
        ("timeout_s = -1", "seconds"),
        ("timeout_s = nan", "seconds"),
        ("default_channels = 'conda-forge'", "a list of texts"),
        ("default_channels = ['']", "a list of texts"),
        ("default_channels = [1]", "a list of texts"),
        ("channel_alias = 'conda.example'", "an http, https or file URL"),
        ("channel_alias = ''", "an http, https or file URL"),
        ("channel_priority = 'loose'", "strict, flexible or disabled"),
        ("custom_channels = ['a']", "a table of texts"),
        ("custom_channels = { a = 1 }", "a table of texts"),
        ("mirrors = { a = [1] }", "a table of lists of texts"),
        ("proxies = { ftp = 'x' }", "the keys are http, https and no"),
        ("exclude_newer = 'soon'", "a date or an RFC 3339 time"),
        ("exclude_newer = 12:00:00", "a date or an RFC 3339 time"),
        ("ca_file = 'ca.pem'", "an absolute path"),
        ("extra_index_urls = ['pypi']", "a list of http, https or file URLs"),
    ],
)
def test_wrong_type(machine: Machine, text: str, expected: str) -> None:
    """A value of the wrong type or range is an error naming file, key and what is expected."""
    path = machine.store(text + "\n")
    with pytest.raises(UsageError) as caught:
        machine.load()
    assert f"{path}: {text.partition(' ')[0]}: expected" in caught.value.message
    assert expected in caught.value.message
    assert caught.value.fields["file"] == str(path)


def test_wrong_variable(machine: Machine) -> None:
    """A variable that cannot be read is named, with what is expected; its value is not repeated."""
    with pytest.raises(UsageError, match=r"\$ENVMGR_INDEX_URL: expected an http") as caught:
        machine.load(ENVMGR_INDEX_URL="user:hunter2@pypi.example")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.to_json())


def test_mistyped_variable_is_a_warning(machine: Machine) -> None:
    """A variable that resembles a setting is warned of; envmgr's other variables and strangers are not."""
    settings = machine.load(ENVMGR_OFLINE="1", ENVMGR_ROOT="/x", ENVMGR_ENV="e", ENVMGR_SPEC="s", ENVMGR_XYZ="?")
    assert settings.warnings == ("environment variable ENVMGR_OFLINE is no setting; did you mean 'ENVMGR_OFFLINE'?",)
    assert not settings.offline


@pytest.mark.parametrize("text", ["offline = ", "a = 1\na = 2", "x = " + "[" * 5000 + "]" * 5000])
def test_broken_file(machine: Machine, text: str) -> None:
    """A file that is not TOML is an error with its path, and no other exception."""
    path = machine.store(text)
    with pytest.raises(UsageError, match=str(path)):
        machine.load()


def test_file_that_is_no_text(machine: Machine) -> None:
    """A file that is not UTF-8 is an error with its path; a byte order mark is none."""
    path = machine.store("")
    path.write_bytes("offline = true\n".encode("utf-8-sig"))
    assert machine.load().offline
    path.write_bytes("offline = true\n".encode("utf-16"))
    with pytest.raises(UsageError, match="not UTF-8"):
        machine.load()


def test_unreadable_file(machine: Machine) -> None:
    """A file that is there and cannot be read is an error: going on without it would build something else."""
    (machine.root / "settings.toml").mkdir()
    with pytest.raises(UsageError, match="cannot read the settings") as caught:
        machine.load()
    assert caught.value.hint
    (machine.root / "settings.toml").rmdir()
    path = machine.store("offline = true\n")
    path.chmod(0)
    if os.geteuid() != 0:  # modes do not stop root
        with pytest.raises(UsageError, match="Permission denied"):
            machine.load()


def test_variables_in_a_file(machine: Machine) -> None:
    """``${NAME}`` in a file is that variable, so that a password need not stand there; an unset one is an error."""
    path = machine.store('index_url = "https://me:${PASSWORD}@pypi.example/simple"\n')
    assert machine.load(PASSWORD="p").index_url == "https://me:p@pypi.example/simple"
    with pytest.raises(UsageError, match="PASSWORD is not set") as caught:
        machine.load()
    assert caught.value.fields["file"] == str(path)


def test_machine_class(machine: Machine) -> None:
    """The class is the subdir unless set, and may only refine it: lockfiles of other machines do not install."""
    assert machine.load(subdir="linux-aarch64").machine_class == "linux-aarch64"
    assert machine.load(ENVMGR_MACHINE_CLASS="linux-64+gpu").machine_class == "linux-64+gpu"
    with pytest.raises(UsageError, match="ENVMGR_MACHINE_CLASS"):
        machine.load(subdir="linux-aarch64", ENVMGR_MACHINE_CLASS="linux-64+gpu")


def test_nothing_secret_is_shown(machine: Machine) -> None:
    """Credentials in any value are hidden in the table, in its JSON, and in the settings' own text."""
    machine.store(
        """
        channel_alias = "https://conda.example/t/tok-hunter2/"
        default_channels = ["https://u:hunter2@conda.example/chan"]
        custom_channels = { a = "https://hunter2@conda.example" }
        custom_multichannels = { m = ["https://u:hunter2@conda.example/m"] }
        index_url = "https://u:hunter2@pypi.example/simple"
        extra_index_urls = ["https://pypi.example/simple?token=hunter2&x=1"]
        mirrors = { "https://u:hunter2@a.example" = ["https://u:hunter2@b.example"] }
        proxies = { http = "u:hunter2@proxy.example:3128", https = "http://u:hunter2@proxy.example:3128" }
        """
    )
    settings = machine.load()
    assert "hunter2" in settings.channel_alias
    shown = str([row.to_json() for row in table(settings)])
    assert "conda.example" in shown
    assert "proxy.example:3128" in shown
    assert "hunter2" not in shown
    assert "hunter2" not in repr(settings)
