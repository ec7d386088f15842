"""Take the lease of the build that this interpreter was started from, and stay in that build.

Run by ``envmgr_lease.pth`` at every start of the environment's interpreter (not under ``-S``). It is silent, it never
fails an interpreter, it imports nothing that is not loaded or built in, and it runs on every Python from 3.6 on.

An interpreter that was started by the stable path ``<root>/envs/<name>/bin/python`` sees its packages through a link
that may lead elsewhere tomorrow. So the paths that the import system uses are rewritten to the build's real place, once,
here; which build that is, the kernel knows (/proc/self/exe), also when the link moved during the start. The lease is an
open descriptor that ends with the process; forked children share it, and programs that this process executes take a
lease of their own where they are interpreters of the environment.
"""


def _lease():
    import fcntl
    import os
    import sys

    here = os.path.dirname(os.path.abspath(__file__))  # <prefix>/lib/pythonX.Y/site-packages
    seen = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    prefix = os.path.realpath(seen)
    name = os.path.basename(prefix)
    try:
        running = os.path.dirname(os.path.dirname(os.readlink("/proc/self/exe")))
    except OSError:
        running = prefix
    if os.path.basename(running) == name:
        prefix = running
    envs, build = os.path.dirname(prefix), os.path.dirname(os.path.dirname(prefix))
    if os.path.basename(envs) != "envs":
        return
    # Close-on-exec, as every descriptor of Python: what this process executes decides for itself.
    fd = os.open(os.path.join(build, "lease"), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)  # being removed: the remover finds this process in /proc
    if seen == prefix:
        return

    def real(path):
        if path == seen or path.startswith(seen + os.sep):
            return prefix + path[len(seen) :]
        return path

    sys.path[:] = [real(path) if isinstance(path, str) else path for path in sys.path]
    names = (
        "prefix",
        "exec_prefix",
        "base_prefix",
        "base_exec_prefix",
        "executable",
        "_base_executable",
        "_stdlib_dir",
    )
    for attribute in names:
        value = getattr(sys, attribute, None)
        if isinstance(value, str):
            setattr(sys, attribute, real(value))
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            module.__file__ = real(file)
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            places[:] = [real(place) for place in places]


try:
    _lease()
except Exception:
    pass
del _lease
