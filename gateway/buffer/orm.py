"""Names of peewee that the buffer uses; the only module that imports it.

peewee imports the driver of every database that is installed. psycopg alone takes longer than peewee itself,
so the drivers are hidden from that import: the buffer is SQLite. Others import theirs as ever.
"""

from __future__ import annotations

import sys

_DRIVERS = ("MySQLdb", "psycopg", "psycopg2", "psycopg2cffi", "pymysql")
_hidden = [name for name in _DRIVERS if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type] # None: an import of it fails
try:
    from peewee import (
        SQL,
        AutoField,
        BigIntegerField,
        BlobField,
        CompositeKey,
        DataError,
        Field,
        IntegerField,
        IntegrityError,
        Model,
        PeeweeException,
        ProgrammingError,
        TextField,
        fn,
    )
    from playhouse.apsw_ext import APSWDatabase
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = [
    "SQL",
    "APSWDatabase",
    "AutoField",
    "BigIntegerField",
    "BlobField",
    "CompositeKey",
    "DataError",
    "Field",
    "IntegerField",
    "IntegrityError",
    "Model",
    "PeeweeException",
    "ProgrammingError",
    "TextField",
    "fn",
]
