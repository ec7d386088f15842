"""The conda home: every form of call that MLflow, Ray, MLSQL, pyjava and BigDL make, one caller at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import example_site
import pytest
from answers import Answer, ended
from conda_homes import SPEC, CondaHome
from example_site import Site

import envmgr
from envmgr import names, ready
from envmgr.backends.conda import exclusive
from envmgr.errors import UsageError
from envmgr.runners.condahome import installation
from envmgr.store import publication, records
from envmgr.store.layout import Layout

pytestmark = pytest.mark.slow
N = "mlflow-appA-1f3a"
SHELLS = [("bash", "-c"), ("bash", "-euc"), ("sh", "-c"), ("dash", "-euc")]


@pytest.fixture(scope="module")
def conda(make_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> CondaHome:
    """A home in whose store there is one environment, called `N`."""
    directory = tmp_path_factory.mktemp("c")
    made = CondaHome(directory, make_store(directory / "store"))
    assert json.loads(made.ok("env", "list", "--json")) == {"envs": []}
    out = made.ok("env", "create", "-n", N, "--file", made.spec("training"))
    assert "was built" in out.splitlines()[-1]
    return made


def prefix(conda: CondaHome) -> str:
    lease = ready.acquire(str(conda.root), N)
    assert lease is not None
    lease.close()
    return lease.prefix


# ---------------------------------------------------------------------------------------------------------- the home


def test_installed_again(conda: CondaHome) -> None:
    """A second installation replaces the files of the first; another directory's are left alone."""
    old = (conda.path / "bin" / "conda").read_bytes()
    (conda.path / "bin" / "conda").write_text("#!/bin/sh\n")
    conda.install()
    assert (conda.path / "bin" / "conda").read_bytes() == old
    assert (conda.path / "envs" / N / "bin" / "python").exists()
    for path in (conda.directory, conda.directory / "with a space", conda.spec("file")):
        with pytest.raises(UsageError):
            installation.install(path, conda.root, lambda _words: None)


def test_a_computed_name_that_another_user_set_is_not_listed(conda: CondaHome, tmp_path: Path) -> None:
    """MLflow would take it unasked; it is listed for whoever had it set, and other names are for everybody."""
    store = Layout(conda.root)
    name = ready.resolve_alias(str(conda.root), N)
    assert name is not None
    other, plain = names.alias("mlflow-1f3b"), names.alias("forecast")
    for alias in (other, plain):
        publication.set_alias(store, alias, name)
        records.write_alias_setter(store, name, alias, 12345, 0.0)
    listed = [Path(path).name for path in json.loads(conda.ok("env", "list", "--json"))["envs"]]
    assert plain in listed
    assert other not in listed
    records.write_alias_setter(store, name, other, os.geteuid(), 0.0)
    assert f"/{other}" in conda.ok("env", "list", "--json")
    for alias in (other, plain):
        publication.remove_alias(store, alias)


def test_a_directory_of_others_is_no_home(conda: CondaHome, tmp_path: Path) -> None:
    """Where others may write, a link of theirs would be followed, and callers would run what they put there."""
    (tmp_path / "open" / "bin").mkdir(parents=True)
    (tmp_path / "open" / "envmgr-condahome").touch()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "bin" / ".conda.new").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="another user's"):
        installation.install(tmp_path / "open", conda.root, lambda _words: None)
    assert not (tmp_path / "mine").exists()


def test_a_home_whose_envmgr_is_gone(conda: CondaHome, tmp_path: Path) -> None:
    """It says so, in one line."""
    script = (conda.path / "bin" / "conda").read_text().replace("/envmgr", "/gone")
    (tmp_path / "conda").write_text(script)
    answer = ended(conda.start("sh", tmp_path / "conda", "--help"))
    assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert "condahome install" in answer.err


def test_the_example(run_example: Callable[..., str]) -> None:
    """Two engines, two names, one environment; what one removes, the other keeps."""
    run_example("condahome")


@pytest.mark.runners
def test_examples_one_after_the_other(site: Site, tmp_path: Path, demo_channel: str) -> None:
    """scripts/examples gives each an empty store, as the counts that it prints demand, and leaves none behind."""
    settings = f'default_channels = ["{demo_channel}"]\n'
    assert [example_site.check("condahome", site, tmp_path, settings) for _ in range(2)] == [None, None]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- asking


def test_what_every_caller_asks_first(conda: CondaHome) -> None:
    """--help, no words, --version: success, and a version that looks like conda's."""
    assert conda.ok("--help") == conda.ok() == conda.ok("env", "create", "--help")
    word, version = conda.ok("--version").split()
    assert word == "conda"
    assert version[0].isdigit()


