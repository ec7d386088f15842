"""Documents: YAML and its limits, keys, channels, variables, platforms, lockfiles, mappings."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr.errors import InvalidSpec
from envmgr.model import Problem, Spec
from envmgr.spec import applies, document, parse, parse_mapping
from envmgr.spec.platforms import SUBDIRS
from envmgr.spec.problems import Findings

CORPUS = Path(__file__).parent.parent / "corpus"
SHA256 = "0123456789abcdef" * 4


def problems(text: bytes | str) -> list[Problem]:
    with pytest.raises(InvalidSpec) as found:
        parse(text)
    return list(found.value.problems)


def dependencies(*items: str) -> Spec:
    return parse("dependencies:\n" + "".join(f"  - {item}\n" for item in items))


# ------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" * ((1 << 20) + 1), "more than the limit"),
        ("[" * 100_000, "levels deep"),
        ("dependencies: " + "{a: " * 50 + "}" * 50, "levels deep"),
        ("dependencies:\n" + "- a\n" * 200_000, "more than 50000 nodes"),
        ("a: &a [x, x]\n" + "".join(f"b{n}: &a [*a, *a]\n" for n in range(40)), "more than 50000 nodes"),
        ("- " * 100_000, "levels deep"),
        ("? " * 100_000, "levels deep"),
        ("dependencies:\n- " + "x" * 1_000_000, "longer than the limit"),
        ("dependencies:\n- pip:\n  - " + "x" * 1_000_000, "longer than the limit"),
        ("dependencies:\n- a[" + "build=c," * 100 + "]", "twice"),
        ("dependencies:\n- a " + "1," * 1000 + "1" * 40, ""),
        ('"' + "a" * 900_000, "not YAML"),
        ("a: *nothing", "has no anchor"),
        ("? [a, b]\n: c\ndependencies: []", "a key must be a plain word"),
        ("<<: 3\ndependencies: []", "merges mappings only"),
        ("dependencies: [a]\nchannels: @b", "not YAML"),
        ("dependencies: [a]\n...\n---\nx", "more than one YAML document"),
        ("\ud800", "U+D800"),
        ("a: \ufeffb", "U+FEFF"),
        ("- a\n- b", "not a mapping"),
        ("just words", "not a mapping"),
        ("~", "is empty"),
    ],
    ids=lambda it: it[:20] if isinstance(it, str) else "",
)
def test_hostile_yaml(text: str, message: str) -> None:
    """What is no document, or a hostile one, is refused at once, with one clear message."""
    began = time.process_time()
    found = problems(text)
    assert message in found[0].message
    assert len(found) == 1
    assert time.process_time() - began < 3


def test_large_but_honest() -> None:
    """A document of hundreds of kilobytes is read in about a second."""
    spec = parse("dependencies:\n" + "".join(f"  - package-{n}=1.{n}\n" for n in range(20_000)))
    assert len(spec.conda) == 20_000


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings(encoding: str) -> None:
    """Only UTF-8 is read; the message says what the document seems to be."""
    (problem,) = problems("dependencies: [a]".encode(encoding))
    assert "not UTF-8" in problem.message
    assert problem.hint == "save it as UTF-8"


def test_every_problem_is_named_in_order() -> None:
    """One report has all problems by position, and its message the first and how many more."""
    text = "variables: {1: 2}\ndependencies:\n- =1\n- pip:\n  - ./x\n- 3.6\nchannels: [~]\n"
    with pytest.raises(InvalidSpec) as found:
        parse(text, source="environment.yml")
    assert [(it.line, it.column) for it in found.value.problems] == [(1, 13), (3, 3), (5, 5), (6, 3), (7, 12)]
    assert str(found.value).startswith("environment.yml: line 1, column 13: '1' is not a variable's name (and 4 more)")


_SCRAPS = st.sampled_from(
    [
        "dependencies:",
        "channels:",
        "- a",
        "- pip:",
        "a=1",
        "\n",
        "\n  ",
        " ",
        "# [linux]",
        "'",
        '"',
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "&a ",
        "*a",
        "!",
        "|",
        ">",
        "%",
        "---",
        "\t",
        "\u2028",
        "\x85",
        "é",
        "\\",
        "<<: ",
        "1.0",
        "?",
        "-",
        "\r",
    ]
)


@settings(max_examples=250, deadline=None)
@given(st.lists(_SCRAPS, max_size=14).map("".join))
def test_both_scanners_agree(text: str) -> None:
    """libyaml and the YAML library's own scanner give the same nodes for what both accept: no host renames."""
    found = [_nodes(text, loader) for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    if found[0] is not None and found[1] is not None:
        assert found[0] == found[1]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yml")), ids=lambda path: path.stem)
def test_both_scanners_agree_on_real_documents(path: Path) -> None:
    """The same for the corpus, where they also agree on what is no YAML."""
    text = path.read_bytes()[:6000]
    found = [_nodes(text, loader) for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    assert found[0] == found[1]


def _nodes(text: bytes | str, loader: type[yaml.SafeLoader]) -> object:
    findings = Findings("")
    composer = document._Composer(findings)
    try:
        for event in yaml.parse(document.decode(text, findings), Loader=loader):
            composer._take(event)
    except (yaml.YAMLError, InvalidSpec):
        return None
    return _plain(composer._root)


def _plain(node: document.Node | None) -> object:
    if isinstance(node, document.Sequence):
        return [_plain(item) for item in node.items]
    if isinstance(node, document.Mapping):
        return [(key.value, _plain(value)) for key, value in node.entries]
    return node and (node.value, node.is_plain)


# -------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("names", "name"),
        ("chanels", "channels"),
        ("Channels", "channels"),
        ("dependecies", "dependencies"),
        ("dependency", None),
        ("variable", "variables"),
        ("prefis", "prefix"),
        ("platform", "platforms"),
        ("depndncies", "dependencies"),
    ],
)
def test_misspelled_keys(key: str, meant: str | None) -> None:
    """A key close to a known one is a problem that names it; any other unknown key is a warning."""
    text = f"dependencies: []\n{key}: [a]\n"
    if meant is None:
        assert [it.line for it in parse(text).warnings] == [2]
        return
    (problem,) = problems(text)
    assert (problem.line, problem.hint) == (2, f"did you mean '{meant}'?")


