# SPDX-License-Identifier: AGPL-3.0-only
"""Loads one registry with everything at once for minutes, and sees whether it grows.

``python -m bench.soak``. `load` is the mixed load, `strangers` are its clients that misbehave,
`samples` says what is watched and what counts as growth, and `plot` draws it.
"""