def test_listing(conda: CondaHome) -> None:
    """Only what is ready, by name and alias, as absolute paths whose last part is the name."""
    broken = conda.root / "envs" / "removed"
    broken.symlink_to("env-0123456789abcdef")
    envs = json.loads(conda.ok("env", "list", "--json"))["envs"]
    broken.unlink()
    assert {os.path.basename(path) for path in envs} >= {N, conda.stands_for(N)}
    assert "removed" not in map(os.path.basename, envs)
    assert all(os.access(f"{path}/bin/python", os.X_OK) for path in envs)
    for words in (("env", "list"), ("info", "--envs"), ("info", "-e")):
        assert f"{conda.root}/envs/{N}" in conda.ok(*words)
    info = json.loads(conda.ok("info", "--json"))
    assert info["envs"] == envs
    assert info["conda_prefix"] == info["root_prefix"] == str(conda.path)
    assert info["envs_dirs"] == [str(conda.root / "envs")]
    assert info["active_prefix"] is None
    assert "base environment" in conda.ok("info")


@pytest.mark.parametrize("words", [("env", "list", "--json"), ("info", "--json"), ("shell.posix", "activate", N)])
def test_asking_imports_little(conda: CondaHome, words: tuple[str, ...]) -> None:
    """Neither site-packages nor what takes milliseconds of the standard library: these calls come before every job."""
    program = (
        "import atexit, sys; sys.path.insert(0, sys.argv.pop(1)); from envmgr.runners.condahome import program; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); program.main(*sys.argv[1:])"
    )
    packages = Path(envmgr.__file__).parent.parent
    answer = ended(conda.start(sys.executable, "-I", "-S", "-c", program, packages, conda.path, conda.root, *words))
    assert answer.code == 0, answer.err
    assert {"site", "json", "re", "typing", "pathlib", "dataclasses", "enum"}.isdisjoint(answer.err.split())


# ------------------------------------------------------------------------------------------------------------- making


def test_creating_what_is_there(conda: CondaHome) -> None:
    """The same spec, in whatever words and under whatever name, is there already: one environment, every name."""
    other = conda.spec("other", "# a comment\nchannels: []\ndependencies: [python]\nname: something\n")
    for name, file in ((N, conda.spec("training")), (N, other), ("mlflow-appB-77", other)):
        assert "is there already" in conda.ok("env", "create", "-n", name, "--file", file)
        assert conda.stands_for(name) == conda.stands_for(N)
    assert "is there already" in conda.ok("create", "-y", "-n", "words", "python")
    assert "is there already" in conda.ok("env", "create", "--file", conda.spec("training"))  # its own name
    assert conda.stands_for("training") == conda.stands_for("words") == conda.stands_for(N)
    answer = json.loads(conda.ok("env", "create", "-n", N, "-f", other, "--json"))
    assert (answer["success"], answer["prefix"]) == (True, f"{conda.root}/envs/{N}")
    assert len(conda.builds()) == 1


def test_unknown_keys_only_warn(conda: CondaHome) -> None:
    """As conda does; the warning stands on standard output, where MLSQL shows it."""
    out = conda.ok("env", "create", "-n", "warned", "-f", conda.spec("keys", SPEC + "artifact_path: model\n"))
    assert "warning" in out
    assert "artifact_path" in out


def test_a_name_of_another_spec(conda: CondaHome) -> None:
    """It is an error, never the old environment; and the clean-up of who failed does not take the name away."""
    before = conda.stands_for(N)
    other = conda.spec("taken", "dependencies: [python, pip]\n")
    answer = conda("env", "create", "-n", N, "--file", other)
    assert (answer.code, answer.out) == (1, "")
    assert f"{N} exists and was made from another spec" in answer.err
    assert "nothing to remove" in conda.ok("env", "remove", "-y", "-n", N)
    assert conda.stands_for(N) == before
    assert len(conda.builds()) == 1


