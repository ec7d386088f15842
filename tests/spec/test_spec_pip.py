"""The pip section: requirements (packaging's parser is the oracle), options, included files."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from uv import find_uv_bin

from envmgr import codec
from envmgr.errors import InvalidSpec
from envmgr.model import PipOption, PipRequirement, Spec
from envmgr.spec import parse, parse_mapping, reader_of, uv_arguments
from envmgr.spec.markers import marker
from envmgr.spec.pip_options import OPTIONS
from envmgr.spec.pip_requirements import requirement
from envmgr.spec.problems import Refusal

GIT = "git+https://git.example.org/x/y.git"
SHA = "0123456789abcdef" * 4

SAME = {
    "foo-bar": ["Foo_Bar", "foo.bar", "FOO--bar", " foo-bar "],
    "foo<2,>=1.0": ["foo>=1.0,<2", "foo (>=1.0, <2)", "foo >= 1.0 , < 2", "foo>=1.0,<2,>=1.0", "foo>=1.0,<2,"],
    "foo[a,b-c]==1.*": ["foo[b_c,A]==1.*", "foo [a, b.c , a] == 1.*"],
    "foo==1.0rc1": ["foo==1.0RC1"],
    "foo===1.0-Weird": ["foo === 1.0-Weird"],
    "foo": ["foo[]", "foo"],
    'foo; python_version < "3.9"': ["foo;python_version<'3.9'", 'foo ; ( python_version  <  "3.9" )'],
    'foo; sys_platform == "linux" and (os_name == "nt" or extra == "x")': [
        "foo; sys.platform=='linux' and (os.name=='nt' or (extra=='x'))"
    ],
    f"y @ {GIT}@main": [
        f"{GIT}@main#egg=Y",
        f"Y@{GIT}@main",
        f"y @ {GIT}@main#egg=y",
        "y @ git+HTTPS://Git.example.org:443/x/y.git@main",
    ],
    f"y[a,b] @ {GIT}#subdirectory=z": [f"{GIT}#subdirectory=z&egg=y[b,a]", f"{GIT}#egg=y[a,b]&subdirectory=z"],
    f'y @ {GIT} ; os_name == "nt"': [f"y @ {GIT} ; os_name=='nt'", f"y @ {GIT}; os_name=='nt'"],
    "https://host.example.org/x.zip": ["https://HOST.example.org/x.zip"],
    "git+ssh://git@git.example.org/x/y.git": ["git+ssh://git@git.example.org/x/y.git"],
}
REFUSED = {
    ".": "not in the document",
    "./x": "not in the document",
    "ext/foo": "not in the document",
    "../x.whl": "not in the document",
    "x.whl": "not in the document",
    "C:\\x": "not in the document",
    "~/x": "not in the document",
    "foo @ ./x": "not in the document",
    "foo @ file:///x": "not in the document",
    "file:///x/y.whl": "not in the document",
    "git+file:///x/y": "not in the document",
    "svn+https://svn.example.org/x#egg=x": "git+https",
    "git+git@git.example.org:x/y.git": "git+ssh",
    "git@git.example.org:x/y.git": None,
    "git+{PLACEHOLDER}#egg=x": None,
    "https://host.example.org": None,
    f"y @ {GIT}#egg=z": None,
    "ncurses==6.1=h0a44026_1002": "write ncurses==6.1",
    "foo=1.0": "'=='",
    "foo=>1.0": "'>='",
    "foo 1.0": "'=='",
    "foo==1.0 bar": None,
    "foo>=1 <2": None,
    "foo==": None,
    "foo==one": None,
    "foo~=1": "~=1.0",
    "foo>=1.*": None,
    "foo>=1+local": None,
    "foo==1.0.dev1.*": None,
    "foo[a": None,
    "foo[a b]": None,
    "foo; python_version": None,
    "foo; python_version < 3.9": "quotes",
    "foo; nonsense == 'x'": None,
    "foo; 'a' == 'b'": None,
    "foo; (os_name == 'nt'": None,
    "foo; os_name == 'nt' os_name": None,
    "{{ foo }}": "fill it in",
    "foo\x00": None,
    "-": None,
    "x" * 5000: None,
}


def pip(*items: str, files: dict[str, str] | None = None) -> Spec:
    """Return the spec whose pip section has these items."""
    document = {"dependencies": ["pip", {"pip": list(items)}]}
    if files is None:
        return parse_mapping(document)

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file", path)
        return files[path].encode()

    return parse_mapping(document, read_include=read)


def problems(*items: str, files: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(InvalidSpec) as found:
        pip(*items, files=files)
    return [f"{it.message} {it.hint or ''}" for it in found.value.problems]


@pytest.mark.parametrize("normal", SAME)
def test_spellings_of_one(normal: str) -> None:
    """Spellings of one requirement have one normal form, which is its own normal form."""
    for text in [normal, *SAME[normal]]:
        assert requirement(text).text == normal


@pytest.mark.parametrize("normal", [it for it in SAME if not it.startswith(("http", "git+"))])
def test_packaging_reads_every_normal_form(normal: str) -> None:
    """The normal forms of the table are PEP 508, and say what the original says."""
    ours = Requirement(normal)
    for text in SAME[normal]:
        if "@" not in text and "egg=" not in text:
            theirs = Requirement(text)
            assert (ours.specifier, ours.marker) == (theirs.specifier, theirs.marker)


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """What is no requirement of a network's index is refused, with a hint."""
    with pytest.raises(Refusal) as found:
        requirement(text)
    assert (REFUSED[text] or "") in f"{found.value.message} {found.value.hint}"


