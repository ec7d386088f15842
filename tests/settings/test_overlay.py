"""What the cluster's hosts share, laid over the settings of one host."""

from __future__ import annotations

from fakes.worlds import NOWHERE, SUBDIR

from envmgr import settings
from envmgr.settings.listing import table
from envmgr.settings.overlay import overlay


def _own(**environ: str) -> settings.Settings:
    variables = {f"ENVMGR_{key.upper()}": value for key, value in environ.items()}
    return settings.load(root=None, mode="service", environ=variables, home=NOWHERE, etc=NOWHERE, subdir=SUBDIR)


def test_the_clusters_values_win_and_say_where_they_stand() -> None:
    """A shared value replaces the host's own, and `envmgr settings` says that it is the cluster's."""
    own = _own(channel_priority="flexible")
    found, problems = overlay(own, {"channel_priority": "strict", "default_channels": ["https://mirror/a"]})
    assert problems == ()
    assert found.channel_priority == "strict"
    assert found.default_channels == ("https://mirror/a",)
    row = next(row for row in table(found) if row.key == "channel_priority")
    assert row.source == "the cluster's settings: channel_priority"
    assert row.sources == ({"kind": "cluster", "file": None, "key": "channel_priority"},)


def test_tables_are_joined_entry_by_entry() -> None:
    """Of a table, the host keeps the entries that the cluster says nothing of."""
    own = _own(custom_channels="a=https://here/,b=https://here/")
    found, problems = overlay(own, {"custom_channels": {"b": "https://there/"}})
    assert problems == ()
    assert found.custom_channels == {"a": "https://here/", "b": "https://there/"}
    assert len(found.sources["custom_channels"]) == 2


def test_what_this_host_cannot_read_is_left_out_and_told() -> None:
    """An unknown key, one that is not shared, and a value that does not fit leave the host's own in force."""
    own = _own(channel_priority="flexible")
    shared = {"channel_priority": "sometimes", "of_tomorrow": 1, "offline": True, "allow_md5": True}
    found, problems = overlay(own, shared)
    assert found.channel_priority == "flexible"
    assert not found.offline
    assert found.allow_md5
    assert len(problems) == 3
    assert all(any(key in problem for problem in problems) for key in ("channel_priority", "of_tomorrow", "offline"))


def test_what_the_host_forbids_stays_forbidden() -> None:
    """Where the host's own sources say it, not by default; it is told, and it stays so when it is laid over again."""
    shared = {"allow_sdists": "all", "allow_md5": True}
    assert overlay(_own(), shared)[0].allow_sdists is None
    found, problems = overlay(_own(allow_sdists="a,b", allow_md5="false"), shared)
    assert (found.allow_sdists, found.allow_md5) == (("a", "b"), False)
    assert [problem.split(": ")[1] for problem in problems] == ["allow_md5", "allow_sdists"]
    assert "$ENVMGR_ALLOW_SDISTS allows less on this host" in problems[1]
    again, same = overlay(found, shared)
    assert (again.allow_sdists, again.sources, same) == (found.allow_sdists, found.sources, problems)
    narrower, problems = overlay(_own(allow_sdists="a,b"), {"allow_sdists": ["b", "c"]})
    assert narrower.allow_sdists == ("b",)
    assert len(problems) == 1
    wider, problems = overlay(_own(allow_sdists="all"), {"allow_sdists": ["b"]})
    assert (wider.allow_sdists, problems) == (("b",), ())


def test_nothing_shared_changes_nothing() -> None:
    """Without shared values every value and source stays."""
    own = _own(channel_priority="flexible")
    found, problems = overlay(own, {})
    assert problems == ()
    assert found.sources == own.sources
