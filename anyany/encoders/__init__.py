"""Media in, features out, and the way from features to language-model tokens.

    media -> tiler -> Encoder.prepare -> Encoder -> Features -> Projector -> merge -> tokens

Nothing here knows a language model or a decoder; tensors and widths are all that pass.
"""

from anyany.encoders.adapters import (
    EncoderAdapterConfig,
    adapter_parameters,
    adapter_state,
    base_state,
    install_adapter,
    load_adapter_state,
    tile_name,
)
from anyany.encoders.features import GRID_READOUTS, Encoder, Features, Readout
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
from anyany.encoders.imagebind.encoder import TOWERS, ImageBindEncoder
from anyany.encoders.imagebind.model import ImageBind
from anyany.encoders.merges import (
    MERGES,
    NUM_SEPARATORS,
    Merge,
    MergeContext,
    get_merge,
    merge_flat,
)
from anyany.encoders.pixels import PixelEncoder, build_encoder
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
    ResamplerConfig,
)
from anyany.encoders.projectors.grouped import GroupedProjector
from anyany.encoders.projectors.linear import TokenProjector
from anyany.encoders.projectors.registry import (
    PROJECTORS,
    build_projector,
    load_projector,
    save_projector,
)
from anyany.encoders.tilers.base import (
    AudioTile,
    FrameTile,
    ImageTile,
    Position,
    Tile,
    Tiler,
    TilerConfig,
)
from anyany.encoders.tilers.registry import TILER_MODALITIES, TILERS, build_tiler
from anyany.encoders.tilers.time import FramesTiler, SingleTiler

__all__ = [
    "GRID_READOUTS",
    "MERGES",
    "NUM_SEPARATORS",
    "PROJECTORS",
    "TILERS",
    "TILER_MODALITIES",
    "TOWERS",
    "AudioConfig",
    "AudioPreprocessing",
    "AudioTile",
    "DepthConfig",
    "Encoder",
    "EncoderAdapterConfig",
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
    "ImageTile",
    "Merge",
    "MergeContext",
    "PixelEncoder",
    "Position",
    "PreprocessingConfig",
    "Projector",
    "ProjectorConfig",
    "ProjectorContext",
    "Readout",
    "ResamplerConfig",
    "SingleTiler",
    "TextConfig",
    "TextPreparation",
    "ThermalConfig",
    "Tile",
    "Tiler",
    "TilerConfig",
    "TokenProjector",
    "VideoPreprocessing",
    "VisionConfig",
    "adapter_parameters",
    "adapter_state",
    "base_state",
    "build_encoder",
    "build_projector",
    "build_tiler",
    "get_merge",
    "import_imagebind_pth",
    "install_adapter",
    "load_adapter_state",
    "load_imagebind",
    "load_projector",
    "merge_flat",
    "save_projector",
    "tile_name",
]
