"""Coverage-guided fuzzing of the readers of foreign files, with atheris; README.md beside it says how and why.

python tests/fuzz/fuzz_readers.py --target config|pickle --minutes 30 [--corpus DIR]
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
_ROUND = "--round"  # how the command calls itself for one run of libFuzzer, which ends with the first finding
_MEGABYTES, _SECONDS, _LENGTH = 2048, 40, 20_000
_INSTRUMENTED = ["segzoo.conversion", "pickletools"]


def fuzz(target: str, minutes: float, corpus: Path) -> int:
    """Fuzzes for so many minutes, and goes on after a finding; gives the number of findings."""
    corpus.mkdir(parents=True, exist_ok=True)
    findings = corpus.with_name(f"{corpus.name}-findings")
    findings.mkdir(exist_ok=True)
    sys.path.insert(0, str(TESTS))
    from fuzz.targets import seeds

    for seed in seeds(target):
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    dictionary = TESTS / "fuzz" / f"{target}.dict"
    end = time.monotonic() + 60 * minutes
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    }
    while (left := end - time.monotonic()) > 1:
        options = [
            f"-max_total_time={left:.0f}",
            f"-artifact_prefix={findings}/",
            f"-rss_limit_mb={_MEGABYTES}",
            f"-timeout={_SECONDS}",
            f"-max_len={_LENGTH}",
            f"-dict={dictionary}",
            "-print_final_stats=1",
        ]
        command = [sys.executable, __file__, _ROUND, target, *options, str(corpus)]
        if subprocess.run(command, env=environment).returncode:
            print(f"a finding in {findings}; going on", flush=True)
    found = len(list(findings.iterdir()))
    print(f"{target}: {found} findings in {findings}, {len(list(corpus.iterdir()))} inputs in {corpus}")
    return found


def one_round(target: str, options: list[str]) -> None:
    """Runs libFuzzer in this process; it ends the process."""
    import atheris
    import torch  # noqa: F401 (whatever is imported below is instrumented, its parents too)
    from torch._weights_only_unpickler import Unpickler

    Unpickler.load = atheris.instrument_func(Unpickler.load)
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz.targets import TARGETS

    read = TARGETS[target]
    with tempfile.TemporaryDirectory(prefix="segzoo-fuzz-") as folder:

        def test_one(data: bytes) -> None:
            read(data, Path(folder))

        atheris.Setup([sys.argv[0], *options], test_one)
        atheris.Fuzz()


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == [_ROUND]:
        one_round(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, choices=("config", "pickle"), help="the reader")
    parser.add_argument("--minutes", type=float, default=30, help="how long")
    parser.add_argument("--corpus", type=Path, help="folder of inputs, kept; findings come beside it")
    arguments = parser.parse_args()
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="segzoo-fuzz-")) / arguments.target
    sys.exit(1 if fuzz(arguments.target, arguments.minutes, corpus) else 0)


if __name__ == "__main__":
    main()