_VERSIONS = st.sampled_from(
    [
        "1",
        "1.0",
        "1.0.0",
        "2!1.0",
        "1.0a1",
        "1.0.RC-1",
        "1.0.post1",
        "1.0-1",
        "1.0.dev3",
        "v1.0",
        "1.0+cu118",
        "1.*",
        "1.0.*",
    ]
)
_CLAUSES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["==", "!=", ">=", "<=", ">", "<", "~=", "==="]),
    st.sampled_from(["", " "]),
    _VERSIONS,
)
_OPERANDS = st.sampled_from(["python_version", "os_name", "sys_platform", "'3.9'", '"a"', "'nt'"])
_COMPARISONS = st.builds(
    "{} {} {}".format, _OPERANDS, st.sampled_from(["<", "==", "!=", ">=", "in", "not in"]), _OPERANDS
)
_MARKERS = st.recursive(
    _COMPARISONS,
    lambda inner: st.one_of(
        st.builds("{} and {}".format, inner, inner),
        st.builds("{} or {}".format, inner, inner),
        inner.map("({})".format),
    ),
    max_leaves=5,
)


CANDIDATES = ["0.9", "1", "1.0a1", "1.0rc1", "1.0", "1.0.1", "1.0.post1", "1.0.dev3", "1.0+cu118", "1.1", "2", "2!1.0"]


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(["foo", "Foo_Bar", "a.b"]),
    st.sampled_from(["", "[x]", "[Y_z, x]"]),
    st.lists(_CLAUSES, max_size=3).map(", ".join),
    st.one_of(st.just(""), _MARKERS.map("; {}".format)),
)
def test_packaging_agrees(name: str, extras: str, clauses: str, condition: str) -> None:
    """What we accept, packaging accepts, and means the same by it; what packaging refuses, we refuse."""
    text = f"{name}{extras} {clauses} {condition}"
    try:
        ours = Requirement(requirement(text).text)
    except Refusal:
        return
    theirs = Requirement(text)
    for version in CANDIDATES:
        assert ours.specifier.contains(version, prereleases=True) == theirs.specifier.contains(
            version, prereleases=True
        )
    assert ours.extras == {extra.lower().replace("_", "-") for extra in theirs.extras}
    assert (ours.marker is None) == (theirs.marker is None)
    if theirs.marker is not None:
        for system in ("nt", "posix", "a"):
            for version in ("3.8", "3.9", "3.10"):
                at = {"os_name": system, "python_version": version, "sys_platform": system}
                assert Marker(marker(str(theirs.marker))).evaluate(at) == theirs.marker.evaluate(at)
                assert ours.marker is not None
                assert ours.marker.evaluate(at) == theirs.marker.evaluate(at)
    assert requirement(requirement(text).text).text == requirement(text).text


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("aB1.*=<>!~,()[]:;/ _-+'\"#@"), max_size=14))
def test_whatever_is_accepted_is_read_by_packaging(text: str) -> None:
    """Any text is refused, or has a normal form that packaging reads and that is its own normal form."""
    try:
        found = requirement("a" + text)
    except Refusal:
        return
    try:
        Requirement(found.text)
    except InvalidRequirement as error:
        raise AssertionError(found.text) from error
    assert requirement(found.text).text == found.text


