"""Where the study of a sweep is: a database, by its address."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)

from ..errors.bad_input import InputError

ERRORS = (StorageInternalError, SQLAlchemyError)
FILE = "study.db"
TRIES = 3  # the tables, and what versions they have, are made one after another


def address(url: str) -> str:
    """Complete the address of a PostgreSQL database by the driver that is installed.

    Raises:
        InputError: It is none, or of a file, which commands on several machines cannot share.
    """
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        example = "as in postgresql://user@host/name"
        raise InputError(
            f"--storage {without_password(url)}: is no address of a database, {example}."
        ) from None
    if made.get_backend_name() == "sqlite":
        text = "is a file, which several commands cannot share. Leave it out, or use PostgreSQL."
        raise InputError(f"--storage {url}: {text}")
    if made.drivername == "postgresql" and find_spec("psycopg2"):
        made = made.set(drivername="postgresql+psycopg2")  # the default of SQLAlchemy varies
    return str(made.render_as_string(hide_password=False))


def file_address(folder: Path) -> str:
    """Return the address of the database that is a file in a folder."""
    return str(URL.create("sqlite", database=str(folder / FILE)).render_as_string())


def without_password(text: str) -> str:
    """Write an address, which may be none or stand in an option, without its password."""
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://[^:]*:).*@", r"\1***@", text))


def connected(url: str, **settings: Any) -> RDBStorage:
    """Connect to a database, with settings of ``RDBStorage``.

    Raises:
        InputError: It cannot be used.
    """
    shown = without_password(url)
    try:
        return _opened(url, TRIES, settings)
    except (ImportError, NoSuchModuleError):
        needs = "needs a package for this kind of database.\nInstall it: make setup ADD=sweep"
        raise InputError(f"--storage {shown}: {needs}") from None
    except (*ERRORS, RuntimeError) as error:
        raise InputError(f"--storage {shown}: cannot be used ({first_line(error)}).") from None


def _opened(url: str, tries: int, settings: dict[str, Any]) -> RDBStorage:
    """Open a database, again where another command has made its tables at the same moment."""
    try:
        return RDBStorage(url, **settings)
    except (IntegrityError, ProgrammingError):
        if tries == 1:
            raise
        return _opened(url, tries - 1, settings)


def first_line(error: BaseException) -> str:
    """Say in a line what a database has said."""
    text = str(getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error)
    return " ".join(text.split())[:200]
