"""What a conda home does not answer itself: refused, or handed to the site's own conda, as the settings say."""

from envmgr.errors import PolicyRefused


def hand_over(arguments: list[str], why: str) -> int:
    """Refuse a call, or become the site's own conda with the same arguments; `why` names what is not known here."""
    raise PolicyRefused(
        f"conda {' '.join(arguments)[:200]} is not answered by this conda home" + (f" ({why})" if why else ""),
        hint="environments of envmgr are made from a file and never changed (conda env create -n N -f FILE); "
        "conda --help lists what is answered",
    )