# ---------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("item", "options"),
    [
        ("--index-url https://i.example.org/simple/", [("--index-url", "https://i.example.org/simple")]),
        ("--index-url=https://i.example.org/simple", [("--index-url", "https://i.example.org/simple")]),
        ("-i https://i.example.org/simple", [("--index-url", "https://i.example.org/simple")]),
        ("-ihttps://i.example.org/simple", [("--index-url", "https://i.example.org/simple")]),
        ("-i 'https://i.example.org/simple' --pre", [("--index-url", "https://i.example.org/simple"), ("--pre", "")]),
        ("-f https://l.example.org/wheels/", [("--find-links", "https://l.example.org/wheels/")]),
        ("--no-binary Foo_Bar,x", [("--no-binary", "foo-bar"), ("--no-binary", "x")]),
        ("--only-binary=:all:", [("--only-binary", ":all:")]),
        ("--trusted-host Host.example.org:8080", [("--trusted-host", "host.example.org:8080")]),
        ("-C key=value", [("--config-settings", "key=value")]),
        ("--no-index  # offline", [("--no-index", "")]),
    ],
)
def test_option_spellings(item: str, options: list[tuple[str, str]]) -> None:
    """Short, long and ``=`` forms of an option are one."""
    assert pip(item).pip_options == tuple(PipOption(*it) for it in options)


def test_option_order_counts() -> None:
    """The order of options is identity, repetition is not; credentials are removed and reported."""
    one, two = "--extra-index-url https://a.example.org/s", "--extra-index-url https://b.example.org/s"
    assert pip(one, two).name != pip(two, one).name
    assert pip(one, two).name == pip(one, two, one).name
    spec = pip("--extra-index-url https://user:secret@a.example.org/s", two)
    assert spec.name == pip(one, two).name
    assert ["credentials" in it.message for it in spec.warnings] == [True]
    assert "secret" not in spec.source_text


@pytest.mark.parametrize("option", [it for it in OPTIONS if it.fate == "refused"], ids=lambda it: it.flag)
def test_refused_options(option: object) -> None:
    """An option without effect, or with one that uv does not have, is refused by its name with the reason."""
    flag, takes, reason = option.flag, option.takes, option.reason  # type: ignore[attr-defined]
    (problem,) = problems(flag if takes == "nothing" else f"{flag} x")
    assert flag in problem
    assert reason in problem
    assert reason


def test_unknown_options() -> None:
    """What pip does not know is refused, with what was probably meant."""
    (problem,) = problems("--extra-index-ulr https://i.example.org/")
    assert "did you mean --extra-index-url?" in problem
    assert "no value" in problems("--index-url")[0]
    assert "path" in problems("--find-links ./wheels")[0]
    assert "second --index-url" in problems("-i https://a.example.org", "-i https://b.example.org")[0]
    assert "quotes" in problems("--index-url 'https://a.example.org")[0]
    assert "takes no value" in problems("--pre=yes")[0]


