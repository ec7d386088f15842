"""pip's files and the variables of other programs, which count in personal stores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from settings_machine import Machine

from envmgr.errors import UsageError


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


PIP_CONF = """
[global]
index-url = https://pypi.example/simple
extra-index-url =
    https://a.example/simple
    https://b.example/simple
find_links = /opt/wheels ~/wheels
cert = /etc/ca.pem
timeout = 100
[install]
no-index = true
[list]
format = columns
index-url = https://no.example
"""


def test_pip_conf(machine: Machine) -> None:
    """The honoured keys of a pip.conf count, from [global] and [install]; the rest is pip's own affair."""
    path = machine.write(machine.home / ".config" / "pip" / "pip.conf", PIP_CONF)
    settings = machine.load()
    assert settings.index_url == "https://pypi.example/simple"
    assert settings.extra_index_urls == ("https://a.example/simple", "https://b.example/simple")
    assert settings.find_links == ("/opt/wheels", f"{machine.home}/wheels")
    assert settings.ca_file == "/etc/ca.pem"
    assert settings.no_index
    assert settings.timeout_s == 60
    assert settings.source_text("index_url") == f"{path}: index-url"


def test_install_wins_over_global(machine: Machine) -> None:
    """Section [install] wins over [global], whichever stands first."""
    machine.write(
        machine.etc / "pip.conf", "[install]\nindex-url=https://i.example\n[global]\nindex-url=https://g.example\n"
    )
    assert machine.load().index_url == "https://i.example"


def test_places_of_pip_conf(machine: Machine, tmp_path: Path) -> None:
    """Later places win: system-wide, pip's old place, pip's place, $PIP_CONFIG_FILE, variables."""
    places = [
        machine.etc / "xdg" / "pip" / "pip.conf",
        machine.etc / "pip.conf",
        machine.home / ".pip" / "pip.conf",
        machine.home / ".config" / "pip" / "pip.conf",
    ]
    for number, path in enumerate(places):
        machine.write(path, f"[global]\nindex-url = https://{number}.example\n")
        assert machine.load().index_url == f"https://{number}.example"
    own = machine.write(tmp_path / "own.conf", "[global]\nextra-index-url = https://own.example\n")
    settings = machine.load(PIP_CONFIG_FILE=str(own))
    # As in pip, an own file that is there replaces the user's, not the system's.
    assert settings.index_url == "https://1.example"
    assert settings.extra_index_urls == ("https://own.example",)
    assert machine.load(PIP_CONFIG_FILE=str(tmp_path / "missing")).index_url == "https://3.example"
    assert machine.load(PIP_CONFIG_FILE="/dev/null").index_url is None
    assert machine.load(PIP_INDEX_URL="https://v.example").index_url == "https://v.example"


def test_config_dirs(machine: Machine, tmp_path: Path) -> None:
    """XDG_CONFIG_DIRS and XDG_CONFIG_HOME say where else pip looks."""
    machine.write(tmp_path / "site" / "pip" / "pip.conf", "[global]\nindex-url = https://site.example\n")
    machine.write(tmp_path / "mine" / "pip" / "pip.conf", "[global]\nfind-links = /mine\n")
    settings = machine.load(XDG_CONFIG_DIRS=f"{tmp_path}/site:", XDG_CONFIG_HOME=f"{tmp_path}/mine")
    assert (settings.index_url, settings.find_links) == ("https://site.example", ("/mine",))


def test_pip_variables(machine: Machine) -> None:
    """pip's variables win over its files and over uv's variables; an empty one says nothing."""
    machine.write(machine.etc / "pip.conf", "[global]\nindex-url = https://file.example\nfind-links = /file\n")
    settings = machine.load(
        PIP_INDEX_URL="https://pip.example", PIP_EXTRA_INDEX_URL="https://x.example https://y.example",
        PIP_FIND_LINKS="", UV_INDEX_URL="https://uv.example", UV_EXTRA_INDEX_URL="https://z.example",
    )  # fmt: skip
    assert settings.index_url == "https://pip.example"
    assert settings.extra_index_urls == ("https://x.example", "https://y.example")
    assert settings.find_links == ("/file",)
    assert settings.source_text("index_url") == "$PIP_INDEX_URL"


def test_uv_variables(machine: Machine) -> None:
    """uv's variables count where pip says nothing; a name in front of an index is dropped."""
    settings = machine.load(
        UV_DEFAULT_INDEX="main=https://uv.example/simple", UV_INDEX="a=https://a.example https://b.example/?x=1",
        UV_FIND_LINKS="/wheels,https://w.example",
    )  # fmt: skip
    assert settings.index_url == "https://uv.example/simple"
    assert settings.extra_index_urls == ("https://a.example", "https://b.example/?x=1")
    assert settings.find_links == ("/wheels", "https://w.example")


def test_relative_places(machine: Machine) -> None:
    """A relative directory is relative to where the caller stands, as in pip; the builder gets an absolute one."""
    settings = machine.load(PIP_FIND_LINKS="wheels", SSL_CERT_FILE="ca.pem")
    assert settings.find_links == (str(Path.cwd() / "wheels"),)
    assert settings.ca_file == str(Path.cwd() / "ca.pem")


