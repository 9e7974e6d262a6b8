"""Bridges: the one way from media to the language model."""

from anyany.bridges.bridge import IGNORED, Bridge, BridgeOutput
from anyany.bridges.config import BridgeConfig, check_mix
from anyany.bridges.layout import Layout, Place
from anyany.bridges.media import Encoded, Prepared, user_media
from anyany.bridges.recipe import (
    AdapterConfig,
    BridgeRecipe,
    RecipeProjector,
    build_bridge,
    fitted,
    load_recipe,
    recipe_names,
    trainable_parameters,
)

__all__ = [
    "IGNORED",
    "AdapterConfig",
    "Bridge",
    "BridgeConfig",
    "BridgeOutput",
    "BridgeRecipe",
    "Encoded",
    "Layout",
    "Place",
    "Prepared",
    "RecipeProjector",
    "build_bridge",
    "check_mix",
    "fitted",
    "load_recipe",
    "recipe_names",
    "trainable_parameters",
    "user_media",
]
