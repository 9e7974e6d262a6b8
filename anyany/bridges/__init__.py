"""Bridges: the one way from media to the language model."""

from anyany.bridges.bridge import (
    IGNORED,
    Bridge,
    BridgeConfig,
    BridgeOutput,
    Encoded,
    Prepared,
    user_media,
)
from anyany.bridges.layout import Layout, Place

__all__ = [
    "IGNORED",
    "Bridge",
    "BridgeConfig",
    "BridgeOutput",
    "Encoded",
    "Layout",
    "Place",
    "Prepared",
    "user_media",
]
