"""The canonical text: golden vectors that may never change, and injectivity."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmgr.model import CondaRequirement, PipOption, PipRequirement
from envmgr.spec import CANONICAL_VERSION, parse
from envmgr.spec.canonical import canonical_text, lockfile_text

SHA256 = "sha256:" + "0123456789abcdef" * 4

GOLDEN = {
    "empty": ("dependencies: []\n", "envmgr-spec-1\n", "env-ff42a0ae7f42e388"),
    "one package": (
        "name: a\ndependencies:\n  - Python =3.10\n",
        "envmgr-spec-1\nconda\tpython 3.10.*\n",
        "env-62cfac683e844197",
    ),
    "channels keep their order": (
        "channels: [b, nodefaults, 'https://Host.example.org:443/A/', b, a]\ndependencies:\n",
        "envmgr-spec-1\nchannel\tb\nchannel\thttps://host.example.org/A\nchannel\ta\nnodefaults\n",
        "env-8cb70b22c43c7139",
    ),
    "requirements": (
        (
            "dependencies:\n"
            "  - numpy>=1.2 , <2\n"
            "  - conda-forge/linux-64::Libcurl 7.76.1 *_0\n"
            "  - gcc_linux-64  # [linux64]\n"
            "  - blas[build='mkl.x']\n"
            "  - a 1.0|>=1.2,<2|1.1.*\n"
            "  - numpy <2,>=1.2\n"
        ),
        (
            "envmgr-spec-1\n"
            "conda\ta 1.1.*|<2,>=1.2|==1.0\n"
            'conda\tblas[build="mkl.x"]\n'
            'conda\tconda-forge::libcurl ==7.76.1 *_0[subdir="linux-64"]\n'
            "conda\tgcc_linux-64\tlinux-64\n"
            "conda\tnumpy <2,>=1.2\n"
        ),
        "env-bbb96ba9130d8afc",
    ),
    "pip": (
        (
            "dependencies:\n"
            "  - pip:\n"
            "    - --index-url=https://index.example.org/simple/\n"
            "    - Foo_Bar[B,a] >=1.0, <2 ; python_version<'3.9'\n"
            "    - -e git+https://git.example.org/x/y.git@main#egg=Y&subdirectory=z\n"
            "    - https://host.example.org/x.zip\n"
            "    - --no-binary Foo,bar --pre\n"
            f"    - six==1.0 --hash={SHA256}\n"
            "    - win-tool  # [win]\n"
        ),
        (
            "envmgr-spec-1\n"
            "conda\tpip\n"
            'pip\tfoo-bar[a,b]<2,>=1.0; python_version < "3.9"\n'
            "pip\thttps://host.example.org/x.zip\n"
            "pip\tsix==1.0\n"
            "pip\twin-tool\twin\n"
            "pip\ty @ git+https://git.example.org/x/y.git@main#subdirectory=z\n"
            f"pip-hash\tsix==1.0\t{SHA256}\n"
            "pip-option\t--index-url\thttps://index.example.org/simple\n"
            "pip-option\t--no-binary\tfoo\n"
            "pip-option\t--no-binary\tbar\n"
            "pip-option\t--pre\t\n"
        ),
        "env-32ff07dd5d6adedc",
    ),
    "variables and platforms": (
        'dependencies: []\nplatforms: [osx-arm64, linux-64]\nvariables:\n  B: 1\n  A: "x\\ty\\\\z\\n"\n  C: ${HOME}\n',
        (
            "envmgr-spec-1\nvariable\tA\tx\\ty\\\\z\\n\nvariable\tB\t1\nvariable\tC\t${HOME}\n"
            "platform\tlinux-64\nplatform\tosx-arm64\n"
        ),
        "env-05d7fac31dfdd490",
    ),
    "a package's URL": (
        "dependencies: ['https://host.example.org/c/noarch/a-b-1.0-0.conda#0123456789ABCDEF0123456789abcdef']\n",
        (
            'envmgr-spec-1\nconda\ta-b[md5="0123456789abcdef0123456789abcdef",'
            'url="https://host.example.org/c/noarch/a-b-1.0-0.conda"]\n'
        ),
        "env-2e832afbe925332b",
    ),
    "a lockfile": (
        (
            "version: 1\n"
            "metadata: {content_hash: {linux-64: abc}, channels: [], platforms: [linux-64], sources: []}\n"
            "package:\n"
            "- {name: six, version: 1.16.0, manager: pip, platform: linux-64, category: dev,\n"
            f"   url: 'https://index.example.org/six.whl', hash: {{sha256: {SHA256[7:]}}}}}\n"
            "- {name: zlib, version: '1.3', manager: conda, platform: linux-64, url: 'https://host.example.org/z.conda',\n"
            "   hash: {md5: 0123456789abcdef0123456789abcdef}}\n"
        ),
        (
            "envmgr-spec-1\nlockfile\n"
            "artifact\tconda\tlinux-64\tzlib\t1.3\tmain\tmd5:0123456789abcdef0123456789abcdef\n"
            f"artifact\tpip\tlinux-64\tsix\t1.16.0\tdev\t{SHA256}\n"
        ),
        "env-c1e8d6853fd46361",
    ),
}
"""Document, canonical text, name. A vector that fails shows a change that would rename people's environments."""


