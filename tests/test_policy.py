"""Policy: what a spec or a caller's lockfile may ask for, by the site's settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envmgr import policy
from envmgr.errors import PolicyRefused
from envmgr.model import CondaRequirement, LockedPackage, PipOption, PipRequirement, Spec
from envmgr.names import name_of_digest
from envmgr.settings import Mode, Settings, load
from envmgr.spec import parse


def settings(tmp_path: Path, toml: str = "", mode: Mode = "personal") -> Settings:
    (tmp_path / "settings.toml").write_text(toml, encoding="utf-8")
    return load(root=tmp_path, mode=mode, environ={}, home=tmp_path / "home", etc=tmp_path / "etc", subdir="linux-64")


def spec(
    channels: tuple[str, ...] = (),
    conda: tuple[str, ...] = (),
    pip: tuple[str, ...] = (),
    options: tuple[tuple[str, str], ...] = (),
    constraints: tuple[str, ...] = (),
) -> Spec:
    digest = "0" * 64
    return Spec(
        channels=channels,
        has_nodefaults=False,
        conda=tuple(map(CondaRequirement, conda)),
        pip=tuple(map(PipRequirement, pip)),
        pip_options=tuple(PipOption(*option) for option in options),
        variables=(),
        platforms=(),
        is_lockfile=False,
        canonical_text="",
        digest=digest,
        name=name_of_digest(digest),
        pip_constraints=tuple(map(PipRequirement, constraints)),
    )


def refusal(asked: Spec, site: Settings) -> PolicyRefused:
    with pytest.raises(PolicyRefused) as caught:
        policy.check(asked, site)
    assert caught.value.hint
    assert str(caught.value.fields["setting"]) in caught.value.hint
    return caught.value


EVERYTHING = spec(
    channels=("bioconda", "https://h.example/c", "nodefaults"),
    conda=("pytorch::torch", 'x[md5="0",url="https://h.example/c/noarch/x-1-0.conda"]'),
    pip=("a @ git+https://g.example/a@main", "b @ https://h.example/b-1.tar.gz", "c>=1; python_version >= '3'"),
    options=(("--index-url", "https://i.example/simple"), ("--no-binary", ":all:"), ("--pre", "")),
)


def test_personal_store_allows_everything(tmp_path: Path) -> None:
    """A personal store's defaults refuse nothing of a spec: it is its user's own machine."""
    policy.check(EVERYTHING, settings(tmp_path))


def test_service_store_allows_ordinary_specs(tmp_path: Path) -> None:
    """A service store's defaults allow the default channels, any index, and wheels."""
    policy.check(
        spec(
            ("conda-forge",),
            ("conda-forge::b",),
            ("c==1", "d @ https://h/d-1-py3-none-any.whl"),
            (("--index-url", "https://i"),),
        ),
        settings(tmp_path, mode="service"),
    )


@pytest.mark.parametrize(
    ("pip", "rule", "package"),
    [
        ("a @ git+https://g.example/a@main", "git-url", None),
        ("git+ssh://git@g.example/a", "git-url", None),
        ("A.b[x] @ https://h.example/a_b-1.tar.gz ; python_version >= '3'", "sdist", "A.b"),
        ("https://h.example/a-1.ZIP#egg=a", "sdist", "a"),
        ("https://h.example/a-1.zip", "sdist", None),
        ("https://h.example/a-1.whl;/../a-1.tar.gz", "sdist", None),
        ("a @ https://h.example/download?name=a-1.whl", "sdist", "a"),
        ("a@https://h.example/a-1.tar.gz#sha256=0", "sdist", "a"),
    ],
)
def test_service_store_builds_no_sources(tmp_path: Path, pip: str, rule: str, package: str | None) -> None:
    """By default a service store builds nothing from source: that runs code as the service's user."""
    site = settings(tmp_path, mode="service")
    error = refusal(spec(pip=(pip,)), site)
    assert (error.fields["rule"], error.fields.get("package")) == (rule, package)
    refusal(spec(constraints=(pip,)), site)


def test_sdists_by_name(tmp_path: Path) -> None:
    """Names on the list may be built, however they are spelt, from archives and from git; others not."""
    site = settings(tmp_path, 'allow_sdists = ["Py_Spark"]\nallow_git_urls = true\n', "service")
    policy.check(spec(pip=("pyspark_ @ https://h/x-1.whl", "py.spark @ https://h/py-spark-1.tar.gz")), site)
    policy.check(spec(pip=("PY-spark @ git+https://h/x",), options=(("--no-binary", "py_spark"),)), site)
    assert refusal(spec(pip=("uuid @ https://h/uuid-1.30.tar.gz",)), site).fields["package"] == "uuid"
    assert refusal(spec(pip=("uuid @ git+https://h/uuid",)), site).fields["rule"] == "sdist"
    for value in (":all:", "py-spark,uuid"):
        assert refusal(spec(options=(("--no-binary", value),)), site).fields["rule"] == "sdist"


def test_allowed_channels(tmp_path: Path) -> None:
    """Only channels on the list, what lies below them, and the default ones; by word or URL, also by requirement."""
    site = settings(
        tmp_path,
        """
        allowed_channels = ["bioconda", "https://u:hunter2@h.example/c", "defaults"]
        expand_defaults = ["main", "file:///srv/r"]
        """,
    )
    base = "https://conda.anaconda.org"
    policy.check(
        spec(
            ("bioconda", "bioconda/label/dev", "HTTPS://h.example/c".lower(), f"{base}/bioconda", "conda-forge"),
            ("https://H.EXAMPLE/c::x", "main::y", 'z[url="https://h.example/c/noarch/z-1-0.conda"]'),
        ),
        site,
    )
    policy.check(spec(("defaults", "file:///srv/r", "nodefaults")), site)
    for other in (
        "pytorch", "biocondax", "https://h.example/cx", "http://h.example/c", "https://h.example.evil/c", "/srv/x",
        "https://h.example/c/%2e%2e/d", "https://evil.example?@h.example/c",
    ):  # fmt: skip
        error = refusal(spec((other,)), site)
        assert error.fields["setting"] == "allowed_channels"
        assert "hunter2" not in str(error)
        refusal(spec(conda=(f"{other}::x",)), site)
    refusal(spec(conda=('z[url="https://evil.example/c/noarch/z-1-0.conda"]',)), site)


