"""Lockfiles: read with every fault named, written so that conda-lock agrees, reduced to a digest that is a function."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr import lockfile
from envmgr.errors import BuildFailed, InvalidSpec
from envmgr.model import BuiltWheel, LockedPackage, Lockfile

CHANNEL = "https://conda.example.org/main"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def conda(
    name: str, version: str = "1.0", build: str = "h1_0", subdir: str = "linux-64", **fields: object
) -> LockedPackage:
    seed = f"{name}{version}{build}".encode()
    package = LockedPackage(
        manager="conda",
        name=name,
        version=version,
        url=f"{CHANNEL}/{subdir}/{name}-{version}-{build}.conda",
        sha256=hashlib.sha256(seed).hexdigest(),
        md5=hashlib.md5(seed).hexdigest(),
        build=build,
        subdir=subdir,
        dependencies=(),
    )
    return replace(package, **fields)  # type: ignore[arg-type]


def pip(name: str, version: str = "1.0", **fields: object) -> LockedPackage:
    seed = f"{name}{version}".encode()
    url = f"https://pypi.example.org/{name}-{version}-py3-none-any.whl"
    package = LockedPackage("pip", name, version, url, hashlib.sha256(seed).hexdigest(), None, None, None, ())
    return replace(package, **fields)  # type: ignore[arg-type]


VCS = pip("tool", "2.0", url=f"git+https://git.example.org/tool.git@{COMMIT}#subdirectory=py", sha256=None)
PACKAGES = (
    conda("python", "3.11.7", dependencies=(("__glibc", ">=2.17"), ("libffi", ">=3.4,<4"))),
    conda("libffi", "3.4.6", dependencies=(("__glibc", ">=2.28"),)),
    conda("requests", "2.32.0", "pyhd8ed1ab_0", "noarch", dependencies=(("python", ""),)),
    pip("Rich.Text", "13.0", dependencies=(("mdurl", "*"),)),
    VCS,
)


SOURCES = pip("sonly", url="https://pypi.example.org/sonly-1.0.tar.gz")
BUILT = BuiltWheel("sonly", "sonly-1.0-py3-none-any.whl", hashlib.sha256(b"built").hexdigest())


def _write(packages: tuple[LockedPackage, ...] = PACKAGES, **fields: object) -> str:
    arguments: dict[str, object] = {"subdir": "linux-64", "channels": [CHANNEL], **fields}
    return lockfile.write(packages, **arguments)  # type: ignore[arg-type]


def _order(package: LockedPackage) -> tuple[str, str]:
    return package.manager, package.name.lower()


# ---------------------------------------------------------------------------------------------------------- round trip


def test_what_is_written_is_read_back() -> None:
    """Packages, channels, what machines need and what is not reproducible survive; so does the digest."""
    text = _write(
        virtual_packages=[("__cuda", ">=12")], not_reproducible=["tool"], metadata={"envmgr-machine-class": "linux-64"}
    )
    found = lockfile.parse(text, "linux-64")
    assert found == Lockfile(
        subdir="linux-64",
        channels=(CHANNEL,),
        packages=tuple(sorted(PACKAGES, key=_order)),
        virtual_packages=(("__cuda", ">=12"), ("__glibc", ">=2.17"), ("__glibc", ">=2.28")),
        digest=lockfile.digest(PACKAGES),
        text=text,
        not_reproducible=("tool",),
    )


def test_built_wheels_are_read_back() -> None:
    """The sources stay what is listed; the wheel's hash is part of the digest, and without wheels nothing changes."""
    text = _write((*PACKAGES, SOURCES), built_wheels=[BUILT])
    found = lockfile.parse(text, "linux-64")
    assert found.built_wheels == (BUILT,)
    assert SOURCES in found.packages
    assert found.digest == lockfile.digest((*PACKAGES, SOURCES), [BUILT])
    assert found.digest != lockfile.digest((*PACKAGES, SOURCES))
    assert found.digest != lockfile.digest((*PACKAGES, SOURCES), [replace(BUILT, sha256="0" * 64)])
    assert f"\nwheel sonly {BUILT.file_name} sha256:{BUILT.sha256}\n" in lockfile.canonical_text([SOURCES], [BUILT])
    assert _write((*PACKAGES, SOURCES), built_wheels=[]) == _write((*PACKAGES, SOURCES))
    (stand_in,) = lockfile.stand_ins(found.packages, found.built_wheels)
    assert stand_in == replace(SOURCES, url=f"https://pypi.example.org/{BUILT.file_name}", sha256=BUILT.sha256)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "absent"},
        {"name": "Rich.Text"},
        {"name": "tool"},
        {"name": "python"},
        {"file_name": "../sonly-1.0-py3-none-any.whl"},
        {"file_name": "/a/sonly-1.0-py3-none-any.whl"},
        {"file_name": "sonly-1.0.tar.gz"},
        {"sha256": "0" * 63},
        {"sha256": "../" + "0" * 61},
    ],
)
def test_a_wrong_built_wheel_is_refused(wrong: dict[str, str]) -> None:
    """It stands for one package with sources, and is named by a file name and a hash, never by a path."""
    text = _write((*PACKAGES, SOURCES), built_wheels=[replace(BUILT, **wrong)])
    with pytest.raises(InvalidSpec, match="envmgr-built-wheels must hold"):
        lockfile.parse(text, "linux-64")
    other = replace(BUILT, sha256="1" * 64)
    with pytest.raises(InvalidSpec, match="envmgr-built-wheels must hold"):
        lockfile.parse(_write((*PACKAGES, SOURCES), built_wheels=[BUILT, other]), "linux-64")