def test_what_is_an_environment_file() -> None:
    """Without ``dependencies`` a document is an empty environment if it has channels or variables, else none at all."""
    assert parse("channels: [a]").warnings[0].message.startswith("there is no key 'dependencies'")
    assert parse("channels: [a]").name == parse("channels: [a]\ndependencies:\n").name
    assert "not an environment file" in problems("name: a\nservices: []")[0].message
    assert "not a list" in problems("dependencies:\n  python: 3.6")[0].message
    assert "top level" in problems("dependencies: []\npip: [a]")[0].message


def test_label() -> None:
    """The label is the text of ``name``, as written, trimmed and of bounded length; the prefix is ignored."""
    assert parse("name: 1.10 \ndependencies: []").label == "1.10"
    assert parse('name: " a b\\n"\nprefix: /x\ndependencies: []').label == "a b"
    assert parse("name:\ndependencies: []").label is None
    assert len(parse(f"name: {'x' * 5000}\ndependencies: []").label or "") == 200


@pytest.mark.parametrize(
    ("channel", "normal"),
    [
        ("conda-forge/", "conda-forge"),
        ("conda-forge/label/dev", "conda-forge/label/dev"),
        ("HTTPS://Host.Example.org:443/A/b/", "https://host.example.org/A/b"),
        ("http://host.example.org:8080/a", "http://host.example.org:8080/a"),
        ("https://user:secret@host.example.org/a", "https://host.example.org/a"),
        ("https://host.example.org/t/to-ken/a/", "https://host.example.org/a"),
        ("https://${USER}:${SECRET}@host.example.org/a", "https://host.example.org/a"),
        ("${BASE}/a", "${BASE}/a"),
        ("https://${HOST}/a", "https://${HOST}/a"),
        ("/srv/channel/", "file:///srv/channel"),
        ("file:///srv/channel", "file:///srv/channel"),
        ("defaults", "defaults"),
        ('"a # b"', "a"),
    ],
)
def test_channels(channel: str, normal: str) -> None:
    """A channel is kept without credentials, trailing slash and default port; its letters and variables stay."""
    spec = parse(f"channels:\n  - {channel}\ndependencies: []")
    assert spec.channels == (normal,)
    has_credentials = "@" in channel or "/t/" in channel
    assert bool(spec.warnings) == has_credentials
    assert parse(spec.source_text) == spec
    assert not parse(spec.source_text).warnings


