"""Conda requirements: what is one, what stays apart, what is refused; rattler's parser is the oracle."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rattler import MatchSpec, Version, VersionSpec

from envmgr.spec.match_specs import match_spec, package_name, source_channel
from envmgr.spec.problems import Refusal

SAME = {
    "python 3.10.*": [
        "python=3.10",
        "Python =3.10",
        "python = 3.10",
        "python=3.10.*",
        "python 3.10*",
        "python==3.10.*",
    ],
    "python ==3.10": [
        "python 3.10",
        "python==3.10",
        "python  == 3.10",
        "python[version=3.10]",
        'python[version="==3.10"]',
    ],
    "pkg <2,>=1.0": [
        "pkg>=1.0,<2",
        "pkg >= 1.0 , < 2",
        "pkg <2,>=1.0,<2",
        "pkg ((>=1.0)),(<2)",
        'pkg[version=">=1.0,<2"]',
    ],
    "libcurl ==7.76.1 *_0": ["libcurl 7.76.1 *_0", "libcurl  7.76.1  *_0", "libcurl=7.76.1=*_0", "libcurl==7.76.1=*_0"],
    "a 1.0.* h": ["a=1.0.*=h", "a 1.0.* h", 'a[version="=1.0",build=h]'],
    "a": ["a *", "A", "a=*", "a * *", "a >=1|*", " a "],
    "a * mkl": ["a[build=mkl]", "a=*=mkl", "a * mkl", 'a[build="mkl"]', "a[ build = 'mkl' ]"],
    'a[build="py3.9_0"]': ["a=*=py3.9_0", "a * py3.9_0", "a[build=py3.9_0]"],
    'c::a[subdir="linux-64"]': [
        "c/linux-64::a",
        "c::a[subdir=linux-64]",
        "a[channel=c,subdir=linux-64]",
        "c/::a[subdir=linux-64]",
    ],
    "https://host.example.org/x::flask 1.0.2.*": ["https://Host.example.org:443/x/::flask=1.0.2"],
    "https://192.0.2.24::flask 1.0.2.*": ["https://192.0.2.24:443::flask=1.0.2"],
    "${CHANNEL}::a": ["${CHANNEL}/::a"],
    "a !=3,(<2|>=5)": ["a (>=5|<2),!=3", "a !=3,(<2|>=5|<2)"],
    "a <2,>=1.3|==1.1": ["a 1.1|>=1.3,<2", "a (>=1.3,<2)|1.1"],
    "a 1.1.*|==1.2": ["a=1.1|1.2"],
    "a !=1.5.*": ["a!=1.5.*", "a !=1.5*"],
    "a >=1.0": ["a>=1.0.*", "a >=1.0*", "a >=1.0,*"],
    "a ==1.0rc1": ["a==1.0RC1"],
    'a[build_number="==3"]': ["a[build_number=3]", "a[build_number=03]", 'a[build_number="==3"]'],
    f'a[md5="{"ab" * 16}"]': [f"a[md5={'AB' * 16}]"],
    "__glibc >=2.17": ["__glibc>=2.17"],
    'a[fn="a-1.0-0.conda",license="MIT",license_family="BSD",track_features="mkl"]': [
        "a[license=MIT,track_features=mkl,fn='a-1.0-0.conda',license_family=BSD]"
    ],
    "m2w64-x ==5.0.0.4634.697f757 2": ["m2w64-x==5.0.0.4634.697f757=2"],
}
APART = [
    ["a ==1.0", "a ==1.0.0", "a 1.0.*", "a", "a >=1.0", "a ~=1.0", "a >1.0", "a ==1.0 h", "a 1.0.* h", "a ==1.0|==1.1"],
    ["a ==1.0-1", "a ==1.0_1", "a ==1.0.1"],
    ["c::a", "d::a", "a", "c/label/x::a", "https://host.example.org/c::a", "https://host.example.org/C::a"],
    ["a 1.0 h", "a 1.0 H", "a 1.0 h*"],
    ["a >=1", "a >=1,>=2", "a >=2", "a >=1|>=2"],
]
REFUSED = {
    "pandas=>=1.0": "write '>='",
    "pandas => 1.0": "write '>='",
    "a===1.0": "write '=='",
    "a>=1 <2": "commas",
    "a>=": None,
    "a>=1.0,": None,
    "a==": None,
    "a=": None,
    "a>1.0.*": "write >1.0",
    "a~=1.2.*": "write ~=1.2",
    "a==1.1.* h": "write '1.2.*'",
    "a <2,==1.1.*": "write '1.2.*'",
    "a=1.*.3": "bounds",
    r"a ^1\..*$": "bounds",
    "a[build='^py.*$']": "'*'",
    "a!=*": None,
    "-c conda-forge": "channels:",
    "-r file.txt": "pip:",
    "conda-forge:numpy": "conda-forge::numpy",
    "numpy@1.2": None,
    "./local": "not in the document",
    "a b c d": None,
    "a[x=1]": "one of",
    "a[version=1": None,
    "a[version=1]b": None,
    "a[build=x,build=y]": None,
    "a=1.0[version=2.0]": None,
    "c::a[channel=d]": None,
    "a[md5=12]": None,
    "a[subdir=linux-65]": None,
    "::a": "CHANNEL::PACKAGE",
    "./c::a": "absolute path",
    "conda-store=={{ version }}": "fill it in",
    "https://host.example.org/c/linux-64/a-1.0-0.conda": "sha256",
    "https://host.example.org/a-1.0-0.conda#" + "0" * 32: None,
    "https://host.example.org/c/linux-64/readme.txt#" + "0" * 32: "NAME-VERSION-BUILD",
    f"b[url='https://host.example.org/c/noarch/a-1.0-0.conda',md5={'0' * 32}]": None,
    "a 1..2": None,
    "a 1.0-1_2": None,
    "a " + "(" * 50 + "1" + ")" * 50: None,
    "a 1,(2": None,
    "é": None,
    "a\tb\x01": None,
    "x" * 5000: None,
    "": None,
}


@pytest.mark.parametrize("normal", SAME)
def test_spellings_of_one(normal: str) -> None:
    """Spellings of one requirement have one normal form, which is its own normal form."""
    assert {text: match_spec(text)[0] for text in [normal, *SAME[normal]]} == dict.fromkeys(
        [normal, *SAME[normal]], normal
    )


@pytest.mark.parametrize("texts", APART, ids=lambda texts: texts[0])
def test_different_ones(texts: list[str]) -> None:
    """What differs in anything but spelling stays apart."""
    assert len({match_spec(text)[0] for text in texts}) == len(texts)


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """What is not a requirement, or is read differently by different tools, is refused with a hint."""
    with pytest.raises(Refusal) as found:
        match_spec(text)
    assert found.value.message
    assert (REFUSED[text] or "") in (found.value.hint or "")


def test_credentials_are_removed() -> None:
    """A channel's credentials are no part of a requirement, and their removal is reported."""
    assert match_spec("https://user:secret@host.example.org/t/token/c/linux-64::a") == (
        'https://host.example.org/c::a[subdir="linux-64"]',
        True,
    )
    assert match_spec("a[channel='https://u:s@host.example.org/c']") == ("https://host.example.org/c::a", True)
    assert match_spec("https://host.example.org/c::a")[1] is False


