"""What makes an interpreter that is started by its path lease its own environment.

`install` puts two small files into the site-packages of a prefix: ``envmgr_lease.pth``, which the interpreter's own
start-up reads, and the module that it imports. They belong to no package and stand in no package's record. The module
has a name of its own in each environment: what another one's site-packages on PYTHONPATH have comes first.

What it does not cover: an interpreter under ``-S`` or ``-I -S``, programs that are no interpreter, and virtual
environments made from the environment. The remover's look at /proc (`envmgr.store.usage`) is there for those.
"""

from __future__ import annotations

from pathlib import Path

PTH_NAME = "envmgr_lease.pth"
MODULE_PREFIX = "_envmgr_lease"
_SOURCE = Path(__file__).with_name(f"{MODULE_PREFIX}.py")


def install(prefix: Path) -> bool:
    """Write the hook into every site-packages of `prefix`; return whether there was one."""
    module = f"{MODULE_PREFIX}_{prefix.name.rpartition('-')[2]}"
    site_packages = sorted(prefix.glob("lib/python[23].*/site-packages"))
    for directory in site_packages:
        (directory / f"{module}.py").write_bytes(_SOURCE.read_bytes())
        (directory / PTH_NAME).write_text(f"import {module}\n", encoding="ascii")
    return bool(site_packages)
