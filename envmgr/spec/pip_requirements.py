"""pip requirements (PEP 508), normalised as text.

The normal forms are ``name[extra,…]<3,>=2; marker``, ``name[extra,…] @ URL ; marker``, and, for a URL whose package
is known only once it was fetched, ``URL ; marker``.

How far it goes: names and extras as the packaging specifications normalise them; extras and version clauses sorted,
each once; versions in lower case (``===`` keeps its text); markers as `envmgr.spec.markers`; ``#egg=name`` of a URL
becomes the name. Versions that merely compare equal (``1.0``, ``1.0.0``, ``1.0rc1`` and ``1.0-rc.1``) stay different.

Refused: paths and ``file:`` URLs (what lies there is not in the text), version control other than git, builds of
conda's, and whatever is not PEP 508.

Source: "Dependency specifiers", "Version specifiers", "Names and normalization" of the Python packaging
specifications; pip's documentation of VCS support.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from envmgr.spec.markers import marker
from envmgr.spec.problems import Refusal, shown
from envmgr.spec.urls import Url, is_url, parse_url

MAX_CHARS = 4096
_SCHEMES = ("git+http", "git+https", "git+ssh", "http", "https")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_EXTRAS = re.compile(r"\s*\[([^\[\]]*)\]")
_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*(\S+)")
_VERSION = re.compile(
    r"v?(?:[0-9]+!)?(?P<release>[0-9]+(?:\.[0-9]+)*)"
    r"(?P<pre>[._-]?(?:alpha|beta|preview|pre|rc|a|b|c)[._-]?[0-9]*)?"
    r"(?P<post>-[0-9]+|[._-]?(?:post|rev|r)[._-]?[0-9]*)?"
    r"(?P<dev>[._-]?dev[._-]?[0-9]*)?"
    r"(?P<local>\+[a-z0-9]+(?:[._-][a-z0-9]+)*)?"
)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_PATH_HINT = "what lies there is not in the document: publish it to an index, or name a URL"
_SSH_SHORT = re.compile(r"(?:git\+)?(?:ssh://)?[^\s/@]+@[^\s/:@]+:(?![0-9]+/)")


class Requirement(NamedTuple):
    """A normal form, its package's normalised name where the text tells it, and whether credentials were removed."""

    text: str
    name: str | None
    had_credentials: bool