@pytest.mark.parametrize(
    "channel",
    [
        "./a",
        "../a",
        "~/a",
        "local",
        "C:\\a",
        "a,b",
        "a b",
        "ftps://h/a",
        "https:///a",
        "https://h/a?b",
        "conda-forge/linux-64",
        "https://h/a/noarch",
        "https://h:x/a",
        "//a",
        "é",
        "https://h/é",
        "''",
        "[a]",
        "https://h/a\\b",
        "gopher://h",
    ],
)
def test_refused_channels(channel: str) -> None:
    """What is no channel, or another one on each host, is refused."""
    assert len(problems(f"channels:\n  - {channel}\ndependencies: []")) == 1


def test_channels_in_order() -> None:
    """Channels keep their order, the first of two counts, and ``nodefaults`` is no channel."""
    spec = parse("channels: [b, a, nodefaults, b/]\ndependencies: []")
    assert (spec.channels, spec.has_nodefaults) == (("b", "a"), True)
    assert not parse("channels: [b, a]\ndependencies: []").has_nodefaults


def test_secrets_are_nowhere() -> None:
    """Credentials are in no field of a spec, nor in a refusal; the values of variables are the author's own."""
    spec = parse(
        "channels: ['https://user:sec%72et@host.example.org/a'] # https://user:secret@host.example.org/\n"
        "dependencies:\n- https://user:secret@host.example.org/b::c\n"
        "- pip\n- pip: ['git+https://secret@git.example.org/x/y#egg=y', 'git+ssh://git:secret@git.example.org/x/z']\n"
        "variables:\n  PROXY: http://user:own@proxy.example.org\n"
    )
    assert "secret" not in repr(spec)
    assert "sec%72et" not in repr(spec)
    assert dict(spec.variables) == {"PROXY": "http://user:own@proxy.example.org"}
    assert parse(spec.source_text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "channels: ['https://user:secret@host.example.org:x/a', 'https://user:secret@host.example.org/a b']",
        "dependencies: ['https://user:secret@host.example.org/c::a[b', 'https://user:secret@host.example.org/c::a=>=1']",
        "dependencies: ['https://host.example.org/t/secret/c::a[b=c]', 'https://secret@host.example.org/c/d']",
        "dependencies: [pip: ['a @ https://user:secret@host.example.org/x ; y', 'https://secret@host.example.org x']]",
        "dependencies: [pip: ['-i https://user:secret@host.example.org/x y', '-i ftps://secret@host.example.org']]",
        "dependencies: [pip: ['-e svn+https://user:secret@host.example.org/x', '-r https://secret@host.example.org/x']]",
    ],
)
def test_secrets_are_not_in_problems(text: str) -> None:
    """A refusal shows no credentials either."""
    with pytest.raises(InvalidSpec) as found:
        parse(text)
    assert len(found.value.problems) >= 2
    assert "secret" not in repr(found.value.to_json())


def test_secrets_that_cannot_be_removed() -> None:
    """Credentials that the text hides behind escapes refuse the document, rather than being stored."""
    (problem,) = problems('channels: ["https:/\\x2fuser:secret@host.example.org/a"]\ndependencies: []')
    assert "cannot be removed" in problem.message


def test_variables() -> None:
    """Values are the text as written, whatever YAML would make of it; null and structures are refused."""
    text = 'dependencies: []\nvariables: {A: 1, B: "1", C: yes, D: 1.50, E: "", F: "${A}", G: 0x10, H: "null"}'
    expected = {"A": "1", "B": "1", "C": "yes", "D": "1.50", "E": "", "F": "${A}", "G": "0x10", "H": "null"}
    assert dict(parse(text).variables) == expected
    bad = problems('dependencies: []\nvariables: {A: , B: [x], "C D": 1, 1E: 2, "": 3}')
    assert [it.line for it in bad] == [2] * 5
    assert "not a mapping" in problems("dependencies: []\nvariables: [A]")[0].message


def test_platforms() -> None:
    """Platforms are conda's, sorted; another word is refused with what was probably meant."""
    assert parse("dependencies: []\nplatforms: [osx-arm64, linux-64, osx-arm64]").platforms == ("linux-64", "osx-arm64")
    bad = problems("dependencies: []\nplatforms: [linux64, linux-46, any, noarch]")
    assert [it.hint for it in bad][:2] == ["did you mean linux-64?", "did you mean linux-64?"]
    assert len(bad) == 4


