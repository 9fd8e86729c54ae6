"""The entry point: run a subcommand and return its exit status.

0 is success, 1 refused, 2 wrong arguments, 78 wrong configuration, 130 interrupted.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # modules stay in memory; collecting garbage while they load would take a tenth of the start
_ctrl_c = signal.getsignal(signal.SIGINT)
if _ctrl_c is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends the program without a traceback

import asyncio
import os
import resource
import sys
from collections.abc import Sequence

from server import log
from server.cli.output import complain
from server.cli.parser import INTERRUPTED, Work, parse
from server.config import load_config
from server.errors import ConfigurationError, OperatorError, StartError
from server.storage.owner import obey

signal.signal(signal.SIGINT, _ctrl_c)
gc.freeze()
gc.enable()

EX_CONFIG = 78


def program() -> int:
    """Run the program in a process of its own and return its exit status."""
    if sys.stderr is None:  # otherwise the next opened file would get descriptor 2
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  open until the end
    try:
        return main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the outcome is printed by now


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    interrupted = INTERRUPTED
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain keys
        _forget_settings_of_psql()
        subcommand = parse(argv)
        interrupted = subcommand.interrupted
        log.begin()
        config = load_config(subcommand.configuration)
        if config.file is not None:
            obey(config.file)
        _finish(subcommand.run(config))
    except ConfigurationError as error:
        for mistake in error.mistakes:
            complain(mistake)
        return EX_CONFIG
    except (StartError, OperatorError) as error:
        complain(str(error))
        return 1
    except OSError as error:  # another program changes the files at the same time, or their disk fails
        complain(f"the files of the console cannot be used: {error}")
        return 1
    except (KeyboardInterrupt, EOFError, asyncio.CancelledError):
        complain(interrupted)
        return 130
    return 0


def _forget_settings_of_psql() -> None:
    """Remove PGPASSWORD, PGSSLMODE and the like: the driver reads them, and only the configuration may count."""
    for name in [name for name in os.environ if name.startswith("PG") and "_" not in name]:
        del os.environ[name]


def _finish(work: Work) -> None:
    """Run a coroutine on an event loop. None means that a blocking subcommand has finished."""
    if work is None:
        return
    try:
        runner = asyncio.Runner()
        ignored = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a half-made loop cannot be closed
        try:
            runner.get_loop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ignored)
        with runner:
            runner.run(work)
    finally:
        work.close()  # otherwise Python warns of a coroutine that was never awaited


if __name__ == "__main__":
    sys.exit(program())
