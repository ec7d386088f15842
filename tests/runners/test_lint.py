"""What lint says of an environment, by its spec's text, its lockfile or its packages; and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from envmgr import cli, spec
from envmgr.model import LockedPackage, Lockfile
from envmgr.runners.installed import Installed
from envmgr.runners.lint import SYSTEMS, Finding, Known, Site, lint
from envmgr.runners.lint.packages import of_installed, of_lockfile, of_spec
from envmgr.runners.requirements import ray_problems

CLUSTER = Site(python="3.11", ray="2.60.0")
WHOLE = {
    "ray": "2.60.0", "grpcio": "1.85.1", "pandas": "2.3.3", "pyarrow": "26.0.1", "pyjava": "0.6.21",
    "requests": "2.34.2", "mlflow-skinny": "3.17.2", "cloudpickle": "3.1.2",
}  # fmt: skip


def asked(*conda: str, pip: tuple[str, ...] = ()) -> Known:
    """Return what is known of a spec."""
    lines = [f"  - {requirement}" for requirement in conda]
    if pip:
        lines += ["  - pip:", *(f"    - {requirement}" for requirement in pip)]
    return of_spec(spec.parse("\n".join(["dependencies:", *lines, ""]).encode()))


def has(python: str | None = "3.11", /, **versions: str | None) -> Known:
    """Return what is known of a prefix with everything, but for what is given."""
    found = {**WHOLE, **{name.replace("_", "-"): version for name, version in versions.items()}}
    kept = {name: version for name, version in found.items() if version is not None}
    return of_installed(Installed(Path("/prefix"), python, (), kept))


def said(known: Known, *systems: str, site: Site = CLUSTER) -> set[str]:
    """Return the codes of what is found; warnings with a question mark."""
    return {_code(finding) for finding in lint(known, systems, site)}


def _code(finding: Finding) -> str:
    return finding.code + "?" * (finding.level == "warning")


class TestPackages:
    def test_what_has_everything(self) -> None:
        """Of an environment that has what every system wants, nothing is said."""
        assert said(has(), *SYSTEMS) == set()

    @pytest.mark.parametrize(
        ("system", "known", "expected"),
        [
            ("ray", has(None), {"no-python"}),
            ("ray", has("3.10"), {"python"}),
            ("ray", has(ray="2.59.0"), {"ray-version"}),
            ("ray", has(ray=None), {"no-ray?"}),
            ("ray", has(ray=None, grpcio=None), {"no-ray?"}),
            ("ray", has(grpcio=None), {"no-grpcio?"}),
            ("pyspark", has("3.12"), {"python"}),
            ("pyspark", has(ray=None, pandas=None, pyarrow=None), {"no-pandas?", "no-pyarrow?"}),
            ("pyjava", has(pandas="3.1.0"), {"pandas-3"}),
            ("pyjava", has(pandas="3.0.0rc1"), set()),
            ("pyjava", has(pandas=None, pyarrow=None), {"no-pandas", "no-pyarrow"}),
            ("pyjava", has(pyjava=None, requests=None, ray=None), {"no-pyjava", "no-requests", "no-ray"}),
            ("pyjava", has("3.12"), {"python", "no-distutils"}),
            ("pyjava", has("3.12", setuptools="80.9.0"), {"python"}),
            ("pyjava", has(ray="2.60.0rc1"), {"ray-version", "ray-prerelease"}),
            ("mlflow", has(mlflow_skinny=None), {"no-mlflow"}),
            ("mlflow", has(mlflow_skinny=None, mlflow="3.17.2"), set()),
            ("mlflow", has(cloudpickle=None, pandas=None), {"no-cloudpickle", "no-pandas?"}),
        ],
    )
    def test_each_lack(self, system: str, known: Known, expected: set[str]) -> None:
        """Each lack is told, with all others at once, and with nothing that is no lack."""
        assert said(known, system) == expected

    def test_without_a_cluster_there_is_nothing_to_compare(self) -> None:
        """Where neither Python nor Ray of the cluster is told, any version will do."""
        assert said(has("3.9", ray="1.9.2"), "ray", "pyspark", site=Site()) == set()

    @pytest.mark.parametrize("known", [has(), has("3.10"), has(ray="2.59.0"), has(grpcio=None), has(None)])
    def test_rays_runner_agrees(self, known: Known) -> None:
        """What lint calls an error for Ray, the runner refuses before a worker starts, and the other way round."""
        python = known.versions.get("python")
        prefix = Installed(Path("/prefix"), python, (), {**known.versions})
        refused = ray_problems(prefix, python="3.11", ray="2.60.0")
        errors = [finding for finding in lint(known, ["ray"], CLUSTER) if finding.level == "error"]
        assert len(errors) == len(refused)

    def test_a_lockfile_says_the_same(self) -> None:
        """Conda's names are those of Python's distributions, whoever installs them."""

        def package(name: str, version: str) -> LockedPackage:
            return LockedPackage("conda", name, version, f"https://c/{name}.conda", "0" * 64, None, "0", "linux-64", ())

        packages = [package("python", "3.12.4"), package("ray-core", "2.60.0"), package("pandas", "3.0.1")]
        known = of_lockfile(Lockfile("linux-64", (), tuple(packages), (), "0" * 64, ""))
        assert said(known, "ray") == {"python", "no-grpcio?"}
        assert "pandas-3" in said(known, "pyjava")


class TestSpecs:
    @pytest.mark.parametrize(
        ("known", "expected"),
        [
            (asked("python=3.11", pip=("ray[client]==2.60.0",)), set()),
            (asked("python=3.11.7", "ray-client==2.60.0"), set()),
            (asked("python", pip=("ray[client]>=2.5",)), {"python?", "ray-version?"}),
            (asked("python=3.1", pip=("ray==2.59.0", "grpcio")), {"python", "ray-version"}),
            (asked("python>=3.10,<3.13", pip=("ray==2.60.*", "grpcio")), {"python?", "ray-version?"}),
            (asked("python=3.11", pip=("humanize",)), {"no-ray?"}),
            (asked("python=3.11", "ray-core 2.60.0|2.59.0", "grpcio"), {"ray-version?"}),
            (
                asked("python=3.11", pip=("ray @ https://w/ray-2.60.0-py3-none-any.whl", "grpcio")),
                {"ray-version?"},
            ),
            (asked("python=3.11", pip=("grpcio", "ray==2.60.0; python_version<'3.12'")), set()),
            (asked("python=3.11", "ray-core==2.59.0 # [win]", "ray-core==2.60.0 # [linux]", "grpcio"), set()),
        ],
    )
    def test_ray(self, known: Known, expected: set[str]) -> None:
        """What no allowed version can be is an error; what one may become, a warning."""
        assert said(known, "ray") == expected

    @pytest.mark.parametrize(
        ("pandas", "expected"),
        [
            ("pandas", {"pandas-3?"}), ("pandas<3", set()), ("pandas>=3", {"pandas-3"}),
            ("pandas==3.0.1", {"pandas-3"}),
            ("pandas>=2", {"pandas-3?"}), ("pandas==1.5.3", set()), ("pandas==2.0.1", set()), ("pandas~=2.1", set()),
        ],
    )  # fmt: skip
    def test_pandas_for_pyjava(self, pandas: str, expected: set[str]) -> None:
        """A bound below 3 is enough; none is a warning."""
        pip = (pandas, "pyarrow", "requests", "pyjava", "ray[default,client]==2.60.0")
        assert said(asked("python=3.11", pip=pip), "pyjava") == expected

    @pytest.mark.parametrize(
        ("python", "expected"),
        [
            ("python=3.11", set()), ("python>=3.12", {"no-distutils"}), ("python=3.13", {"no-distutils"}),
            ("python", {"no-distutils?"}), ("python<3.12", set()), ("python>=3.8,<3.14", {"no-distutils?"}),
        ],
    )  # fmt: skip
    def test_distutils_for_pyjava(self, python: str, expected: set[str]) -> None:
        """Python 3.12 and newer need setuptools; which Python it becomes may be open."""
        pip = ("pandas<3", "pyarrow", "requests", "pyjava", "ray[client]")
        assert said(asked(python, pip=pip), "pyjava", site=Site()) == expected
        assert said(asked(python, "setuptools", pip=pip), "pyjava", site=Site()) == set()

    def test_what_comes_with_others_is_not_missing(self) -> None:
        """mlflow brings pandas, pyarrow and cloudpickle; what nothing in the spec is known to bring is missing."""
        assert said(asked("python=3.11", pip=("mlflow",)), "mlflow", "pyspark") == set()
        assert said(asked("python=3.11", pip=("mlflow-skinny",)), "mlflow") == {"no-pandas?"}
        assert said(asked("python=3.11", "numpy"), "mlflow") == {"no-mlflow", "no-cloudpickle", "no-pandas?"}

    def test_words(self) -> None:
        """A finding says what was asked for, what the cluster has, and what to ask for; errors come first."""
        findings = lint(asked("python=3.10", pip=("ray",)), ["ray", "pyjava"], CLUSTER)
        assert findings[0].message.startswith("it asks for python==3.10.* and the cluster Python 3.11: ")
        assert (findings[0].hint, findings[0].systems) == ("ask for python=3.11", ("ray", "pyjava"))
        levels = [finding.level for finding in findings]
        assert levels == sorted(levels)
        assert set(findings[0].to_json()) == {"code", "level", "systems", "message", "hint"}

    def test_a_spec_has_nothing_yet(self) -> None:
        """Of a spec is said what it asks for, also of what could not work; only of packages, what there is."""

        def messages(known: Known) -> str:
            return " ".join(finding.message for finding in lint(known, SYSTEMS, CLUSTER))

        asking = messages(asked("python=3.12", "ray-core==2.59.0", "pandas>=3"))
        assert "it asks for ray==2.59.0 and the cluster ray 2.60.0" in asking
        assert "it asks for no pyarrow" in asking
        assert "it has" not in asking
        having = messages(has("3.12", ray="2.59.0", pandas="3.0.1", pyarrow=None))
        assert "it has ray 2.59.0 and the cluster ray 2.60.0" in having
        assert "it has no pyarrow" in having


class TestCommand:
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENVMGR_ROOT", str(tmp_path / "store"))
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_exit_codes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """15 and every problem on a line where it cannot work, 0 with warnings; no store is made."""
        file = tmp_path / "environment.yml"
        file.write_text("dependencies: [python=3.10, {pip: [ray==2.59.0]}]\n")
        assert cli.main(["lint", str(file), "--for", "ray", "--python", "3.11.7", "--ray", "2.60.0"]) == 15
        out, err = capsys.readouterr()
        assert [line.partition(":")[0] for line in out.splitlines()] == ["error", "error", "warning"]
        assert "by the spec's text alone: 2 errors, 1 warning" in err
        for systems in (["--for", "ray,pyspark"], ["--for", "ray", "--for", "pyspark"]):
            assert cli.main(["lint", str(file), *systems]) == 0
            assert "warning: pyspark: it asks for no pandas" in capsys.readouterr().out
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize(
        "words",
        [
            ["x"],
            ["x", "--for", "dask"],
            ["x", "--for", "ray", "--ray", "two"],
            ["x", "--for", "ray", "--ray", "2.x"],
            ["x", "--for", "ray", "--python", "2.7"],
        ],
    )
    def test_usage(self, words: list[str]) -> None:
        """What names no system, and no version, is a usage error."""
        assert cli.main(["lint", *words]) == 2

    def test_a_name_that_is_not_there(self) -> None:
        """Of a name nothing is known where nothing was ever made of it."""
        assert cli.main(["lint", "forecast", "--for", "ray"]) == 6
