"""What makes an environment useless for a system, as a table: one `Rule` for each thing that was seen to fail.

A rule looks at one or two distributions and says how certain it is: ``certain`` that the environment cannot work, or
that it ``may`` not, which only a spec can leave open. Why, the same where it is open, and hint are said with what is
known filled in: ``{found}``, which an environment ``{has}`` and a spec only asks for, and of the site ``{python}`` and
``{ray}``.

Sources: what Ray 2.60, PySpark 4.3, pyjava 0.6.21 and MLflow 3.17 did with environments that lack these packages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from packaging.version import InvalidVersion, Version

from envmgr.model import Json
from envmgr.runners.lint.packages import PYTHON, Known

SYSTEMS = ("ray", "pyspark", "pyjava", "mlflow")
Certainty = Literal["certain", "may"]
Level = Literal["error", "warning"]
_PATCHES = range(40)
_MINORS = range(6, 20)


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of where the environment is to work: the cluster's Python (its minor version) and Ray."""

    python: str | None = None
    ray: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `code` is stable."""

    code: str
    level: Level
    systems: tuple[str, ...]
    message: str
    hint: str

    def to_json(self) -> Json:
        return {
            "code": self.code,
            "level": self.level,
            "systems": list(self.systems),
            "message": self.message,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """See the module. `level` is that of a certain problem; what only `may` be one is a warning."""

    code: str
    systems: tuple[str, ...]
    about: str
    applies: Callable[[Known, Site], Certainty | None]
    why: str
    hint: str
    level: Level = "error"
    may: str = ""

    def finding(self, known: Known, site: Site, certainty: Certainty, systems: Iterable[str]) -> Finding:
        """Say what is wrong for those of `systems` that the rule is about."""
        has = "has" if known.is_exact else "asks for"
        words = {"has": has, "found": known.shown(self.about), "python": site.python, "ray": site.ray}
        message = (self.why if certainty == "certain" else self.may).format(**words)
        level: Level = self.level if certainty == "certain" else "warning"
        asked = tuple(system for system in systems if system in self.systems)
        return Finding(self.code, level, asked, message, self.hint.format(**words))


Applies = Callable[[Known, Site], Certainty | None]


def _missing(name: str, *, instead: Iterable[str] = (), brought_by: Iterable[str] = ()) -> Applies:
    """Apply where neither a distribution is there nor one of `instead`, nor (in a spec) one that brings it."""
    names, bringing = (name, *instead), tuple(brought_by)

    def applies(known: Known, _site: Site) -> Certainty | None:
        if any(known.names(each) for each in names):
            return None
        if known.is_exact:
            return "certain" if known.names(PYTHON) else None  # without an interpreter nothing else is worth saying
        return None if any(known.names(each) for each in bringing) else "certain"

    return applies


def _no_grpcio(known: Known, site: Site) -> Certainty | None:
    # Where the environment has no ray, the cluster's brings its own.
    return _missing("grpcio", brought_by=("mlflow",))(known, site) if known.names("ray") else None


def _other_ray(known: Known, site: Site) -> Certainty | None:
    if site.ray is None or not known.names("ray"):
        return None
    if not known.allows("ray", site.ray):
        return "certain"
    if known.is_exact:
        return None
    others = {"0.1", "99.0", f"{site.ray}.1", _next_minor(site.ray), *known.mentioned("ray")} - {site.ray}
    return "may" if any(known.allows("ray", other) for other in others) else None


def _next_minor(version: str) -> str:
    numbers = re.findall(r"\d+", version)
    return f"{numbers[0]}.{int(numbers[1]) + 1}.0" if len(numbers) > 1 else f"{version}.1"


def _from(name: str, bad: str, *, samples: Iterable[str]) -> Applies:
    """Apply where a distribution is of the version `bad` or newer; `samples` are older ones that a spec may allow."""
    older = tuple(samples)

    def applies(known: Known, _site: Site) -> Certainty | None:
        if not known.names(name):
            return None
        if name in known.versions:
            return "certain" if _is_at_least(known.versions[name], bad) else None
        newer = (bad, f"{bad}.1", f"{bad}.99", f"{int(bad.split('.', 1)[0]) + 1}.0")
        may_be_newer = any(known.allows(name, version) for version in newer)
        if not any(known.allows(name, version) for version in older):
            return "certain" if may_be_newer else None  # else a patch release that nobody foresaw
        return "may" if may_be_newer else None

    return applies


def _no_python(known: Known, _site: Site) -> Certainty | None:
    # Of a spec, whatever is a package of Python brings it.
    return "certain" if known.is_exact and not known.names(PYTHON) else None


def _other_python(known: Known, site: Site) -> Certainty | None:
    if site.python is None or not known.names(PYTHON):
        return None if site.python is None or known.is_exact else "may"
    if PYTHON in known.versions:
        return None if _minor(known.versions[PYTHON]) == site.python else "certain"
    allowed = _minors(known)
    if site.python not in allowed:
        return "certain"
    return "may" if len(allowed) > 1 else None


def _without_distutils(known: Known, _site: Site) -> Certainty | None:
    if known.names("setuptools"):
        return None
    if PYTHON in known.versions:
        return "certain" if _is_at_least(known.versions[PYTHON], "3.12") else None
    if known.is_exact:
        return None
    new = {_is_at_least(minor, "3.12") for minor in _minors(known)}
    return None if new == {False} else "may" if False in new else "certain"


def _prerelease(known: Known, _site: Site) -> Certainty | None:
    version = known.versions.get("ray")
    return "certain" if version is not None and not all(part.isdigit() for part in version.split(".")) else None


def _minors(known: Known) -> set[str]:
    """Return the minor versions of Python that a spec allows."""
    return {f"3.{minor}" for minor in _MINORS if any(known.allows(PYTHON, f"3.{minor}.{patch}") for patch in _PATCHES)}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _is_at_least(version: str, other: str) -> bool:
    try:
        return Version(version) >= Version(other)
    except InvalidVersion:
        return False


_PANDAS_2 = ("2.3.3", "2.3.2", "2.3.1", "2.3.0", "2.2.3", "2.2.2", "2.1.4", "2.0.3", "1.5.3", "1.4.4", "1.3.5", "1.1.5")

RULES: tuple[Rule, ...] = (
    Rule(
        "no-python", SYSTEMS, PYTHON, _no_python,
        "it {has} no interpreter", "add python to its spec",
    ),
    Rule(
        "python", SYSTEMS, PYTHON, _other_python,
        "it {has} {found} and the cluster Python {python}: functions of one cannot be read by the other",
        "ask for python={python}",
        may="it asks for {found}, which need not become Python {python}, the cluster's",
    ),
    Rule(
        "ray-version", ("ray", "pyjava"), "ray", _other_ray,
        "it {has} {found} and the cluster ray {ray}: workers and client do not understand each other",
        "ask for ray=={ray}", may="it asks for {found}, which need not become ray {ray}, the cluster's",
    ),
    Rule(
        "no-ray", ("ray",), "ray", _missing("ray"),
        "it {has} no ray of its own: workers start only where envmgr puts the cluster's behind it (its plugin, the "
        "conda home); elsewhere tasks wait for ever",
        "add ray for py_executable, and for whatever else starts the interpreter by its path",
        level="warning",
    ),
    Rule(
        "no-grpcio", ("ray", "pyjava"), "grpcio", _no_grpcio,
        "it {has} no grpcio, which ray:// needs: a connection that gives this environment to a whole job ends after a "
        "minute, without a reason",
        "ask for ray[client], unless nobody connects with ray://",
        level="warning",
    ),
    Rule(
        "no-pandas", ("pyspark",), "pandas", _missing("pandas", brought_by=("mlflow",)),
        "it {has} no pandas: pandas UDFs and toPandas do not work", "add pandas and pyarrow, unless nobody uses these",
        level="warning",
    ),
    Rule(
        "no-pyarrow", ("pyspark",), "pyarrow", _missing("pyarrow", brought_by=("mlflow",)),
        "it {has} no pyarrow: UDFs of SQL (all, since Spark 4.2) and Arrow's exchange do not work",
        "add pandas and pyarrow, unless nobody uses these", level="warning",
    ),
    Rule(
        "no-pyjava", ("pyjava",), "pyjava", _missing("pyjava"),
        "it {has} no pyjava: its worker cannot start", "add pyjava to the pip section",
    ),
    Rule(
        "no-ray", ("pyjava",), "ray", _missing("ray"),
        "it {has} no ray, which pyjava imports and does not ask for", "add ray[default,client] to the pip section",
    ),
    Rule(
        "no-pyarrow", ("pyjava",), "pyarrow", _missing("pyarrow", brought_by=("mlflow",)),
        "it {has} no pyarrow, which pyjava imports and does not ask for", "add pyarrow",
    ),
    Rule(
        "no-pandas", ("pyjava",), "pandas", _missing("pandas", brought_by=("mlflow",)),
        "it {has} no pandas, which pyjava imports and does not ask for", "add pandas<3",
    ),
    Rule(
        "no-requests", ("pyjava",), "requests", _missing("requests", brought_by=("ray", "mlflow", "mlflow-skinny")),
        "it {has} no requests, which pyjava imports and does not ask for", "add requests",
    ),
    Rule(
        "pandas-3", ("pyjava",), "pandas", _from("pandas", "3.0", samples=_PANDAS_2),
        "it {has} {found}: since pandas 3 pyjava cannot give back texts", "ask for pandas<3",
        may="it asks for {found}, which may become pandas 3: since then pyjava cannot give back texts",
    ),
    Rule(
        "no-distutils", ("pyjava",), PYTHON, _without_distutils,
        "pyjava imports distutils, which Python 3.12 dropped and setuptools brings back",
        "add setuptools, or ask for python<3.12",
        may="it asks for {found}, which may become 3.12 or newer: that dropped distutils, which pyjava imports",
    ),
    Rule(
        "ray-prerelease", ("pyjava",), "ray", _prerelease,
        "it {has} {found}: pyjava cannot read the version of a pre-release", "ask for a release of ray",
    ),
    Rule(
        "no-mlflow", ("mlflow",), "mlflow", _missing("mlflow", instead=("mlflow-skinny",)),
        "it {has} no mlflow: its models and projects cannot be loaded", "add mlflow, or mlflow-skinny",
    ),
    Rule(
        "no-cloudpickle", ("mlflow",), "cloudpickle", _missing("cloudpickle", brought_by=("mlflow", "mlflow-skinny")),
        "it {has} no cloudpickle, by which models of Python's own functions are stored", "add cloudpickle",
    ),
    Rule(
        "no-pandas", ("mlflow",), "pandas", _missing("pandas", brought_by=("mlflow",)),
        "it {has} no pandas, which mlflow-skinny does not bring and models are called with", "add pandas",
        level="warning",
    ),
)  # fmt: skip
"""The order is that in which findings of one level are told."""
