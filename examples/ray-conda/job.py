"""A Ray program that knows nothing of envmgr: environments by Ray's own field ``conda``."""

import os
import subprocess

import ray


@ray.remote
class Forecaster:
    """Needs what only its environment has."""

    def number(self) -> str:
        import humanize

        return humanize.intcomma(1234567)

    def environment(self) -> str:
        return os.path.basename(os.path.realpath(os.environ["CONDA_PREFIX"]))


def started(conda: object) -> ray.actor.ActorHandle:
    """Start an actor in an environment, and tell which one that is."""
    forecaster = Forecaster.options(runtime_env={"conda": conda}).remote()
    number, environment = ray.get([forecaster.number.remote(), forecaster.environment.remote()], timeout=200)
    print(number, "in", environment)
    return forecaster


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=f"{os.environ['HOME']}/ray")

named = started("forecast")
described = started({"dependencies": ["pip", {"pip": ["humanize"]}]})

removal = subprocess.run(["envmgr", "remove", "environment.yml"], cwd=os.path.dirname(__file__), check=False)
print("removed while Ray's worker runs:", removal.returncode == 0)

try:
    started({"dependencies": ["no-such-package"]})
except ray.exceptions.RuntimeEnvSetupError as error:
    print("refused:", str(error).partition("Output:")[2])
