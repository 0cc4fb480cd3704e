# SPDX-License-Identifier: AGPL-3.0-only
"""Measures the registry against the bars of its design: ``python -m bench``.

`rows` has one module for each group of rows; `servers` starts what they measure, `load` is the
generator, `wire` makes its frames, and `report` and `chart` show what came out.
"""