def test_equal_packages_give_equal_bytes() -> None:
    """Order, credentials and the moment of writing leave no trace in the text."""
    shuffled = [replace(p, url=p.url.replace("https://", "https://user:secret@")) for p in PACKAGES]
    random.Random(1).shuffle(shuffled)
    text = _write(tuple(shuffled), channels=[CHANNEL.replace("https://", "https://user:secret@")])
    assert text == _write()
    assert "secret" not in text


_names = st.from_regex(r"[a-z_][a-z0-9_.\-]{0,12}", fullmatch=True)
_versions = st.from_regex(r"([1-9]!)?[0-9]{1,3}(\.[0-9a-z]{1,3}){0,3}(\+[a-z0-9]{1,4})?", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(lambda name, version, make: make(name, version), _names, _versions, st.sampled_from([conda, pip])),
        unique_by=lambda package: (package.manager, re.sub(r"[-_.]+", "-", package.name)),
        max_size=6,
    )
)
def test_any_packages_survive(packages: list[LockedPackage]) -> None:
    """Whatever versions look like (1e3, 3.10, on), YAML does not turn them into something else."""
    found = lockfile.parse(_write(tuple(packages)), "linux-64")
    assert sorted(found.packages, key=_order) == sorted(packages, key=_order)
    assert found.digest == lockfile.digest(packages)


# -------------------------------------------------------------------------------------------------------------- digest


def test_the_digest_is_golden() -> None:
    """The text that is hashed is fixed for ever; another order or source of the packages changes nothing."""
    packages = [
        conda("Zlib", sha256="ab" * 32),
        conda("old", sha256=None, md5="cd" * 16),
        pip("Rich_.Text", "13.0", sha256="EF" * 32),
        VCS,
    ]
    assert lockfile.canonical_text(packages) == (
        "envmgr-lock-1\n"
        f"conda old 1.0 md5:{'cd' * 16}\n"
        f"conda zlib 1.0 sha256:{'ab' * 32}\n"
        f"pip rich-text 13.0 sha256:{'ef' * 32}\n"
        f"pip tool 2.0 commit:{COMMIT}#subdirectory=py\n"
    )
    golden = "f81ca3cd918c2da0d7f1e8ffed8b8ed2de2ad1a5a8191a572c0b2afc30c2c463"
    assert lockfile.digest(packages) == golden
    moved = [replace(package, url=package.url.replace("example.org", "mirror")) for package in reversed(packages)]
    assert lockfile.digest([*moved, *moved]) == golden


