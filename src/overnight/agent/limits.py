"""What a single run may use up, by the kernel's own limits for processes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Sizes in bytes. `memory` is the address space of each process, `processes` counts threads too and is kept
    by the kernel for users other than root only."""

    memory: int = 16 * 1024**3
    processes: int = 2048
    open_files: int = 65_536
    file_size: int = 4 * 1024**3
    temporary: int = 1024**3

    def by_name(self) -> dict[str, int]:
        """By the names of the module `resource`, without their prefix."""
        return {
            "CORE": 0,
            "FSIZE": self.file_size,
            "NOFILE": self.open_files,
            "AS": self.memory,
            "NPROC": self.processes,
        }

    def as_shell(self) -> str:
        """For /bin/sh. A limit of the host that is lower already stays."""
        # The number of processes is -u in bash and -p in dash, where the other letter is an error or harmless.
        return (
            "ulimit -c 0\n"
            f"ulimit -f {self.file_size // 512} 2>/dev/null\n"
            f"ulimit -v {self.memory // 1024} 2>/dev/null\n"
            f"ulimit -n {self.open_files} 2>/dev/null\n"
            f"ulimit -u {self.processes} 2>/dev/null || ulimit -p {self.processes} 2>/dev/null\n"
        )
