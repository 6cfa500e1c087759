"""`python -m overnight.rehearsal`: the rehearsal API on its own."""

import argparse
import asyncio
import sys

from overnight.rehearsal import serve_rehearsal


def main() -> int:
    arguments = _arguments().parse_args()
    try:
        asyncio.run(_serve(arguments.host, arguments.port))
    except KeyboardInterrupt:
        return 0
    except OSError as problem:
        sys.stderr.write(f"The rehearsal API could not listen: {problem.strerror}. Try another --port.\n")
        return 1
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m overnight.rehearsal", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8099, help="0 takes a free one (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65_536):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


async def _serve(host: str, port: int) -> None:
    async with serve_rehearsal(host, port) as url:
        sys.stdout.write(f"Rehearsal API at {url} (end it with Ctrl-C). Point a client at it:\n")
        sys.stdout.write(
            f"  ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=rehearsal claude -p 'rehearsal: answer hello'\n"
        )
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