def test_version() -> None:
    """The text says its version in its first line."""
    assert CANONICAL_VERSION == 1
    assert parse("dependencies: []").canonical_text.startswith("envmgr-spec-1\n")


@pytest.mark.parametrize("title", GOLDEN)
def test_golden(title: str) -> None:
    """A document has exactly this canonical text and this name, for ever."""
    document, text, name = GOLDEN[title]
    spec = parse(document)
    assert spec.canonical_text == text
    assert spec.digest == hashlib.sha256(text.encode()).hexdigest()
    assert spec.name == "env-" + spec.digest[:16] == name


def test_names_can_be_recomputed_without_envmgr() -> None:
    """The name is what ``printf TEXT | sha256sum`` says of the text that the docstring specifies."""
    text = b"envmgr-spec-1\nchannel\tconda-forge\nconda\tnumpy >=1.26\nconda\tpython 3.11.*\n"
    spec = parse("channels: [conda-forge]\ndependencies: [python=3.11, numpy>=1.26]")
    assert spec.name == "env-" + hashlib.sha256(text).hexdigest()[:16] == "env-fcef51a9ed80fc13"


_VALUES = st.text(st.sampled_from("a\\\t\n\rnt "), min_size=0, max_size=4)
_WORDS = st.lists(_VALUES, max_size=2).map(lambda words: tuple(sorted(set(words))))
_PARTS = st.fixed_dictionaries(
    {
        "channels": st.lists(_VALUES, max_size=2, unique=True).map(tuple),
        "has_nodefaults": st.booleans(),
        "conda": st.frozensets(st.builds(CondaRequirement, _VALUES, _WORDS), max_size=2),
        "pip": st.frozensets(st.builds(PipRequirement, _VALUES, _WORDS), max_size=2),
        "pip_constraints": st.frozensets(st.builds(PipRequirement, _VALUES), max_size=2),
        "pip_options": st.lists(st.builds(PipOption, _VALUES, _VALUES), max_size=2, unique=True).map(tuple),
        "variables": st.dictionaries(_VALUES, _VALUES, max_size=2).map(lambda it: tuple(sorted(it.items()))),
        "platforms": st.frozensets(_VALUES, max_size=2),
    }
)


@given(_PARTS, _PARTS)
def test_injective(one: dict[str, object], other: dict[str, object]) -> None:
    """Two different specs never have one text, whatever characters their values hold."""
    assert (canonical_text(**one) == canonical_text(**other)) == (one == other)  # type: ignore[arg-type]


def test_hashes_belong_to_their_requirement() -> None:
    """Hashes of one requirement on two platforms cannot be exchanged without changing the text."""
    parts: dict[str, tuple[()]] = {
        "conda": (),
        "channels": (),
        "pip_constraints": (),
        "pip_options": (),
        "variables": (),
    }
    one = [PipRequirement("a", ("linux",), ("x",)), PipRequirement("a", ("osx",), ("y",))]
    other = [PipRequirement("a", ("linux",), ("y",)), PipRequirement("a", ("osx",), ("x",))]
    texts = {canonical_text(has_nodefaults=False, platforms=(), pip=pip, **parts) for pip in (one, other)}
    assert len(texts) == 2


def test_a_lockfile_is_no_spec() -> None:
    """The text of an empty lockfile differs from that of an empty spec."""
    assert lockfile_text([]) != parse("dependencies: []").canonical_text
