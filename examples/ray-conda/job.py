"""A Ray program that knows nothing of envmgr: environments by Ray's own field ``conda``."""

import os
import subprocess

import ray


@ray.remote
class Forecaster:
    """Needs what only the environment has."""

    def number(self) -> str:
        import humanize

        return humanize.intcomma(1234567)

    def environment(self) -> str:
        return os.path.basename(os.path.realpath(os.environ["CONDA_PREFIX"]))


def started(conda: object) -> tuple[ray.actor.ActorHandle, str]:
    """Start an actor in an environment; return the environment's name, too."""
    forecaster = Forecaster.options(runtime_env={"conda": conda}).remote()
    return forecaster, ray.get(forecaster.environment.remote(), timeout=300)


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=f"{os.environ['HOME']}/ray")

one, name = started({"dependencies": ["pip", {"pip": ["humanize"]}]})
print(ray.get(one.number.remote()), "in the environment that the job describes:", name)

# Whoever looks after the environments gives it a name, and jobs say that.
subprocess.run(["envmgr", "alias", "set", "forecast", name], check=True)
other, again = started("forecast")
print(ray.get(other.number.remote()), "in forecast; the same one:", again == name)

removal = subprocess.run(["envmgr", "remove", name], check=False)
print("removed while Ray's workers run:", removal.returncode == 0)

try:
    started({"dependencies": ["no-such-package"]})
except ray.exceptions.RuntimeEnvSetupError as error:
    print("refused:", str(error).partition("Output:\n")[2])