@pytest.mark.parametrize(
    "other",
    [{"sha256": "0" * 64}, {"name": "pythom"}, {"version": "3.11.8"}, {"manager": "pip"}, {"sha256": None}],
)
def test_another_artifact_is_another_digest(other: dict[str, object]) -> None:
    """Name, version, manager and bytes each count."""
    changed = (replace(PACKAGES[0], **other), *PACKAGES[1:])  # type: ignore[arg-type]
    assert lockfile.digest(changed) != lockfile.digest(PACKAGES)


@pytest.mark.parametrize("fields", [{"sha256": None, "md5": None}, {"version": "1 2"}, {"name": ""}])
def test_a_package_without_identity_has_no_digest(fields: dict[str, object]) -> None:
    """Nothing is hashed as an empty or ambiguous field."""
    with pytest.raises(ValueError, match="package"):
        lockfile.digest([replace(PACKAGES[0], **fields)])  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- bad input

Change = Callable[[dict[str, object]], object]


def _entry(document: dict[str, object]) -> dict[str, object]:
    packages = document["package"]
    assert isinstance(packages, list)
    return packages[0]  # type: ignore[no-any-return]


BAD: dict[str, tuple[Change, str]] = {
    "no version": (lambda d: d.pop("version"), "version must be 1, it is missing"),
    "version 2": (lambda d: d.update(version=2), "version must be 1, it is 2"),
    "version true": (lambda d: d.update(version=True), "version must be 1, it is True"),
    "no package": (lambda d: d.pop("package"), "package must be a list"),
    "package of text": (lambda d: d.update(package=["numpy"]), "a package must be a mapping"),
    "no metadata": (lambda d: d.pop("metadata"), "metadata must be a mapping"),
    "no channels": (lambda d: d["metadata"].pop("channels"), "channels must be a list"),  # type: ignore[attr-defined]
    "no platform": (lambda d: _entry(d).pop("platform"), "a package needs a platform"),
    "no name": (lambda d: _entry(d).pop("name"), "a package needs a name"),
    "a path as name": (lambda d: _entry(d).update(name="../x"), "this is not a name"),
    "version a number": (lambda d: _entry(d).update(version=3.10), "version must be text, YAML reads it as 3.1"),
    "no url": (lambda d: _entry(d).update(url=""), "this is not a url"),
    "url with space": (lambda d: _entry(d).update(url="https://a/b c"), "this is not a url"),
    "no archive": (lambda d: _entry(d).update(url=f"{CHANNEL}/linux-64/x.zip"), "not the file name of a conda package"),
    "other archive": (lambda d: _entry(d).update(url=f"{CHANNEL}/noarch/x-1-0.conda"), "is not libffi 3.4.6"),
    "other subdir": (lambda d: _entry(d).update(url=f"{CHANNEL}/win-64/libffi-3.4.6-0.conda"), "neither linux-64 nor"),
    "manager": (lambda d: _entry(d).update(manager="npm"), "manager must be conda or pip, it is 'npm'"),
    "no hash": (lambda d: _entry(d).update(hash={}), "neither sha256 nor md5"),
    "short hash": (lambda d: _entry(d).update(hash={"sha256": "abc"}), "sha256 must be 64 hexadecimal digits"),
    "hash a list": (lambda d: _entry(d).update(hash=[1]), "hash must be a mapping, it is a list"),
    "dependency": (lambda d: _entry(d).update(dependencies={"python": 3.1}), "a dependency must be text"),
    "twice": (lambda d: d["package"].append(dict(_entry(d))), "libffi is there twice"),  # type: ignore[attr-defined]
    "pip, no hash": (lambda d: d["package"][-2]["hash"].clear(), "neither sha256 nor a URL"),  # type: ignore[index]
    "our metadata": (
        lambda d: d["metadata"]["custom_metadata"].update({"envmgr-virtual-packages": "[1]"}),  # type: ignore[index]
        "must hold pairs",
    ),
    "their json": (
        lambda d: d["metadata"]["custom_metadata"].update({"envmgr-not-reproducible": "{"}),  # type: ignore[index]
        "must be a JSON list",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_every_fault_is_named_with_its_line(case: str) -> None:
    """A malformed lockfile is an `InvalidSpec` whose problem says what is wrong and where."""
    change, message = BAD[case]
    document = yaml.safe_load(_write())
    change(document)
    text = yaml.safe_dump(document, sort_keys=False)
    with pytest.raises(InvalidSpec) as caught:
        lockfile.parse(text, "linux-64")
    problem = next(problem for problem in caught.value.problems if message in problem.message)
    assert 1 <= problem.line <= text.count("\n")
    assert problem.column >= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "numpy",
        "- a",
        "a: [",
        "\tversion: 1",
        "version: 1\0",
        "[" * 100_000,
        "- " * 100_000,
        "\n".join(" " * depth + "a:" for depth in range(2_000)),
        "a: &a [x]\nb: &b [*a, *a]\nversion: *b",
        "version: !!python/object/apply:os.system [id]",
        "version: 1\nmetadata: {}\npackage: []",
        "version: 1\npackage: &p [*p]",
    ],
)
def test_hostile_documents_are_refused(text: str) -> None:
    """Nothing that YAML can say ends the process, runs code or takes its memory."""
    with pytest.raises(InvalidSpec):
        lockfile.parse(text, "linux-64")


