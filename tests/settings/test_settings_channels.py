"""From words for channels to URLs, in conda's order, with credentials from the settings only."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_machine import Machine

from envmgr.errors import InvalidSpec, PolicyRefused, UsageError
from envmgr.model import CondaRequirement, PipOption, PipRequirement, Spec
from envmgr.names import name_of_digest
from envmgr.settings import channels, load
from envmgr.settings.machine import is_selected, subdir
from envmgr.settings.redact import join_credentials, redact, split_credentials
from envmgr.spec import match_specs, platforms
from envmgr.wire.pipe import Channel


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


FORGE = "https://conda.anaconda.org/conda-forge"


def spec(
    *listed: str,
    conda: tuple[CondaRequirement, ...] = (),
    pip: tuple[PipRequirement, ...] = (),
    options: tuple[PipOption, ...] = (),
    constraints: tuple[PipRequirement, ...] = (),
    nodefaults: bool = False,
) -> Spec:
    digest = "0" * 64
    return Spec(
        channels=listed,
        has_nodefaults=nodefaults,
        conda=conda,
        pip=pip,
        pip_options=options,
        pip_constraints=constraints,
        variables=(),
        platforms=(),
        is_lockfile=False,
        canonical_text="",
        digest=digest,
        name=name_of_digest(digest),
    )


def urls(machine: Machine, *listed: str, toml: str = "", **environ: str) -> list[str]:
    """Return the URLs of all channels of a spec without the default ones."""
    machine.store(toml)
    return [url for found in machine.load(**environ).channels(spec(*listed, nodefaults=True)) for url in found.urls]


def test_order(machine: Machine) -> None:
    """Listed channels come first, in their order, then the default ones; each only once."""
    settings = machine.load()
    assert settings.channels(spec("bioconda")) == (
        Channel("bioconda", ("https://conda.anaconda.org/bioconda",)),
        Channel("conda-forge", (FORGE,)),
    )
    assert [found.name for found in settings.channels(spec("conda-forge", "bioconda"))] == ["conda-forge", "bioconda"]
    assert [found.name for found in settings.channels(spec(FORGE + "/"))] == [FORGE + "/"]


def test_nodefaults(machine: Machine) -> None:
    """With ``nodefaults`` only the spec's own channels are searched."""
    settings = machine.load()
    assert [found.name for found in settings.channels(spec("a", nodefaults=True))] == ["a"]
    assert settings.channels(spec(nodefaults=True)) == ()


def test_defaults_is_one_channel(machine: Machine) -> None:
    """The word ``defaults`` is one channel of several URLs, which a setting chooses."""
    (found,) = machine.load().channels(spec("defaults", nodefaults=True))
    assert found == Channel("defaults", ("https://conda.anaconda.org/main", "https://conda.anaconda.org/r"))
    machine.condarc("default_channels: [https://mirror.example/pkgs/main, file:///srv/r]")
    (found,) = machine.load().channels(spec("defaults", nodefaults=True))
    assert found.urls == ("https://mirror.example/pkgs/main", "file:///srv/r")
    assert urls(machine, "defaults", toml='expand_defaults = ["conda-forge"]') == [FORGE]
    assert urls(machine, "defaults", toml='custom_multichannels = { defaults = ["x"] }') == [
        "https://conda.anaconda.org/x"
    ]


@pytest.mark.parametrize(
    ("word", "url"),
    [
        ("conda-forge/label/dev", FORGE + "/label/dev"),
        ("conda-forge/linux-64", FORGE),
        ("https://h.example/chan/", "https://h.example/chan"),
        ("https://h.example/chan/noarch", "https://h.example/chan"),
        ("file:///srv/chan", "file:///srv/chan"),
        ("/srv/my chan", "file:///srv/my%20chan"),
        ("s3://bucket/chan", "s3://bucket/chan"),
        ("ours", "https://ours.example/conda/ours"),
        ("ours/label/dev", "https://ours.example/conda/ours/label/dev"),
        ("ours/special", "file:///srv/ours/special"),
        ("ourselves", "https://conda.anaconda.org/ourselves"),
        ("disk", "file:///srv/disk"),
    ],
)
def test_words(machine: Machine, word: str, url: str) -> None:
    """Words, labels, URLs and paths are read as conda reads them; the longest key of custom_channels wins."""
    toml = '[custom_channels]\nours = "https://ours.example/conda/"\n"ours/special" = "file:///srv"\ndisk = "/srv"\n'
    assert urls(machine, word, toml=toml) == [url]


