"""The pages of the buffer's file, and its write-ahead log."""

from __future__ import annotations

import apsw

from gateway.buffer.connection import BUSY_TIMEOUT_S, PAGE_BYTES


class FileSpace:
    """Used and free space of one buffer file, and ways to shrink it. On the connection that writes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def size_bytes(self) -> int:
        """Return the size of the file once the whole log has been moved into it."""
        return self._number("PRAGMA page_count") * PAGE_BYTES

    def used_bytes(self) -> int:
        """Return the bytes of the file in use, without free pages."""
        return self.size_bytes() - self.free_pages() * PAGE_BYTES

    def free_pages(self) -> int:
        """Pages of the file that hold nothing."""
        return self._number("PRAGMA freelist_count")

    def give_back(self, pages: int) -> int:
        """Return up to `pages` free pages to the file system; return how many there were."""
        free = self.free_pages()
        if free:
            # Each step frees one page: the statement must be run to its end.
            self._connection.execute(f"PRAGMA incremental_vacuum({int(pages)})").fetchall()
        return free

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and cut it to nothing; outside of a transaction. False, and
        as much as possible is moved, when a reader still needs some of it."""
        self._connection.set_busy_timeout(0)  # never wait for a reader
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.LockedError):
            return False
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        return True

    def changed_rows(self) -> int:
        """Return the number of rows changed since the file was opened."""
        return int(self._connection.total_changes())

    def _number(self, sql: str) -> int:
        ((number,),) = self._connection.execute(sql)
        return int(number)
