"""What a conda home does not answer itself: refused, or handed to the site's own conda, as the settings say.

The site's conda replaces this process, and holds the host's lock on each of its package caches for as long as it runs
(`envmgr.backends.conda.exclusive`), like every conda that envmgr starts. It never gets to see an environment of the
store: what leads there is refused, and the variables of an active one are taken away.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from envmgr import wiring
from envmgr.backends.conda import exclusive, executable
from envmgr.errors import PolicyRefused, UsageError
from envmgr.manager.context import SystemClock
from envmgr.manager.waiting import TimeLimit
from envmgr.runners.condahome.program import Home, check_not_asked_by_envmgr, word_of

_UNCHANGING = "environments of envmgr are made from a file and never changed: conda env create -n N -f FILE; "
_OF_SHELLS = ("activate", "deactivate")
_OF_ACTIVATION = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER", "CONDA_EXE")


def hand_over(home: Home, arguments: list[str], why: str) -> NoReturn:
    """Refuse a call, or become the site's own conda with the same arguments; `why` names what is not known here.

    Raises `PolicyRefused`, and `UsageError` where the site has no conda or a shell's function was meant.
    """
    asked = f"conda {' '.join(arguments)[:200]}"
    check_not_asked_by_envmgr()
    settings = wiring.settings(Path(home.root))
    if arguments[0] in _OF_SHELLS:
        raise UsageError(
            f"{asked}: a program cannot change the shell that called it",
            hint=f". {home.path}/etc/profile.d/conda.sh first; or for one environment: . {home.path}/bin/activate NAME",
        )
    if not settings.pass_conda_commands:
        raise PolicyRefused(
            f"{asked} is not answered by this conda home" + (f" ({why})" if why else ""),
            hint=f"{'' if why else _UNCHANGING}{home.path}/bin/conda --help lists what is; "
            "envmgr's setting pass_conda_commands hands the rest to the site's own conda",
            rule="conda-command",
            setting="pass_conda_commands",
        )
    for word in arguments:
        path = word.rpartition("=")[2].removeprefix("-p")  # -p PATH, -pPATH, --prefix=PATH
        if "/" in path and word_of(home.root, path) is not None:
            raise PolicyRefused(
                f"{asked}: {word} is an environment of envmgr, which no conda changes",
                hint="make another one from its file: conda env create -n N -f FILE",
                rule="conda-command",
            )
    environ = dict(os.environ)
    if word_of(home.root, environ.get("CONDA_PREFIX") or "base/") is not None:
        for key in _OF_ACTIVATION:
            environ.pop(key, None)
    conda = executable.find(settings.conda_executable, environ)
    environ[executable.PASSED_ON] = "1"
    caches = executable.package_caches(conda, environ)
    limit = TimeLimit(SystemClock(), None)
    with exclusive.held(caches, deadline=limit, report=lambda event: _tell(str(event))) as locks:
        for fd in locks:
            os.set_inheritable(fd, True)
        os.execve(conda.path, [str(conda.path), *arguments], environ)  # noqa: S606 - that is the purpose


def _tell(text: str) -> None:
    sys.stderr.write(f"conda: {text}\n")