def test_multichannels(machine: Machine) -> None:
    """A multichannel may hold others and itself; it never expands for ever."""
    toml = '[custom_multichannels]\nall = ["some", "/srv/a"]\nsome = ["b", "all"]\nconda-forge = ["m", "conda-forge"]\n'
    base = "https://conda.anaconda.org"
    assert urls(machine, "all", toml=toml) == [f"{base}/b", f"{base}/all", "file:///srv/a"]
    assert urls(machine, "conda-forge", toml=toml) == [f"{base}/m", FORGE]


@pytest.mark.parametrize(
    "word",
    ["./chan", "../chan", "~/chan", "a b", "a/../b", "a//b", "", "https://", "gopher://h/x", "https://h\\@x/", "a\nb"],
)
def test_no_channel(machine: Machine, word: str) -> None:
    """What is no channel is an error of the spec, naming the word."""
    with pytest.raises(InvalidSpec, match="channel") as caught:
        machine.load().channels(spec(word))
    assert len(caught.value.problems) == 1


def test_no_channel_in_a_setting(machine: Machine) -> None:
    """A setting that holds no channel is an error naming the setting and where it stands."""
    path = machine.store('default_channels = ["./mine"]\n')
    with pytest.raises(UsageError, match="relative path") as caught:
        machine.load().channels(spec())
    assert str(path) in caught.value.message
    assert caught.value.fields["key"] == "default_channels"


def test_channels_of_requirements(machine: Machine) -> None:
    """A channel that only a requirement names is searched last, as in conda, and only where the requirement counts."""
    conda = (
        CondaRequirement("apple::numpy", ("osx",)),
        CondaRequirement("conda-forge::numpy"),
        CondaRequirement("pytorch/label/x::torch 2.*"),
        CondaRequirement('tool[sha256="0",url="https://h.example/chan/linux-64/tool-1-0.conda"]'),
    )
    assert [found.name for found in machine.load().channels(spec("bioconda", conda=conda))] == [
        "bioconda", "conda-forge", "pytorch/label/x", "https://h.example/chan",
    ]  # fmt: skip
    assert [found.name for found in machine.load(subdir="osx-64").channels(spec(conda=conda[:1]))][-1] == "apple"


@pytest.mark.parametrize(
    "text",
    [
        "numpy", "chan::numpy >=1", "chan/label/dev::numpy 1.*", "https://h.example/chan::numpy", "numpy[channel=chan]",
        "chan/linux-64::numpy", "https://h.example/c/noarch/numpy-1-0.conda#sha256=" + "0" * 64, "file:///srv/c::x[md5="
        + "0" * 32 + "]", "numpy[version='>=1,<2',build=py3*]",
    ],
)  # fmt: skip
def test_agrees_with_the_spec_on_requirements(text: str) -> None:
    """The channel of a normalised requirement is the one that its normaliser names."""
    normal, _ = match_specs.match_spec(text)
    assert channels.of_match_spec(normal) == match_specs.source_channel(normal)


@given(st.sampled_from(platforms.SUBDIRS), st.sets(st.sampled_from([*platforms.FAMILIES, *platforms.SUBDIRS])))
def test_agrees_with_the_spec_on_selectors(on: str, words: set[str]) -> None:
    """A selector counts on a subdir exactly when the spec says so."""
    assert is_selected(tuple(sorted(words)), on) == platforms.applies(sorted(words), on)


