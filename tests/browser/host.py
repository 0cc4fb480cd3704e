# SPDX-License-Identifier: AGPL-3.0-only
"""What this host has to have for a browser.

Run as a program it prints the Debian packages that are missing, in one line.
"""

from __future__ import annotations

from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"

NEEDS = {
    CHROMIUM: "chromium",
    CHROMEDRIVER: "chromium-driver",
    FONT: "fonts-dejavu-core",
}
"""File that the tests need, and the Debian package that brings it."""


class HostProblem(Exception):
    """This host cannot run a browser; the message says what to do about it."""


def missing_packages() -> list[str]:
    """List the Debian packages without which no browser runs here."""
    return sorted(package for path, package in NEEDS.items() if not Path(path).exists())


def require() -> None:
    """Make sure that this host can run a browser.

    Raises:
        HostProblem: If it cannot.
    """
    if missing := missing_packages():
        raise HostProblem(
            "packages are missing: apt-get install --no-install-recommends " + " ".join(missing)
        )


if __name__ == "__main__":
    print(*missing_packages())
