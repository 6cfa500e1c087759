"""`loud.py ARGUMENT...`: the command `overnight ARGUMENT...`, whose log takes every record of every library.

No setting does that. Only the level is another: what writes the log, and what it lets pass, is overnight's own.
"""

import logging
from typing import Any

from overnight.cli.main import main


def log_everything() -> None:
    configure = logging.basicConfig

    def everything(**given: Any) -> None:
        configure(**{**given, "level": logging.DEBUG})

    logging.basicConfig = everything


if __name__ == "__main__":
    log_everything()
    main()
