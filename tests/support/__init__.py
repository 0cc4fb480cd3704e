# SPDX-License-Identifier: AGPL-3.0-only
"""What tests share: a served registry, a client that speaks the protocol, a daemon process."""
