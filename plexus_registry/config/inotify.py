# SPDX-License-Identifier: AGPL-3.0-only
"""A set of inotify watches on directories, over pyinotify with its traps defused.

Which ones, measured with pyinotify 0.9.6: it is imported only here, when the first watch is set,
because it costs start-up time and needs ``asyncore``, which Python 3.12 dropped (pyasyncore has
it); it adds a log handler of its own that prints; its descriptor blocks and is inherited by child
processes; reading with nothing to read blocks; a file name that is not UTF-8 raises while the rest
of the events is lost; removing one of two names of a directory ends the watch of both.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from plexus_registry.config.chain import Interest

logger = logging.getLogger(__name__)

_ERRNO = re.compile(r"\((E[A-Z0-9]+)\)")
_VANISHED = {"ENOENT", "ENOTDIR", "ELOOP"}
_ADVICE = {
    "EMFILE": "raise fs.inotify.max_user_instances or the limit of open files",
    "ENFILE": "raise fs.file-max",
    "ENOSPC": "raise fs.inotify.max_user_watches",
    "EACCES": "the directory has to be readable",
}


class InotifyError(Exception):
    """Inotify cannot be used.

    Attributes:
        advice: What the administrator can do about it, empty if nothing is known.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        match = _ERRNO.search(reason)
        self.advice = _ADVICE.get(match[1], "") if match else ""


class Inotify:
    """One inotify instance and its watches.

    Raises:
        InotifyError: If there is no pyinotify, or the kernel gives no instance.
    """

    def __init__(self) -> None:
        try:
            self._pyinotify = _import()
            self._watches = self._pyinotify.WatchManager()
        except (ImportError, OSError) as error:
            raise InotifyError(str(error)) from error
        except self._pyinotify.PyinotifyError as error:
            raise InotifyError(str(error)) from error
        os.set_blocking(self.fileno(), False)
        os.set_inheritable(self.fileno(), False)
        self._notifier = self._pyinotify.Notifier(self._watches, default_proc_fun=self._see)
        self._masks = _masks(self._pyinotify)
        self._overflowed = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with the first event."""
        descriptor: int = self._watches.get_fd()
        return descriptor

    def watch(self, directories: Mapping[str, Interest]) -> bool:
        """Watch these directories from now on, and no others.

        Returns:
            False if one of them was gone, so that they have to be found anew.

        Raises:
            InotifyError: If one cannot be watched.
        """
        wanted = set()
        is_complete = True
        # A directory that is mounted in two places is one watch: the larger interest comes last.
        for directory, interest in sorted(directories.items(), key=lambda item: item[1]):
            try:
                added = self._watches.add_watch(directory, self._masks[interest], quiet=False)
            except UnicodeEncodeError as error:
                raise InotifyError(f"{directory!a} is no UTF-8 path") from error
            except self._pyinotify.WatchManagerError as error:
                reason = str(error.args[0])
                match = _ERRNO.search(reason)
                if match and match[1] in _VANISHED:
                    is_complete = False
                elif not (match and match[1] == "EACCES" and interest is Interest.ITSELF):
                    raise InotifyError(reason) from error
            else:
                wanted |= set(added.values())
        for descriptor in set(self._watches.watches) - wanted:
            self._remove(descriptor)
        return is_complete

    def _remove(self, descriptor: int) -> None:
        try:
            self._watches.rm_watch(descriptor, quiet=False)
        except self._pyinotify.WatchManagerError:  # gone already, with its directory
            self._watches.del_watch(descriptor)

    def drain(self) -> bool:
        """Take all events that are waiting, and tell whether some were lost.

        Which events they were is of no interest: whoever watches looks at the files.
        """
        if self._notifier.check_events(timeout=0):
            try:
                self._notifier.read_events()
            except UnicodeDecodeError:
                logger.debug("a file name in a watched directory is not utf-8")
            self._notifier.process_events()
        overflowed, self._overflowed = self._overflowed, False
        return overflowed

    def _see(self, event: Any) -> None:
        if event.mask & self._pyinotify.IN_Q_OVERFLOW:
            self._overflowed = True

    def close(self) -> None:
        """End all watches and close the descriptor."""
        self._notifier.stop()


def _import() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asyncore is deprecated, escapes in its strings as well
        pyinotify = importlib.import_module("pyinotify")
    pyinotify.log.handlers.clear()
    pyinotify.log.setLevel(logging.CRITICAL)  # every failure that counts reaches us as an error
    return pyinotify


def _masks(pyinotify: ModuleType) -> dict[Interest, int]:
    itself = (
        pyinotify.IN_ONLYDIR
        | pyinotify.IN_DONT_FOLLOW
        | pyinotify.IN_DELETE_SELF
        | pyinotify.IN_MOVE_SELF
    )
    names = (
        itself
        | pyinotify.IN_CREATE
        | pyinotify.IN_DELETE
        | pyinotify.IN_MOVED_FROM
        | pyinotify.IN_MOVED_TO
    )
    # IN_MODIFY as well as IN_CLOSE_WRITE: who keeps a file open and writes closes nothing.
    contents = names | pyinotify.IN_MODIFY | pyinotify.IN_CLOSE_WRITE | pyinotify.IN_ATTRIB
    return {Interest.ITSELF: itself, Interest.NAMES: names, Interest.CONTENTS: contents}
