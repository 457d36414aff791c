"""The program's first lines: until it can answer for itself, Ctrl-C ends it without a word."""

import signal


def main() -> None:
    """Run the program."""
    # Half a second of imports follows, in any of which an interrupt would show a traceback. `stopping.interrupts` and
    # `StopSignals` take Ctrl-C over where there is something to bring to an end.
    # Where it is ignored already, as `nohup` does, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fraudscale.cli import main as run  # noqa: PLC0415 - see above

    run()


if __name__ == "__main__":
    main()
