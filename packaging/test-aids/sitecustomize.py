# SPDX-License-Identifier: AGPL-3.0-only
"""A test aid: Debian's Python installs where that of Fedora and Arch does.

Debian's own default is ``/usr/local`` (sysconfig, scheme ``posix_local``).
"""

import sysconfig

SCHEME = "posix_prefix"

sysconfig.get_default_scheme = lambda: SCHEME
for function in (sysconfig.get_path, sysconfig.get_paths):
    defaults = function.__defaults__ or ()
    function.__defaults__ = (SCHEME, *defaults[1:])
