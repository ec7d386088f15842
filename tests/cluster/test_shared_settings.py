"""What all hosts of a cluster share is checked before any host reads it."""

from __future__ import annotations

import pytest
from fakes.clock import FakeClock
from fakes.tree import FakeTree

from envmgr.cluster.administration import Administration
from envmgr.errors import UsageError


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    return Administration(tree, by="ada", clock=clock)


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("default_channels", ["a", "b"], ["a", "b"]),
        ("default_channels", "a, b", ["a", "b"]),
        ("channel_priority", "flexible", "flexible"),
        ("allow_md5", True, True),
        ("allow_md5", "yes", True),
        ("custom_channels", {"a": "https://x/"}, {"a": "https://x/"}),
        ("custom_channels", "a=https://x/", {"a": "https://x/"}),
        ("allow_sdists", "all", "all"),
        ("index_url", "https://x/simple/", "https://x/simple"),
    ],
)
def test_values_are_kept_as_in_a_settings_file(admin: Administration, key: str, value: object, kept: object) -> None:
    """A value may be as in a file or as in a variable; it is kept as in a file, and can be taken away again."""
    assert admin.change_settings({key: value}).settings == {key: kept}
    assert admin.cluster().settings == {key: kept}
    assert admin.change_settings({key: None}).settings == {}


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("no_such", 1, "no setting"),
        ("offline", True, "own affair"),
        ("zookeeper", ["a:1"], "own affair"),
        ("channel_priority", "sometimes", "expected strict"),
        ("allow_md5", 7, "expected true or false"),
        ("index_url", "https://ada:secret@x/simple", "credential"),
        ("custom_channels", {"a": "https://x/t/abc/c"}, "credential"),
        ("default_channels", ["https://ada:secret@x/c"], "credential"),
    ],
)
def test_what_must_not_be_shared(admin: Administration, key: str, value: object, word: str) -> None:
    """A setting that is not cluster-wide, a value that does not fit, a credential: refused, and never repeated."""
    with pytest.raises(UsageError, match=word) as caught:
        admin.change_settings({key: value})
    assert "secret" not in str(caught.value)
    assert admin.cluster().settings == {}


def test_classes_are_declared_with_their_virtual_packages(admin: Administration) -> None:
    """Words for packages are those of conda; an empty version says that machines of the class have none."""
    found = admin.change_settings(
        {}, {"linux-64+cuda12": {"cuda": "12.2", "__glibc": "2.28"}, "linux-64": {"cuda": ""}}
    )
    assert found.classes == {"linux-64": {"__cuda": ""}, "linux-64+cuda12": {"__cuda": "12.2", "__glibc": "2.28"}}
    assert admin.change_settings({}, {"linux-64+cuda12": None}).classes.keys() == {"linux-64"}


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("big", {"cuda": "12"}),
        ("noarch", {"cuda": "12"}),
        ("linux-64+Big", {"cuda": "12"}),
        ("linux-64/x", {"cuda": "12"}),
        ("linux-64", {"cu da": "12"}),
        ("linux-64", {"cuda": "twelve"}),
        ("linux-64", {"cuda": ">=12"}),
    ],
)
def test_what_is_no_class(admin: Administration, name: str, packages: dict[str, str]) -> None:
    """A class begins with a subdir; a package has a version, not a range of them."""
    with pytest.raises(UsageError):
        admin.change_settings({}, {name: packages})