def test_parts_of_a_normal_form() -> None:
    """A requirement's channel and package are found in its normal form."""
    url = match_spec("https://host.example.org/c/noarch/a-b-1.0-0.conda#sha256:" + "0" * 64)[0]
    assert (source_channel(url), package_name(url)) == ("https://host.example.org/c", "a-b")
    assert source_channel("c/label/x::a >=1") == "c/label/x"
    assert source_channel("a >=1") is None
    assert package_name('https://host.example.org/c::a[subdir="linux-64"]') == "a"


VERSIONS = [
    "0.9",
    "1",
    "1.0",
    "1.0.0",
    "1.0.1",
    "1.0rc1",
    "1.1",
    "1.1.1q",
    "1.2",
    "1.2.3",
    "1.10",
    "2",
    "2.0.1",
    "3.1",
    "10",
]
_LITERALS = st.sampled_from(
    ["0.9", "1", "1.0", "1.0.1", "1.0rc1", "1.1.1q", "1.2", "1.10", "2", "3.1", "2024a", "1!2.0+x.1"]
)
_CLAUSES = st.one_of(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["==", "!=", ">=", "<=", ">", "<", "~=", "=", ""]),
        st.sampled_from(["", " "]),
        _LITERALS,
    ),
    st.builds("{}{}".format, _LITERALS, st.sampled_from([".*", "*"])),
    st.builds("{}{}.*".format, st.sampled_from(["=", "!=", ">=", "<="]), _LITERALS),
    st.just("*"),
)
_EXPRESSIONS = st.recursive(
    _CLAUSES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(",".join),
        st.lists(inner, min_size=2, max_size=3).map(" | ".join),
        inner.map("({})".format),
    ),
    max_leaves=5,
)


@settings(max_examples=250, deadline=None)
@given(_EXPRESSIONS, st.sampled_from(["", " h0_1", "=*_0"]))
def test_rattler_agrees(expression: str, build: str) -> None:
    """rattler's strict parser reads the normal form, which matches what its lenient one reads in the original."""
    text = f"a {expression}{build}"
    try:
        lenient = MatchSpec(text)
    except Exception:  # noqa: BLE001 - the oracle's errors have no common class
        assume(False)
        return
    try:
        normal, _ = match_spec(text)
    except Refusal:
        return
    strict = MatchSpec(normal, strict=True)
    original, ours = VersionSpec(lenient.version or "*"), VersionSpec(strict.version or "*")
    assert [original.matches(Version(it)) for it in VERSIONS] == [ours.matches(Version(it)) for it in VERSIONS]
    assert (lenient.build or "*") == (strict.build or "*")
    assert match_spec(normal)[0] == normal
    assert match_spec(str(strict))[0] == normal


_ANYTHING = st.text(st.sampled_from("aB1.*=<>!~|,()[]:/ _-+'\"#@^"), max_size=14)


@settings(max_examples=400, deadline=None)
@given(_ANYTHING)
def test_whatever_is_accepted_is_read_by_rattler(text: str) -> None:
    """Any text is refused, or has a normal form that rattler's strict parser reads and that is its own normal form."""
    try:
        normal, _ = match_spec("a" + text)
    except Refusal:
        return
    MatchSpec(normal, strict=True)
    assert match_spec(normal)[0] == normal


@pytest.mark.parametrize("normal", SAME)
def test_rattler_reads_every_normal_form(normal: str) -> None:
    """The normal forms of the tables above are strict MatchSpecs of rattler's, with the same channel and build."""
    found = MatchSpec(normal, strict=True)
    channel = source_channel(normal)
    assert (found.channel is None) == (channel is None)
    assert found.name is not None