def test_uv_knows_every_option_that_it_is_given() -> None:
    """Each option that is kept or renamed has arguments that uv's own help lists."""
    text = subprocess.run(
        [find_uv_bin(), "pip", "compile", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in OPTIONS:
        if option.fate in ("kept", "renamed"):
            assert f"{option.uv[0]} " in text or f"{option.uv[0]}\n" in text, option.flag
    assert uv_arguments(pip("--pre", "--no-binary a,b").pip_options) == [
        *("--prerelease", "allow"),
        *("--no-binary", "a", "--no-binary", "b"),
    ]


def test_editable() -> None:
    """An editable from git is the requirement itself, with a warning; a local one is refused."""
    spec = pip(f"-e {GIT}@main#egg=Y")
    assert spec.pip == (PipRequirement(f"y @ {GIT}@main"),)
    assert "not as editable" in spec.warnings[0].message
    assert spec.name == pip(f'-e "{GIT}@main#egg=y"').name == pip(f"y @ {GIT}@main").name
    for item in ("-e .", "-e ./x", "--editable=x/y", "-e file:///x"):
        assert "not in the document" in problems(item)[0]


def test_hashes() -> None:
    """Hashes of a requirement are identity, in any order; only real ones are read."""
    spec = pip(f"six==1.0 --hash=sha256:{SHA} --hash=sha256:{SHA[::-1]}")
    assert spec.pip[0].hashes == tuple(sorted((f"sha256:{SHA}", f"sha256:{SHA[::-1]}")))
    assert spec.name == pip(f"six==1.0 --hash=sha256:{SHA[::-1]}  --hash sha256:{SHA.upper()}").name
    assert spec.name != pip(f"six==1.0 --hash=sha256:{SHA}").name != pip("six==1.0").name
    assert "not a hash" in problems("six==1.0 --hash=md5:12")[0]
    assert "item of its own" in problems("six==1.0 --pre")[0]


# ------------------------------------------------------------------------------------------------------ included files


def test_includes_are_their_content() -> None:
    """``-r`` and ``-c`` have the name of what the files say, wherever they lie and however they are formatted."""
    files = {
        "requirements.txt": "\ufeff# all\r\nfoo>=1 \\\r\n  ,<2  # bar\r\n-r deep/more.txt\r\n",
        "deep/more.txt": "--pre\n-c ../bounds.txt\nbaz # [linux]\n",
        "bounds.txt": "numpy<2\n",
        "flat.txt": "baz\nfoo<2,>=1\n--pre\n-c bounds.txt\n",
    }
    spec = pip("-r requirements.txt", files=files)
    assert spec.has_includes
    assert [it.requirement for it in spec.pip] == ["baz", "foo<2,>=1"]
    assert spec.pip_constraints == (PipRequirement("numpy<2"),)
    assert spec.pip_options == (PipOption("--pre"),)
    assert spec.name == pip("--requirement=file:flat.txt", files=files).name == pip("-rflat.txt", files=files).name
    assert spec.name != pip("baz", "foo>=1,<2", "--pre").name
    assert not pip("baz").has_includes


def test_includes_that_cannot_be_read() -> None:
    """A file that is missing, includes itself, is not text, or could not be read at all, is named in a problem."""
    assert "give envmgr the document as a file" in problems("-r requirements.txt")[0]
    assert "No such file" in problems("-r x.txt", files={})[0]
    assert "includes itself" in problems("-r a.txt", files={"a.txt": "-r b.txt", "b.txt": "-r a.txt"})[0]
    assert "a.txt, line 2: " in problems("-r a.txt", files={"a.txt": "x\n./y\nz"})[0]
    assert "not a file beside" in problems("-r https://host.example.org/r.txt", files={})[0]
    many = {f"{n}.txt": f"-r {n + 1}.txt" for n in range(100)}
    assert "files are included" in problems("-r 0.txt", files=many)[0]
    assert "not a constraint" in problems("-c c.txt", files={"c.txt": "numpy[x]<2"})[0]
    with pytest.raises(InvalidSpec, match="not UTF-8"):
        parse_mapping({"dependencies": [{"pip": ["-r x"]}]}, read_include=lambda _: "é".encode("latin-1"))


_LINES = st.lists(
    st.sampled_from(
        [
            "foo>=1", "bar \\\r\n  <2 # why", "--pre", "-r b.txt", "-c deep/c.txt", "-r deep/d.txt", "# https://u:p@h.org/x",
            "--extra-index-url https://user:secret@h.org/s", "baz @ https://tok@h.org/b-1-py3-none-any.whl",
            "git+https://u:secret@h.org/x.git", "a; python_version < '3.9'",
        ]
    ),
    max_size=5,
).map("\n".join)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(first=_LINES, second=_LINES, third=_LINES, is_bare=st.booleans())
def test_what_a_spec_keeps_reads_back_to_its_name(*, first: str, second: str, third: str, is_bare: bool) -> None:
    """Text and includes of a spec have its name without any file, hold no credentials, and survive spec.json."""
    files = {"a.txt": first, "b.txt": second.replace("-r b.txt", ""), "deep/c.txt": "numpy<2\n", "deep/d.txt": third}
    files = {path: text.replace("-r deep/d.txt", "").replace("deep/", "") for path, text in files.items()}
    files |= {"c.txt": "numpy<3\n", "deep/b.txt": "six\n"}
    spec = pip("-r a.txt", *([] if is_bare else ["-r deep/d.txt", "x"]), files=files)
    again = parse(spec.source_text, read_include=reader_of(dict(spec.includes)))
    assert (again.name, again.canonical_text) == (spec.name, spec.canonical_text)
    assert (again.source_text, again.includes) == (spec.source_text, spec.includes)
    assert "secret" not in str([spec.source_text, spec.includes])
    assert "tok@" not in str(spec.includes)
    loaded = codec.load(Spec, json.loads(codec.dump(spec)))
    assert (loaded, loaded.includes) == (spec, spec.includes)


def test_a_spec_that_was_kept_without_includes_still_loads() -> None:
    """A spec.json from before includes were kept has none."""
    document = json.loads(codec.dump(pip("-r a.txt", files={"a.txt": "six"})))
    del document["includes"]
    assert codec.load(Spec, document).includes == ()


def test_credentials_of_an_include_that_cannot_be_removed_refuse_the_document() -> None:
    """Where cutting the credentials out would change the name, nothing is kept: the document is refused."""
    with pytest.raises(InvalidSpec, match="cannot be removed"):
        pip("-r a.txt", files={"a.txt": "--extra-index-url https://user:sec\\\nret@h.org/s\n"})


def test_pip_is_added() -> None:
    """A pip section without pip is the same as one with ``- pip``, and says so; an empty one adds nothing."""
    bare = parse_mapping({"dependencies": [{"pip": ["x"]}]})
    assert bare.name == pip("x").name
    assert ["added" in it.message for it in bare.warnings] == [True]
    assert not pip("x").warnings
    pinned = parse_mapping({"dependencies": ["conda-forge::pip=24", {"pip": ["x"]}]})
    assert [it.match_spec for it in pinned.conda] == ["conda-forge::pip 24.*"]
    assert parse_mapping({"dependencies": [{"pip": None}, {"pip": []}]}).conda == ()


def test_sections_are_joined() -> None:
    """Several pip sections, in any place, are one."""
    parts = {"dependencies": [{"pip": ["b", "--pre"]}, "pip", {"pip": None}, {"pip": ["a"]}]}
    assert parse_mapping(parts).name == pip("a", "b", "--pre").name
