# SPDX-License-Identifier: AGPL-3.0-only
"""Where entries outlive the process: `port` says what a store promises, `sqlite` keeps it."""