# --------------------------------------------------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("a  # [linux]", ("linux",)),
        ("a # only there [osx]", ("osx",)),
        ("a # [linux64] and so on", ("linux-64",)),
        ("a # [arm64]", ("osx-arm64",)),
        ("a # [osx-arm64]", ("osx-arm64",)),
        ("a # [win or linux or win]", ("linux", "win")),
        ("'a'  # [unix]", ("unix",)),
        ('"a" # [win]', ("win",)),
        ('"a # [win]"', ("win",)),
        ("a # [docs] [linux]", ("linux",)),
        ("a # [test]", ()),
        ("a # [test and docs]", ()),
        ("a # sel(linux)", ()),
        ("a # linux", ()),
        ("a # [linux] (as conda-lock: a comment)", ()),
        ("a[build='x#y']", None),
        ("a # [py38 and linux]", ()),
        (">-  # [linux]\n    a", ("linux",)),
        ("&x a  # [linux]", ("linux",)),
    ],
)
def test_selectors(item: str, words: tuple[str, ...] | None) -> None:
    """A platform in a comment's last bracket selects, as conda-lock reads it; other comments say nothing."""
    if words is None:
        assert problems(f"dependencies:\n  - {item}\n")
        return
    (found,) = dependencies(item).conda
    assert (found.match_spec, found.platforms) == ("a", words)


def test_selectors_on_pip_items() -> None:
    """Items of the pip section have selectors too, and a fragment of a URL is no comment."""
    text = "- pip:\n    - a  # [linux64]\n    - https://host.example.org/b.zip#sha256=12\n    - c # [test]"
    spec = parse(f"dependencies:\n  - pip\n  {text}\n")
    assert [(it.requirement, it.platforms) for it in spec.pip] == [
        ("a", ("linux-64",)),
        ("c", ()),
        ("https://host.example.org/b.zip#sha256=12", ()),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "channels:\n- a # [linux]\ndependencies: []",
        "dependencies:\n- pip: # [linux]\n  - a",
        "dependencies: [a, b] # [win]",
        "dependencies:\n- a # [not win]",
        "dependencies:\n- a # [linux, osx]",
        "dependencies:\n- a # [x86_64]",
        "dependencies: []\nvariables:\n  A: b # [linux]",
        "dependencies:\n- pip:\n  - --pre # [linux]",
        "dependencies: [\n a, # [linux]\n b]",
        "dependencies:\n- pip: [a,\n   b] # [linux]",
    ],
)
def test_refused_selectors(text: str) -> None:
    """A selector that could not be honoured is refused instead of being taken for a comment."""
    assert "selector" in problems(text)[0].message


@pytest.mark.parametrize("subdir", SUBDIRS)
def test_applies(subdir: str) -> None:
    """A platform is selected by itself, by its family, by 'unix' for linux and osx, and by no words at all."""
    family = subdir.partition("-")[0]
    assert applies((), subdir)
    assert applies((subdir,), subdir)
    assert applies((family, "nothing"), subdir)
    assert applies(("unix",), subdir) == (family in ("linux", "osx"))
    assert not applies(tuple(it for it in SUBDIRS if it != subdir), subdir)


# ---------------------------------------------------------------------------------------------------------- lockfiles


def lockfile(*packages: str) -> str:
    return "version: 1\nmetadata: {channels: []}\npackage:\n" + "".join(f"- {{{it}}}\n" for it in packages)


_REST = f"platform: linux-64, url: 'https://a.example.org/x', hash: {{sha256: {SHA256}}}"
ZLIB = f"name: zlib, version: '1.3', manager: conda, {_REST}"
SIX = f"name: six, version: '1.0', manager: pip, {_REST}"


def test_lockfiles_are_their_artifacts() -> None:
    """A conda-lock.yml keeps its name when it is ordered, annotated or mirrored otherwise, and only then."""
    spec = parse(lockfile(ZLIB, SIX))
    assert spec.is_lockfile
    assert spec.source_text == lockfile(ZLIB, SIX)
    assert (spec.conda, spec.pip, spec.channels) == ((), (), ())
    same = [
        lockfile(SIX, ZLIB),
        "# x\n" + lockfile(ZLIB.replace("a.example", "b.example"), SIX),
        lockfile(ZLIB, SIX, SIX),
    ]
    same.append(lockfile(ZLIB + ", category: main, optional: false", SIX).replace("channels: []", "sources: [x]"))
    assert {parse(text).name for text in same} == {spec.name}
    other = [ZLIB.replace("1.3", "1.4"), ZLIB.replace("0123", "0124"), ZLIB.replace("linux-64", "osx-64")]
    other += [ZLIB.replace("conda", "pip"), ZLIB + ", category: dev", ZLIB.replace("zlib", "zlib-ng")]
    assert len({parse(lockfile(text, SIX)).name for text in [ZLIB, *other]}) == 7
    clean = parse(lockfile(ZLIB.replace("//a", "//user:secret@a"), SIX))
    assert clean.name == spec.name
    assert "secret" not in clean.source_text


