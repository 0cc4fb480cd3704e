# SPDX-License-Identifier: AGPL-3.0-only
"""Configuration: the settings, the declared backends in TOML files, and the watch on those files.

Adapters: they read files and the environment they are given, and change nothing of the registry.
"""
