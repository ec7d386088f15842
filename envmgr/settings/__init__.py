"""Every setting, where it comes from, and what it means for a build.

`load` reads the sources; `schema` is the table of all settings; `listing` shows them without passwords; `lookup`
turns them into the records that the builder gets (a module of its own, because those records cost a start-up).
"""

from envmgr.settings.loading import Settings, load
from envmgr.settings.schema import Mode
from envmgr.settings.sources import Source

__all__ = ["Mode", "Settings", "Source", "load"]
