"""scripts/demo_channel makes a channel from which rattler installs a python that works."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from demo import packages, staging, wheels
from demo.errors import DemoError
from demo.interpreter import Interpreter, inspect

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "demo_channel"
DISTRIBUTION_PYTHON = Path("/usr/bin/python3")

# rattler runs in a process that ends without the interpreter's usual end, which its threads may crash.
INSTALL = """
import asyncio, os, sys, traceback
from pathlib import Path
from rattler import Gateway, MatchSpec, VirtualPackage, install, solve

async def main(url, prefix, cache, *specs):
    records = await solve(
        sources=[url],
        specs=[MatchSpec(spec) for spec in specs],
        gateway=Gateway(cache_dir=Path(cache, "repodata")),
        platforms=[os.environ["SUBDIR"], "noarch"],
        virtual_packages=[one.into_generic() for one in VirtualPackage.detect()],
    )
    await install(records, prefix, cache_dir=Path(cache, "packages"), show_progress=False)

try:
    asyncio.run(main(*sys.argv[1:]))
    code = 0
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


def run_demo_channel(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script as a user would."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def install(url: str, prefix: Path, cache: Path, *specs: str) -> None:
    """Solve ``specs`` against the channel alone and install the answer into ``prefix``."""
    done = subprocess.run(
        [sys.executable, "-c", INSTALL, url, str(prefix), str(cache), *specs],
        env={**os.environ, "SUBDIR": packages.native_subdir(), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def ask(command: Path | str, *arguments: str) -> str:
    """Run a command of an installed prefix, cut off from this process's python; return what it prints."""
    environment = {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [str(command), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hashes_of(channel: Path) -> dict[str, str]:
    """Return the hash of every package in a channel."""
    return {
        str(path.relative_to(channel)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in channel.rglob("*.conda")
    }


@pytest.fixture(scope="session")
def own_interpreter() -> Interpreter:
    """The interpreter that runs these tests, as the raw material of a channel."""
    try:
        return inspect(Path(sys.executable))
    except DemoError as error:
        pytest.skip(f"needs an interpreter that can become a package: {error.message}")


@pytest.fixture(scope="session")
def demo_channel(tmp_path_factory: pytest.TempPathFactory, own_interpreter: Interpreter) -> str:
    """The URL of a channel with one python, made from nothing."""
    directory = tmp_path_factory.mktemp("demo") / "channel"
    done = run_demo_channel(directory, "--python", own_interpreter.executable)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def channel_dir(demo_channel: str) -> Path:
    return Path(demo_channel.removeprefix("file://"))


@pytest.fixture(scope="session")
def prefix(demo_channel: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with everything that the channel is said to have."""
    root = tmp_path_factory.mktemp("installed")
    install(demo_channel, root / "prefix", root / "cache", "python", "pip", "setuptools", "requests", "rich", "numpy")
    return root / "prefix"


@pytest.fixture
def http_url(channel_dir: Path) -> Iterator[str]:
    """The URL of the same channel behind a plain HTTP server."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(channel_dir))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def other_interpreters() -> list[Path]:
    """Return the interpreters that a pyenv of this user has, the oldest version first."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = []
    for executable in root.glob("versions/3.*/bin/python"):
        try:
            found.append(inspect(executable))
        except DemoError:
            continue
    own = sys.version_info[:2]
    return [one.executable for one in sorted(found, key=lambda one: one.major_minor) if one.major_minor != own]


# The channel and what is installed from it


@pytest.mark.slow
def test_url_is_last_line_on_stdout(demo_channel: str) -> None:
    """The last line on stdout is a file URL of a directory with an index for both subdirs."""
    directory = Path(demo_channel.removeprefix("file://"))
    for subdir in ("noarch", packages.native_subdir()):
        for name in ("repodata.json", "repodata.json.zst", "repodata_shards.msgpack.zst"):
            assert (directory / subdir / name).is_file()


@pytest.mark.slow
def test_installed_python_is_itself(prefix: Path, own_interpreter: Interpreter) -> None:
    """The copy has its original's version and finds itself where it was installed."""
    code = "import platform, sys; print(platform.python_version(), sys.prefix, sys.base_prefix)"
    assert ask(prefix / "bin" / "python", "-c", code).split() == [own_interpreter.version, str(prefix), str(prefix)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["ssl", "sqlite3", "ctypes", "lzma", "bz2", "ensurepip", "requests", "rich", "numpy"]
)
def test_module_works(prefix: Path, module: str) -> None:
    """What depends on a library of the machine, and what came from a wheel, is imported from the prefix."""
    found = ask(prefix / "bin" / "python", "-c", f"import {module}; print({module}.__file__)")
    assert Path(found).is_relative_to(prefix)


@pytest.mark.slow
def test_pip_finds_nothing_missing(prefix: Path, own_interpreter: Interpreter) -> None:
    """The converted packages' requirements are met by the converted packages."""
    assert ask(prefix / "bin" / "pip", "--version").endswith(f"(python {own_interpreter.short_version})")
    assert ask(prefix / "bin" / "python", "-m", "pip", "check") == "No broken requirements found."


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option"), [("normalizer", "--version"), ("f2py", "-v")])
def test_commands_of_wheels_run(prefix: Path, command: str, option: str) -> None:
    """The commands of a pure wheel and of a compiled one start with the prefix's python."""
    assert ask(prefix / "bin" / command, option)


@pytest.mark.slow
def test_virtual_environment_gets_pip(prefix: Path, tmp_path: Path) -> None:
    """venv and ensurepip of the installed python make an environment that works."""
    ask(prefix / "bin" / "python", "-m", "venv", str(tmp_path / "venv"))
    assert str(tmp_path / "venv") in ask(tmp_path / "venv" / "bin" / "pip", "--version")


@pytest.mark.slow
def test_nothing_names_where_it_came_from(prefix: Path, own_interpreter: Interpreter, channel_dir: Path) -> None:
    """No installed file has the original's path, a build's path or this checkout's; none but records the channel's.

    rattler's own records of the installation name the channel, as they must, and the placeholder that stood for the
    prefix.
    """
    foreign = [os.fsencode(own_interpreter.prefix), b"host_env_placehold", os.fsencode(SCRIPT.parent)]
    of_channel = [os.fsencode(channel_dir), b"_placehold"]
    for path in prefix.rglob("*"):
        if path.is_symlink():
            assert not path.readlink().is_absolute(), path
        elif path.is_file():
            content = path.read_bytes()
            unwanted = foreign if path.parent.name == "conda-meta" else foreign + of_channel
            assert not [one for one in unwanted if one in content], path


@pytest.mark.slow
def test_channel_serves_http(http_url: str, tmp_path: Path) -> None:
    """A plain HTTP server makes the same directory a remote channel."""
    install(http_url, tmp_path / "prefix", tmp_path / "cache", "python", "pip")
    assert ask(tmp_path / "prefix" / "bin" / "pip", "--version")


# Runs that meet what other runs left


@pytest.mark.slow
def test_second_run_changes_nothing(demo_channel: str, channel_dir: Path, own_interpreter: Interpreter) -> None:
    """A run on a complete channel gives the same URL and writes no file."""
    before = {path: path.stat().st_mtime_ns for path in channel_dir.rglob("*")}
    done = run_demo_channel(channel_dir, "--python", own_interpreter.executable)
    assert done.stdout.splitlines()[-1] == demo_channel
    assert {path: path.stat().st_mtime_ns for path in channel_dir.rglob("*")} == before


@pytest.mark.slow
def test_two_runs_at_once_complete_a_killed_one(
    channel_dir: Path, own_interpreter: Interpreter, tmp_path: Path
) -> None:
    """After a kill between two packages one run completes the channel, and one beside it waits for that.

    Its packages have the same bytes; both say the same URL and clean up.
    """
    directory, scratch = tmp_path / "channel", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, str(SCRIPT), str(directory), "--python", str(own_interpreter.executable)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # for what a killed process leaves behind
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as killed:
        assert killed.stderr is not None
        assert "python-" in killed.stderr.readline()
        os.killpg(killed.pid, signal.SIGKILL)
    assert not (directory / "noarch" / "repodata.json").exists()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    runs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert {out for out, _ in outputs} == {f"{directory.as_uri()}\n"}
    assert sum("is complete already" in err for _, err in outputs) == 1
    assert not list(scratch.iterdir())
    assert hashes_of(directory) == hashes_of(channel_dir)


@pytest.mark.slow
def test_another_python_is_added(channel_dir: Path, tmp_path: Path) -> None:
    """A further ``--python`` adds to a channel; each version gets packages that support it."""
    others = other_interpreters()
    if not others:
        pytest.skip("needs a second version of python, from pyenv")
    directory = tmp_path / "channel"
    shutil.copytree(channel_dir, directory)
    done = run_demo_channel(directory, "--python", others[0])
    assert done.returncode == 0, done.stderr
    assert hashes_of(channel_dir).items() <= hashes_of(directory).items()
    for version in (sys.version_info[:2], inspect(others[0]).major_minor):
        spec = f"python {version[0]}.{version[1]}.*"
        where = tmp_path / f"{version[1]}"
        install(directory.as_uri(), where, tmp_path / "cache", spec, "pip", "requests", "rich")
        assert ask(where / "bin" / "python", "-m", "pip", "check") == "No broken requirements found."
        ask(where / "bin" / "python", "-c", "import ssl, sqlite3, ctypes, lzma, requests, rich.console")


def test_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    """A directory with something else in it is refused, and nothing is written into it."""
    (tmp_path / "thesis.txt").write_text("mine")
    done = run_demo_channel(tmp_path)
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# What cannot become a package


def test_distributions_python_is_refused(tmp_path: Path) -> None:
    """Debian's own interpreter is refused with the reason and a hint, before anything is made."""
    if not Path("/usr/lib/python3/dist-packages").is_dir() or not DISTRIBUTION_PYTHON.exists():
        pytest.skip(f"needs Debian's own {DISTRIBUTION_PYTHON}")
    done = run_demo_channel(tmp_path / "channel", "--python", DISTRIBUTION_PYTHON)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "dist-packages" in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "channel").exists()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"implementation": "pypy"}, "it is pypy, not CPython"),
        ({"is_free_threaded": True}, "free-threaded"),
        ({"major_minor": [3, 5], "version": "3.5.10"}, "older than 3.6"),
        ({"missing": ["lzma"]}, "built without lzma"),
    ],
)
def test_unfit_interpreter_is_refused(
    own_interpreter: Interpreter, tmp_path: Path, answer: dict[str, object], reason: str
) -> None:
    """An interpreter that answers as PyPy, a free-threaded, an old or a bare CPython does is refused."""
    fit = {
        "implementation": "cpython",
        "version": own_interpreter.version,
        "major_minor": list(own_interpreter.major_minor),
        "abiflags": own_interpreter.abiflags,
        "is_free_threaded": False,
        "prefix": str(own_interpreter.prefix),
        "exec_prefix": str(own_interpreter.prefix),
        "stdlib": str(own_interpreter.prefix / "lib" / f"python{own_interpreter.short_version}"),
        "missing": [],
    }
    executable = tmp_path / "python"
    executable.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(fit | answer)}\nEND\n")
    executable.chmod(0o755)
    with pytest.raises(DemoError, match=reason):
        inspect(executable)


def test_neutral_path_keeps_length_and_last_part() -> None:
    """The stand-in for the original's path keeps what a linker may share with another string (the version)."""
    path = b"/home/someone/.pyenv/versions/3.11.7"
    neutral = staging._neutral(path)
    assert len(neutral) == len(path)
    assert neutral.endswith(b"/3.11.7")
    assert b"someone" not in neutral


# The parts that other tests use


def test_failed_build_says_why(tmp_path: Path) -> None:
    """When a package cannot be staged, the error has the reason that the staging process gave; nothing is left."""
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    package = packages.Package("broken", "1.0", "0", noarch="python")
    with pytest.raises(DemoError, match="BadZipFile"):
        packages.build(package, tmp_path, ["wheel", str(tmp_path / "broken-1.0-py3-none-any.whl"), "3.11", "noarch"])
    assert not list(tmp_path.rglob("*.conda"))


def test_fabricated_package_is_installed(tmp_path: Path) -> None:
    """A fabricated package keeps hidden files and executable commands, and its index is complete without a network."""
    files: dict[str, str | bytes] = {"bin/hello": "#!/bin/sh\necho hello\n", "etc/.hidden": b"\x00\x01"}
    packages.fabricate(tmp_path / "channel", "base", "1.0")
    packages.fabricate(tmp_path / "channel", "hello", "2.0", depends=["base >=1"], files=files)
    packages.index(tmp_path / "channel")
    install((tmp_path / "channel").as_uri(), tmp_path / "prefix", tmp_path / "cache", "hello")
    assert ask(tmp_path / "prefix" / "bin" / "hello") == "hello"
    assert (tmp_path / "prefix" / "etc" / ".hidden").read_bytes() == b"\x00\x01"
    assert (tmp_path / "prefix" / "share" / "base" / "version.txt").read_text() == "base 1.0 0\n"


def test_fabricated_package_has_the_same_bytes_again(tmp_path: Path) -> None:
    """The same call gives the same bytes, so a lockfile made from one channel holds for its copy."""
    made = [packages.fabricate(tmp_path / name, "base", "1.0", depends=["other"]) for name in ("one", "two")]
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.parametrize("where", ["/etc/passwd", "../outside"])
def test_fabricated_file_stays_in_the_prefix(tmp_path: Path, where: str) -> None:
    """A file outside the prefix is refused."""
    with pytest.raises(DemoError, match="inside the prefix"):
        packages.fabricate(tmp_path, "base", "1.0", files={where: ""})


def make_wheel(directory: Path, tag: str, metadata: Sequence[str]) -> wheels.Wheel:
    """Write a wheel with nothing in it but metadata, and read it back."""
    path = directory / f"Some_Thing-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = ["Metadata-Version: 2.1", "Name: Some.Thing", "Version: 1.0", *metadata]
        archive.writestr("Some_Thing-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr("Some_Thing-1.0.dist-info/entry_points.txt", "[console_scripts]\nthing = some:main [extra]\n")
    return wheels.read(path)


def interpreter(minor: int, abiflags: str = "") -> Interpreter:
    """Return an interpreter that only its version matters of."""
    return Interpreter(Path("/opt/python"), f"3.{minor}.1", (3, minor), abiflags)


def test_pure_wheel_becomes_noarch(tmp_path: Path) -> None:
    """Name, bounds, needs and commands of a pure wheel reach conda in its words; one package serves all versions."""
    wheel = make_wheel(
        tmp_path,
        "py3-none-any",
        [
            "Requires-Python: >=3.8, !=3.9.*",
            "Requires-Dist: Typing_Extensions (>=4.0)",
            "Requires-Dist: pinned ==2.*",
            'Requires-Dist: socks; extra == "socks"',
        ],
    )
    package = wheels.convert(wheel, interpreter(11))
    assert package == wheels.convert(wheel, interpreter(12))
    assert (package.name, package.version, package.build, package.noarch) == ("some-thing", "1.0", "py_0", "python")
    assert package.depends == ("python !=3.9.*,>=3.8", "pinned 2.*", "typing-extensions >=4.0")
    assert package.entry_points == ("thing = some:main",)


def test_conditions_become_packages_of_their_own(tmp_path: Path) -> None:
    """Where a wheel needs more on old versions of python, old and new versions get packages that exclude each other."""
    wheel = make_wheel(
        tmp_path,
        "py3-none-any",
        ["Requires-Python: >=3.6", 'Requires-Dist: dataclasses; python_version < "3.7"', "Requires-Dist: idna"],
    )
    old, new = wheels.convert(wheel, interpreter(6, "m")), wheels.convert(wheel, interpreter(13))
    assert old.depends == ("python >=3.6,<3.7", "dataclasses", "idna")
    assert new.depends == ("python >=3.6,>=3.7", "idna")
    assert old.file_name != new.file_name


@pytest.mark.slow
def test_wheel_that_does_not_exist_is_no_error(tmp_path: Path) -> None:
    """For a version of python that has no wheel of a compiled package, there is none; the channel does without."""
    assert wheels.fetch_compiled("numpy", interpreter(99), tmp_path) is None


def test_compiled_wheel_is_bound_to_its_python(tmp_path: Path) -> None:
    """A compiled wheel depends on one version of python, its ABI and the C library that it was built for."""
    wheel = make_wheel(tmp_path, "cp37-cp37m-manylinux_2_17_x86_64.manylinux2014_x86_64", [])
    package = wheels.convert(wheel, interpreter(7, "m"))
    assert package.depends == ("__glibc >=2.17", "python 3.7.*", "python_abi 3.7.* *_cp37m")
    assert package.subdir == packages.native_subdir()
