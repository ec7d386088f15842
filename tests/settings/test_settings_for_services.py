"""What the service's host says in settings: files that systemd hands to the service, and the commented example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from settings_machine import Machine

from envmgr.errors import UsageError
from envmgr.settings.listing import commented_file
from envmgr.settings.schema import ENTRIES

SPOKEN = 'netrc_file = "credential:netrc"\n'


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_credential_of_the_service(machine: Machine) -> None:
    """In the service, credential:NAME is the file that its unit loaded under that name."""
    directory = machine.root / "credentials"
    machine.write(directory / "netrc", "machine example.org login a password b\n")
    machine.site(SPOKEN)
    settings = machine.load("service", CREDENTIALS_DIRECTORY=str(directory))
    assert settings.netrc_file == str(directory / "netrc")
    assert settings.network().netrc_file == settings.netrc_file
    by_variable = machine.load(
        "service", CREDENTIALS_DIRECTORY=str(directory), ENVMGR_CA_FILE="credential:netrc", ENVMGR_NETRC_FILE=""
    )
    assert (by_variable.ca_file, by_variable.netrc_file) == (str(directory / "netrc"), None)


def test_credential_that_was_not_loaded(machine: Machine) -> None:
    """A service whose unit does not load it refuses to go on without, and says what the unit lacks."""
    machine.site(SPOKEN)
    settings = machine.load("service")
    with pytest.raises(UsageError, match=r"netrc_file: there is no file credential:netrc") as refused:
        settings.network()
    assert "LoadCredential=netrc:" in str(refused.value.hint)


def test_credentials_are_not_for_users(machine: Machine) -> None:
    """The host's file speaks of the service's logins; a user's own store goes by his own."""
    machine.site(SPOKEN)
    own = machine.write(machine.home / ".netrc", "")
    assert machine.load().netrc_file == str(own)


@pytest.mark.parametrize("word", ["credential:", "credential:..", "credential:a/b", "credential:../etc/shadow"])
def test_credential_is_a_plain_name(machine: Machine, word: str) -> None:
    """What would lead out of the directory is refused."""
    machine.site(f'netrc_file = "{word}"\n')
    with pytest.raises(UsageError, match="expected an absolute path, or credential:NAME"):
        machine.load("service")


def test_commented_file(machine: Machine) -> None:
    """The example for operators says nothing as it is; uncommented, it says every default of a service store."""
    text = commented_file()
    machine.site(text)
    defaults = machine.load("service")
    assert {defaults.source_text(entry.key) for entry in ENTRIES} == {"default"}
    machine.site(re.sub(r"(?m)^#(?! )", "", text))
    spoken = machine.load("service")
    for entry in ENTRIES:
        assert getattr(spoken, entry.key) == getattr(defaults, entry.key), entry.key
        assert "settings.toml" in spoken.source_text(entry.key)