def test_refused_lockfiles() -> None:
    """A lockfile with an artifact that nothing identifies, or of another version, is refused."""
    assert "has no hash" in problems(lockfile(ZLIB.split(", hash", maxsplit=1)[0]))[0].message
    assert "has no hash" in problems(lockfile(ZLIB.replace(SHA256, "null")))[0].message
    assert "digits" in problems(lockfile(ZLIB.replace("0123456789abcdef", "0", 1)))[0].message
    assert "version 1" in problems(lockfile(ZLIB).replace("version: 1", "version: 2"))[0].message
    assert "has no url" in problems(lockfile("name: a, version: '1', manager: conda, platform: linux-64"))[0].message
    git = SIX.split(", hash", maxsplit=1)[0].replace(
        "https://a.example.org/x", "git+https://a.example.org/x@" + "0" * 40
    )
    assert parse(lockfile(git)).is_lockfile


# ----------------------------------------------------------------------------------------------------------- mappings


def test_mappings() -> None:
    """A mapping has the name of the YAML that says the same, and its stored text has it too."""
    text = "name: x\nchannels: [a]\ndependencies:\n- python=3.10\n- pip:\n  - b\nvariables: {A: 1, B: true, C: 'x'}\n"
    mapping = {
        "name": "x",
        "channels": ("a",),
        "dependencies": ["python 3.10.*", {"pip": ["b"]}],
        "variables": {"A": 1, "B": True, "C": "x"},
    }
    spec = parse_mapping(mapping)
    assert spec == parse(text) == parse(spec.source_text)
    assert spec.label == "x"


@pytest.mark.parametrize(
    "mapping",
    [
        {"dependencies": [3.10]},
        {"dependencies": [3]},
        {"dependencies": ["a", None]},
        {"dependencies": "a"},
        {"dependencies": {"python": "3.6"}},
        {"dependencies": [b"a"]},
        {1: 2},
        {},
        {"dependencies": [], "variables": {"A": "\0"}},
        {"dependencies": [], "variables": {"A": 10**5000}},
        {"dependencies": [], "x": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]},
    ],
)
def test_refused_mappings(mapping: dict[str, object]) -> None:
    """A mapping with what is no text, or no document, is refused like YAML, without positions."""
    with pytest.raises(InvalidSpec) as found:
        parse_mapping(mapping)
    assert all((it.line, it.message) for it in found.value.problems if it.line)


# ------------------------------------------------------------ anything at all


def _accepted_or_refused(read: Callable[[], Spec]) -> None:
    try:
        spec = read()
    except InvalidSpec:
        return
    assert parse(spec.source_text) == spec


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80)))
def test_any_bytes(text: bytes | str) -> None:
    """Any bytes or characters give a spec or a report, and nothing else."""
    _accepted_or_refused(lambda: parse(text))


@settings(max_examples=300, deadline=None)
@given(st.lists(_SCRAPS, max_size=10).map("".join), st.lists(_SCRAPS, max_size=6).map("".join))
def test_any_scraps(before: str, item: str) -> None:
    """Scraps of YAML, around and within a document, give a spec or a report, and nothing else."""
    _accepted_or_refused(lambda: parse(f"{before}\ndependencies:\n  - a\n  - {item}\n  - pip:\n    - {item}\n"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=25), st.text(max_size=25), st.text(max_size=25))
def test_any_values(channel: str, item: str, value: str) -> None:
    """Any text as channel, requirement, pip item and variable gives a spec or a report, and nothing else."""
    mapping = {"channels": [channel], "dependencies": [item, {"pip": [value]}], "variables": {"A": value}}
    _accepted_or_refused(lambda: parse_mapping(mapping))
    _accepted_or_refused(lambda: parse_mapping({"dependencies": [], "variables": {"A": value}}))


# ---------------------------------------------------------------------------------------------- what it costs to import


def test_imports() -> None:
    """Reading a spec imports no parser of other people's, and nothing heavy."""
    code = "import sys, envmgr.spec as s; s.parse('dependencies: [a]'); print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"packaging", "rattler", "conda_lock", "difflib", "json", "socket", "subprocess", "asyncio"}
    assert not modules & heavy
