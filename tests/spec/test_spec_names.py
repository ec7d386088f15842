"""What moves a name and what does not, over generated documents written in many ways."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr.spec import parse

SELECTORS = ("linux", "osx", "win", "unix", "linux64", "osx-arm64")


@dataclass(frozen=True)
class Wanted:
    """A document's meaning; `written` writes it down in one of many ways."""

    channels: tuple[str, ...] = ()
    conda: tuple[tuple[str, str, str, str], ...] = ()
    pip: tuple[tuple[str, str, str, str], ...] = ()
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hand:
    """How somebody writes: every choice that must not matter, drawn from `choices`."""

    choices: list[int] = field(repr=False)

    def pick(self, *of: str) -> str:
        return of[self.choices.pop() % len(of)] if self.choices else of[0]

    def shuffled(self, items: list[str]) -> list[str]:
        """Return the items in another order, perhaps with one of them twice."""
        keyed = [(self.choices.pop() if self.choices else 0, item) for item in items]
        again = [items[0]] if items and self.pick("once", "twice") == "twice" else []
        return [item for _, item in sorted(keyed, key=lambda it: it[0])] + again

    def quoted(self, text: str) -> str:
        """Return a YAML scalar for a text without line ends."""
        plain = (
            text if text and text[0] not in "-?:!&*>|%@`'\"#{}[], =<~" and ": " not in text and " #" not in text else ""
        )
        single, double = "'" + text.replace("'", "''") + "'", '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return self.pick(plain or single, single, double)


def written(wanted: Wanted, hand: Hand) -> bytes:
    """Write a document."""
    space = hand.pick("  ", "    ", " ")
    items = hand.shuffled([_conda(item, hand) for item in wanted.conda] + [hand.pick("- pip", "- PIP", "- 'pip'")])
    pips = [*(f"- {hand.quoted(option)}" for option in wanted.options)]
    requirements = hand.shuffled([_pip(item, hand) for item in wanted.pip])
    pips = requirements + pips if hand.pick("before", "after") == "before" else pips + requirements
    if pips:
        at = len(items) // 2
        items[at:at] = ["- pip:" + hand.pick("", " ", "  # pip"), *(f"{space}{space}{line}" for line in pips)]
    blocks = [
        f"name: {hand.pick('x', 'y', '1.0')}",
        hand.pick("", "prefix: /x"),
        hand.pick("", "unknown_key: [1, {a: b}]"),
        "dependencies:" + "".join(f"\n{space}{line}{_comment(line, hand)}" for line in items),
    ]
    if wanted.channels:
        blocks.append(
            "channels:" + "".join(f"\n{space}- {hand.quoted(it)}{hand.pick('', '  # x')}" for it in wanted.channels)
        )
    if wanted.variables:
        lines = hand.shuffled([f"{name}: {hand.quoted(value)}" for name, value in wanted.variables])
        blocks.append("variables:" + "".join(f"\n{space}{line}" for line in dict.fromkeys(lines)))
    if wanted.platforms:
        blocks.append(f"platforms: [{', '.join(hand.shuffled(list(wanted.platforms)))}]")
    text = "\n".join(
        line for block in dict.fromkeys(hand.shuffled(blocks)) for line in (block, hand.pick("", "# between"))
    )
    text = hand.pick("", "---\n") + text + hand.pick("\n", "", "\n\n  \n")
    return (hand.pick("", "\ufeff") + text.replace("\n", hand.pick("\n", "\r\n"))).encode()


def _comment(line: str, hand: Hand) -> str:
    return "" if "  # [" in line else hand.pick("", "  # why [test]", " # -*-")


def _selector(word: str) -> str:
    return f"  # [{word}]" if word else ""


def _conda(item: tuple[str, str, str, str], hand: Hand) -> str:
    name, version, build, selector = item
    name = hand.pick(name, name.upper())
    if not version:
        return f"- {hand.quoted(name)}{_selector(selector)}"
    if build:
        text = hand.pick(f"{name}={version}={build}", f"{name} {version} {build}", f"{name} =={version} {build}")
    else:
        low, high = f">={version}", "<9"
        text = hand.pick(
            f"{name}{low},{high}", f"{name} {high},{low}", f"{name} {low} , {high}", f"{name} {low},{low},{high}"
        )
    return f"- {hand.quoted(text)}{_selector(selector)}"


def _pip(item: tuple[str, str, str, str], hand: Hand) -> str:
    name, version, marker, selector = item
    name = hand.pick(name, name.replace("-", "_"), name.title())
    extras = hand.pick("[x,y-z]", "[Y_Z, x]") if version.endswith("1") else ""
    clauses = hand.pick(f">={version},<9", f" <9, >={version}", f"(<9,>={version})") if version else ""
    condition = hand.pick(f'; python_version < "{marker}"', f" ;python_version<'{marker}'") if marker else ""
    return f"- {hand.quoted(name + extras + clauses + condition)}{_selector(selector)}"


