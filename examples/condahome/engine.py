#!/usr/bin/env python
"""What an MLSQL engine does about an environment, command line by command line: ``engine.py APP TEXT COMMAND...``.

PythonEnvExt: ``create``, ``remove``, ``name``. PythonAlg: ``train``, which gets or creates, then activates in bash.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

HOME = os.environ["MLFLOW_CONDA_HOME"]


def conda(*arguments):
    return subprocess.run([f"{HOME}/bin/conda", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def name(app, text):
    return f"mlflow-{app}-{hashlib.sha1(text.encode()).hexdigest()}"  # noqa: S324 - MLSQL's own


def create(app, text):
    """Look, then create, without a lock; on any failure remove, whoever made it."""
    try:
        conda("--help")
        found = [os.path.basename(path) for path in json.loads(conda("env", "list", "--json"))["envs"]]
        if name(app, text) not in found:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                print(f"{app}: {conda('env', 'create', '-n', name(app, text), '--file', file.name).splitlines()[-1]}")
    except subprocess.CalledProcessError:
        remove(app, text)
        raise


def remove(app, text):
    subprocess.run([f"{HOME}/bin/conda", "env", "remove", "-y", "-n", name(app, text)], check=False)


def train(app, text):
    create(app, text)
    program = "import os, sys; print(os.path.basename(sys.prefix))"
    activate = f"source {HOME}/bin/activate {name(app, text)}"
    done = subprocess.run(
        ["bash", "-c", f"{activate} && python -c '{program}'"], check=True, stdout=subprocess.PIPE, text=True
    )
    print(f"{app}: trains in {done.stdout.strip()}")


if __name__ == "__main__":
    app, text, *commands = sys.argv[1:]
    for command in commands:
        if command == "name":
            print(f"{app}: {name(app, text)}")
        else:
            {"create": create, "remove": remove, "train": train}[command](app, text)