def test_variables(machine: Machine) -> None:
    """``${NAME}`` in a spec's channel is the environment's, in a personal store; the channel's name stays as it was."""
    settings = machine.load(CHAN="conda-forge", HOST="https://h.example")
    assert settings.channels(spec("${CHAN}", nodefaults=True)) == (Channel("${CHAN}", (FORGE,)),)
    assert settings.channels(spec("$HOST/x", nodefaults=True)) == (Channel("$HOST/x", ("https://h.example/x",)),)
    with pytest.raises(UsageError, match="UNSET is not set"):
        settings.channels(spec("https://h.example/${UNSET}"))


def test_variables_of_a_service(machine: Machine) -> None:
    """A service store gives a spec only the variables that a setting names: they could be sent anywhere."""
    with pytest.raises(PolicyRefused, match="channel_variables") as caught:
        machine.load("service", SECRET="s").channels(spec("https://evil.example/${SECRET}"))
    assert caught.value.fields["setting"] == "channel_variables"
    settings = machine.load("service", SECRET="s", MIRROR="m", ENVMGR_CHANNEL_VARIABLES="MIRROR,ABSENT")
    assert settings.variables == {"MIRROR": "m"}
    assert settings.channels(spec("/srv/${MIRROR}", nodefaults=True))[0].urls == ("file:///srv/m",)


def test_credentials(machine: Machine) -> None:
    """Credentials in a setting's URL reach other URLs below the same place, on the same scheme and host only."""
    toml = """
        channel_alias = "https://conda.example/t/tok"
        default_channels = ["https://u:p@repo.example/base"]
        [custom_channels]
        ours = "https://me:pw@ours.example/conda"
    """
    assert urls(machine, "x", toml=toml) == ["https://conda.example/t/tok/x"]
    assert urls(machine, "https://conda.example/y", toml=toml) == ["https://conda.example/t/tok/y"]
    assert urls(machine, "ours/label/l", toml=toml) == ["https://me:pw@ours.example/conda/ours/label/l"]
    assert urls(machine, "https://ours.example/conda/ours", toml=toml) == ["https://me:pw@ours.example/conda/ours"]
    assert urls(machine, "https://repo.example/base/sub", toml=toml) == ["https://u:p@repo.example/base/sub"]
    for other in (
        "http://ours.example/conda/ours", "https://ours.example/conda/oursx", "https://ours.example.evil/conda/ours",
        "https://repo.example:8443/base", "https://repo.example/based",
    ):  # fmt: skip
        assert urls(machine, other, toml=toml) == [other]


def test_credentials_of_a_spec(machine: Machine) -> None:
    """Credentials that stand in a spec are dropped; the name of a channel never holds any."""
    settings = machine.load(TOKEN="tok")
    (found,) = settings.channels(spec("https://u:p@h.example/c", nodefaults=True))
    assert found == Channel("https://***@h.example/c", ("https://h.example/c",))
    machine.store('default_channels = ["https://u:p@h.example/c"]\n')
    (found,) = machine.load().channels(spec())
    assert found == Channel("https://***@h.example/c", ("https://u:p@h.example/c",))
    assert len(machine.load().channels(spec("https://h.example/c"))) == 1


def test_default_channel_urls(machine: Machine) -> None:
    """The default channels can be asked for alone, to probe them."""
    assert machine.load().default_channel_urls() == (Channel("conda-forge", (FORGE,)),)


def test_requirements_of_this_machine(machine: Machine) -> None:
    """Only requirements whose selectors are true here are handed on; pip's come as lines with their hashes."""
    asked = spec(
        conda=(CondaRequirement("a"), CondaRequirement("b", ("osx", "win")), CondaRequirement("c", ("linux-64",))),
        pip=(PipRequirement("x==1", (), ("sha256:0", "sha256:1")), PipRequirement("y", ("win",))),
    )
    assert machine.load().conda(asked) == ("a", "c")
    assert machine.load().pip(asked) == ("x==1 --hash=sha256:0 --hash=sha256:1",)
    assert machine.load(subdir="osx-arm64").conda(asked) == ("a", "b")


