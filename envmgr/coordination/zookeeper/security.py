"""Who may do what with the nodes that this host makes: ZooKeeper's access control lists.

* Without a password and a certificate: everybody may do all. That is ZooKeeper's own default, for tests and for
  networks that are trusted as a whole.
* With a password (setting ``zookeeper_auth_file``): those who know it may do all, others nothing, not even read. It is
  one password for all hosts, so it tells the cluster from strangers, never one host from another; and it crosses the
  network in clear unless ``zookeeper_ca_file`` is set, too.
* With a certificate alone: whoever has a certificate of the same subject may do all. All hosts need the same subject.
* With both, and a certificate of its own for each host: what the hosts share is everybody's who knows the password;
  what is a host's own (its status, its sign of life, its progress, its place in the queue for a claim, what it found of
  a shared store's locks) can be written only by the host whose certificate made it, and read by all who know the
  password.

A node keeps the list that it was made with: a tree that was made without a password stays open to everybody when one is
set later. To close it: export, delete it in ZooKeeper, import.

What ZooKeeper cannot express: a list does not reach down to children, and whoever may delete children of a node may
delete every one of them. So a host with the password can always delete another host's nodes (``cluster forget`` needs
that), and can make a node in another's name where there is none.

Source: ZooKeeper Programmer's Guide, "ZooKeeper access control using ACLs".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, make_acl, make_digest_acl_credential

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envmgr.coordination.zookeeper.endpoint import Endpoint

_OWN = ("/v1/status/", "/v1/hosts/", "/v1/progress/")
_PASSING = ("/v1/claims/", "/v1/flock/")
_FLOCK, _VERDICTS = "/v1/flock/", "/verdicts/"
Acl = Any  # kazoo has no types


def shared(endpoint: Endpoint) -> list[Acl]:
    """Return the list for nodes that all hosts write."""
    if endpoint.auth is not None:
        return [make_acl("digest", make_digest_acl_credential(*endpoint.auth), all=True)]
    return list(CREATOR_ALL_ACL if endpoint.cert_file is not None else OPEN_ACL_UNSAFE)


def own(endpoint: Endpoint, identities: Iterable[Acl]) -> list[Acl]:
    """Return the list for nodes that only this host writes; `identities` is what ZooKeeper says who we are."""
    certificate = [entry for entry in identities if entry.id.scheme == "x509"]
    if endpoint.auth is None or not certificate:
        return shared(endpoint)
    readers = make_acl("digest", make_digest_acl_credential(*endpoint.auth), read=True)
    return [*(make_acl("x509", entry.id.id, all=True) for entry in certificate), readers]


def needs_own(endpoint: Endpoint) -> bool:
    """Tell whether ZooKeeper can tell this host from the others."""
    return endpoint.auth is not None and endpoint.cert_file is not None


def is_own(path: str, *, is_ephemeral: bool) -> bool:
    """Tell whether the node at `path` (below the root) is one host's own."""
    is_verdict = path.startswith(_FLOCK) and _VERDICTS in path  # by it a host of a shared store deletes, or does not
    return is_verdict or path.startswith(_OWN) or (is_ephemeral and path.startswith(_PASSING))
