"""What the daemon's log says, on which line, and what never gets into it."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from served import running

from envmgr.daemon.logs import CHANGE_KEYS, Log
from envmgr.model import Caller
from envmgr.settings.schema import LogFormat

ANNA = Caller("anna", "use", uid=1001, pid=42)
ROBOT = Caller("robot", "admin")


@dataclass(frozen=True)
class Written:
    """A log, and what it has written."""

    log: Log
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="ascii")

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[LogFormat], Written]]:
    """Make logs that write to the file `tmp_path`/log."""
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as file:
        yield lambda log_format: Written(Log(log_format, host="n1", clock=FakeClock(), fd=file.fileno()), path)


def test_a_change_is_one_line(written: Callable[[LogFormat], Written]) -> None:
    """Who, what, which, how long, what came of it: one line of words, without what is not known."""
    made = written("text")
    made.log.changed(
        ANNA, "ensure", "env-00ff", "succeeded", 1.25, build_id="00ff-1", phases_s={"solve": 0.5, "link": 0.25}
    )
    assert made.text == (
        "time=2027-01-15T08:00:00.000Z event=change host=n1 level=info what=ensure name=env-00ff build_id=00ff-1 "
        "outcome=succeeded duration_s=1.25 user=anna uid=1001 pid=42 role=use phases_s=solve:0.5,link:0.25\n"
    )


def test_json_has_every_key(written: Callable[[LogFormat], Written]) -> None:
    """The same as an object: every key of a change is there, whatever is known; so it is for a token's refusal."""
    made = written("json")
    made.log.changed(ROBOT, "remove", None, "refused", 0.0, code="permission", rule="role")
    (record,) = made.records
    assert set(record) == {"time", "event", "host", "level", *CHANGE_KEYS, "rule"}
    assert (record["user"], record["uid"], record["pid"], record["name"]) == ("robot", None, None, None)
    assert (record["level"], record["outcome"], record["code"]) == ("notice", "refused", "permission")


@pytest.mark.parametrize("log_format", ["text", "json"])
@given(text=st.text())
def test_nothing_written_ends_a_line(log_format: LogFormat, text: str) -> None:
    """Whatever a caller's name or an error's message holds, an event is one line of printable ASCII."""
    read, write = os.pipe()
    try:
        Log(log_format, host="n1", clock=FakeClock(), fd=write).event(
            "log", message=text, names=[text], by={text: text}
        )
        line = os.read(read, 1 << 16).decode("ascii")
    finally:
        os.close(read)
        os.close(write)
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_credentials_are_hidden(log_format: LogFormat, written: Callable[[LogFormat], Written]) -> None:
    """A credential is hidden wherever it stands: in a text, a list, an object, a traceback."""
    made = written(log_format)
    url = "https://me:secret@example.invalid/t/secret/x?token=secret"
    made.log.changed(ANNA, "ensure", None, "failed", 0.1, message=url, channels=[url], by={url: url})
    with made.log.capturing():
        try:
            raise ValueError(url)
        except ValueError:
            logging.getLogger("uvicorn.error").exception("cannot %s", url)
    assert "example.invalid" in made.text
    assert "secret" not in made.text


def test_the_journal_gets_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard error is the journal, lines begin with their priority and leave the time to it; else not."""
    with (tmp_path / "log").open("wb", buffering=0) as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log = Log("text", host="n1", clock=FakeClock(), fd=file.fileno())
        log.event("started")
        log.changed(ANNA, "remove", "env-00ff", "refused", 0.0)
        log.changed(ANNA, "ensure", "env-00ff", "failed", 0.0)
        log.event("log", "error", message="no")
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        Log("text", host="n1", clock=FakeClock(), fd=file.fileno()).event("started")
    *journal, other = (tmp_path / "log").read_text().splitlines()
    assert [line[:9] for line in journal] == ["<6>event=", "<5>event=", "<4>event=", "<3>event="]
    assert other.startswith("time=2027-")


def test_what_libraries_say(written: Callable[[LogFormat], Written], recwarn: pytest.WarningsRecorder) -> None:
    """Logging from information on, warnings, and threads that end badly become lines; requests do not."""
    made = written("json")
    with made.log.capturing():
        logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
        logging.getLogger("uvicorn.error").debug("no")
        logging.getLogger("uvicorn.access").info("GET /")
        warnings.warn("old\nthing", stacklevel=1)
        thread = threading.Thread(target={}.__getitem__, args=("x",), name="looker")
        thread.start()
        thread.join()
    logging.getLogger("uvicorn.error").info("after")
    told = [(record["logger"], record["level"]) for record in made.records]
    assert told == [("uvicorn.error", "info"), ("py.warnings", "warning"), ("threading", "error")]
    assert made.records[0]["message"] == "Started server process [7]"
    assert "KeyError" in str(made.records[2]["traceback"])


def test_many_threads_write_whole_lines(written: Callable[[LogFormat], Written]) -> None:
    """Lines of several threads do not mix, however long they are."""
    made = written("json")

    def work(number: int) -> None:
        for _ in range(50):
            made.log.event("log", message=str(number) * 3000)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(record["message"])[0] for record in made.records) == sorted("0123" * 50)


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """Without anybody who reads, lines are dropped."""
    read, write = os.pipe()
    os.close(read)
    try:
        Log("text", host="n1", clock=FakeClock(), fd=write).event("started")
    finally:
        os.close(write)


def test_what_a_daemon_says(tmp_path: Path) -> None:
    """A real daemon tells each change once, with who and what came of it, as it is set to; so do metrics."""
    with running(tmp_path, 'log_format = "json"\n') as daemon, daemon.client() as client:
        name = daemon.made("numpy")
        assert daemon.made("numpy") == name
        client.ask("DELETE", "/v1/environments/nothing").error(404)
        client.ask("PUT", "/v1/aliases/prod", {"environment": name, "move": False})
        counted = client.ask("GET", "/metrics").body.decode()
    lines = [json.loads(line) for line in daemon.words.splitlines() if line.startswith("{")]
    changes = [line for line in lines if line["event"] == "change"]
    assert [(it["what"], it["name"], it["outcome"], it["code"]) for it in changes] == [
        ("ensure", name, "succeeded", None),
        ("remove", "nothing", "failed", "not_found"),
        ("alias", name, "succeeded", None),
    ]
    assert {(it["uid"], it["pid"], it["role"]) for it in changes} == {(os.getuid(), os.getpid(), "admin")}
    assert set(changes[0]["phases_s"]) == {"solve", "link"}
    assert changes[0]["build_id"] == daemon.begun()[0]
    assert 'envmgr_builds_total{code="",outcome="succeeded"} 1.0' in counted
    assert 'envmgr_failures_total{code="not_found",what="remove"} 1.0' in counted
    assert 'envmgr_requests_total{method="POST",route="/v1/environments",status="202"} 1.0' in counted