def package_name(text: str) -> str:
    """Return a name of Python's packages as the specifications normalise it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def requirement(text: str) -> Requirement:
    """Normalise one requirement; raise `Refusal`."""
    text = text.strip()
    _check_characters(text)
    if is_url(text) or text.startswith(("git+", "file:")):
        return _from_url(text, None, "")
    match = _NAME.match(text)
    if _is_path(text):
        raise Refusal(f"{shown(text)} is a path", _PATH_HINT)
    if match is None:
        raise Refusal(f"{shown(text)} is not a requirement", "NAME or NAME==VERSION")
    name = package_name(match.group())
    extras, rest = _extras(text[match.end() :])
    if rest.startswith("@"):
        return _from_url(rest[1:].strip(), name, extras)
    clauses, semicolon, condition = rest.partition(";")
    found = name + extras + _clauses(clauses.strip(), text)
    return Requirement(found + (f"; {marker(condition)}" if semicolon else ""), name, had_credentials=False)


def _check_characters(text: str) -> None:
    if not text:
        raise Refusal("a pip requirement is empty")
    if len(text) > MAX_CHARS:
        raise Refusal(f"a pip requirement of {len(text)} characters is longer than the limit of {MAX_CHARS}")
    if "{{" in text or "{%" in text:
        raise Refusal(f"{shown(text)} is a template", "fill it in before envmgr reads the document")
    # ASCII, because what else is printable differs between releases of Python, and so would what is accepted.
    if not text.isascii() or not text.isprintable():
        raise Refusal(f"{shown(text)} has characters that no requirement has")


def _is_path(text: str) -> bool:
    word = re.split(r"[\s;@\[<>=!~]", text, maxsplit=1)[0]
    return text.startswith((".", "/", "~", "\\")) or "/" in word or "\\" in word or word.lower().endswith(_ARCHIVES)


def _extras(text: str) -> tuple[str, str]:
    """Split ``[a,b]`` off; return it normalised (or empty), and the rest."""
    match = _EXTRAS.match(text)
    if match is None:
        return "", text.strip()
    names = [name.strip() for name in match.group(1).split(",")] if match.group(1).strip() else []
    for name in names:
        if not _NAME.fullmatch(name):
            raise Refusal(f"{shown(name)} is not an extra's name")
    found = ",".join(sorted({package_name(name) for name in names}))
    return f"[{found}]" if found else "", text[match.end() :].strip()


def _clauses(text: str, whole: str) -> str:
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if not text:
        return ""
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if len(parts) > 1 and any(part.startswith("===") for part in parts):
        raise Refusal(f"{shown(whole)}: '===' does not go with other bounds")
    return ",".join(sorted({_clause(part, whole) for part in parts}))


def _clause(text: str, whole: str) -> str:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        raise _not_a_clause(text, whole)
    operator, version = match.groups()
    if operator == "===":
        if not version.isascii() or ")" in version:
            raise Refusal(f"{shown(whole)}: {shown(version)} is not a version")
        return operator + version
    version = version.lower()
    is_prefix = operator in ("==", "!=") and version.endswith(".*")
    found = _VERSION.fullmatch(version.removesuffix(".*") if is_prefix else version)
    if found is None:
        parts = version.split("=")
        if operator == "==" and len(parts) == 2 and _VERSION.fullmatch(parts[0]):
            name = whole.partition("=")[0].strip()
            raise Refusal(
                f"{shown(whole)} has a build of conda's",
                f"write {name}=={parts[0]}, or move it out of 'pip:' to the conda requirements",
            )
        raise Refusal(f"{shown(whole)}: {shown(version)} is not a version of Python's packages")
    if is_prefix and (found["dev"] or found["local"]):
        raise Refusal(f"{shown(whole)}: '.*' does not follow {shown(found.group())}")
    if found["local"] and operator not in ("==", "!="):
        raise Refusal(f"{shown(whole)}: '{operator}' does not go with the local version {shown(version)}")
    if operator == "~=" and "." not in found["release"]:
        raise Refusal(f"{shown(whole)}: '~=' needs a version of two numbers", f"write ~={version}.0 or >={version}")
    return operator + version


def _not_a_clause(text: str, whole: str) -> Refusal:
    if re.fullmatch(r"=\s*[0-9].*", text):
        return Refusal(f"{shown(whole)}: '=' is conda's operator", "in 'pip:' write '=='")
    if text.startswith(("=>", "=<")):
        return Refusal(f"{shown(whole)}: '{text[:2]}' is not an operator", f"write '{text[1]}='")
    if re.fullmatch(r"[0-9]\S*", text):
        return Refusal(f"{shown(whole)} has no operator before the version", "write '==' before it")
    if re.match(_CLAUSE, text):
        return Refusal(f"{shown(whole)} has something behind its version", "join bounds with commas")
    if text.startswith(("#", "--")):
        return Refusal(f"{shown(whole)}: {shown(text)} is not read behind a requirement")
    return Refusal(f"{shown(whole)} is not a requirement", "NAME, NAME==VERSION, NAME[EXTRA]>=1,<2 or NAME @ URL")


def _from_url(text: str, name: str | None, extras: str) -> Requirement:
    """Normalise ``URL`` or, with a name, ``NAME @ URL``; a marker follows after white space and ``;``."""
    address, semicolon, condition = _split_marker(text)
    if _SSH_SHORT.match(address):
        raise Refusal(f"{shown(address)} is git's short form", "write git+ssh://git@HOST/PATH")
    if address.startswith(("file:", "git+file:")) or not is_url(address):
        raise Refusal(f"{shown(address)} is a path, not a URL of the network", _PATH_HINT)
    if address.split("+")[0].lower() in ("hg", "svn", "bzr"):
        raise Refusal(f"{address.split('+')[0].lower()} is not supported", "only git is: git+https://…")
    url = parse_url(address, schemes=_SCHEMES)
    if not url.path.strip("/"):
        raise Refusal(f"{shown(str(url))} names no package")
    url, egg = _without_egg(url)
    if egg:
        match = _NAME.match(egg)
        egg_extras, rest = _extras(egg[match.end() :]) if match else ("", egg)
        if match is None or rest:
            raise Refusal(f"'#egg={egg}' does not name a package", "write NAME @ URL")
        if name is not None and name != package_name(match.group()):
            raise Refusal(f"the requirement is called {name} and, in its URL, {package_name(match.group())}")
        name, extras = package_name(match.group()), extras or egg_extras
    head = f"{name}{extras} @ {url}" if name else str(url)
    return Requirement(head + (f" ; {marker(condition)}" if semicolon else ""), name, url.had_credentials)


def _split_marker(text: str) -> tuple[str, bool, str]:
    match = re.search(r"\s+;|;\s+", text)
    if match is None:
        return text.strip(), False, ""
    return text[: match.start()].strip(), True, text[match.end() :]


def _without_egg(url: Url) -> tuple[Url, str]:
    """Split ``egg=`` off the fragment, and sort what remains of it."""
    parts = [part for part in url.fragment[1:].split("&") if part]
    eggs = [part[4:] for part in parts if part.startswith("egg=")]
    kept = sorted({part for part in parts if not part.startswith("egg=")})
    return url._replace(fragment="#" + "&".join(kept) if kept else ""), eggs[0] if eggs else ""
