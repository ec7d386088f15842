"""spark-conf: what Spark is told; that Spark does as it is told is for tests/runners/test_pyspark.py."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import Cli

LAUNCHER = "/opt/somewhere/bin/envmgr-python"


def _properties(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


class TestSparkConf:
    def test_of_a_file_nothing_is_built(self, cli: Cli) -> None:
        """The name follows from the text; that it is not there is said, since the executors would not find it."""
        path = cli.spec()
        answer = cli("spark-conf", path, "--python", LAUNCHER)
        name = cli("name", path).out.strip()
        assert _properties(answer.out) == {
            "spark.pyspark.python": LAUNCHER,
            "spark.pyspark.driver.python": "python3",
            "spark.executorEnv.ENVMGR_ENV": name,
            "spark.executorEnv.ENVMGR_ROOT": str(cli.root),
        }
        assert f"warning: {name} is not in {cli.root}" in answer.err
        assert os.listdir(cli.root) == ["settings.toml"]

    def test_an_alias_is_resolved_now(self, cli: Cli) -> None:
        """All executors of an application run in one environment, though the alias moves meanwhile."""
        record = cli("create", cli.spec(), "--alias", "prod", "--json").record
        answer = cli("spark-conf", "prod")
        assert _properties(answer.out)["spark.executorEnv.ENVMGR_ENV"] == record["name"]
        assert answer.err == ""
        assert cli("spark-conf", "nobody").code == 6

    def test_the_driver_in_the_environment(self, cli: Cli) -> None:
        """With --driver the driver's interpreter is the environment's own, by the stable path."""
        record = cli("create", cli.spec(), "--json").record
        settings = _properties(cli("spark-conf", record["name"], "--driver").out)
        assert settings["spark.pyspark.driver.python"] == f"{record['path']}/bin/python"

    def test_in_cluster_mode_the_driver_is_told_too(self, cli: Cli) -> None:
        """Where the driver runs on the cluster it is started as the executors' Python is, with the same variables."""
        settings = _properties(cli("spark-conf", cli.spec(), "--mode", "cluster", "--python", LAUNCHER).out)
        assert settings["spark.pyspark.driver.python"] == LAUNCHER
        for prefix in ("spark.yarn.appMasterEnv", "spark.kubernetes.driverEnv"):
            assert settings[f"{prefix}.ENVMGR_ENV"] == settings["spark.executorEnv.ENVMGR_ENV"]
            assert settings[f"{prefix}.ENVMGR_ROOT"] == str(cli.root)

    def test_a_spec_that_travels(self, cli: Cli) -> None:
        """With --create Spark carries the file to the executors; where all is local it is read where it lies."""
        path = cli.spec()
        settings = _properties(cli("spark-conf", path, "--create").out)
        assert settings["spark.files"] == path.as_uri()
        assert settings["spark.executorEnv.ENVMGR_SPEC"] == path.name
        assert "spark.executorEnv.ENVMGR_ENV" not in settings
        local = _properties(cli("spark-conf", path, "--create", "--mode", "local").out)
        assert local["spark.executorEnv.ENVMGR_SPEC"] == str(path)
        assert "spark.files" not in local

    def test_what_cannot_travel(self, cli: Cli) -> None:
        """A name has no file, and files that a spec includes would stay behind: refused, with what to do."""
        (cli.directory / "more.txt").write_text("requests\n", encoding="utf-8")
        path = cli.write("dependencies:\n  - python\n  - pip\n  - pip:\n      - -r more.txt\n", "including.yml")
        answer = cli("spark-conf", path, "--create")
        assert (answer.code, "would not travel" in answer.err, "envmgr lock" in answer.err) == (2, True, True)
        assert cli("spark-conf", "env-0123456789abcdef", "--create").code == 2

    @pytest.mark.parametrize("words", [("--mode", "yarn"), ("--as", "toml")])
    def test_unknown_words(self, cli: Cli, words: tuple[str, str]) -> None:
        """What an option does not know is a usage error that names what it does know."""
        answer = cli("spark-conf", cli.spec(), *words)
        assert (answer.code, "is none of" in answer.err) == (2, True)

    def test_three_dresses_of_the_same(self, cli: Cli) -> None:
        """Lines, words and variables of the shell say the same; JSON has them all."""
        path = cli.spec()
        record = cli("spark-conf", path, "--json", "--python", LAUNCHER).record
        assert record["settings"] == _properties(cli("spark-conf", path, "--python", LAUNCHER).out)
        words = cli("spark-conf", path, "--python", LAUNCHER, "--as", "arguments").out.split()
        assert words[0::2] == ["--conf"] * len(record["settings"])
        assert dict(word.split("=", 1) for word in words[1::2]) == record["settings"]
        script = cli("spark-conf", path, "--python", LAUNCHER, "--as", "shell").out
        shown = subprocess.run(["sh", "-c", f"{script}env -0"], stdout=subprocess.PIPE, check=True, env={}).stdout
        variables = dict(entry.split("=", 1) for entry in shown.decode().split("\0") if entry)
        assert {key: variables[key] for key in record["variables"]} == record["variables"]
        assert shlex.split(variables["PYSPARK_SUBMIT_ARGS"]) == [*words, "pyspark-shell"]
        assert variables["PYSPARK_PYTHON"] == LAUNCHER

    def test_paths_that_a_shell_would_split(self, cli: Cli) -> None:
        """White space is no obstacle for lines and eval; ``$(…)`` would take it apart, so that is refused."""
        options = ("--python", "/opt/my tools/envmgr-python")
        path = cli.spec()
        assert _properties(cli("spark-conf", path, *options).out)["spark.pyspark.python"] == options[1]
        refused = cli("spark-conf", path, *options, "--as", "arguments")
        assert (refused.code, refused.out, "--properties-file" in refused.err) == (2, "", True)

    def test_the_launcher_of_path(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Without --python the executors' interpreter is the envmgr-python of PATH, at its absolute path."""
        launcher = tmp_path / "envmgr-python"
        launcher.write_text("#!/bin/sh\n", encoding="utf-8")
        launcher.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        settings = _properties(cli("spark-conf", cli.spec()).out)
        assert settings["spark.pyspark.python"] == str(launcher)
