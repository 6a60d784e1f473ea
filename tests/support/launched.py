"""Starts the script in a process of its own and waits for it, as a launcher or a shell does; `ScriptRun` runs this file.

Arguments: the variable that a launcher sets in the environment, or "shell", then the script's own.
"""

import importlib.util
import os
import sys

from support.script_process import SCRIPT


def main(argv: list[str]) -> int:
    variable, *options = argv
    if variable != "shell":
        os.environ[variable] = "default"
    spec = importlib.util.spec_from_file_location("launched_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = script.main(options)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
