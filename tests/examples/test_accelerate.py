"""The configs of accelerate are read by it as they are meant, and the Slurm script goes on after preemption."""

import os
import stat
import subprocess

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from .conftest import EXAMPLES

FOLDER = EXAMPLES / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


def launched(name, monkeypatch):
    """The arguments that `accelerate launch` goes by, with this config."""
    for variable in [variable for variable in os.environ if variable.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(FOLDER / name), "-m", "segzoo", "train"])
    args.nondefault = []
    return _validate_launch_command(args)[0]


@pytest.mark.parametrize("path", [*CONFIGS, FOLDER / "slurm.sh"], ids=lambda path: path.name)
def test_the_first_line_says_whether_it_was_run(path):
    lines = path.read_text().splitlines()
    assert lines[path.suffix == ".sh"].startswith(("# Never run", "# Run: ")) and path.name in README


README = (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "processes", "machines", "kind"),
    [
        ("one_cpu.yaml", 1, 1, None),
        ("one_gpu.yaml", 1, 1, None),
        ("ddp_8_gpus.yaml", 8, 1, "multi_gpu"),
        ("ddp_4_machines.yaml", 32, 4, "multi_gpu"),
        ("fsdp2_8_gpus.yaml", 8, 1, "use_fsdp"),
        ("deepspeed_zero2_8_gpus.yaml", 8, 1, "use_deepspeed"),
        ("deepspeed_zero3_8_gpus.yaml", 8, 1, "use_deepspeed"),
    ],
)
def test_accelerate_reads_it(name, processes, machines, kind, monkeypatch):
    args = launched(name, monkeypatch)
    assert (args.num_processes, args.num_machines) == (processes, machines)
    assert {flag for flag in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(args, flag)} == ({kind} - {None})
    assert args.use_cpu == (name == "one_cpu.yaml")
    assert args.mixed_precision == ("no" if name == "one_cpu.yaml" else "bf16")
    if kind == "use_deepspeed":
        assert args.zero_stage == int(name[len("deepspeed_zero")])


def test_every_config_is_tested():
    assert len(CONFIGS) == 7


def plugin(environment, monkeypatch):
    for name, value in environment.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    made = FullyShardedDataParallelPlugin()
    return {
        "version": made.fsdp_version,
        "policy": made.auto_wrap_policy.__name__,
        "checkpointing": made.activation_checkpointing,
        "state": made.state_dict_type.name,
        "reshard": made.reshard_after_forward,
        "efficient": made.cpu_ram_efficient_loading,
    }


SHARDED = {
    "version": 2,
    "policy": "transformer_auto_wrap_policy",
    "checkpointing": True,
    "state": "SHARDED_STATE_DICT",
    "reshard": True,
    "efficient": False,
}


def test_fsdp2_with_activation_checkpointing(monkeypatch):
    environment = prepare_multi_gpu_env(launched("fsdp2_8_gpus.yaml", monkeypatch))
    assert plugin(environment, monkeypatch) == SHARDED


@pytest.fixture
def slurm(tmp_path):
    """Runs the script with stand-ins for Slurm's programs; srun starts one task, which ends with a status."""

    def run(status, **environment):
        programs = {
            "scontrol": f'[ "$1" = show ] && echo first-node && echo second-node || echo "$@" >> {tmp_path}/asked',
            "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; SLURM_PROCID=9 SLURM_LOCALID=1 "$@"',
            "python": f'env > {tmp_path}/environment; echo "$@" > {tmp_path}/words; exit {status}',
        }
        for name, text in programs.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        done = subprocess.run(
            ["bash", str(FOLDER / "slurm.sh"), "--output_dir", "a folder"],
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "SLURM_JOB_ID": "4711",
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_NTASKS": "16",
                "SLURM_NTASKS_PER_NODE": "8",
                **environment,
            },
            check=False,
        )
        lines = (tmp_path / "environment").read_text().splitlines()
        asked = (tmp_path / "asked").read_text().split() if (tmp_path / "asked").exists() else []
        return done.returncode, dict(line.split("=", 1) for line in lines if "=" in line), asked

    return run


def test_slurm_puts_a_preempted_job_back(slurm, tmp_path, monkeypatch):
    status, environment, asked = slurm(75, SHARD="1")
    assert status == 75 and asked == ["requeue", "4711"]
    wanted = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "MASTER_ADDR": "first-node", "MASTER_PORT": "24711"}
    assert wanted.items() <= environment.items()
    words = (tmp_path / "words").read_text().strip()
    assert words == "-m segzoo train --output_dir a folder --resume_from_checkpoint latest"
    assert environment["ACCELERATE_USE_FSDP"] == "true" and plugin(environment, monkeypatch) == SHARDED


@pytest.mark.parametrize("status", [0, 1])
def test_slurm_ends_a_finished_or_failed_job(slurm, status):
    found, environment, asked = slurm(status)
    assert found == status and asked == [] and "ACCELERATE_USE_FSDP" not in environment
