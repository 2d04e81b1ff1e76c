"""python -m app.keys create --name NAME [--admin] | list | rotate --name NAME | revoke --name NAME: who may call.

Works on the ledger itself: the service need not run, and need not be restarted.
"""

import argparse
import sys
from datetime import UTC, datetime

from core.config.settings import read_settings
from core.errors import KinoraError
from core.ledger.keys import Keys
from core.ledger.moves import Ledger
from core.process.private_files import keep_files_private
from core.process.unusable import ends_if_unusable


@ends_if_unusable()
def main() -> None:
    keep_files_private()
    arguments = parser().parse_args()
    settings = read_settings()
    ledger = Ledger(settings.resolved_database_url)
    try:
        ledger.migrate(may_make=arguments.command == "create")
        say(COMMANDS[arguments.command](ledger.keys, arguments))
    except KinoraError as error:
        sys.exit(f"kinora: {error.message}")
    finally:
        ledger.close()
    if settings.auth == "off":
        sys.stderr.write("Note: with AUTH=off the service asks nobody for a key.\n")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.keys", description="API keys: who may call.")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and show it, this once")
    create.add_argument("--name", required=True, help="whose it is: for the logs and this list")
    create.add_argument("--admin", action="store_true", help="it sees and ends the tasks of all")
    commands.add_parser("list", help="show the keys, without their text")
    rotate = commands.add_parser("rotate", help="give a key a new text and show it; the old one opens nothing any more")
    rotate.add_argument("--name", required=True)
    revoke = commands.add_parser("revoke", help="let a key open nothing any more")
    revoke.add_argument("--name", required=True)
    return parser


def create(keys: Keys, arguments: argparse.Namespace) -> str:
    _, text = keys.create(arguments.name, arguments.admin)
    return text


def show(keys: Keys, _arguments: argparse.Namespace) -> str:
    head = ("NAME", "ID", "ADMIN", "MADE", "REVOKED", "STORED MB")
    rows = [
        (
            key.name,
            key.key_id,
            "yes" if key.admin else "no",
            day(key.created_at),
            day(key.revoked_at),
            f"{key.stored_bytes / 1e6:.1f}",
        )
        for key in keys.all()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def rotate(keys: Keys, arguments: argparse.Namespace) -> str:
    return keys.rotate(arguments.name)


def revoke(keys: Keys, arguments: argparse.Namespace) -> str:
    keys.revoke(arguments.name)
    return f"{arguments.name} opens nothing any more."


def day(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


COMMANDS = {"create": create, "list": show, "rotate": rotate, "revoke": revoke}

if __name__ == "__main__":
    main()
