"""What makes an interpreter that is started by its path lease its own environment.

`install` puts two small files into the site-packages of a prefix: ``envmgr_lease.pth``, which the interpreter's own
start-up reads, and the module that it imports. They belong to no package and stand in no package's record.

What it does not cover: an interpreter under ``-S`` or ``-I -S``, programs that are no interpreter, and virtual
environments made from the environment. The remover's look at /proc (`envmgr.store.usage`) is there for those.
"""

from __future__ import annotations

from pathlib import Path

PTH_NAME = "envmgr_lease.pth"
MODULE_NAME = "_envmgr_lease.py"
_SOURCE = Path(__file__).with_name(MODULE_NAME)


def install(prefix: Path) -> bool:
    """Write the hook into every site-packages of `prefix`; return whether there was one."""
    site_packages = sorted(prefix.glob("lib/python[23].*/site-packages"))
    for directory in site_packages:
        (directory / MODULE_NAME).write_bytes(_SOURCE.read_bytes())
        (directory / PTH_NAME).write_text("import _envmgr_lease\n", encoding="ascii")
    return bool(site_packages)
