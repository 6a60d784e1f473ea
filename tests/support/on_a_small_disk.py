"""Runs a script on a disk that shrinks until it is full, makes room, and runs it again; `ScriptRun` runs this file.

Arguments: the folder to mount on, a folder outside for what is left at the end, then the script's own.
"""

import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from support.script_process import SCRIPT
from support.small_disk import mount_small_disk


def main(argv: list[str]) -> int:
    disk, results, *options = argv
    mount_small_disk(Path(disk), "64m")  # with little room the training would not begin
    spec = importlib.util.spec_from_file_location("script_on_a_small_disk", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output = Path(disk) / "out"
    threading.Thread(target=_shrink, args=(disk, output / "step_2"), daemon=True).start()
    code = script.main([*options, "--output_dir", str(output)])
    left = sorted(path.name for path in output.iterdir() if path.name.startswith((".", "step_")))
    print(f"ended with {code} and left {left}")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    code = script.main([*options, "--output_dir", str(output), "--resume_from_checkpoint", "latest"])
    shutil.copytree(output, results)
    return code


def _shrink(disk: str, checkpoint: Path) -> None:
    """Take away the room as soon as there is a checkpoint, as another program does that fills the disk."""
    while not checkpoint.exists():
        time.sleep(0.001)
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
