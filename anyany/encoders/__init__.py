"""Media in, features out, and the way from features to language-model tokens.

    media -> tiler -> Encoder.prepare -> Encoder -> Features -> Projector -> merge -> tokens

Nothing here knows a language model or a decoder; tensors and widths are all that pass.
"""

from anyany.encoders.features import Encoder, Features, Readout
from anyany.encoders.imagebind.checkpoint import import_imagebind_pth, load_imagebind
from anyany.encoders.imagebind.config import (
    AudioConfig,
    DepthConfig,
    ImageBindConfig,
    IMUConfig,
    TextConfig,
    ThermalConfig,
    VisionConfig,
)
from anyany.encoders.imagebind.encoder import ImageBindEncoder
from anyany.encoders.imagebind.model import ImageBind
from anyany.encoders.merges import MERGES, get_merge, merge_flat
from anyany.encoders.preprocessing.config import (
    AudioPreprocessing,
    ImagePreprocessing,
    PreprocessingConfig,
    VideoPreprocessing,
)
from anyany.encoders.preprocessing.text import TextPreparation
from anyany.encoders.projectors.base import (
    GroupedConfig,
    Projector,
    ProjectorConfig,
    ProjectorContext,
)
from anyany.encoders.projectors.grouped import GroupedProjector
from anyany.encoders.projectors.linear import LinearProjector, MLPProjector
from anyany.encoders.projectors.registry import (
    PROJECTORS,
    build_projector,
    load_projector,
    save_projector,
)
from anyany.encoders.tilers import (
    TILERS,
    FramesTiler,
    FrameTile,
    SingleTiler,
    Tile,
    Tiler,
    TilerConfig,
    build_tiler,
)

__all__ = [
    "MERGES",
    "PROJECTORS",
    "TILERS",
    "AudioConfig",
    "AudioPreprocessing",
    "DepthConfig",
    "Encoder",
    "Features",
    "FrameTile",
    "FramesTiler",
    "GroupedConfig",
    "GroupedProjector",
    "IMUConfig",
    "ImageBind",
    "ImageBindConfig",
    "ImageBindEncoder",
    "ImagePreprocessing",
    "LinearProjector",
    "MLPProjector",
    "PreprocessingConfig",
    "Projector",
    "ProjectorConfig",
    "ProjectorContext",
    "Readout",
    "SingleTiler",
    "TextConfig",
    "TextPreparation",
    "ThermalConfig",
    "Tile",
    "Tiler",
    "TilerConfig",
    "VideoPreprocessing",
    "VisionConfig",
    "build_projector",
    "build_tiler",
    "get_merge",
    "import_imagebind_pth",
    "load_imagebind",
    "load_projector",
    "merge_flat",
    "save_projector",
]