def test_channels_of_a_service(tmp_path: Path) -> None:
    """On a service store only the default channels are allowed, until the site says which others, or all."""
    policy.check(spec(("conda-forge",)), settings(tmp_path, "", "service"))
    error = refusal(spec(("bioconda",)), settings(tmp_path, "", "service"))
    assert "none but the default ones" in str(error)
    policy.check(spec(("bioconda",)), settings(tmp_path, 'allowed_channels = "all"\n', "service"))
    policy.check(spec(("bioconda",)), settings(tmp_path, ""))


def test_refused_channel_of_a_requirement_for_elsewhere(tmp_path: Path) -> None:
    """A spec is refused for what it asks on any platform: its name is the same everywhere."""
    site = settings(tmp_path, 'allowed_channels = ["bioconda"]\n')
    digest = spec()
    asked = type(digest)(
        **{
            **{field: getattr(digest, field) for field in digest.__dataclass_fields__},
            "conda": (CondaRequirement("evil::x", ("win",)),),
        }
    )
    refusal(asked, site)


def test_allowed_indexes(tmp_path: Path) -> None:
    """Options and direct URLs must lie below an allowed place or one that the site configured."""
    site = settings(
        tmp_path,
        """
        allowed_indexes = ["https://u:hunter2@i.example/simple", "https://g.example/team"]
        index_url = "https://own.example/simple"
        find_links = ["/srv/wheels"]
        """,
    )
    good = (
        "https://i.example/simple", "https://i.example/simple/", "https://u:p@i.example/simple",
        "https://own.example/simple", "/srv/wheels", "file:///srv/wheels/sub",
    )  # fmt: skip
    for flag in ("--index-url", "--extra-index-url", "--find-links", "-i", "-f"):
        policy.check(spec(options=tuple((flag, place) for place in good)), site)
    policy.check(spec(pip=("a", "b @ git+https://g.example/team/b@v1", "c @ https://g.example/team/c.whl")), site)
    for other in (
        "https://i.example", "https://i.example/simplest", "https://i.example/simple/../x", "/srv/wheels/../x",
        "https://evil.example\\@i.example/simple", "https://evil.example#@i.example/simple", "https:/evil.example",
        "https://i.example/simple/%2E./x", "https://i.example\t.evil.example/simple", "wheels", "",
    ):  # fmt: skip
        error = refusal(spec(options=(("--index-url", other),)), site)
        assert error.fields["setting"] == "allowed_indexes"
        assert "hunter2" not in str(error)
    for other in (
        "b @ git+https://g.example/teams/b",
        "c @ https://h.example/c.whl",
        "d @ https:/g.example/team/d.whl",
    ):
        assert refusal(spec(pip=(other,)), site).fields["setting"] == "allowed_indexes"


def package(manager: str, url: str, name: str = "x") -> LockedPackage:
    return LockedPackage(
        manager="pip" if manager == "pip" else "conda",
        name=name,
        version="1",
        url=url,
        sha256="0" * 64,
        md5=None,
        build=None,
        subdir=None,
        dependencies=(),
    )


def test_lockfiles_are_no_way_around(tmp_path: Path) -> None:
    """The packages of a caller's lockfile obey the same settings."""
    site = settings(
        tmp_path, 'allowed_channels = ["bioconda"]\nallowed_indexes = ["https://files.example"]\n', "service"
    )
    base = "https://conda.anaconda.org"
    policy.check_packages(
        [
            package("conda", f"{base}/bioconda/noarch/x-1-0.conda"),
            package("conda", f"{base}/conda-forge/linux-64/x-1-0.conda"),
            package("pip", "https://files.example/x-1-py3-none-any.whl"),
        ],
        site,
    )
    for bad, setting in (
        (package("conda", f"{base}/evil/noarch/x-1-0.conda"), "allowed_channels"),
        (package("pip", "https://evil.example/x-1-py3-none-any.whl"), "allowed_indexes"),
        (package("pip", "https://files.example/x-1.tar.gz"), "allow_sdists"),
        (package("pip", "git+https://files.example/x@0"), "allow_git_urls"),
    ):
        with pytest.raises(PolicyRefused) as caught:
            policy.check_packages([bad], site)
        assert caught.value.fields["setting"] == setting


def test_a_lockfile_as_a_spec_meets_the_same_rules(tmp_path: Path) -> None:
    """A conda-lock.yml is refused as a spec for what it is refused for when it is brought beside one."""
    digests = {"md5": "0" * 32, "sha256": "0" * 64}
    package = {
        "name": "x", "version": "1", "manager": "conda", "platform": "linux-64", "dependencies": {}, "hash": digests,
        "url": "https://h.example/elsewhere/linux-64/x-1-0.conda", "category": "main", "optional": False,
    }  # fmt: skip
    metadata = {"content_hash": {}, "channels": [], "platforms": ["linux-64"], "sources": []}
    document = json.dumps({"version": 1, "metadata": metadata, "package": [package]})
    asked = parse(document)
    assert asked.is_lockfile
    policy.check(asked, settings(tmp_path))
    with pytest.raises(PolicyRefused):
        policy.check(asked, settings(tmp_path, 'allowed_channels = ["bioconda"]\n'))
