"""Conda requirements (MatchSpecs), normalised.

The normal form is ``[CHANNEL::]NAME[ VERSION[ BUILD]][KEY="VALUE",…]``: the name in lower case, the version as
`envmgr.spec.versions` says (``*`` where only a build is given), the keys sorted. It is a MatchSpec that conda and
rattler read, rattler also in its strict mode.

How far it goes: spelling only. ``name=1.2``, ``name =1.2`` and ``name 1.2.*`` are one (any 1.2.x, as in conda);
``name 1.2``, ``name==1.2`` and ``name[version="==1.2"]`` are one (exactly 1.2); so are ``name=1.2=b``, ``name==1.2=b``
and ``name 1.2 b`` (exactly 1.2, since a build is given), and ``chan/linux-64::name`` and
``name[channel=chan,subdir=linux-64]``. Requirements that mean the same packages in other words stay different, and
several requirements of one package are never joined.

A URL of a package file is accepted with a hash (``#sha256`` or ``#md5``) and becomes ``name[sha256="…",url="…"]``.
Keys in brackets: `KEYS`; any other is refused by its name.
"""

from __future__ import annotations

import re

from envmgr.spec.channels import SCHEMES, channel_and_subdir
from envmgr.spec.platforms import is_subdir
from envmgr.spec.problems import Refusal, shown
from envmgr.spec.urls import is_url, parse_url
from envmgr.spec.versions import ANY, VersionReader

MAX_CHARS = 2048
KEYS = (
    "build",
    "build_number",
    "channel",
    "fn",
    "license",
    "license_family",
    "md5",
    "sha256",
    "subdir",
    "track_features",
    "url",
    "version",
)
_NAME = re.compile(r"[^\s=<>!~|,;\[\]()*@]+")
_PACKAGE_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_BUILD = re.compile(r"[A-Za-z0-9_.+*-]+")
_PLAIN_BUILD = re.compile(r"[A-Za-z0-9_*]+")
_PAIR = re.compile(r"""\s*([A-Za-z0-9_]+)\s*=\s*("[^"]*"|'[^']*'|[^\s,"'\[\]]*)\s*(?:,|$)""")
_VALUE = re.compile(r"[A-Za-z0-9_.+*/ :()-]+")
_BUILD_NUMBER = re.compile(r"(==|!=|>=|<=|>|<)?\s*([0-9]{1,9})")
_FILE_NAME = re.compile(r"([a-z0-9_][a-z0-9_.-]*)-([^-/]+)-([^-/]+)\.(?:conda|tar\.bz2)")
_HASH_CHARS = {"md5": 32, "sha256": 64}


def match_spec(text: str) -> tuple[str, bool]:
    """Return the normal form of a requirement, and whether credentials were removed from it; raise `Refusal`."""
    text = text.strip()
    _check_characters(text)
    body, keys = _brackets(text)
    had_credentials = False
    if is_url(body) and "::" not in body:
        name, had_credentials = _package_url(body, keys)
    else:
        before, colons, rest = body.rpartition("::")
        if colons:
            had_credentials = _channel(before, keys)
        name = _name_and_version(rest.strip(), keys)
        if "url" in keys:
            had_credentials |= _checked_url(name, keys)
    for key, value in keys.items():
        keys[key] = _checked(key, value)
    if "channel" in keys and "://" in keys["channel"]:
        had_credentials |= _channel(keys.pop("channel"), keys)
    if "url" in keys and not {"md5", "sha256"} & keys.keys():
        raise Refusal("a package's URL needs its hash", "add '#' and the file's sha256")
    return _written(name, keys), had_credentials


def source_channel(spec: str) -> str | None:
    """Return the channel that a normalised MatchSpec names, by ``CHANNEL::`` or by its package's URL, if any."""
    before, colons, _ = spec.partition("[")[0].rpartition("::")
    if colons:
        return before
    url = re.search(r'[\[,]url="([^"]*)"', spec)
    return url.group(1).rpartition("/")[0].rpartition("/")[0] if url else None


def package_name(spec: str) -> str:
    """Return the package name of a normalised MatchSpec."""
    head = spec.partition("[")[0].rpartition("::")[2]
    return head.partition(" ")[0]


