# SPDX-License-Identifier: AGPL-3.0-only
"""The Plexus protocol over JSON-RPC 2.0, Sans-I/O: messages in, messages out, no sockets.

`session` is one client's conversation; `hub` knows the methods; `jsonrpc` and `streams` know the
frames; `methods`, `parameters` and `schema` say what each method takes and how that is published.
"""