def test_pip_settings(machine: Machine) -> None:
    """The spec's own pip options keep their order, behind the site's ``--no-index``."""
    machine.store('no_index = true\nfind_links = ["/wheels"]\nallow_sdists = ["a"]\nindex_url = "https://i.example"\n')
    options = (PipOption("--find-links", "https://w.example"), PipOption("--pre"))
    constraints = (PipRequirement("b<2"), PipRequirement("c<2", ("win",)))
    found = machine.load().pip_settings(spec(options=options, constraints=constraints))
    assert found.constraints == ("b<2",)
    assert found.options == (("--no-index", ""), ("--find-links", "https://w.example"), ("--pre", ""))
    assert (found.index_url, found.find_links, found.allow_sdists) == ("https://i.example", ("/wheels",), ("a",))


def test_network(machine: Machine) -> None:
    """The network record is the settings' values; a file that is not there is an error naming the setting."""
    ca_file = machine.write(machine.home / "ca.pem", "")
    machine.store(
        f'ca_file = "{ca_file}"\noffline = true\ntimeout_s = 5\nmirrors = {{ "https://a" = ["https://b"] }}\n'
    )
    network = machine.load().network()
    assert (network.ca_file, network.is_offline, network.timeout_s) == (str(ca_file), True, 5.0)
    assert network.mirrors == (("https://a", ("https://b",)),)
    with pytest.raises(UsageError, match=r"ENVMGR_CA_FILE: there is no file /missing"):
        machine.load(ENVMGR_CA_FILE="/missing").network()


def test_subdir() -> None:
    """The subdir follows from the kernel's words; a machine that conda does not know is refused."""
    assert subdir("linux", "x86_64") == "linux-64"
    assert subdir("linux", "aarch64") == "linux-aarch64"
    assert subdir("darwin", "arm64") == "osx-arm64"
    assert subdir("win32", "AMD64") == "win-64"
    assert subdir() in platforms.SUBDIRS
    with pytest.raises(Exception, match="conda has no packages for linux on pdp11"):
        subdir("linux", "pdp11")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://u:p@h/x", ("https://h/x", "u:p", "")),
        ("https://h/t/tok/x/y", ("https://h/x/y", "", "tok")),
        ("https://u@h:1/t/tok", ("https://h:1", "u", "tok")),
        ("https://h/x", ("https://h/x", "", "")),
        ("https://evil?@h/x", ("https://evil?@h/x", "", "")),
        ("https://evil#@h/x", ("https://evil#@h/x", "", "")),
        ("https://evil\\@h/x", ("https://evil\\@h/x", "", "")),
        ("https://a@b@h", ("https://h", "a@b", "")),
        ("file:///t/x", ("file:///t/x", "", "")),
        ("word", ("word", "", "")),
    ],
)
def test_split_credentials(url: str, parts: tuple[str, str, str]) -> None:
    """Credentials end where the host begins for those who fetch; what was taken out can be put back."""
    assert split_credentials(url) == parts
    assert join_credentials(*parts) == url


@given(st.text(), st.text(alphabet="abcdefgh0123456789", min_size=8), st.sampled_from(["https", "http", "git+https"]))
def test_redact(text: str, password: str, scheme: str) -> None:
    """A password in a URL is hidden whatever stands around it, and redacting again changes nothing."""
    shown = redact(f"{text} {scheme}://me:{password}@h.example/x")
    assert f":{password}@" not in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("words", ["!", "a", "[]", "a!", "!:", "?token"])
def test_redact_takes_no_longer_for_hostile_text(words: str) -> None:
    """The time grows with the text's length and not with its square: the daemon redacts what its callers wrote."""
    begun = time.process_time()
    assert redact(words * (100_000 // len(words)))
    assert time.process_time() - begun < 2.0


def test_settings_for_this_machine(machine: Machine) -> None:
    """Without a subdir, settings are for the machine that asks."""
    settings = load(root=None, mode="personal", environ={}, home=machine.home, etc=machine.etc)
    assert settings.subdir == settings.machine_class == subdir()