def _check_characters(text: str) -> None:
    if not text:
        raise Refusal("a requirement is empty")
    if len(text) > MAX_CHARS:
        raise Refusal(f"a requirement of {len(text)} characters is longer than the limit of {MAX_CHARS}")
    if "{{" in text or "{%" in text:
        raise Refusal(f"{shown(text)} is a template", "fill it in before envmgr reads the document")
    if text.startswith("-"):
        hints = {"-c": "channels stand under 'channels:'", "-r": "pip's options stand under '- pip:'"}
        raise Refusal(f"{shown(text)} is an option, not a requirement", hints.get(text[:2]))
    if not text.isascii() or not text.isprintable():
        raise Refusal(f"{shown(text)} has characters that no requirement has")


def _brackets(text: str) -> tuple[str, dict[str, str]]:
    """Split off ``[key=value,…]``."""
    head, bracket, inside = text.partition("[")
    if not bracket:
        return text, {}
    if not inside.endswith("]"):
        raise Refusal(f"the bracket in {shown(text)} is not closed at its end")
    inside = inside[:-1]
    keys: dict[str, str] = {}
    index = 0
    while index < len(inside):
        pair = _PAIR.match(inside, index)
        if pair is None:
            hint = 'pairs such as [build=mkl] or [version=">=1,<2",build="py*"]'
            raise Refusal(f"the bracket in {shown(text)} is not a list of key=value", hint)
        key, value = pair.group(1).lower(), pair.group(2)
        if key not in KEYS:
            raise Refusal(f"the key {shown(key)} is not supported in a requirement", f"one of: {', '.join(KEYS)}")
        if key in keys:
            raise Refusal(f"the key {shown(key)} stands twice in a requirement")
        keys[key] = value[1:-1] if value[:1] in ("'", '"') else value
        index = pair.end()
    return head.strip(), keys


def _channel(before: str, keys: dict[str, str]) -> bool:
    if not before.strip():
        raise Refusal("nothing stands before '::'", "write CHANNEL::PACKAGE")
    name, subdir, had_credentials = channel_and_subdir(before)
    _set(keys, "channel", name)
    if subdir is not None:
        _set(keys, "subdir", subdir)
    return had_credentials


def _set(keys: dict[str, str], key: str, value: str) -> None:
    if keys.setdefault(key, value) != value:
        raise Refusal(f"the requirement gives its {key} twice: {shown(keys[key])} and {shown(value)}")


def _name_and_version(text: str, keys: dict[str, str]) -> str:
    match = _NAME.match(text)
    name = match.group().lower() if match else ""
    if not _PACKAGE_NAME.fullmatch(name):
        raise Refusal(f"{shown(text or name)} does not begin with a package's name", _name_hint(text))
    rest = text[len(name) :].strip()
    if "version" in keys:
        keys["version"] = _whole_version(keys["version"])
    if not rest:
        return name
    try:
        version, build = _version_and_build(rest)
    except Refusal as refusal:
        raise Refusal(f"{shown(text)}: {refusal.message}", refusal.hint) from refusal
    _set(keys, "version", version)
    if build is not None:
        _set(keys, "build", build)
    return name


def _name_hint(text: str) -> str | None:
    if ":" in text:
        return "a channel stands before two colons, as in conda-forge::numpy"
    if text.startswith((".", "/", "~")) or "/" in text or "\\" in text:
        return "a path is not read here: what lies there is not in the document"
    if "@" in text:
        return "write the version behind '=', as in numpy=1.26"
    return "as in numpy, numpy=1.26 or numpy>=1.26,<3"


def _whole_version(text: str) -> str:
    reader = VersionReader(text.strip())
    version = reader.read()
    _check_star(reader)
    if rest := text.strip()[reader.end :].strip():
        raise Refusal(f"{shown(rest)} is left over behind the version {shown(text)}")
    return version


def _check_star(reader: VersionReader, *, has_build: bool = True) -> None:
    """Refuse ``==1.2.*`` where it does not stand alone: there conda and rattler drop the star, silently."""
    if reader.has_double_equals_star and (has_build or reader.clauses > 1):
        raise Refusal("'==' with '*' means different things in different places", "write '1.2.*', or '==1.2'")


