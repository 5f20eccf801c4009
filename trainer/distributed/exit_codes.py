"""Exit codes of a training process, for schedulers."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2  # invalid input: the same command fails again
EXIT_INTERRUPTED = 130  # Ctrl-C (128 + SIGINT) where nothing has to be saved first
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, the same command resumes


def killed_by(number: int) -> int:
    """The code that a shell reports for a process that the signal `number` ended."""
    return 128 + number


class RunFailed(RuntimeError):
    """Training cannot continue; the message says why and what to do. Ends with EXIT_FAILED."""
