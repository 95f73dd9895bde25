"""A command that a launcher starts several times at once: torchrun, accelerate launch, mpirun or srun."""

import os

# What says how many processes there are, and which of them this is; torchrun's names come first, since it may itself
# be started by one of the others.
SIZES = "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"
RANKS = "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"
MEETING = "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"  # by which torchrun's processes find one another
SHARED, READING = ("train",), ("doctor", "explain", "plugins")


def is_main() -> bool:
    """Whether this is the process that speaks for all."""
    return _number(RANKS) in (None, "0")


def refusal(command: str) -> str | None:
    """Why a command does not run in so many processes: they would write the same files. None: it does.

    `rrg train` shares the work among torchrun's processes; commands that only read may run any number of times.
    """
    variable = next((name for name in SIZES if os.environ.get(name)), None)
    if variable is None or os.environ[variable] == "1" or command in READING:
        return None
    given = f"{variable}={os.environ[variable]}"
    if not os.environ[variable].isdecimal() or os.environ[variable] == "0":
        return f"{given}: not a number of processes; unset it, or start rrg train with torchrun"
    if command not in SHARED:
        return (
            f"rrg {command} works in one process, and {given}: start it without torchrun, srun or mpirun, or set "
            "WORLD_SIZE=1 where each process has an --out of its own; rrg train takes several"
        )
    absent = [name for name in MEETING if not os.environ.get(name)]
    if variable != SIZES[0] or absent:
        return (
            f"rrg {command} was started in several processes ({given}) that cannot find one another, without "
            f"{', '.join(absent or SIZES[:1])}: start them with torchrun --nproc-per-node N -m rrg {command} …"
        )
    return None


def _number(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