_VERSIONS = st.sampled_from(["", "1.0", "1.1", "1.0.0", "2"])
_SELECTORS = st.sampled_from(["", "", *SELECTORS])
_ITEMS = st.tuples(
    st.sampled_from(["numpy", "scipy", "a-b"]), _VERSIONS, st.sampled_from(["", "h0", "py3*"]), _SELECTORS
)
_PIPS = st.tuples(st.sampled_from(["foo", "bar-baz"]), _VERSIONS, st.sampled_from(["", "3.9", "3.10"]), _SELECTORS)
_OPTIONS = [
    "--pre",
    "--no-index",
    "--extra-index-url https://a.example.org/s",
    "--extra-index-url https://b.example.org/s",
]
_WANTED = st.builds(
    Wanted,
    st.lists(st.sampled_from(["conda-forge", "bioconda", "nodefaults", "https://c.example.org/x"]), unique=True).map(
        tuple
    ),
    st.lists(_ITEMS, max_size=4).map(lambda it: tuple(sorted(set(it)))),
    st.lists(_PIPS, max_size=3).map(lambda it: tuple(sorted(set(it)))),
    st.lists(st.sampled_from(_OPTIONS), unique=True).map(tuple),
    st.dictionaries(st.sampled_from("ABC"), st.sampled_from(["1", "x y", "${A}", "it's", "a: b # c"])).map(
        lambda it: tuple(it.items())
    ),
    st.lists(st.sampled_from(["linux-64", "osx-arm64", "win-64"]), unique=True).map(lambda it: tuple(sorted(it))),
)
_HANDS = st.lists(st.integers(0, 7), max_size=80).map(Hand)


@settings(max_examples=200, deadline=None)
@given(_WANTED, _HANDS)
def test_hands_do_not_matter(wanted: Wanted, hand: Hand) -> None:
    """White space, comments, order of keys and requirements, duplicates, quoting, CRLF, BOM, ``name``: no effect."""
    one = parse(written(wanted, Hand([])))
    other = parse(written(wanted, hand))
    assert one.canonical_text == other.canonical_text
    assert one == other


def _changes(wanted: Wanted) -> dict[str, Wanted]:
    """Return documents that differ from this one in one thing that counts."""
    found = {
        "one more channel": replace(wanted, channels=(*wanted.channels, "other")),
        "one more requirement": replace(wanted, conda=(*wanted.conda, ("other", "", "", ""))),
        "one more pip requirement": replace(wanted, pip=(*wanted.pip, ("other", "", "", ""))),
        "one more option": replace(wanted, options=(*wanted.options, "--no-deps")),
        "one more variable": replace(wanted, variables=(*wanted.variables, ("D", ""))),
        "one more platform": replace(wanted, platforms=(*wanted.platforms, "linux-aarch64")),
    }
    if len(wanted.channels) > 1 and "nodefaults" not in wanted.channels[:2]:
        found["order of channels"] = replace(wanted, channels=(*wanted.channels[1::-1], *wanted.channels[2:]))
    if len(wanted.options) > 1:
        found["order of options"] = replace(wanted, options=(*wanted.options[1::-1], *wanted.options[2:]))
    for kind in ("conda", "pip"):
        items = getattr(wanted, kind)
        for index, values in ((1, ("3.0",)), (2, ("h9",) if kind == "conda" else ("3.12",)), (3, ("win-64",))):
            if items and (items[0][1] or index == 3):
                first = list(items[0])
                first[index] = values[0]
                found[f"field {index} of {kind}"] = replace(wanted, **{kind: (tuple(first), *items[1:])})
    if wanted.variables:
        name, value = wanted.variables[0]
        found["value"] = replace(wanted, variables=((name, value + "!"), *wanted.variables[1:]))
    return found


@settings(max_examples=100, deadline=None)
@given(_WANTED, _HANDS)
def test_content_matters(wanted: Wanted, hand: Hand) -> None:
    """A version, build, order of channels or options, variable, marker, selector or platform always moves the name."""
    name = parse(written(wanted, hand)).name
    for title, changed in _changes(wanted).items():
        assert parse(written(changed, Hand([]))).name != name, title


def test_extras_matter() -> None:
    """An extra more is another name."""
    texts = [f"dependencies: [pip, pip: ['{it}']]" for it in ("a", "a[x]", "a[x,y]", "a[y]")]
    assert len({parse(text).name for text in texts}) == 4


def test_a_requirement_may_move_between_sections_only_with_its_name() -> None:
    """The same text as conda and as pip requirement are different things."""
    assert parse("dependencies: [pip, a]").name != parse("dependencies: [pip, pip: [a]]").name
