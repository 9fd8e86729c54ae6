"""Schema numbers at which the audit's format changed; code that reads older stores needs them."""

from __future__ import annotations

#: The first schema whose audit records form a chain.
CHAIN_SCHEMA = 3
#: The first schema with a signed list of the nodes that have a chain.
NODE_LIST_SCHEMA = 4