def _version_and_build(text: str) -> tuple[str, str | None]:
    """Read ``VERSION``, ``VERSION BUILD`` or ``VERSION=BUILD``."""
    reader = VersionReader(text)
    version = reader.read()
    rest = text[reader.end :].strip()
    _check_star(reader, has_build=bool(rest))
    if not rest:
        return version, None
    if rest[0] in "<>!~|,(":
        raise Refusal(f"{shown(rest)} follows without a comma", "join bounds with commas, as in '>=1.0,<2'")
    build = rest.removeprefix("=").strip()
    if reader.clauses == 1 and text.lstrip().startswith("=") and not text.rstrip().startswith("=="):
        # A build makes the version exact (conda: name=version=build), unless a star was written.
        bare = text[: reader.end].strip()
        if not bare.endswith("*"):
            version = "==" + version.removesuffix(".*")
    return version, build


def _checked_url(name: str, keys: dict[str, str]) -> bool:
    """Normalise the value of the key ``url``."""
    found, had_credentials = _package_url(keys.pop("url"), keys)
    if found != name:
        raise Refusal(f"the requirement is called {name} and, in its URL, {found}")
    return had_credentials


def _package_url(text: str, keys: dict[str, str]) -> tuple[str, bool]:
    url = parse_url(text, schemes=SCHEMES)
    path, _, file_name = url.path.rpartition("/")
    match = _FILE_NAME.fullmatch(file_name)
    if match is None or url.query or "[" in path or "]" in path:
        raise Refusal(
            f"{shown(str(url))} is not the URL of a conda package", "it ends in NAME-VERSION-BUILD.conda or .tar.bz2"
        )
    if not is_subdir(path.rpartition("/")[2]):
        raise Refusal(f"{shown(str(url))} does not lie in a channel's platform directory")
    if url.fragment:
        digest = url.fragment[1:].removeprefix("sha256:").removeprefix("md5:").removeprefix("sha256=")
        _set(keys, "sha256" if len(digest) == 64 else "md5", digest.lower())
    _set(keys, "url", str(url._replace(fragment="")))
    return match.group(1), url.had_credentials


def _checked(key: str, value: str) -> str:
    """Return the normal form of a key's value."""
    value = value.strip()
    if key in _HASH_CHARS:
        value = value.lower()
        if len(value) != _HASH_CHARS[key] or re.fullmatch("[0-9a-f]+", value) is None:
            raise Refusal(
                f"{shown(value)} is not {'an md5' if key == 'md5' else 'a sha256'} of {_HASH_CHARS[key]} digits"
            )
    elif key == "build":
        if value.startswith("^"):
            raise Refusal("a regular expression is not read as a build", "use '*', as in 'py310*'")
        if not _BUILD.fullmatch(value):
            raise Refusal(f"{shown(value)} is not a build string")
    elif key == "build_number":
        match = _BUILD_NUMBER.fullmatch(value)
        if match is None:
            raise Refusal(f"{shown(value)} is not a build number")
        value = f"{match.group(1) or '=='}{int(match.group(2))}"
    elif key == "subdir":
        if not is_subdir(value):
            raise Refusal(f"{shown(value)} is not one of conda's platforms")
    elif key not in ("version", "channel", "url") and not _VALUE.fullmatch(value):
        raise Refusal(f"{shown(value)} is not readable as the {key} of a requirement")
    return value


def _written(name: str, keys: dict[str, str]) -> str:
    channel = keys.pop("channel", None)
    if channel is not None:
        found, subdir, _ = channel_and_subdir(channel)
        if subdir is not None:
            _set(keys, "subdir", subdir)
        channel = found
    version, build = keys.pop("version", ANY), keys.get("build")
    text = f"{channel}::{name}" if channel is not None else name
    if version != ANY or (build is not None and build != ANY and _PLAIN_BUILD.fullmatch(build)):
        text += f" {version}"
    if build == ANY:
        del keys["build"]
    elif build is not None and _PLAIN_BUILD.fullmatch(build):
        text += f" {build}"
        del keys["build"]
    if not keys:
        return text
    return text + "[" + ",".join(f'{key}="{value}"' for key, value in sorted(keys.items())) + "]"
