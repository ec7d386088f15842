"""Text that lets a POSIX shell hold an environment's lease for as long as it lives.

The shell opens the lease file and keeps the descriptor; ``flock`` of util-linux (or busybox) locks it in passing: a
flock belongs to the open file, so it outlives the program that took it, is inherited by what the shell starts, and
ends with the last of them. Where there is no ``flock``, or a remover is at work on this very build, the text does
nothing: activation works all the same, and a remover still sees processes that run from the prefix.

Which descriptor: bash and zsh choose a free one above 9 themselves. Other shells know single digits only (in dash,
``exec 10<file`` is a command named 10), so the highest of 9 to 3 that is free is taken.

A shell that evaluates the text twice holds one lease: ``_envmgr_leases`` (a variable of the shell, not exported) lists
what it has. An earlier environment's lease is kept, since its directories stay on ``PATH``, behind the newer ones.

The text prints nothing, works under ``set -eu`` and never ends the shell: the file is looked at before it is opened,
because a failing ``exec`` would.

On the way of every activation: no third-party import, and nothing that costs.
"""

from envmgr.activation import quoted

_TEMPLATE = """\
case " ${{_envmgr_leases-}} " in
*" {build_id} "*) ;;
*)
_envmgr_lease={lease}
if [ -r "$_envmgr_lease" ] && command -v flock >/dev/null 2>&1; then
_envmgr_fd=
case ${{BASH_VERSION-}}${{ZSH_VERSION-}} in
''|[123].*|4.0*)
for _envmgr_digit in 9 8 7 6 5 4 3; do
if {{ true <&"$_envmgr_digit"; }} 2>/dev/null; then :; else
eval "exec $_envmgr_digit<\\"\\$_envmgr_lease\\""
_envmgr_fd=$_envmgr_digit
break
fi
done
unset _envmgr_digit
;;
*) eval 'exec {{_envmgr_fd}}<"$_envmgr_lease"' ;;
esac
if [ -n "$_envmgr_fd" ]; then
if command flock -s -n "$_envmgr_fd" 2>/dev/null; then
_envmgr_leases="${{_envmgr_leases-}} {build_id}"
else
eval "exec $_envmgr_fd<&-"
fi
fi
unset _envmgr_fd
fi
unset _envmgr_lease
;;
esac
"""


def lease_script(build_id: str, lease_path: str) -> str:
    """Return the text that takes the lease of one build."""
    return _TEMPLATE.format(build_id=build_id, lease=quoted(lease_path))
