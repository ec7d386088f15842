"""What a killed caller's build left running is found by its mark, and ended, and nobody else is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fakes.worlds import begin, digest_of

from envmgr.store import orphans, publication, sweep
from envmgr.store.layout import Layout


def cat(build_dir: Path, **options: object) -> subprocess.Popen[bytes]:
    """Start a process of a build, which would stay for as long as we do."""
    environ = {**os.environ, orphans.MARK: str(build_dir)}
    return subprocess.Popen(["cat"], env=environ, stdin=subprocess.PIPE, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]


def test_orphans_with_the_lease_are_ended_and_swept(layout: Layout, tmp_path: Path) -> None:
    """They keep a leftover from being discarded; a sweep ends those of that build only, by any path to it."""
    lease, other = begin(layout, "one"), begin(layout, "two")
    directory = layout.build(lease.build_id).directory
    (tmp_path / "link").symlink_to(layout.root)
    linked = tmp_path / "link" / directory.relative_to(layout.root)
    with (
        cat(directory, pass_fds=[lease.fileno()]) as one,
        cat(linked, pass_fds=[lease.fileno()]) as two,
        cat(layout.build(other.build_id).directory) as another,
    ):
        lease.close()
        assert not sweep.discard(layout, lease.build_id)
        assert sweep.sweep_name(layout, digest_of("one")) == (lease.build_id,)
        assert (one.wait(), two.wait()) == (-9, -9)
        assert another.poll() is None
        assert another.stdin is not None
        another.stdin.close()
    other.close()


def test_a_published_build_has_no_orphans(layout: Layout) -> None:
    """What carries the mark of a build that a name leads to is left alone."""
    lease = begin(layout, "one")
    assert publication.publish(layout, lease.name, lease.build_id)
    with cat(layout.build(lease.build_id).directory) as process:
        assert not sweep.reclaim(layout, lease.build_id)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
    lease.close()


def test_users_of_a_leftover_are_no_orphans(layout: Layout) -> None:
    """A job that still runs in a build that was replaced has no mark: it lives on, and the build with it."""
    lease = begin(layout, "one")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lease.fileno()]) as job:
        lease.close()
        assert sweep.sweep_name(layout, digest_of("one")) == ()
        assert job.poll() is None
        assert job.stdin is not None
        job.stdin.close()
    assert sweep.sweep_name(layout, digest_of("one")) == (lease.build_id,)