def test_removing(conda: CondaHome) -> None:
    """The name goes and the environment stays; a name that is not there is an error, as conda's."""
    for words in (("env", "remove", "-y", "-n"), ("remove", "--yes", "--all", "--name")):
        conda.ok("env", "create", "-n", "short", "-f", conda.spec("training"))
        assert "short is gone" in conda.ok(*words, "short")
        assert not (conda.root / "envs" / "short").is_symlink()
        assert conda(*words, "short").code == 1
    assert os.path.isdir(prefix(conda))
    answer = conda("env", "remove", "-n", conda.stands_for(N))
    assert (answer.code, "envmgr remove" in answer.err) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dependencies: [\n", "not YAML"),
        ("dependencies: [no-such-package]\n", "no-such-package"),
        ("dependencies: [python==]\n", "python=="),
    ],
)
def test_a_broken_spec(conda: CondaHome, text: str, words: str) -> None:
    """It is told in a few lines on standard error, within seconds, also to a caller who reads as Ray does."""
    began = time.monotonic()
    process = conda.start(conda.path / "bin" / "conda", "env", "create", "-n", "bad", "-f", conda.spec("bad", text))
    with process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            if process.poll() is not None:
                break
            seen.append(line)
        assert process.wait() == 1
    assert words in "".join(seen)
    assert len(seen) < 30
    assert time.monotonic() - began < 20
    record = conda("env", "create", "-n", "bad", "-f", conda.spec("bad", text), "--json")
    assert words in json.loads(record.out)["error"]


@pytest.mark.parametrize("name", ["a b", "-x", "a/b", "base", "env-0123456789abcdef", "_x", "é", "x.yml", "a" * 129])
def test_names_that_cannot_be(conda: CondaHome, name: str) -> None:
    """What conda allows and envmgr does not is a clear error, before anything is made."""
    answer = conda("env", "create", "--name", name, "-f", conda.spec("training"))
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err


def test_a_path(conda: CondaHome, tmp_path: Path) -> None:
    """-p makes a link to the environment and removes only that; what else stands there is never touched."""
    path, file = tmp_path / "new" / "0f31", conda.spec("training")
    for _ in range(2):
        assert "is there already" in conda.ok("env", "create", "--file", file, "--prefix", path)
        assert os.path.realpath(path) == prefix(conda)
    assert conda.shell(f". $H/etc/profile.d/conda.sh && conda activate {path} 1>&2 && python -V").out == "Python " + (
        conda.shell(f"{path}/bin/python -V").out.removeprefix("Python ")
    )
    taken = conda("env", "create", "--prefix", path, "--file", conda.spec("taken", "dependencies: [python, pip]\n"))
    assert (taken.code, taken.out, os.path.realpath(path)) == (1, "", prefix(conda))
    conda.ok("remove", "-p", path, "--all", "-y")
    assert not path.is_symlink()
    assert conda("remove", "-p", path, "--all", "-y").code == 1
    for words in (("env", "create", "-f", file), ("env", "remove")):
        assert conda(*words, "-p", tmp_path).code == 1
    conda.ok("env", "create", "-f", file, "-p", conda.path / "envs" / "by-path")  # a path of the home is a name
    assert conda.stands_for("by-path") == conda.stands_for(N)
    conda.ok("env", "remove", "-p", conda.root / "envs" / "by-path")
    assert tmp_path.is_dir()
    assert os.path.isdir(prefix(conda))


# -------------------------------------------------------------------------------------------------------- going there


@pytest.mark.parametrize("shell", SHELLS)
def test_activation(conda: CondaHome, shell: tuple[str, ...]) -> None:
    """Silent, in a shell without variables; deactivation brings back what was there; unknown names are one line."""
    source = f"source $H/bin/activate {N}" if shell[0] == "bash" else f". $H/etc/profile.d/conda.sh; conda activate {N}"
    program = "import sys, os; print(sys.prefix, os.environ['CONDA_PREFIX'])"
    answer = conda.shell(f'{source} && python -c "{program}"', shell=shell)
    assert answer == Answer(0, f"{prefix(conda)} {prefix(conda)}\n", "")
    text = f'. "$H/etc/profile.d/conda.sh"; a=$(env); conda activate {N} 1>&2; conda activate {N}; conda deactivate; '
    environ = {"H": str(conda.path), "PATH": f"{os.defpath}:/a directory"}
    text += 'test "$a" = "$(env)" && conda deactivate && echo "$PATH"'
    answer = conda.shell(text, shell=shell, env=environ)
    assert answer == Answer(0, f"{conda.path}/condabin:{environ['PATH']}\n", "")
    answer = conda.shell('. "$H/etc/profile.d/conda.sh"; conda activate nope && echo there', shell=shell)
    assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert "'nope'" in answer.err


def test_activation_of_nothing(conda: CondaHome) -> None:
    """Sourcing bin/activate without a name, and base, give the function and nothing else; so does shell.bash hook."""
    for text in ("source $H/bin/activate", "source $H/bin/activate base", 'eval "$($H/bin/conda shell.bash hook)"'):
        answer = conda.shell(f'{text} && conda activate {N} && echo "$CONDA_PREFIX"')
        assert answer == Answer(0, f"{prefix(conda)}\n", ""), text


