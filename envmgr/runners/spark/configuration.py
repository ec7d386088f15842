"""The settings with which Spark's Python workers run inside an environment.

An executor starts one interpreter (``PYTHON -m pyspark.daemon``) and forks its workers from that. With
``envmgr-python`` for PYTHON, the daemon holds the environment's lease until the executor ends, and each worker holds
it, too, for as long as it lives. Spark takes a path there and no arguments, so the environment is told in variables:

``ENVMGR_ENV``
    a name: the environment has to be on the executor's host (``envmgr create`` or ``envmgr cluster create``)
``ENVMGR_SPEC``
    a file: the first executor of a host makes the environment, and the others of that host wait for it. The file
    travels with the application (``spark.files``), into the executors' working directories.

Spark passes ``spark.executorEnv.*`` to its executors, and once more with each Python function: so it also holds with
``--master local``, where the driver's own process starts the workers, but does not fetch files into its directory.

``spark.pyspark.python`` and ``spark.pyspark.driver.python`` are read by spark-submit alone. A driver that is started
as ``python driver.py`` takes the executors' interpreter from ``PYSPARK_PYTHON``, and settings from
``PYSPARK_SUBMIT_ARGS``. Without a driver's interpreter of its own spark-submit would start the driver, too, with
``spark.pyspark.python``, but without those variables: so one is always named.

Not tried: YARN, Kubernetes, Spark Connect (whose sessions have working directories of their own, without the file).

Source: Spark 4.3, python/pyspark/core/context.py, python/pyspark/java_gateway.py,
core/…/deploy/PythonRunner.scala, docs/running-on-yarn.md, docs/running-on-kubernetes.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from envmgr.errors import UsageError

Mode: TypeAlias = Literal["client", "cluster", "local"]
MODES: tuple[Mode, ...] = get_args(Mode)

_DRIVERS = ("spark.yarn.appMasterEnv.", "spark.kubernetes.driverEnv.")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What Spark is told: its settings by their names, and the interpreters that are among them."""

    python: str
    driver_python: str
    settings: Mapping[str, str]

    @property
    def variables(self) -> dict[str, str]:
        """The same for a driver that is started without spark-submit, as variables of its environment.

        The second one is for Spark's own scripts, which would start the first.
        """
        arguments = shlex.join([*self._words(), "pyspark-shell"])
        return {
            "PYSPARK_PYTHON": self.python,
            "PYSPARK_DRIVER_PYTHON": self.driver_python,
            "PYSPARK_SUBMIT_ARGS": arguments,
        }

    def as_properties(self) -> str:
        """Return lines for ``spark-defaults.conf`` or ``--properties-file`` (the format of Java's properties)."""
        return "".join(f"{key} {value.replace(chr(92), chr(92) * 2)}\n" for key, value in self.settings.items())

    def as_arguments(self) -> str:
        """Return one line for ``spark-submit $(…)``; `UsageError` where the shell would take words apart."""
        words = self._words()
        if odd := next((word for word in words if shlex.quote(word) != word), None):
            raise UsageError(
                f"{odd!r} has characters that a shell takes for its own",
                hint="write the settings into a file and use spark-submit --properties-file",
            )
        return " ".join(words) + "\n"

    def as_shell(self) -> str:
        """Return text for ``eval`` in a POSIX shell, before ``python driver.py``."""
        return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in self.variables.items())

    def _words(self) -> list[str]:
        return [word for key, value in self.settings.items() for word in ("--conf", f"{key}={value}")]


def of_environment(
    environment: Mapping[str, str], *, mode: Mode, python: str, driver_python: str, spec: Path | None = None
) -> Configuration:
    """Return the settings for an application.

    `environment` are variables for envmgr-python, without ``ENVMGR_SPEC``: that is made of `spec`, if there is one.
    `python` is where envmgr-python is on the executors' hosts. `driver_python` is the driver's interpreter; in cluster
    mode the driver runs where the executors do, and always with `python` in the same environment.
    """
    variables = dict(environment)
    files: dict[str, str] = {}
    if spec is not None and mode == "local":
        variables["ENVMGR_SPEC"] = str(spec)
    elif spec is not None:
        variables["ENVMGR_SPEC"] = spec.name
        files["spark.files"] = spec.as_uri()
    if mode == "cluster":
        driver_python = python
    settings = {"spark.pyspark.python": python, "spark.pyspark.driver.python": driver_python, **files}
    for prefix in ("spark.executorEnv.", *(_DRIVERS if mode == "cluster" else ())):
        settings |= {prefix + key: value for key, value in variables.items()}
    for key, value in settings.items():
        if not value.isprintable():
            raise UsageError(f"{key} would be {value!r}, which no file of Spark's settings can hold")
    return Configuration(python, driver_python, settings)
