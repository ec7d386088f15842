"""Many processes, one host: each environment is built once, and all of them are whole."""

from __future__ import annotations

import json
from pathlib import Path

from answers import ended
from whole_hosts import Host, all_of

ASKING = Path(__file__).with_name("asking.py")


def test_fifty_processes_ask_for_one_new_environment(host: Host, small_channel: Path) -> None:
    """Fifty processes that ask at one moment cause one build, by one of them; all get the same prefix, leased."""
    spec = host.spec("app", channels=[small_channel.as_uri()])
    answer = host.run("50", spec, program=(ASKING,))
    assert answer.code == 0, answer.err
    answers = [json.loads(line) for line in answer.out.splitlines()]
    assert len(answers) == 50
    assert sum(one["built"] for one in answers) == 1
    assert {one["prefix"] for one in answers} == {str(host.prefix(answers[0]["name"]))}
    assert [one["phases"] for one in answers if "solve" in one["phases"]] == [
        one["phases"] for one in answers if one["built"]
    ]
    assert len(host.builds()) == 1
    host.check_whole()
    assert host.litter() == []


def test_commands_that_come_together_share_one_build(host: Host, small_channel: Path) -> None:
    """Of eight ``envmgr create`` at once, each exits 0 with the name; one says that it built."""
    spec = host.spec("one", channels=[small_channel.as_uri()])
    with all_of([host.start("create", spec, "--json") for _ in range(8)]) as processes:
        answers = [ended(process) for process in processes]
    assert [answer.code for answer in answers] == [0] * 8
    assert sum(answer.record["built"] for answer in answers) == 1
    assert len({answer.record["prefix"] for answer in answers}) == 1
    host.check_whole()


def test_eight_environments_at_once_from_a_cold_cache(host: Host, small_channel: Path) -> None:
    """Eight environments that share packages, begun at one moment from an empty cache, are all whole."""
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    specs = [host.spec(word, channels=[small_channel.as_uri()]) for word in words]
    answer = host.run("8", *specs, program=(ASKING,))
    answers = [json.loads(line) for line in answer.out.splitlines()]
    assert [one.get("built") for one in answers] == [True] * 8, answer.out + answer.err
    assert len({one["prefix"] for one in answers}) == 8
    host.check_whole()
    assert host.litter() == []
    inodes = {(Path(one["prefix"]) / "share/base/data.bin").stat().st_ino for one in answers}
    assert len(inodes) == 1


def test_a_failure_is_shared_by_those_who_wait(host: Host, small_channel: Path) -> None:
    """Twenty processes that ask for what cannot be solved all get the same error from one try; nothing is left."""
    spec = host.spec("app", "no-such-package", channels=[small_channel.as_uri()])
    answer = host.run("20", spec, program=(ASKING,))
    answers = [json.loads(line) for line in answer.out.splitlines()]
    assert [one["code"] for one in answers] == ["unsatisfiable"] * 20, answer.err
    failure = json.loads(next((host.root / "names").glob("*/failure.json")).read_text())
    assert failure["attempts"] == 1
    assert host.builds() == []
    assert host.litter() == []
