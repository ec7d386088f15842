"""Whether an environment can work with a system, told before a job is: `lint` over what is known of it.

Known are the exact packages of a build or of a lockfile, or only what a spec asks for (`envmgr.runners.lint.packages`).
Of a spec some things are certain (no version that it allows will do), others only possible (some of them would not),
and what it does not name may still come with what it names: a rule says which packages bring what it looks for, and
where one of them is asked for, it is silent. Certain problems are errors, possible ones warnings.

Pure: nothing is read, started or solved here. Not promised: that an environment without findings works.
"""

from __future__ import annotations

from collections.abc import Iterable

from envmgr.runners.lint.packages import Known
from envmgr.runners.lint.rules import RULES, SYSTEMS, Finding, Site

__all__ = ["RULES", "SYSTEMS", "Finding", "Known", "Site", "lint"]


def lint(known: Known, systems: Iterable[str], site: Site) -> tuple[Finding, ...]:
    """Return everything that is wrong with an environment for these of `SYSTEMS`, the errors first."""
    wanted = tuple(dict.fromkeys(systems))
    found = [
        rule.finding(known, site, certainty, wanted)
        for rule in RULES
        if set(wanted).intersection(rule.systems) and (certainty := rule.applies(known, site)) is not None
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "error"))