def test_a_document_without_end_is_refused() -> None:
    """The limit on size is checked before YAML sees the text."""
    with pytest.raises(InvalidSpec, match="larger than"):
        lockfile.parse("#" * (33 << 20), "linux-64")


def test_all_problems_come_at_once() -> None:
    """Three faults are three problems in one error; a thousand are listed up to a limit that is said."""
    document = yaml.safe_load(_write())
    for entry in document["package"][:3]:
        entry["hash"] = {}
    with pytest.raises(InvalidSpec, match="and 2 more") as caught:
        lockfile.parse(yaml.safe_dump(document), "linux-64")
    assert len(caught.value.problems) == 3
    document["package"] = [{"platform": "linux-64"}] * 1000
    with pytest.raises(InvalidSpec) as caught:
        lockfile.parse(yaml.safe_dump(document), "linux-64")
    assert len(caught.value.problems) == 50
    assert "further problems" in (caught.value.hint or "")


# -------------------------------------------------------------------------------------------------- what counts in one


def test_only_this_platform_and_the_main_category_count() -> None:
    """A lockfile of many platforms and categories gives what an installation here would get."""
    document = yaml.safe_load(_write())
    for index, (platform, category) in enumerate([("osx-64", "main"), ("linux-64", "dev")]):
        document["package"].append(
            {**document["package"][0], "name": f"other{index}", "platform": platform, "category": category}
        )
    found = lockfile.parse(yaml.safe_dump(document), "linux-64")
    assert found.packages == tuple(sorted(PACKAGES, key=_order))


def test_a_lockfile_for_other_platforms_says_for_which() -> None:
    """A lockfile without this platform is refused; one that has it and needs nothing is an empty environment."""
    with pytest.raises(InvalidSpec, match="no packages for osx-64; the platforms are: linux-64"):
        lockfile.parse(_write(), "osx-64")
    assert lockfile.parse(_write(()), "linux-64").packages == ()


