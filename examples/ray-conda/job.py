"""A Ray program that knows nothing of envmgr: environments by Ray's own field ``conda``."""

import os
import subprocess

import ray


@ray.remote
def where() -> tuple[str, str]:
    """Return what only the environment has, and the environment's name."""
    import humanize

    return humanize.intcomma(1234567), os.path.basename(os.path.realpath(os.environ["CONDA_PREFIX"]))


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=f"{os.environ['HOME']}/ray")

described = {"dependencies": ["pip", {"pip": ["humanize"]}]}
number, name = ray.get(where.options(runtime_env={"conda": described}).remote(), timeout=300)
print(number, "in the environment that the job describes:", name)

# Whoever looks after the environments gives it a name, and jobs say that.
subprocess.run(["envmgr", "alias", "set", "forecast", name], check=True)
number, again = ray.get(where.options(runtime_env={"conda": "forecast"}).remote(), timeout=60)
print(number, "in forecast; the same one:", again == name)

try:
    wrong = {"dependencies": ["no-such-package"]}
    ray.get(where.options(runtime_env={"conda": wrong}).remote(), timeout=60)
except ray.exceptions.RuntimeEnvSetupError as error:
    print("refused:", str(error).partition("Output:\n")[2])