def test_pip_switch(machine: Machine) -> None:
    """``use_pip_conf = false`` turns off pip's files and the variables of pip and uv."""
    machine.write(machine.etc / "pip.conf", "[global]\nindex-url = https://file.example\n")
    machine.store("use_pip_conf = false\n")
    settings = machine.load(PIP_FIND_LINKS="/x", UV_EXTRA_INDEX_URL="https://u.example", SSL_CERT_FILE="/ca.pem")
    assert (settings.index_url, settings.find_links, settings.extra_index_urls) == (None, (), ())
    assert settings.ca_file == "/ca.pem"


def test_authorities(machine: Machine) -> None:
    """Of several variables for the authorities the one of conda's and pip's own HTTP library wins."""
    environ = {"PIP_CERT": "/4", "CURL_CA_BUNDLE": "/3", "SSL_CERT_FILE": "/2", "REQUESTS_CA_BUNDLE": "/1"}
    seen = []
    while environ:
        settings = machine.load(**environ)
        seen.append(settings.ca_file)
        environ.popitem()
    assert seen == ["/1", "/2", "/3", "/4"]


def test_proxies(machine: Machine) -> None:
    """Both spellings of the proxies' variables count, the lower case wins, and entries join conda's."""
    machine.condarc('proxy_servers: {http: "http://conda.example", https: "http://conda.example"}')
    settings = machine.load(HTTP_PROXY="upper:1", http_proxy="lower:1", NO_PROXY="localhost,.example")
    assert settings.proxies == {"http": "lower:1", "https": "http://conda.example", "no": "localhost,.example"}
    settings = machine.load(ALL_PROXY="http://all:1", HTTPS_PROXY="http://tls:1")
    assert settings.proxies == {"http": "http://all:1", "https": "http://tls:1"}
    assert machine.load(HTTP_PROXY="").source_text("proxies").endswith("proxy_servers")


def test_proxy_without_scheme(machine: Machine) -> None:
    """A proxy given as host and port is an http proxy for the builder."""
    network = machine.load(http_proxy="proxy.example:3128", no_proxy="a,b").network()
    assert network.proxies == (("http", "http://proxy.example:3128"), ("no", "a,b"))


def test_logins(machine: Machine) -> None:
    """netrc's and rattler's files count from their variables, else from where they usually are."""
    netrc = machine.write(machine.home / ".netrc", "")
    auth = machine.write(machine.home / ".rattler" / "credentials.json", "{}")
    settings = machine.load()
    assert (settings.netrc_file, settings.auth_file) == (str(netrc), str(auth))
    assert settings.source_text("netrc_file") == str(netrc)
    settings = machine.load(NETRC="/n", RATTLER_AUTH_FILE="/r")
    assert (settings.netrc_file, settings.auth_file) == ("/n", "/r")


def test_virtual_packages(machine: Machine) -> None:
    """CONDA_OVERRIDE_* replaces detection; an empty one says that the host has none; envmgr's own setting wins."""
    environ = {"CONDA_OVERRIDE_CUDA": "12.4", "CONDA_OVERRIDE_GLIBC": "", "CONDA_OVERRIDE_ARCHSPEC": "skylake"}
    assert machine.load(**environ).virtual_package_overrides == (
        ("__archspec", "skylake"), ("__cuda", "12.4"), ("__glibc", ""),
    )  # fmt: skip
    machine.store('virtual_packages = { cuda = "11" }\n')
    assert dict(machine.load(**environ).virtual_package_overrides)["__cuda"] == "11"


def test_a_service_reads_none_of_it(machine: Machine) -> None:
    """No variable of another program and no file in a home directory reaches a service store."""
    machine.write(machine.home / ".netrc", "")
    machine.write(machine.etc / "pip.conf", "[global]\nindex-url = https://file.example\n")
    environ = dict.fromkeys(
        [
            "HTTP_PROXY", "https_proxy", "ALL_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NETRC", "PIP_INDEX_URL",
            "RATTLER_AUTH_FILE", "PIP_FIND_LINKS", "UV_INDEX_URL", "CONDA_OFFLINE", "CONDA_OVERRIDE_CUDA", "PIP_CERT",
        ],
        "/somewhere",
    )  # fmt: skip
    settings = machine.load("service", **environ)
    assert {settings.source_text(key) for key in settings.sources} == {"default"}
    assert settings.variables == {}
    assert machine.load("service", ENVMGR_USE_PIP_CONF="1", **environ).index_url == "https://file.example"


@pytest.mark.parametrize(
    "text",
    [
        "index-url = https://x.example\n",
        "[global]\n=\n",
        "[global]\nindex-url = pypi\n",
        "[global]\nno-index = perhaps\n",
        "[global]\nfind-links = ftp://x.example\n",
        "[global]\n[global]\n",
    ],
)
def test_bad_pip_conf(machine: Machine, text: str) -> None:
    """A pip.conf that cannot be used is an error naming the file and the switch that turns it off."""
    path = machine.write(machine.etc / "pip.conf", text)
    with pytest.raises(UsageError, match=re.escape(str(path))) as caught:
        machine.load()
    assert "use_pip_conf" in str(caught.value.hint)


def test_bad_variable(machine: Machine) -> None:
    """A variable of another program that cannot be read is named; its value is not repeated."""
    with pytest.raises(UsageError, match=r"\$UV_INDEX_URL: expected an http") as caught:
        machine.load(UV_INDEX_URL="u:hunter2@x.example")
    assert "hunter2" not in str(caught.value)
