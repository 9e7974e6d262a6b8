"""Bridges: the one way from media to the language model."""

from anyany.bridges.bridge import (
    IGNORED,
    Bridge,
    BridgeOutput,
    user_media,
)
from anyany.bridges.config import BridgeConfig, check_mix
from anyany.bridges.layout import Layout, Place
from anyany.bridges.media import Encoded, Prepared

__all__ = [
    "IGNORED",
    "Bridge",
    "BridgeConfig",
    "BridgeOutput",
    "Encoded",
    "Layout",
    "Place",
    "Prepared",
    "check_mix",
    "user_media",
]
