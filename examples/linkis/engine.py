"""An emulation of Linkis' Python engine (PythonSession, python.py), for what it asks of an interpreter. Not Linkis.

    engine.py PYTHON_VERSION CODE…

As that engine does, by its sources: the setting `pythonVersion` is split into words, and a script of the engine's, the
port of its gateway and a class path are appended; PYTHONPATH, PYTHONUNBUFFERED and PYTHON_GATEWAY_PORT are set; output
and errors are merged, and not read before the end. It gives the script 30 seconds to say that it is there, with its
pid, then hands it one code after the other, and ends the session by `kill -9` of that pid. Other than there, the
gateway is a line of JSON each way on a socket instead of py4j.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time

INIT_S = 30
SCRIPT = """
import contextlib, io, json, os, socket, sys, traceback
channel = socket.create_connection(("127.0.0.1", int(sys.argv[1]))).makefile("rw")
def say(**words):
    print(json.dumps(words), file=channel, flush=True)
say(pid=os.getpid(), parent=os.getppid())
names = {}
for line in channel:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(json.loads(line), names)
        except Exception:
            output.write(traceback.format_exc(limit=0))
    say(output=output.getvalue())
"""


def main(python_version: str, codes: list[str]) -> int:
    with open("python.py", "w") as script:
        script.write(SCRIPT)
    gateway = socket.create_server(("127.0.0.1", 0))
    gateway.settimeout(0.05)
    port = str(gateway.getsockname()[1])
    environ = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "YES", "PYTHON_GATEWAY_PORT": port}
    command = [*shlex.split(python_version), "python.py", port, os.getcwd()]
    began = time.monotonic()
    python = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while True:
        try:
            channel = gateway.accept()[0].makefile("rw")
            break
        except TimeoutError:
            if python.poll() is not None:
                said = python.communicate()[0].strip()
                print(f"Python process is not alive: exit status {python.returncode}: {said}")
                return 1
            if time.monotonic() - began > INIT_S:
                python.kill()
                print("initialize python executor failed, please ask administrator for help!")
                return 1
    there = json.loads(channel.readline())
    print(f"python executor is up, {'the process' if there['pid'] == python.pid else 'a child of the process'} started")
    for code in codes:
        print(json.dumps(code), file=channel, flush=True)
        answer = channel.readline()
        if not answer:
            break
        print(json.loads(answer)["output"], end="")
    if python.poll() is None and answer:
        subprocess.run(["kill", "-9", str(there["pid"])], check=True)
    said = python.communicate(timeout=INIT_S)[0].strip()
    print(f"the process has ended with {python.returncode}" + (f": {said}" if said else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
