"""Runs a script on a small disk until it is full, makes room, and runs it again; `ScriptRun` runs this file.

Arguments: the folder to mount on, a folder outside for what is left at the end, then the script's own.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from support.script_process import SCRIPT
from support.small_disk import mount_small_disk


def main(argv: list[str]) -> int:
    disk, results, *options = argv
    mount_small_disk(Path(disk), "8m")
    spec = importlib.util.spec_from_file_location("script_on_a_small_disk", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output = Path(disk) / "out"
    code = script.main([*options, "--output_dir", str(output)])
    left = sorted(path.name for path in output.iterdir() if path.name.startswith((".", "step_")))
    print(f"ended with {code} and left {left}")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    code = script.main([*options, "--output_dir", str(output), "--resume_from_checkpoint", "latest"])
    shutil.copytree(output, results)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
