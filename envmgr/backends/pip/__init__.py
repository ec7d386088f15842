"""The pip section of an environment, through uv: solved once, then installed by hash.

`lock` runs when the conda packages are linked and nothing else is. It asks uv for a solution for the prefix's own
interpreter in which every distribution that conda installed stands as it is. To uv each of them is an empty wheel with
the same name and version (`envmgr.backends.pip.stubs`) and a constraint; so a requirement that conda already meets is
met, and one that contradicts it is a conflict that uv explains. conda's own dependencies are not solved again.

`install` takes exactly the artifacts of a lockfile, each by its hash, and nothing else; `check` asks afterwards
whether everything that is installed fits together, `unmet` whether what was asked for is there.

uv reads no configuration file, no variable of the caller's and no credential but those of the site's settings, and
always gets the prefix's real path, because it bakes it into scripts. It works for Python 3.6 and later.

Source: uv's documentation of the pip interface; PEP 751 (pylock.toml); PEP 503, 691, 700 (indexes).
"""

from envmgr.backends.pip.building import Wheel, build, sources
from envmgr.backends.pip.checking import check, unmet
from envmgr.backends.pip.installing import install, wheels
from envmgr.backends.pip.locking import Locked, lock

__all__ = ["Locked", "Wheel", "build", "check", "install", "lock", "sources", "unmet", "wheels"]