def test_help_is_not_evaluated(conda: CondaHome) -> None:
    """What the function `conda` evaluates is text for a shell or nothing: help and errors go to standard error."""
    answer = conda.shell(". $H/etc/profile.d/conda.sh; for verb in activate deactivate; do conda $verb --help; done")
    assert (answer.code, answer.out) == (2, "")
    assert [line for line in answer.err.splitlines() if not line.startswith(("conda: ", "hint: "))] == []


def test_what_was_set_before_comes_back(conda: CondaHome) -> None:
    """Another conda's environment that was active is active again."""
    text = f"export CONDA_PREFIX=/other CONDA_DEFAULT_ENV=other; . $H/etc/profile.d/conda.sh; conda activate {N}; "
    answer = conda.shell(text + 'conda deactivate; echo "$CONDA_PREFIX $CONDA_DEFAULT_ENV"')
    assert answer == Answer(0, "/other other\n", "")


def test_run(conda: CondaHome) -> None:
    """conda run gives output and exit status through, and hands on what comes behind the command."""
    words = ("run", "--no-capture-output", "-n", N, "--cwd", "/", "python", "-c")
    program = "import os, sys; print(sys.prefix, os.getcwd(), sys.argv[1:]); sys.exit(3)"
    assert conda(*words, program, "-n", "--json") == Answer(3, f"{prefix(conda)} / ['-n', '--json']\n", "")
    assert conda("run", "-n", N, "no-such-program").code == 127
    assert conda("run", "-n", "nope", "true").code == 1


def test_what_an_environment_has(conda: CondaHome, tmp_path: Path) -> None:
    """conda list, as JSON and for export; conda pack as Orca calls it."""
    (python,) = json.loads(conda.ok("list", "-n", N, "--json"))
    version, build = python["version"], python["build_string"]
    assert conda.ok("list", "-n", N, "--export") == f"python={version}={build}\n"
    words = ("--format", "tar.gz", "--n-threads", "8", "-f", "-n", N, "-o", tmp_path / "env.tar.gz")
    conda.ok("pack", *words)
    assert (tmp_path / "env.tar.gz").stat().st_size > 1 << 20


# ----------------------------------------------------------------------------------------------- what is not answered


def test_other_commands_are_refused(conda: CondaHome) -> None:
    """They say what is answered and which setting hands them on."""
    for words in (("install", "-n", N, "numpy"), ("update", "--all"), ("env", "export"), ("info", "numpy")):
        answer = conda(*words)
        assert (answer.code, answer.out) == (1, "")
        assert "pass_conda_commands" in answer.err
    answer = conda("activate", N)
    assert (answer.code, answer.out) == (2, "")
    assert "/bin/activate NAME" in answer.err
    assert conda("env", "create", "-n", "x", env={**conda.environ, "ENVMGR_CONDA_PASSED_ON": "1"}).code == 1


def test_other_commands_are_handed_on(conda: CondaHome, tmp_path: Path) -> None:
    """The site's conda (here a script that stands in for one) runs under the lock of its package cache, and gets no
    environment of envmgr's to see."""
    cache = tmp_path / "pkgs"
    stand_in = tmp_path / "bin" / "conda"
    stand_in.parent.mkdir()
    stand_in.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "--version) echo conda 24.1.0 ;;\n"
        f'"config --json --show pkgs_dirs") echo \'{{"pkgs_dirs": ["{cache}"]}}\' ;;\n'
        f'*) echo "$* ${{CONDA_PREFIX-none}}"; flock -n {cache}/{exclusive.LOCK_NAME} true || echo locked; exit 5 ;;\n'
        "esac\n"
    )
    stand_in.chmod(0o755)
    settings = conda.root / "settings.toml"
    text = settings.read_text()
    settings.write_text(text + "pass_conda_commands = true\n")
    try:
        path = f"{conda.path}/bin:{stand_in.parent}:{os.defpath}"
        calls = "conda config --show; echo $?; conda install -p $CONDA_PREFIX numpy"
        joined = conda("install", f"-p{conda.root}/envs/{N}", "numpy", env={**conda.environ, "PATH": path})
        answer = conda.shell(
            f"source $H/bin/activate {N}; {calls}", env={**conda.environ, "H": conda.path, "PATH": path}
        )
        alone = conda("search", "x")
    finally:
        settings.write_text(text)
    assert answer.out == "config --show none\nlocked\n5\n"
    assert (answer.code, "which no conda changes" in answer.err) == (1, True)
    assert (joined.code, "which no conda changes" in joined.err) == (1, True)
    assert (alone.code, shutil.which("conda", path=os.defpath)) == (2, None)
