"""What counts as a try, and how long a pass waits for ZooKeeper."""

from __future__ import annotations

from agent.worlds import Hands, World

from envmgr.errors import BuildFailed, Unsatisfiable
from envmgr.model import LockInForce
from envmgr.names import EnvName


class Counting(Hands):
    """Hands that count the questions to which there was no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered = 0

    def cluster_lock(self, name: EnvName, machine_class: str) -> LockInForce | None:
        self.unanswered += self.is_cut_off
        return super().cluster_lock(name, machine_class)


def test_what_was_only_remembered_is_tried() -> None:
    """A permanent failure of a moment ago, of somebody else on this host, is not this try's; the cluster's own is."""
    world = World()
    name, other = world.declare("numpy"), world.declare("scipy")
    world.hands.fails[name] = BuildFailed("no compiler", is_repeated=True)
    world.hands.fails[other] = Unsatisfiable("no scipy", is_repeated=True, host="there")
    world.settle()
    world.hands.fails.clear()
    world.settle()
    assert (world.state(name).state, world.state(other).state) == ("ready", "failed")


def test_a_pass_waits_for_one_answer() -> None:
    """A ZooKeeper that stands still keeps a pass as long as one question, however many environments there are."""
    world = World()
    hands = world.hands = Counting()
    world.start()
    names = [world.declare(word) for word in ("a", "b", "c")]
    for name in names:
        hands.put(name, "ours")
        hands.solved[name] = "theirs"
    hands.is_cut_off = True
    world.turn()
    world.turn()
    assert hands.unanswered == 2
    hands.is_cut_off = False
    world.settle()
    assert all(world.state(name).is_drift for name in names)