def test_a_foreign_lockfile_without_builds_is_read() -> None:
    """What conda-lock writes by itself (no build, no metadata of ours, channels with variables) is enough."""
    document = yaml.safe_load(_write())
    for entry in document["package"]:
        entry.pop("build", None)
    document["metadata"].pop("custom_metadata")
    document["metadata"]["channels"] = [
        {"url": "https://user:pass@a.example/t/tk-1/x", "used_env_vars": []},
        {"url": "https://a.example/t/$TOKEN/y", "used_env_vars": ["TOKEN"]},
        "conda-forge",
    ]
    found = lockfile.parse(yaml.safe_dump(document), "linux-64")
    assert [package.build for package in found.packages if package.name == "requests"] == ["pyhd8ed1ab_0"]
    assert found.channels == ("https://a.example/x", "https://a.example/t/$TOKEN/y", "conda-forge")
    assert found.virtual_packages == (("__glibc", ">=2.17"), ("__glibc", ">=2.28"))


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://u:p@host:8/x", "https://host:8/x"),
        ("https://u:p@ss@host/x@y", "https://host/x@y"),
        ("https://token@host/x", "https://host/x"),
        ("https://host/t/tk-abc/chan/linux-64/a", "https://host/chan/linux-64/a"),
        ("git+ssh://git:pw@host/x.git@v1", "git+ssh://git@host/x.git@v1"),
        ("git+https://u:p@host/x.git@v1", "git+https://host/x.git@v1"),
        ("file:///a/t/b/c", "file:///a/c"),
        ("conda-forge", "conda-forge"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_credentials_are_taken_out(url: str, clean: str) -> None:
    """No lockfile carries a user's password or a channel's token."""
    assert lockfile.strip_credentials(url) == clean


# ------------------------------------------------------------------------------------------------ against requirements


def test_a_lockfile_is_compared_with_what_was_asked_for() -> None:
    """Missing conda names and wrong pip versions are said; the rest of the conda question goes to the solver."""
    found = lockfile.compare(
        ["python 3.11.*", "main::libffi[version='>=3']", "scipy >=1", "__glibc >=2.17"],
        ["rich-text>=13", "rich_text<13", "rich-text<13; python_version<'3'", "absent", "git+https://x.example/y"],
        lockfile.parse(_write(), "linux-64"),
    )
    assert found.unmet == (
        "scipy >=1: the lockfile has no conda package scipy",
        "rich_text<13: the lockfile has Rich.Text 13.0 of pip",
    )
    assert [(spec, package.name) for spec, package in found.to_match] == [
        ("python 3.11.*", "python"),
        ("main::libffi[version='>=3']", "libffi"),
    ]


# ----------------------------------------------------------------------------------------------------- real conda-lock


def test_a_package_without_md5_cannot_be_written() -> None:
    """conda-lock's format needs md5 for conda packages: the error names which have none."""
    with pytest.raises(BuildFailed, match="missing for: libffi"):
        _write((conda("libffi", md5=None), conda("python")))


@pytest.mark.parametrize("kind", ["explicit", "env"])
def test_real_conda_lock_renders_what_we_write(kind: str, tmp_path: Path) -> None:
    """The installed conda-lock reads the file and renders it, in a process of its own."""
    text = _write((*PACKAGES, SOURCES), not_reproducible=["tool"], built_wheels=[BUILT])
    (tmp_path / "conda-lock.yml").write_text(text)
    command = [Path(sys.executable).parent / "conda-lock", "render", "-k", kind, "-p", "linux-64", "conda-lock.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (out,) = [path for path in tmp_path.iterdir() if path.name != "conda-lock.yml"]
    lines = out.read_text().splitlines()
    if kind == "explicit":
        python, libffi, requests, rich, tool = PACKAGES
        assert {line for line in lines if line.startswith("http")} == {
            f"{package.url}#{package.md5}" for package in (python, libffi, requests)
        }
        assert f"# pip {rich.name} @ {rich.url}#sha256={rich.sha256}" in lines
        assert f"# pip sonly @ {SOURCES.url}#sha256={SOURCES.sha256}" in lines
        assert f"# pip tool @ {tool.url}" in lines
    else:
        document = yaml.safe_load("\n".join(lines))
        assert document["channels"] == [CHANNEL]
        assert document["dependencies"][:3] == [
            "libffi=3.4.6=h1_0", "python=3.11.7=h1_0", "requests=2.32.0=pyhd8ed1ab_0"
        ]  # fmt: skip


def test_reading_does_not_import_conda_lock() -> None:
    """A warm create reads lockfiles only, and does not pay conda-lock's import."""
    code = (
        "import sys, pathlib, envmgr.lockfile as l; l.parse(pathlib.Path(sys.argv[1]).read_text(), 'linux-64');"
        "assert 'conda_lock' not in sys.modules and 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "/dev/stdin"], input=_write(), text=True, check=True)
